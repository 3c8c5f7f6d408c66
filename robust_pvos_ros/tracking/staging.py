"""Camera images on their way to the encoder: resized, normalised, and on the device that computes.

On a CPU OpenCV resizes.  On a GPU the image is uploaded as it came, from page-locked memory, and everything else is
done there; on an integrated GPU (Jetson) the kernels read the page-locked memory itself and nothing is uploaded.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
BUFFERS = 2
"""Images between the camera and the GPU: one is uploaded while the next is copied."""
SHAPES = 8
"""Sizes of images that have buffers at the same time: one for each camera, since those of several may differ."""


def upload(values: Tensor, device: torch.device) -> Tensor:
    """A small tensor of the host on the device; the host does not wait for what a GPU still has to do."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == 'cuda' else values


class Stager(Protocol):
    """Turns a camera image into the encoder's input."""

    name: str
    """How images come to the device, for diagnostics."""

    def __call__(self, rgb: np.ndarray) -> Tensor:
        """uint8 (H, W, 3) RGB of any size -> float32 (1, 3, S, S), squashed to a square and normalised as in SAM 2."""


def make_stager(device: torch.device, size: int) -> Stager:
    """The stager for a device; ``size`` is S, pixels."""
    if device.type != 'cuda':
        return CpuStager(size)
    if not _is_integrated(device):
        return GpuStager(device, size, page_locked, 'page-locked')
    try:
        return GpuStager(device, size, MappedAllocator(device), 'mapped')
    except MappingError as error:  # a copy is made, which costs time and nothing else
        return GpuStager(device, size, page_locked, f'page-locked, since {error}')


def _is_integrated(device: torch.device) -> bool:
    properties = torch.cuda.get_device_properties(device)
    return bool(getattr(properties, 'is_integrated', False))


def _shrinks(height: int, width: int, size: int) -> bool:
    return height > size and width > size


def _constants(device: torch.device) -> tuple[Tensor, Tensor]:
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))
    return 1 / (255 * std), -mean / std


class CpuStager:
    """Resizing by OpenCV; the result is channels-last, as the convolutions read it."""

    name = 'host'

    def __init__(self, size: int) -> None:
        self._size = size
        self._scale, self._shift = _constants(torch.device('cpu'))

    @torch.inference_mode()
    def __call__(self, rgb: np.ndarray) -> Tensor:
        """See :class:`Stager`."""
        size = (self._size, self._size)
        if rgb.shape[:2] != size:
            shrinks = _shrinks(rgb.shape[0], rgb.shape[1], self._size)
            rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        image = torch.from_numpy(np.ascontiguousarray(rgb))
        return image.permute(2, 0, 1)[None].float().mul_(self._scale).add_(self._shift)


# ---------------------------------------------------------------------------------------------------------------- GPUs


@dataclass
class HostBuffer:
    """Page-locked memory for one image.

    Attributes:
        array: uint8 (H, W, 3), the host's view.
        tensor: the same memory as the device reads it: on the host for an upload, on the device where it is mapped.
        owner: keeps the memory alive.
    """

    array: np.ndarray
    tensor: Tensor
    owner: Any = None


Allocate = Callable[[tuple[int, ...]], HostBuffer]


def page_locked(shape: tuple[int, ...]) -> HostBuffer:
    """Memory that a GPU can fetch while the host goes on."""
    tensor = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
    return HostBuffer(tensor.numpy(), tensor)


class MappingError(RuntimeError):
    """Host memory cannot be mapped into the GPU's address space."""


class MappedAllocator:
    """Page-locked memory that lies in the address space of an integrated GPU, by pycuda.

    Raises:
        MappingError: if pycuda is not installed, or the GPU does not map host memory when it is tried.
    """

    def __init__(self, device: torch.device) -> None:
        try:
            self._driver = importlib.import_module('pycuda.driver')
        except ImportError as error:
            raise MappingError(f'pycuda cannot be imported: {error}') from error
        torch.cuda.current_stream(device)  # torch's context exists then, and is the primary one
        self._device = device
        try:
            self._driver.init()
            handle = self._driver.Device(device.index or 0)
            if not handle.get_attribute(self._driver.device_attribute.CAN_MAP_HOST_MEMORY):
                raise MappingError('the GPU cannot map host memory')
            self._context = handle.retain_primary_context()
            self((8, 8, 3))
        except self._driver.Error as error:
            raise MappingError(f'mapping host memory failed: {error}') from error

    def __call__(self, shape: tuple[int, ...]) -> HostBuffer:
        """See :data:`Allocate`."""
        self._context.push()
        try:
            flags = self._driver.host_alloc_flags.DEVICEMAP
            array = self._driver.pagelocked_empty(shape, np.uint8, mem_flags=flags)
            pointer = int(array.base.get_device_pointer())
        finally:
            self._context.pop()
        return HostBuffer(array, torch.as_tensor(_DeviceArray(pointer, shape), device=self._device), array)


