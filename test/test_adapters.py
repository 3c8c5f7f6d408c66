"""MoGA: an untrained adapter is invisible, gates follow the pointers of their own object, files round-trip."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sam2.modeling.sam2_base import SAM2Base

from robust_pvos_ros.tracking.adapters import (
    GateBank,
    MogaAdapter,
    MogaConfig,
    base_digest,
    gumbel_sigmoid,
    inject,
    layer_norm_parameters,
    load_adapter,
    save_adapter,
)
from robust_pvos_ros.tracking.compact import CompactConfig, build_compact
from robust_pvos_ros.tracking.encoder import EncoderOutput
from robust_pvos_ros.tracking.memory import MemoryFrame, ObjectMemory, mean_gates
from robust_pvos_ros.tracking.model import Sam2Model
from robust_pvos_ros.tracking.tracker import VideoTracker
from robust_pvos_ros.tracking.types import ModelError, Prompt, TrackerConfig

SMALL = CompactConfig(image_size=128)
TOKENS, MEMORIES, POINTERS = 64, 2, 5


def make_sam(seed: int = 0) -> SAM2Base:
    torch.manual_seed(seed)
    sam = build_compact(SMALL)
    sam.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.data.fill_(4.0)  # objects count as visible
    return sam


def randomise(adapter: MogaAdapter, seed: int = 1) -> None:
    """Give the components and gates weights as large as those of a trained adapter."""
    generator = torch.Generator().manual_seed(seed)
    for layer in adapter.layers.values():
        layer.up.weight.data.normal_(0, 0.2, generator=generator)
        for parameter in layer.gate.parameters() if layer.gate is not None else ():
            parameter.data.normal_(0, 0.5, generator=generator)


def attention_inputs(objects: int = 2) -> dict[str, torch.Tensor | int]:
    """Inputs of ``MemoryAttention.forward`` that are equal for all objects, except for the pointers at their end."""
    generator = torch.Generator().manual_seed(2)
    split = SMALL.dim // SMALL.mem_dim
    tokens = MEMORIES * TOKENS + POINTERS * split

    def same(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).expand(-1, objects, -1).clone()

    return {
        'curr': same(TOKENS, 1, SMALL.dim),
        'curr_pos': same(TOKENS, 1, SMALL.dim),
        'memory': same(tokens, 1, SMALL.mem_dim),
        'memory_pos': same(tokens, 1, SMALL.mem_dim),
        'num_obj_ptr_tokens': POINTERS * split,
    }


def attend(sam: SAM2Base, adapter: MogaAdapter, pointers: torch.Tensor) -> torch.Tensor:
    """Memory attention with every input fixed and only the gates conditioned on ``pointers`` (B, P, C)."""
    hooks, sam.memory_attention._forward_pre_hooks = sam.memory_attention._forward_pre_hooks, {}
    try:
        adapter.condition(pointers)
        with torch.inference_mode():
            return sam.memory_attention(**attention_inputs(len(pointers))).transpose(0, 1)
    finally:
        sam.memory_attention._forward_pre_hooks = hooks


def track(sam: SAM2Base, adapter: MogaAdapter | None) -> list[np.ndarray]:
    tracker = VideoTracker(Sam2Model(sam, 'compact', adapter))
    frames = np.random.default_rng(0).integers(0, 255, (6, 128, 128, 3), dtype=np.uint8)
    prompts = [Prompt(box=[20, 20, 60, 70]), Prompt(points=[[90, 90]], point_labels=[1])]
    return [tracker.step(frame, i, prompts if i == 0 else ()).mask_logits for i, frame in enumerate(frames)]


def test_untrained_adapter_changes_nothing_bit_for_bit() -> None:
    plain = track(make_sam(), None)
    sam = make_sam()
    adapted = track(sam, inject(sam, MogaConfig()))
    assert len(plain) == 6 and plain[-1].shape[0] == 2
    for before, after in zip(plain, adapted, strict=True):
        np.testing.assert_array_equal(before, after)


def test_untrained_adapter_changes_nothing_in_the_stock_attention() -> None:
    sam = make_sam()
    inputs = attention_inputs()
    with torch.inference_mode():
        before = sam.memory_attention(**inputs)
        inject(sam, MogaConfig())
        after = sam.memory_attention(**inputs)
    assert torch.equal(before, after)


def test_pointers_change_the_output_and_nothing_else_does() -> None:
    sam = make_sam()
    adapter = inject(sam, MogaConfig())
    randomise(adapter)
    pointers = torch.randn(2, POINTERS, SMALL.dim, generator=torch.Generator().manual_seed(3))
    first, again = attend(sam, adapter, pointers), attend(sam, adapter, pointers)
    assert torch.equal(first, again)
    other = attend(sam, adapter, pointers + 0.5)
    assert (first - other).abs().amax(dim=(1, 2)).min() > 1e-3


def test_swapping_two_objects_pointers_swaps_their_outputs() -> None:
    sam = make_sam()
    adapter = inject(sam, MogaConfig())
    randomise(adapter)
    pointers = torch.randn(2, POINTERS, SMALL.dim, generator=torch.Generator().manual_seed(3))
    output, swapped = attend(sam, adapter, pointers), attend(sam, adapter, pointers.flip(0))
    assert (output[0] - output[1]).abs().max() > 1e-3
    torch.testing.assert_close(swapped, output.flip(0), rtol=0, atol=1e-6)


@pytest.mark.parametrize('how', ['none', 'constant'])
def test_constant_gates_make_it_independent_of_the_pointers(how: str) -> None:
    sam = make_sam()
    adapter = inject(sam, MogaConfig(conditioning='none' if how == 'none' else 'object'))
    randomise(adapter)
    if how == 'constant':
        for layer in adapter.layers.values():
            assert layer.gate is not None
            layer.gate.layers[-1].weight.data.zero_()
    pointers = torch.randn(2, POINTERS, SMALL.dim, generator=torch.Generator().manual_seed(3))
    assert torch.equal(attend(sam, adapter, pointers), attend(sam, adapter, pointers * -2))


def test_the_stock_path_gates_on_the_pointers_inside_the_memory() -> None:
    """The hook for training and the official predictor finds the same pointers that the tracker hands over."""
    sam = make_sam()
    adapter = inject(sam, MogaConfig())
    randomise(adapter)
    inputs = attention_inputs()
    split = SMALL.dim // SMALL.mem_dim
    pointers = torch.randn(2, POINTERS, SMALL.dim, generator=torch.Generator().manual_seed(3))
    tokens = pointers.reshape(2, POINTERS, split, SMALL.mem_dim).permute(1, 2, 0, 3).flatten(0, 1)
    inputs['memory'][-POINTERS * split :] = tokens
    with torch.inference_mode():
        sam.memory_attention(**inputs)
    found = [layer.gates for layer in adapter.layers.values()]
    adapter.condition(pointers)
    for seen, layer in zip(found, adapter.layers.values(), strict=True):
        assert seen is not None and seen is not layer.gates
        torch.testing.assert_close(seen, layer.gates)


class TwoMemories:
    """The same random memories of some objects, as the tracker keeps them and as ``SAM2Base`` does."""

    def __init__(self, model: Sam2Model, objects: int) -> None:
        sam = model.sam
        self.model = model
        self.ours = [ObjectMemory(sam.num_maskmem, sam.max_obj_ptrs_in_encoder, 4) for _ in range(objects)]
        self.theirs: dict[str, dict] = {'cond_frame_outputs': {}, 'non_cond_frame_outputs': {}}
        self.generator = torch.Generator().manual_seed(4)
        self.side = sam.image_size // sam.backbone_stride

    def random(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self.generator)

    @torch.inference_mode()
    def remember(self, index: int, prompted: bool) -> None:
        raw, pointers = self.random(len(self.ours), TOKENS, SMALL.mem_dim), self.random(len(self.ours), SMALL.dim)
        for row, (keys, values) in enumerate(zip(*self.model.attention.project(raw), strict=True)):
            frame = MemoryFrame(index, keys, values, pointers[row])
            if prompted:
                self.ours[row].remember_prompt(frame, clear_recent=False)
            else:
                self.ours[row].remember(frame)
        features = raw.transpose(1, 2).unflatten(2, (self.side, self.side))
        self.theirs['cond_frame_outputs' if prompted else 'non_cond_frame_outputs'][index] = {
            'maskmem_features': features,
            'maskmem_pos_enc': [self.model.sam.memory_encoder.position_encoding(features)],
            'obj_ptr': pointers,
        }

    @torch.inference_mode()
    def condition(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of frame ``index`` from the tracker's attention and from ``SAM2Base`` with its own."""
        image = self.random(1, SMALL.dim, self.side, self.side)
        position = self.model.sam.image_encoder.neck.position_encoding(image)
        tokens, places = (x.expand(len(self.ours), -1, -1, -1).flatten(2).permute(2, 0, 1) for x in (image, position))
        expected = self.model.sam._prepare_memory_conditioned_features(
            frame_idx=index,
            is_init_cond_frame=False,
            current_vision_feats=[tokens],
            current_vision_pos_embeds=[places],
            feat_sizes=[(self.side, self.side)],
            output_dict=self.theirs,
            num_frames=1000,
        )
        return self.model.condition(EncoderOutput(image, image, image), self.ours, index), expected


