"""The compact model with either trunk: sizes, the encoder's short cuts, gradients."""

from __future__ import annotations

import pytest
import torch

from robust_pvos_ros.tracking.compact import CompactConfig, build_compact
from robust_pvos_ros.tracking.encoder import TorchEncoder
from robust_pvos_ros.tracking.trunk import ConvTrunk

TRUNKS = ('conv', 'hiera')


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize('trunk', TRUNKS)
def test_encoder_equals_forward_image(trunk: str) -> None:
    torch.manual_seed(0)
    sam = build_compact(CompactConfig(image_size=128, trunk=trunk))
    image = torch.randn(1, 3, 128, 128)
    with torch.inference_mode():
        stock = sam.forward_image(image)['backbone_fpn']
        ours = TorchEncoder(sam)(image)
    for level, found in zip(stock, ours, strict=True):
        torch.testing.assert_close(found, level, rtol=0, atol=1e-5)
    assert ours.stride4.shape == (1, 16, 32, 32) and ours.stride16.shape == (1, 128, 8, 8)


@pytest.mark.parametrize('trunk', TRUNKS)
def test_at_most_eight_million_parameters(trunk: str) -> None:
    count = sum(p.numel() for p in build_compact(CompactConfig(trunk=trunk)).parameters())
    assert 4e6 < count < 8e6


def test_conv_trunk_maps_and_gradients() -> None:
    torch.manual_seed(0)
    trunk = ConvTrunk((8, 16, 24, 24), (1, 2, 1, 1))
    assert trunk.channel_list == [24, 24, 16, 8]
    maps = trunk(torch.randn(2, 3, 64, 64))
    assert [tuple(m.shape) for m in maps] == [(2, 8, 16, 16), (2, 16, 8, 8), (2, 24, 4, 4), (2, 24, 2, 2)]
    sum(m.square().sum() for m in maps).backward()
    assert all(p.grad is not None for p in trunk.parameters())


def test_conv_trunk_is_shift_equivariant() -> None:
    """A shift by one cell of the deepest map moves every map along, away from the border."""
    torch.manual_seed(0)
    trunk = ConvTrunk((8, 16, 24, 24), (1, 1, 1, 1)).eval()
    image = torch.randn(1, 3, 256, 256)
    with torch.inference_mode():
        maps, moved = trunk(image), trunk(image.roll((32, 32), (-2, -1)))
    for level, (a, b) in enumerate(zip(maps, moved, strict=True)):
        step, side = 8 >> level, a.shape[-1]
        inner = slice(3 * side // 8 + step, 5 * side // 8)
        wanted = a.roll((step, step), (-2, -1))[..., inner, inner]
        torch.testing.assert_close(b[..., inner, inner], wanted, atol=1e-4, rtol=0)


def test_mask_encoding_is_the_same_under_autocast() -> None:
    torch.manual_seed(0)
    downsample = build_compact(CompactConfig(image_size=128)).memory_encoder.mask_downsampler
    masks = torch.randn(2, 1, 128, 128)
    with torch.inference_mode():
        exact = downsample(masks)
        with torch.autocast('cpu', torch.bfloat16):
            torch.testing.assert_close(downsample(masks), exact, rtol=0, atol=1e-5)