class _DeviceArray:
    """Memory of a GPU in the form in which libraries hand it to one another."""

    def __init__(self, pointer: int, shape: tuple[int, ...]) -> None:
        self.__cuda_array_interface__ = {
            'data': (pointer, False), 'shape': shape, 'typestr': '|u1', 'strides': None, 'version': 3,
        }  # fmt: skip


class _Ring:
    """Buffers for images of one shape, taken in turn.

    Attributes:
        read: event of each buffer after which the GPU no longer fetches from it; None before the first image.
    """

    def __init__(self, buffers: list[HostBuffer]) -> None:
        self.buffers = buffers
        self.read: list[Any] = [None] * len(buffers)
        self._next = 0

    def take(self) -> int:
        """Place of the next buffer, as soon as the GPU has read it."""
        slot = self._next
        self._next = (slot + 1) % len(self.buffers)
        self._wait(slot)
        return slot

    def wait(self) -> None:
        """Wait until the GPU has read all."""
        for slot in range(len(self.buffers)):
            self._wait(slot)

    def _wait(self, slot: int) -> None:
        if self.read[slot] is not None:
            self.read[slot].synchronize()


class GpuStager:
    """Upload, resizing and normalising on torch's stream; the host does not wait for any of it.

    Args:
        device: where the encoder runs.
        size: S, pixels.
        allocate: makes page-locked memory.
        name: of the way to the GPU, for diagnostics.
    """

    def __init__(self, device: torch.device, size: int, allocate: Allocate, name: str) -> None:
        self.name = name
        self._device = device
        self._size = size
        self._allocate = allocate
        self._rings: dict[tuple[int, ...], _Ring] = {}
        self._scale, self._shift = _constants(device)

    @torch.inference_mode()
    def __call__(self, rgb: np.ndarray) -> Tensor:
        """See :class:`Stager`."""
        ring = self._ring(rgb.shape)
        slot = ring.take()
        np.copyto(ring.buffers[slot].array, rgb)
        image = ring.buffers[slot].tensor.to(self._device, non_blocking=True)
        squashed = squash(image, self._size)
        if self._device.type == 'cuda':
            ring.read[slot] = torch.cuda.Event()
            ring.read[slot].record(torch.cuda.current_stream(self._device))
        return squashed.mul_(self._scale).add_(self._shift)

    def _ring(self, shape: tuple[int, ...]) -> _Ring:
        """The buffers of a shape; those that were not used for longest give way where there are too many."""
        ring = self._rings.pop(shape, None)
        if ring is None:
            if len(self._rings) >= SHAPES:
                self._rings.pop(next(iter(self._rings))).wait()
            ring = _Ring([self._allocate(shape) for _ in range(BUFFERS)])
        self._rings[shape] = ring
        return ring


def squash(image: Tensor, size: int) -> Tensor:
    """Resize as ``CpuStager`` does, on the image's device; where both sides shrink by two matrix products.

    Args:
        image: uint8 (H, W, 3).
        size: S, pixels.

    Returns:
        float32 (1, 3, S, S), whole numbers from 0 to 255; within one of what OpenCV gives.
    """
    height, width = image.shape[:2]
    planes = image.permute(2, 0, 1).float()
    if (height, width) != (size, size):
        if _shrinks(height, width, size):
            rows, columns = (_area_weights(length, size, image.device) for length in (height, width))
            planes = rows @ planes @ columns.T
        else:
            planes = F.interpolate(planes[None], size=(size, size), mode='bilinear', align_corners=False)[0]
        planes = planes.round_()
    return planes[None].contiguous(memory_format=torch.channels_last)


@lru_cache(maxsize=16)
def _area_weights(source: int, target: int, device: torch.device) -> Tensor:
    """float32 (target, source): the share of each source pixel in a target pixel that covers it, as ``INTER_AREA``."""
    edges = np.arange(target + 1, dtype=np.float64) * (source / target)
    pixels = np.arange(source, dtype=np.float64)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    weights = np.maximum(covered, 0)
    return torch.from_numpy((weights / weights.sum(1, keepdims=True)).astype(np.float32)).to(device)
