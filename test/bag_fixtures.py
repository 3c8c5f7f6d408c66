"""Fixtures of tests that run bags; a module asks for them by ``pytest_plugins = ('bag_fixtures',)``."""

from __future__ import annotations

from pathlib import Path

import pytest
from bag_files import write_weights
from dataset_folders import write_davis

from robust_pvos_ros.bags.importer import ImportOptions, import_dataset
from robust_pvos_ros.bags.replay import RunOptions
from robust_pvos_ros.tracking.model import Sam2Model, load_model
from robust_pvos_ros.tracking.types import ModelConfig


@pytest.fixture(scope='module')
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp('weights') / 'tiny.safetensors')


@pytest.fixture(scope='module')
def options(weights: Path) -> RunOptions:
    config = ModelConfig(checkpoint=str(weights), precision='float32', threads=1)
    return RunOptions(model=config, prompts_from_truth='mask', save_every=4)


@pytest.fixture(scope='module')
def model(options: RunOptions) -> Sam2Model:
    return load_model(options.model)


@pytest.fixture(scope='module')
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_davis(tmp_path_factory.mktemp('davis'))


@pytest.fixture(scope='module')
def bags(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp('imported') / 'bags'
    import_dataset(dataset, out, options=ImportOptions(quiet=True))
    return out