@pytest.mark.parametrize(
    'config',
    [
        MogaConfig(),
        MogaConfig(conditioning='memory', rank=32),
        MogaConfig(conditioning='frame', rank=32),
        MogaConfig(conditioning='none', rank=32),
        MogaConfig(placement=('cross_q', 'self_k'), rank=200),
        MogaConfig(placement=('cross_q',), rank=8),
    ],
    ids=['default', 'memory', 'frame', 'none', 'two_placements', 'one_placement'],
)
@pytest.mark.parametrize(('objects', 'fold'), [(1, True), (6, True), (6, False)], ids=['one', 'six', 'six_as_on_a_gpu'])
def test_the_tracker_computes_what_sam2_does_with_the_adapter_inside(
    config: MogaConfig, objects: int, fold: bool
) -> None:
    sam = make_sam()
    adapter = inject(sam, config)
    randomise(adapter)
    adapted = TwoMemories(Sam2Model(sam, 'compact', adapter), objects)
    without = TwoMemories(Sam2Model(make_sam(), 'compact'), objects)
    adapted.model.attention.fold_values = fold
    for index in range(22):
        for memory in (adapted, without):
            memory.remember(index, prompted=index in (0, 9))
        if index in (0, 5, 15, 21):
            found, expected = adapted.condition(index + 1)
            torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
            assert (found - without.condition(index + 1)[0]).abs().amax(dim=(1, 2, 3)).min() > 0.02


