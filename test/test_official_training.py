"""Adapters for official SAM 2.1 models: the same loop, on a network with random weights in the official layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from robust_pvos_ros.tracking.adapters import MogaConfig, load_adapter
from robust_pvos_ros.tracking.checkpoints import build_sam
from robust_pvos_ros.tracking.types import ModelError
from training.adaptation import Adaptation
from training.config import Stage, TrainConfig, load_config
from training.export_adapter import export_adapter
from training.losses import LossWeights
from training.model import PromptMix
from training.prompts import Rows
from training.start import build_clip_model
from training.train import Trainer
from training.validate import follow_masks

SIZE = 128
TINY = 'sam2.1_tiny'
CONFIGS = Path(__file__).parents[1] / 'training' / 'configs'


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('checkpoint') / 'sam2.1_hiera_tiny.pt'
    torch.save({'model': build_clip_model(TrainConfig(official=TINY), SIZE).state_dict()}, path)
    return path


def _config(checkpoint: Path, **options: object) -> TrainConfig:
    stage = Stage(frames=2, clips=1, objects=2, steps=2, lr=1e-3, size=SIZE, corrupted=1.0, anneal=True, scale=1.5)
    return TrainConfig(
        official=TINY, init=str(checkpoint), device='cpu', threads=1, bfloat16=False, muon=0.0, warmup=1, bank=4,
        bank_size=32, actors=0, losses=LossWeights(), stages=[stage], **options,
        adaptation=Adaptation(trains='adapter', moga=MogaConfig(rank=8)),
    )  # fmt: skip


def test_an_adapter_is_trained_exported_and_loaded(checkpoint: Path, tmp_path: Path) -> None:
    trainer = Trainer(_config(checkpoint, recompute=True), tmp_path / 'run')
    while trainer.advance():
        terms, _ = trainer.train_step()
        assert np.isfinite(terms['loss'])
    trainer.save()
    export_adapter(tmp_path / 'run' / 'last.pt', tmp_path / 'moga.safetensors')
    sam = build_sam(TINY, str(checkpoint))
    load_adapter(tmp_path / 'moga.safetensors', sam, TINY)
    wanted = trainer.averaged_model(SIZE).state_dict()
    assert set(sam.state_dict()) == set(wanted)
    for name, value in sam.state_dict().items():
        torch.testing.assert_close(value, wanted[name], msg=name)


def test_recomputing_changes_no_gradient(checkpoint: Path) -> None:
    model = build_clip_model(_config(checkpoint), SIZE).eval()  # without dropout
    images = torch.randint(0, 255, (1, 2, 3, SIZE, SIZE), dtype=torch.uint8)
    rows = Rows(torch.tensor([0]), torch.zeros(1, 2, SIZE, SIZE).index_fill_(2, torch.arange(30, 90), 1.0))
    found = []
    for model.recompute in (False, True):
        model.zero_grad()
        outputs, _ = model(images, rows, PromptMix(mask=1.0, imperfect=0.0), np.random.default_rng(0))
        outputs[-1].decoded.logits.square().mean().backward()
        found.append(model.image_encoder.trunk.patch_embed.proj.weight.grad.clone())
    torch.testing.assert_close(*found)
    assert found[0].abs().max() > 0


def test_training_forward_equals_stock_tracking_with_three_masks(checkpoint: Path) -> None:
    model = build_clip_model(_config(checkpoint), SIZE).eval()
    torch.nn.init.constant_(model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias, 9.0)
    images = torch.randint(0, 255, (1, 3, 3, SIZE, SIZE), dtype=torch.uint8)
    rows = Rows(torch.tensor([0]), torch.zeros(1, 3, SIZE, SIZE).index_fill_(3, torch.arange(30, 90), 1.0))
    with torch.no_grad():
        outputs, _ = model(images, rows, PromptMix(mask=1.0, imperfect=0.0), _PlainDraws())
        stock = follow_masks(model, images, rows.clip, rows.masks[:, 0])
    for output in outputs[1:]:
        assert output.decoded.logits.shape[1] == 3
        best = output.decoded.logits[torch.arange(1), output.decoded.ious.argmax(1)]
        torch.testing.assert_close(best, stock[:, output.frame], atol=1e-4, rtol=1e-4)


class _PlainDraws:
    """Stands for a generator: no gap in time, mask prompts, remembered at full size."""

    def uniform(self, low: float = 0.0, high: float = 1.0, size: int | None = None) -> object:
        return 0.9 if size is None else np.full(size, 0.5)


def test_a_checkpoint_of_another_model_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    config = _config(checkpoint)
    config.official = 'sam2.1_small'
    with pytest.raises(ModelError, match=r"does not fit model 'sam2.1_small'"):
        Trainer(config, tmp_path)


def test_unknown_official_models_are_refused() -> None:
    with pytest.raises(ValueError, match=r"official must be one of sam2.1_tiny, .*, got 'sam3'"):
        load_config(overrides=['official=sam3'])


def test_the_shipped_configuration_follows_the_paper() -> None:
    config = load_config(CONFIGS / 'moga_sam2.1.yaml', ['data=[{root: /data/MOSE}]'])
    stage, moga = config.stages[0], config.adaptation.moga
    assert (stage.lr, config.weight_decay, stage.clips, stage.objects) == (5e-6, 0.1, 4, 3)
    assert (moga.rank, moga.temperature, moga.conditioning, stage.anneal) == (128, 0.3, 'object', True)
    assert config.adaptation.layer_norms and config.official == 'sam2.1_base_plus'
