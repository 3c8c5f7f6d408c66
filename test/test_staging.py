"""Camera images reach the encoder alike by every way."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from robust_pvos_ros.tracking import staging
from robust_pvos_ros.tracking.staging import (
    BUFFERS,
    IMAGE_MEAN,
    IMAGE_STD,
    SHAPES,
    CpuStager,
    GpuStager,
    HostBuffer,
    MappedAllocator,
    MappingError,
    make_stager,
    page_locked,
    squash,
)

CPU = torch.device('cpu')


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rough = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    noise = rng.integers(-20, 21, (height, width, 3))
    return (cv2.resize(rough, (width, height)).astype(int) + noise).clip(0, 255).astype(np.uint8)


def plain(shape: tuple[int, ...]) -> HostBuffer:
    tensor = torch.empty(shape, dtype=torch.uint8)
    return HostBuffer(tensor.numpy(), tensor)


SIZES = [(480, 640), (97, 211), (1080, 1920), (64, 64), (40, 300), (30, 20), (128, 192)]


@pytest.mark.parametrize(('height', 'width'), SIZES)
def test_matrix_products_resize_as_opencv(height: int, width: int) -> None:
    rgb = picture(height, width)
    shrinks = height > 64 and width > 64
    expected = cv2.resize(rgb, (64, 64), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    found = squash(torch.from_numpy(rgb), 64)[0].permute(1, 2, 0).numpy()
    difference = np.abs(found - expected)
    # enlarged, many values are halves, which OpenCV rounds up
    assert difference.max() <= 1 and (difference > 0).mean() < (0.02 if shrinks else 0.2)
    assert np.array_equal(found, found.round())


@pytest.mark.parametrize(('height', 'width'), SIZES)
def test_both_stagers_agree(height: int, width: int) -> None:
    rgb = picture(height, width)
    ours, host = GpuStager(CPU, 64, plain, 'test')(rgb), CpuStager(64)(rgb)
    assert ours.shape == host.shape == (1, 3, 64, 64) and ours.dtype == host.dtype == torch.float32
    assert ours.is_contiguous(memory_format=torch.channels_last)
    assert host.is_contiguous(memory_format=torch.channels_last)
    one_level = 1 / (255 * min(IMAGE_STD))
    assert float((ours - host).abs().max()) <= one_level * 1.001
    white = np.full_like(rgb, 255)
    expected = (1 - torch.tensor(IMAGE_MEAN)) / torch.tensor(IMAGE_STD)
    torch.testing.assert_close(CpuStager(64)(white).mean((0, 2, 3)), expected, rtol=1e-4, atol=1e-5)


def test_an_image_is_not_overwritten_by_the_next_ones() -> None:
    made: list[HostBuffer] = []

    def allocate(shape: tuple[int, ...]) -> HostBuffer:
        made.append(plain(shape))
        return made[-1]

    stager = GpuStager(CPU, 32, allocate, 'test')
    pictures = [picture(50, 60, seed) for seed in range(5)]
    found = [stager(rgb) for rgb in pictures]
    for rgb, one in zip(pictures, found, strict=True):
        assert torch.equal(one, GpuStager(CPU, 32, plain, 'test')(rgb))
    assert len(made) == BUFFERS


def test_cameras_of_several_sizes_keep_their_buffers_and_their_number_is_bounded() -> None:
    made: list[tuple[int, ...]] = []

    def allocate(shape: tuple[int, ...]) -> HostBuffer:
        made.append(shape)
        return plain(shape)

    stager = GpuStager(CPU, 32, allocate, 'test')
    sizes = [(20 + number, 30) for number in range(SHAPES)]
    for seed in range(3):
        for size in sizes:
            rgb = picture(*size, seed)
            assert torch.equal(stager(rgb), GpuStager(CPU, 32, plain, 'test')(rgb))
    assert made == [(*size, 3) for size in sizes for _ in range(BUFFERS)]
    stager(picture(*sizes[0]))
    stager(picture(99, 30))
    assert len(stager._rings) == SHAPES
    assert (99, 30, 3) in stager._rings and (*sizes[0], 3) in stager._rings
    assert (*sizes[1], 3) not in stager._rings, 'the one that was not used for longest gave way'


def test_a_buffer_waits_until_the_device_has_read_it() -> None:
    stager = GpuStager(CPU, 32, plain, 'test')
    stager(picture(50, 60))
    waited = []
    ring = stager._rings[50, 60, 3]
    ring.read = [SimpleNamespace(synchronize=lambda n=n: waited.append(n)) for n in range(BUFFERS)]  # type: ignore[misc]
    stager(picture(50, 60))
    assert waited == [1]
    for side in range(20, 20 + SHAPES):  # so many other sizes give the buffers up: both must have been read
        assert waited == [1]
        stager(picture(side, side))
    assert waited == [1, 0, 1]


class FakeDriver:
    """The parts of ``pycuda.driver`` that are used, on the host."""

    host_alloc_flags = SimpleNamespace(DEVICEMAP=2)
    device_attribute = SimpleNamespace(CAN_MAP_HOST_MEMORY='map')

    class Error(Exception):
        """What pycuda raises is no RuntimeError."""

    def __init__(self, maps: bool) -> None:
        self.depth, self.maps, self.fault = 0, maps, ''
        self.flags: list[int] = []

    def init(self) -> None:
        pass

    def Device(self, index: int) -> Any:  # noqa: N802
        assert index == 0
        context = SimpleNamespace(push=lambda: self._move(1), pop=lambda: self._move(-1))
        return SimpleNamespace(get_attribute=lambda name: self.maps, retain_primary_context=lambda: context)

    def _move(self, step: int) -> None:
        self.depth += step

    def pagelocked_empty(self, shape: tuple[int, ...], dtype: type, mem_flags: int) -> np.ndarray:
        assert self.depth == 1
        if self.fault:
            raise self.Error(self.fault)
        self.flags.append(mem_flags)

        class Mapped(np.ndarray):
            pass

        owner = np.zeros(shape, dtype).view(Mapped)
        owner.get_device_pointer = lambda: owner.ctypes.data  # type: ignore[attr-defined]
        return owner[:]


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    fake = FakeDriver(maps=True)
    monkeypatch.setitem(sys.modules, 'pycuda', SimpleNamespace(driver=fake))
    monkeypatch.setitem(sys.modules, 'pycuda.driver', fake)
    monkeypatch.setattr(torch.cuda, 'current_stream', lambda device: None)
    return fake


def test_mapped_memory_is_made_inside_the_primary_context(
    driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def as_tensor(data: Any, device: torch.device) -> torch.Tensor:
        seen.append(data.__cuda_array_interface__)
        return torch.zeros(data.__cuda_array_interface__['shape'], dtype=torch.uint8)

    monkeypatch.setattr(torch, 'as_tensor', as_tensor)
    buffer = MappedAllocator(CPU)((4, 5, 3))
    assert driver.depth == 0 and driver.flags == 2 * [driver.host_alloc_flags.DEVICEMAP]
    assert seen[-1]['shape'] == (4, 5, 3) and seen[-1]['typestr'] == '|u1'
    assert seen[-1]['data'][0] == buffer.owner.ctypes.data
    buffer.array[:] = 7
    assert buffer.owner.max() == 7


def test_a_gpu_that_cannot_map_memory_is_refused(driver: FakeDriver) -> None:
    driver.maps = False
    with pytest.raises(MappingError, match='cannot map'):
        MappedAllocator(CPU)
    driver.maps, driver.fault = True, 'cuMemHostAlloc failed: out of memory'
    with pytest.raises(MappingError, match='out of memory'):
        MappedAllocator(CPU)
    assert driver.depth == 0


def test_without_mapped_memory_a_copy_is_made_and_the_reason_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, '_is_integrated', lambda device: True)
    monkeypatch.setattr(staging, '_constants', lambda device: (torch.ones(1), torch.ones(1)))
    monkeypatch.setitem(sys.modules, 'pycuda.driver', None)
    name = make_stager(torch.device('cuda'), 64).name
    assert name.startswith('page-locked, since') and 'pycuda' in name


def test_a_cpu_gets_the_stager_of_the_host() -> None:
    assert make_stager(CPU, 64).name == 'host'


@pytest.mark.gpu
def test_uploading_gives_the_image_of_the_host() -> None:
    device = torch.device('cuda')
    stager = GpuStager(device, 64, page_locked, 'page-locked')
    for seed in range(6):
        rgb = picture(480, 640, seed)
        found = stager(rgb).cpu()
        assert float((found - CpuStager(64)(rgb)).abs().max()) <= 1.001 / (255 * min(IMAGE_STD))
