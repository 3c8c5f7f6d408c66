"""Faster forms of modules compute what the originals do."""

from __future__ import annotations

import copy

import pytest
import torch
from sam2.modeling.sam.transformer import Attention
from sam2.modeling.sam2_utils import LayerNorm2d
from torch import nn

from robust_pvos_ros.tracking.attention import _mix, flushed_subnormals
from robust_pvos_ros.tracking.compact import CompactConfig, build_compact
from robust_pvos_ros.tracking.layout import MOST_KEYS, FewKeysAttention, fuse_norms, lay_out
from robust_pvos_ros.tracking.model import Sam2Model
from robust_pvos_ros.tracking.trunk import ChannelNorm


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def norms(network: nn.Module, kind: type) -> list[str]:
    return [name for name, module in network.named_modules() if type(module) is kind]


def test_fused_norms_equal_the_originals_and_keep_their_names() -> None:
    torch.manual_seed(0)
    sam = build_compact(CompactConfig(image_size=128))
    for module in sam.modules():
        if isinstance(module, LayerNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    fused = copy.deepcopy(sam)
    before = norms(sam, LayerNorm2d)
    fuse_norms(fused)
    assert len(before) > 5 and not norms(fused, LayerNorm2d)
    assert set(before) <= set(norms(fused, ChannelNorm))
    assert {n: p.shape for n, p in fused.named_parameters()} == {n: p.shape for n, p in sam.named_parameters()}
    pixels, masks = torch.randn(2, sam.hidden_dim, 8, 8), torch.randn(2, 1, 128, 128)
    lay_out(fused, 'float32')
    with torch.inference_mode():
        expected = sam.memory_encoder(pixels, masks)['vision_features']
        found = fused.memory_encoder(pixels, masks)['vision_features']
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for (name, one), (_, other) in zip(sam.named_parameters(), fused.named_parameters(), strict=True):
        assert torch.equal(one, other), name


def test_gradients_pass_through_fused_norms() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), LayerNorm2d(8))
    fused = copy.deepcopy(plain)
    fuse_norms(fused)
    image = torch.randn(2, 3, 9, 9)
    for network in (plain, fused):
        (network(image) * torch.arange(8.0)[:, None, None]).square().sum().backward()
    for one, other in zip(plain.parameters(), fused.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-3)


def test_subnormals_are_flushed_on_one_thread_and_only_inside(threads) -> None:
    tiny = torch.tensor(1e-40)
    assert tiny * 1 != 0
    threads(1)
    with flushed_subnormals() as flushing:
        assert flushing == bool(tiny * 1 == 0)
        with flushed_subnormals() as again:
            assert again == flushing
        assert flushing == bool(tiny * 1 == 0)
    assert tiny * 1 != 0
    threads(2)
    with flushed_subnormals() as flushing:
        assert not flushing and tiny * 1 != 0


def test_attention_does_not_depend_on_the_number_of_threads(threads) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 200, 16, generator=generator) * 30
    keys, values = (torch.randn(2, 900, 16, generator=generator) for _ in range(2))
    found = []
    for count in (1, 2):
        threads(count)
        found.append(_mix(query, keys, values))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('tokens', [1, MOST_KEYS, MOST_KEYS + 5])
def test_attention_to_few_keys_is_attention(tokens: int) -> None:
    torch.manual_seed(0)
    plain = Attention(32, 4, downsample_rate=2).eval()
    own = FewKeysAttention.taking_over(plain)
    assert dict(own.named_parameters()).keys() == dict(plain.named_parameters()).keys()
    cells, few = 5 * torch.randn(3, 50, 32), 5 * torch.randn(3, tokens, 32)
    with torch.inference_mode():
        expected = plain(cells, few, few.flip(-1))
        torch.testing.assert_close(own(cells, few, few.flip(-1)), expected, rtol=1e-5, atol=1e-5)


def test_the_decoder_attends_to_few_keys_while_it_tracks() -> None:
    """The number of tokens of an unprompted object is what :data:`MOST_KEYS` says."""
    sam = build_compact(CompactConfig(image_size=128)).eval().requires_grad_(False)
    seen: list[int] = []
    model = Sam2Model(sam, 'compact')
    for layer in sam.sam_mask_decoder.transformer.layers:
        attention = layer.cross_attn_image_to_token
        assert isinstance(attention, FewKeysAttention)
        attention.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs['k'].shape[1]), with_kwargs=True)
    frame = model.encode(torch.zeros(128, 128, 3, dtype=torch.uint8).numpy())
    model.track(frame, model.unconditioned(frame))
    assert seen == [MOST_KEYS] * len(sam.sam_mask_decoder.transformer.layers)
