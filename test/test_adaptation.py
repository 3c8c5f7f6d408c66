"""Training of adapters on corrupted clips: what learns, what stays, and the file that comes out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from robust_pvos_ros.procedural.textures import make_bank
from robust_pvos_ros.procedural.video import render_clips
from robust_pvos_ros.tracking.adapters import MogaConfig, layer_norm_parameters, load_adapter
from robust_pvos_ros.tracking.compact import CompactConfig, build_compact
from training.adaptation import Adaptation, corrupt_clips, watched_gates
from training.config import Stage, TrainConfig, load_config
from training.export_adapter import export_adapter
from training.losses import LossWeights
from training.train import Trainer

TINY = CompactConfig(
    image_size=128, trunk='conv', widths=(8, 16, 16, 16), depths=(1, 1, 1, 1), dim=32, mem_dim=16, attention_layers=1,
    feedforward=32,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def _trainer(run: Path, steps: int = 20, **adaptation: object) -> Trainer:
    stage = Stage(
        frames=3, clips=2, objects=2, steps=steps, lr=5e-3, passes=4, window=2, corrupted=0.8, anneal=True, size=128
    )
    config = TrainConfig(
        device='cpu', threads=1, bfloat16=False, muon=0.0, warmup=2, bank=6, bank_size=48, actors=2, model=TINY,
        stages=[stage], losses=LossWeights(), ema=0.9,
        adaptation=Adaptation(trains='adapter', moga=MogaConfig(rank=8), **adaptation),
    )  # fmt: skip
    return Trainer(config, run)


def test_only_the_adapter_and_the_layer_norms_learn(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path / 'run')
    begun = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    temperatures = []
    while trainer.advance():
        terms, _ = trainer.train_step()
        assert np.isfinite(terms['loss'])
        temperatures.append(next(iter(trainer.adapter.layers.values())).temperature)
    assert trainer.progress.step == 20
    assert temperatures[0] == pytest.approx(0.3) and temperatures[-1] == pytest.approx(0.11)
    changed = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, begun[name])}
    norms = set(layer_norm_parameters(trainer.model))
    assert changed - norms == {name for name in begun if '.down.' in name or '.up.' in name or '.gate.' in name}
    assert len(changed & norms) > len(norms) / 2


def test_the_exported_adapter_gives_the_trained_model(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path / 'run', steps=4)
    base = {name.replace('.base.', '.'): v for name, v in trainer.model.state_dict().items()}
    base = {name: v.clone() for name, v in base.items() if name in build_compact(TINY).state_dict()}
    while trainer.advance():
        trainer.train_step()
    trainer.save()
    counts = export_adapter(tmp_path / 'run' / 'last.pt', tmp_path / 'moga.safetensors')
    assert counts['components'] == 4 * 2 * 8 * 32
    sam = build_compact(TINY)
    sam.load_state_dict(base)
    load_adapter(tmp_path / 'moga.safetensors', sam, 'compact')
    wanted = trainer.averaged_model(128).state_dict()
    for name, value in sam.state_dict().items():
        torch.testing.assert_close(value, wanted[name], msg=name)


def test_an_adapter_run_cut_in_two_equals_an_uncut_one(tmp_path: Path) -> None:
    whole = _trainer(tmp_path / 'whole', steps=4)
    while whole.advance():
        whole.train_step()
        whole.averaged_model(128)  # as validation does, at moments that differ
    part = _trainer(tmp_path / 'cut', steps=4)
    part.train_step()
    part.save()
    resumed = _trainer(tmp_path / 'cut', steps=4)
    while resumed.advance():
        resumed.train_step()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_without_layer_norms_they_stay(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path / 'run', steps=2, layer_norms=False)
    learning = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert learning and not learning & set(layer_norm_parameters(trainer.model))


def test_a_run_without_an_adapter_exports_none(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path / 'run', steps=2)
    trainer.config.adaptation = Adaptation()
    trainer.save()
    with pytest.raises(ValueError, match='trained no adapter'):
        export_adapter(tmp_path / 'run' / 'last.pt', tmp_path / 'moga.safetensors')


def test_corrupted_clips() -> None:
    images = render_clips(6, 2, 64, 3, make_bank(4, 48, seed=2)).images
    kept = images.clone()
    found = corrupt_clips(images, 0.5, (2.0, 4.0), np.random.default_rng(4))
    assert torch.equal(images, kept), 'the rendering is used again'
    changed = [not torch.equal(a, b) for a, b in zip(found, images, strict=True)]
    assert 0 < sum(changed) < 6
    assert torch.equal(found, corrupt_clips(images, 0.5, (2.0, 4.0), np.random.default_rng(4)))
    assert torch.equal(corrupt_clips(images, 0.0, (1.0, 5.0), np.random.default_rng(1)), images)


def test_shipped_configurations_load() -> None:
    folder = Path(__file__).parents[1] / 'training' / 'configs'
    data = ['data=[{root: /data/MOSE}]']
    configs = {path.stem: load_config(path, data) for path in folder.glob('*.yaml')}
    assert configs['moga_compact'].adaptation.trains == 'adapter'
    assert configs['compact'].adaptation.trains == 'model'
    lora = load_config(folder / 'moga_compact.yaml', ['adaptation.moga.conditioning=none', 'adaptation.moga.rank=32'])
    assert lora.adaptation.moga == MogaConfig(conditioning='none', rank=32)
    with pytest.raises(ValueError, match='cannot train an adapter'):
        load_config(folder / 'moga_compact.yaml', ['stages.0.calibrate=true'])
    with pytest.raises(ValueError, match=r"adaptation.trains must be 'model' or 'adapter'"):
        load_config(overrides=['adaptation.trains=gates'])


def test_calibrated_gates_differ_between_objects_from_the_first_step(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path / 'run', steps=2, gate_spread=2.0)
    assert trainer.adapter is not None
    with watched_gates(trainer.adapter) as seen:
        trainer._loss(trainer._batch())
    pointers = torch.cat(seen)
    gates = [layer.gate for layer in trainer.adapter.layers.values() if layer.gate is not None]
    deaf = [gate(pointers).std(0).mean() for gate in gates]
    trainer._calibrate_gates(trainer.adapter)
    for gate, before in zip(gates, deaf, strict=True):
        logits = gate(pointers)
        torch.testing.assert_close(logits.mean(0), torch.zeros(8), atol=1e-3, rtol=0)
        torch.testing.assert_close(logits.std(0), torch.full((8,), 2.0), atol=1e-2, rtol=0)
        assert before < 0.5
    trainer.train_step()
    kept = {name: value for name, value in trainer.average.items() if '.gate.' in name}
    assert kept and all(torch.allclose(v, trainer.model.state_dict()[n], atol=0.05, rtol=0.05) for n, v in kept.items())


def test_layer_norms_learn_at_a_pace_of_their_own(tmp_path: Path) -> None:
    moved: dict[float, dict[str, torch.Tensor]] = {}
    for pace in (1.0, 0.1):
        trainer = _trainer(tmp_path / f'{pace}', steps=1, norm_pace=pace)
        begun = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
        trainer.train_step()
        moved[pace] = {name: p.detach() - begun[name] for name, p in trainer.model.named_parameters()}
    norms = layer_norm_parameters(trainer.model)
    assert sum(int(moved[1.0][name].any()) for name in norms) > len(norms) / 2
    for name, step in moved[1.0].items():
        expected = 0.1 * step if name in norms else step
        torch.testing.assert_close(moved[0.1][name], expected, atol=2e-7, rtol=2e-3)


def test_a_spread_or_a_pace_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match='gate_spread must be 0 or more, got -1'):
        Adaptation(gate_spread=-1.0)
    for pace in (0.0, 1.5):
        with pytest.raises(ValueError, match=f'norm_pace must be above 0 and at most 1, got {pace}'):
            Adaptation(norm_pace=pace)
