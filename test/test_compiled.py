"""The network compiled for groups of objects; a CPU runs the same steps with another backend of ``torch.compile``."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from robust_pvos_ros.export.choose import equip_with_encoder
from robust_pvos_ros.tracking.compact import CompactConfig, build_compact
from robust_pvos_ros.tracking.compiled import CompiledStep, Recorder, compile_model, warm_up
from robust_pvos_ros.tracking.model import Sam2Model
from robust_pvos_ros.tracking.tracker import VideoTracker
from robust_pvos_ros.tracking.types import FrameResult, ModelConfig, ModelError, Prompt

SIDE = 64
TINY = CompactConfig(
    image_size=SIDE, trunk='conv', widths=(8, 16, 16, 16), depths=(1, 1, 1, 1), dim=32, mem_dim=16, attention_layers=2,
    feedforward=32,
)  # fmt: skip


def tiny() -> Sam2Model:
    torch.manual_seed(3)
    sam = build_compact(TINY)
    sam.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.data.fill_(4.0)  # objects count as visible
    model = Sam2Model(sam.requires_grad_(False), 'compact')
    model.attention.fold_values = False  # as on a GPU
    return model


def follow(model: Sam2Model, frames: int = 22) -> list[FrameResult]:
    """One object, from frame 2 on three."""
    tracker = VideoTracker(model)
    random = np.random.default_rng(1)
    pictures = random.integers(0, 255, (frames, 48, 64, 3), np.uint8)
    later = [Prompt(box=[20, 10, 60, 40]), Prompt(points=[[40, 30]], point_labels=[1])]
    prompts = {0: [Prompt(box=[5, 5, 30, 30])], 2: later}
    return [tracker.step(picture, index, prompts.get(index, ())) for index, picture in enumerate(pictures)]


def test_compiled_steps_give_the_masks_of_plain_ones() -> None:
    plain, model = follow(tiny()), tiny()
    compile_model(model, backend='aot_eager')
    assert model.encoder.name == 'torch, compiled'
    for one, other in zip(plain, follow(model), strict=True):
        np.testing.assert_allclose(other.mask_logits, one.mask_logits, rtol=0, atol=1e-4)
    steps = [model.attention.compiled, *model.compiled.values()]
    assert all(isinstance(step, CompiledStep) and step.calls for step in steps)
    # memories are full from frame 17 on; before that the attention is not compiled
    assert steps[0].calls < steps[1].calls


def test_a_group_is_filled_up_and_cut_again() -> None:
    seen = []

    def step(shared, rows, factor):
        seen.append(len(rows[0]))
        return (rows[0] * shared[0] * factor,)

    recorder = Recorder('a step', torch.device('cpu'), print)
    compiled = CompiledStep(step, lambda rows: True, 'eager', recorder)
    for count in (1, 3, 5, 16, 17):
        x = torch.arange(count * 2.0).view(count, 2)
        [found] = compiled((torch.tensor(2.0),), (x,), 3)
        assert torch.equal(found, 6 * x)
    assert sorted(set(seen)) == [1, 4, 8, 16, 17]
    assert compiled.calls == 4, 'seventeen objects run as they are'


def test_warming_up_meets_every_group_that_will_be_tracked() -> None:
    model = tiny()
    told: list[str] = []
    compile_model(model, backend='eager')
    warm_up(model, 3, told.append)
    assert [text.split()[-2] for text in told] == ['4', '2', '1']
    assert model.attention.compiled.calls >= 3


def test_a_model_on_a_cpu_is_not_compiled() -> None:
    config = ModelConfig(compile=True, encoder='torch')
    with pytest.raises(ModelError, match='compile needs a CUDA device'):
        equip_with_encoder(tiny(), config)
    equip_with_encoder(tiny(), replace(config, compile=False))