def test_gates_of_the_tracker_are_those_of_the_layers() -> None:
    sam = make_sam()
    adapter = inject(sam, MogaConfig(rank=48))
    randomise(adapter)
    pointers = torch.randn(2, POINTERS, SMALL.dim, generator=torch.Generator().manual_seed(3))
    frames = [[MemoryFrame(i, None, None, pointer) for i, pointer in enumerate(row)] for row in pointers]
    found = mean_gates(frames, GateBank(adapter))
    expected = torch.stack([layer.open_gates(pointers) for layer in adapter.layers.values()], dim=1)
    torch.testing.assert_close(found, expected)
    assert ((found > 0) & (found < 1)).any()
    assert torch.equal(mean_gates([row[::-1] for row in frames], GateBank(adapter)), found)


def test_gates_are_computed_once_for_each_pointer_and_forgotten_with_it() -> None:
    sam = make_sam()
    adapter = inject(sam, MogaConfig(rank=16))
    randomise(adapter)
    frames = np.random.default_rng(0).integers(0, 255, (24, 128, 128, 3), dtype=np.uint8)
    tracker = VideoTracker(Sam2Model(sam, 'compact', adapter), TrackerConfig(max_objects=2))
    prompts = [Prompt(box=[20, 20, 60, 70]), Prompt(points=[[90, 90]], point_labels=[1])]
    original, sizes = GateBank.open, []
    with mock.patch.object(GateBank, 'open', autospec=True) as gates:
        gates.side_effect = original
        for index, frame in enumerate(frames):
            tracker.step(frame, index, prompts if index == 0 else ())
            sizes.append(tracker.memory_bytes())
    assert [len(call.args[1]) for call in gates.call_args_list] == [2] * 23
    memory = tracker._table[1].memory
    held = [m for m in memory.conditioning + memory.recent if m.gates is not None]
    # one more than attended to, and without the newest, which has not been attended to yet
    assert len(held) == 16 and memory.recent[-1].gates is None
    assert all(m.gates.shape == (8, 16) and m.gates.dtype == torch.bool for m in held)
    assert sizes[-1] == sizes[-5]


