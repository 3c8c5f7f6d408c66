"""Weights files: the official layout loads, anything else is refused with a sentence that says what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from robust_pvos_ros.tracking.checkpoints import (
    OFFICIAL_CONFIGS,
    adapter_file,
    build_official,
    build_sam,
    read_compact,
    resolve_device,
    shipped_adapter,
    shipped_weights,
)
from robust_pvos_ros.tracking.model import load_model
from robust_pvos_ros.tracking.tracker import VideoTracker
from robust_pvos_ros.tracking.types import ModelConfig, ModelError, Prompt


@pytest.fixture(scope='module')
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SAM 2.1 tiny with random weights in the layout of the official file."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('checkpoint') / 'sam2.1_hiera_tiny.pt'
    torch.save({'model': build_official('sam2.1_tiny').state_dict()}, path)
    return path


def test_official_layout_loads(tiny_checkpoint: Path) -> None:
    sam = build_sam('sam2.1_tiny', str(tiny_checkpoint))
    state = torch.load(tiny_checkpoint, weights_only=True)['model']
    assert all(torch.equal(tensor, state[name]) for name, tensor in sam.state_dict().items())
    assert sam.image_size == 1024 and sam.binarize_mask_from_pts_for_mem_enc
    assert sam.sam_mask_decoder.dynamic_multimask_via_stability


@pytest.mark.parametrize('model', sorted(OFFICIAL_CONFIGS))
def test_every_official_name_builds(model: str) -> None:
    assert sum(p.numel() for p in build_official(model).parameters()) > 30e6


def test_checkpoint_of_another_model_is_refused(tiny_checkpoint: Path) -> None:
    with pytest.raises(ModelError, match=r"does not fit model 'sam2.1_small'.*tensors differ"):
        build_sam('sam2.1_small', str(tiny_checkpoint))


@pytest.mark.parametrize('kept', [0, 100, 5_000_000])
def test_truncated_checkpoint_is_refused(tiny_checkpoint: Path, tmp_path: Path, kept: int) -> None:
    path = tmp_path / 'cut.pt'
    with tiny_checkpoint.open('rb') as whole:
        path.write_bytes(whole.read(kept))
    with pytest.raises(ModelError, match='damaged'):
        build_sam('sam2.1_tiny', str(path))


class _Bomb:
    def __reduce__(self):
        return (print, ('code from the file ran',))


def test_pickled_code_is_refused_and_does_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / 'bomb.pt'
    torch.save({'model': _Bomb()}, path)
    with pytest.raises(ModelError, match='refused'):
        build_sam('sam2.1_tiny', str(path))
    assert 'ran' not in capsys.readouterr().out


@pytest.mark.parametrize('content', [{'weights': {}}, [1, 2], {'model': {'a': 1}}])
def test_files_of_another_layout_are_refused(tmp_path: Path, content: object) -> None:
    path = tmp_path / 'other.pt'
    torch.save(content, path)
    with pytest.raises(ModelError, match="lacks the key 'model'"):
        build_sam('sam2.1_tiny', str(path))


def test_wrong_names_and_missing_files_are_refused(tmp_path: Path) -> None:
    for arguments, expected in [
        (('sam3', ''), 'model must be one of compact, sam2.1_tiny'),
        (('sam2.1_tiny', ''), 'needs the parameter checkpoint'),
        (('sam2.1_tiny', str(tmp_path / 'no.pt')), 'does not exist'),
        (('compact', str(tmp_path / 'no.safetensors')), 'does not exist'),
        (('sam2.1_tiny', str(tmp_path)), 'does not exist'),
    ]:
        with pytest.raises(ModelError, match=expected):
            build_sam(*arguments)


def test_damaged_compact_files_are_refused(tmp_path: Path) -> None:
    cut, foreign, unreadable = (tmp_path / f'{name}.safetensors' for name in ('cut', 'foreign', 'unreadable'))
    cut.write_bytes(shipped_weights().read_bytes()[:100_000])
    save_file({'x': torch.zeros(1)}, str(foreign))
    save_file({'x': torch.zeros(1)}, str(unreadable), {'format': 'robust_pvos_compact', 'config': json.dumps({'a': 1})})
    cases = [(cut, 'damaged'), (foreign, 'not a compact model'), (unreadable, 'unreadable configuration')]
    for path, expected in cases:
        with pytest.raises(ModelError, match=expected):
            build_sam('compact', str(path))


def test_shipped_model_is_small() -> None:
    config, tensors = read_compact(shipped_weights())
    assert config.trunk == 'conv' and config.image_size % 32 == 0
    assert sum(t.numel() for t in tensors.values()) <= 8e6
    assert shipped_weights().stat().st_size < 40e6


@pytest.mark.parametrize('name', ['gpu', 'mps', 'cuda:99'])
def test_devices_that_do_not_exist_are_refused(name: str) -> None:
    with pytest.raises(ModelError, match='device'):
        resolve_device(name)


def test_the_compact_model_runs_at_other_sizes() -> None:
    model = load_model(ModelConfig(image_size=320, device='cpu', threads=1))
    tracker = VideoTracker(model)
    frame = np.full((120, 160, 3), 90, np.uint8)
    frame[40:80, 50:100] = 220, 40, 40
    for index in range(3):
        result = tracker.step(frame, index, [Prompt(box=[50, 40, 100, 80])] if index == 0 else ())
    assert result.mask_logits.shape == (1, 80, 80)
    assert (result.mask(1) & (frame[..., 0] == 220)).sum() > 0.7 * (result.mask(1) | (frame[..., 0] == 220)).sum()


@pytest.mark.parametrize(
    'fields',
    [
        {'precision': 'float16'},
        {'threads': -1},
        {'adapter': 'missing.safetensors'},
        {'image_size': 300},
        {'image_size': 64},
        {'model': 'sam2.1_tiny', 'checkpoint': 'x.pt', 'image_size': 512},
    ],
)
def test_bad_model_configurations_are_refused(fields: dict) -> None:
    with pytest.raises(ModelError):
        load_model(ModelConfig(**fields))


def test_a_configuration_names_its_adapter(tmp_path: Path) -> None:
    assert adapter_file(ModelConfig()) is None and adapter_file(ModelConfig(adapter='')) is None
    assert adapter_file(ModelConfig(adapter=str(tmp_path / 'own.safetensors'))) == tmp_path / 'own.safetensors'
    assert adapter_file(ModelConfig(adapter='shipped')) == shipped_adapter()
    for fields in ({'checkpoint': 'own.safetensors'}, {'model': 'sam2.1_tiny', 'checkpoint': 'tiny.pt'}):
        with pytest.raises(ModelError, match="belongs to the shipped weights of model 'compact'"):
            adapter_file(ModelConfig(**fields, adapter='shipped'))


def test_the_shipped_adapter_fits_the_shipped_weights() -> None:
    model = load_model(ModelConfig(device='cpu', threads=1, adapter='shipped'))
    assert model.adapter is not None and model.adapter.config.conditioning == 'object'
    assert shipped_adapter().stat().st_size + shipped_weights().stat().st_size < 40e6
