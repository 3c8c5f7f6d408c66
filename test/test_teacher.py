"""An adapter that learns from what the frozen base sees in clean frames."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from robust_pvos_ros.tracking.adapters import MogaConfig
from robust_pvos_ros.tracking.compact import CompactConfig
from training.adaptation import Adaptation
from training.config import Stage, TrainConfig, load_config
from training.export_weights import export
from training.losses import LossWeights
from training.model import Supervised
from training.teacher import sight_loss
from training.train import Trainer

TINY = CompactConfig(
    image_size=128, trunk='conv', widths=(8, 16, 16, 16), depths=(1, 1, 1, 1), dim=32, mem_dim=16, attention_layers=1,
    feedforward=32,
)  # fmt: skip


def _trainer(
    run: Path, init: Path | None, steps: int, corrupted: float, teacher: float = 1.0, adapted: bool = True
) -> Trainer:
    torch.set_num_threads(1)
    stage = Stage(
        frames=3, clips=2, objects=2, steps=steps, lr=1e-2, passes=8, window=2, corrupted=corrupted, size=128,
        severities=(4.0, 5.0),
    )  # fmt: skip
    adapter = Adaptation(trains='adapter', layer_norms=False, moga=MogaConfig(rank=8, conditioning='none'))
    config = TrainConfig(
        device='cpu', threads=1, bfloat16=False, muon=0.0, warmup=2, bank=6, bank_size=48, actors=2, model=TINY,
        stages=[stage], losses=LossWeights(teacher=teacher), ema=0.9, init=str(init or ''),
        adaptation=adapter if init and adapted else Adaptation(),
    )  # fmt: skip
    return Trainer(config, run)


@pytest.fixture(scope='module')
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('base')
    trainer = _trainer(folder / 'run', None, 1, 0.0, teacher=0.0)
    trainer.save()
    export(folder / 'run' / 'last.pt', folder / 'base.safetensors')
    return folder / 'base.safetensors'


@pytest.mark.parametrize('adapted', [True, False])
def test_who_has_learnt_nothing_sees_in_clean_frames_what_the_base_sees(
    tmp_path: Path, base: Path, adapted: bool
) -> None:
    clean = _trainer(tmp_path / 'clean', base, 1, 0.0, adapted=adapted)
    _, terms = clean._loss(clean._batch())
    corrupted = _trainer(tmp_path / 'corrupted', base, 1, 1.0, adapted=adapted)
    _, spoilt = corrupted._loss(corrupted._batch())
    assert terms['teacher'] == pytest.approx(0.0, abs=1e-9) and spoilt['teacher'] > 1e-3


def test_it_learns_to_see_the_same_in_corrupted_frames(tmp_path: Path, base: Path) -> None:
    trainer = _trainer(tmp_path / 'run', base, 24, 1.0, teacher=100.0)
    kept = trainer.teacher.model.state_dict() if trainer.teacher is not None else {}
    begun = {name: value.clone() for name, value in kept.items()}
    batch, step = trainer._batch(), trainer.progress.step
    _, before = trainer._loss(batch)
    while trainer.advance():
        trainer.train_step()
    trainer.progress.step = step  # the same prompts, corruptions and draws again
    trainer.progress.stage = 0
    _, after = trainer._loss(batch)
    assert after['teacher'] < 0.9 * before['teacher']
    assert all(torch.equal(value, begun[name]) for name, value in kept.items()), 'the teacher has changed'


def test_features_that_nobody_conditioned_do_not_count() -> None:
    ramp = torch.arange(16.0).view(1, 1, 4, 4)
    empty = torch.zeros(1)
    prompted = Supervised('mask', 0, empty, None)  # type: ignore[arg-type]
    own, shown = (Supervised('track', 1, empty, None, x) for x in (ramp + 2, ramp))  # type: ignore[arg-type]
    assert float(sight_loss([prompted, own], [prompted, shown])) == pytest.approx(4 / float(ramp.var()))
    assert sight_loss([prompted], [prompted]).item() == 0


@pytest.mark.parametrize('wrong', ['losses.teacher=-1', "init=''"])
def test_a_teacher_needs_weights(wrong: str) -> None:
    recipe = Path(__file__).parents[1] / 'training' / 'configs' / 'moga_compact.yaml'
    with pytest.raises(ValueError, match=r'losses\.teacher is 0 or more and needs init'):
        load_config(recipe, ['losses.teacher=1.0', wrong])
