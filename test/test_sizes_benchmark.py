"""The comparison of model sizes: trains each by one recipe, measures those that are complete."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from benchmarks import sizes
from training import train
from training.config import load_config

RECIPE = {
    'device': 'cpu', 'threads': 1, 'bfloat16': False, 'warmup': 1, 'bank': 4, 'bank_size': 32, 'actors': 1,
    'validate_clips': 4, 'model': {'dim': 32, 'mem_dim': 16, 'feedforward': 32, 'attention_layers': 1},
    'stages': [{'name': 'a', 'size': 128, 'frames': 2, 'clips': 1, 'objects': 1, 'steps': 1}],
}  # fmt: skip
TINY = {
    'one': {'trunk': 'conv', 'widths': [8, 8, 16, 16], 'depths': [1, 1, 1, 1]},
    'two': {'trunk': 'conv', 'widths': [8, 16, 16, 16], 'depths': [1, 1, 2, 1]},
}


@pytest.fixture(autouse=True)
def _subnormal_numbers_come_back() -> Iterator[None]:
    yield
    torch.set_flush_denormal(False)


def test_sizes_are_trained_resumed_and_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    OmegaConf.save(OmegaConf.create(RECIPE), tmp_path / 'recipe.yaml')
    monkeypatch.setattr(sizes, 'RECIPE', tmp_path / 'recipe.yaml')
    monkeypatch.setattr(sizes, 'SIZES', TINY)
    bank = sizes.Trainer(load_config(sizes.RECIPE), tmp_path / 'bank').stream.bank(0)
    monkeypatch.setattr(train, 'validation_bank', lambda device: bank)
    common = ['sizes', '--run', str(tmp_path / 'run'), '--image-sizes', '128', '--rounds', '1']
    monkeypatch.setattr(sys, 'argv', [*common, '--sizes', 'two'])
    sizes.main()
    first = torch.load(tmp_path / 'run' / 'two' / 'last.pt', weights_only=True)['progress']
    monkeypatch.setattr(sys, 'argv', [*common, '--sizes', 'one', 'two', '--out', str(tmp_path / 'out')])
    sizes.main()
    assert torch.load(tmp_path / 'run' / 'two' / 'last.pt', weights_only=True)['progress'] == first
    header, one, two = csv.reader((tmp_path / 'out' / 'sizes.csv').open())
    assert header == [*sizes.COLUMNS, 'ms at 128 px']
    assert [one[0], two[0]] == ['one', 'two'] and int(one[1]) < int(two[1])
    assert all(float(row[-1]) > 0 and row[3] == '1' for row in (one, two))


def test_every_size_has_a_configuration() -> None:
    for name, options in sizes.SIZES.items():
        config = load_config(sizes.RECIPE, [f'model.{key}={value}' for key, value in options.items()])
        for key, value in options.items():
            found = getattr(config.model, key)
            assert (list(found) if isinstance(value, list) else found) == value, name