def test_gumbel_sigmoid_is_hard_forward_and_soft_backward() -> None:
    torch.manual_seed(0)
    logits = torch.full((20000,), 0.7, requires_grad=True)
    gates = gumbel_sigmoid(logits, 0.3)
    assert set(gates.detach().unique().tolist()) <= {0.0, 1.0}
    # z = 1 where logit + G > 0 with G ~ Gumbel(0, 1): P = 1 - exp(-exp(logit)).
    assert gates.mean().item() == pytest.approx(1 - np.exp(-np.exp(0.7)), abs=0.02)
    gates.sum().backward()
    assert logits.grad is not None and (logits.grad > 0).any()


def test_gradients_reach_components_and_gates() -> None:
    sam = make_sam().train()
    adapter = inject(sam, MogaConfig(rank=8))
    randomise(adapter)
    sam.memory_attention(**attention_inputs()).square().sum().backward()
    for layer in adapter.layers.values():
        assert layer.up.weight.grad is not None and layer.up.weight.grad.abs().sum() > 0
        assert layer.gate is not None
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.gate.parameters())


def test_parameter_count_at_the_size_of_sam2_base_plus() -> None:
    """16 projections of 256 x 256 at rank 128 are 1.05 M; the paper reports 1.1 M with its gates."""
    from robust_pvos_ros.tracking.checkpoints import build_official

    parts = inject(build_official('sam2.1_base_plus'), MogaConfig()).parameters_by_part()
    assert parts['components'] == 16 * 2 * 256 * 128
    assert parts['gates'] == 16 * (256 * 16 + 16 + 16 * 16 + 16 + 16 * 128 + 128)


def test_file_round_trip_with_layer_norms(tmp_path: Path) -> None:
    sam = make_sam()
    adapter = inject(sam, MogaConfig(rank=16))
    randomise(adapter)
    for parameter in layer_norm_parameters(sam).values():
        parameter.data += 0.01
    save_adapter(tmp_path / 'moga.safetensors', adapter, 'compact')
    expected = track(sam, adapter)
    fresh = make_sam()
    found = track(fresh, load_adapter(tmp_path / 'moga.safetensors', fresh, 'compact'))
    for before, after in zip(expected, found, strict=True):
        np.testing.assert_array_equal(before, after)


def test_files_that_do_not_fit_are_refused_and_change_nothing(tmp_path: Path) -> None:
    sam = make_sam()
    state = {name: tensor.clone() for name, tensor in sam.state_dict().items()}
    good = tmp_path / 'good.safetensors'
    donor = make_sam(5)
    save_adapter(good, inject(donor, MogaConfig(rank=16)), 'compact')
    truncated = tmp_path / 'truncated.safetensors'
    truncated.write_bytes(good.read_bytes()[:2000])
    foreign = tmp_path / 'foreign.safetensors'
    save_file({'x': torch.zeros(2)}, str(foreign))
    other_size = tmp_path / 'other_size.safetensors'
    wide = build_compact(CompactConfig(image_size=128, attention_layers=1))
    save_adapter(other_size, inject(wide, MogaConfig(rank=16)), 'compact')
    for path, model, expected in [
        (tmp_path / 'missing.safetensors', 'compact', 'cannot read'),
        (truncated, 'compact', 'cannot read'),
        (foreign, 'compact', 'not an adapter'),
        (good, 'sam2.1_tiny', "trained for model 'compact'"),
        (other_size, 'compact', 'does not fit'),
        (good, 'compact', 'trained on other weights'),
    ]:
        with pytest.raises(ModelError, match=expected):
            load_adapter(path, sam, model)
    assert sam.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in sam.state_dict().items())


@pytest.mark.parametrize(
    'fields', [{'placement': ('cross_k',)}, {'placement': ()}, {'conditioning': 'x'}, {'rank': 0}, {'temperature': 0.0}]
)
def test_bad_configurations_are_refused(fields: dict) -> None:
    with pytest.raises(ModelError):
        MogaConfig(**fields)


def test_a_second_adapter_is_refused() -> None:
    sam = make_sam()
    inject(sam, MogaConfig())
    with pytest.raises(ModelError, match='already'):
        inject(sam, MogaConfig())


def test_the_sign_of_a_zero_does_not_make_other_weights() -> None:
    sam = make_sam()
    weight = sam.memory_attention.layers[0].linear1.weight
    with torch.no_grad():
        weight[0, :2] = torch.tensor([0.0, 1.0])
        known = base_digest(sam)
        weight[0, 0] = -0.0
        assert base_digest(sam) == known
        weight[0, 1] = -1.0
        assert base_digest(sam) != known
