"""An object of the rendered street that is hidden for two seconds keeps its ID, with the model that ships."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from benchmarks import hidden_car
from benchmarks.hidden_car import LOOK_ALIKE_GONE, SECONDS_HIDDEN, drive, is_found
from robust_pvos_ros.tracking.checkpoints import shipped_weights
from robust_pvos_ros.tracking.model import load_model
from robust_pvos_ros.tracking.types import FrameResult, ModelConfig, TrackerConfig

pytestmark = pytest.mark.skipif(not shipped_weights().is_file(), reason=f'{shipped_weights().name} is not there')

RATE = 8
LOOK_ALIKE_IN_THE_WAY = 11.5

Drive = list[tuple[FrameResult, np.ndarray]]


def follow(begin: float) -> Drive:
    found = list(drive(load_model(ModelConfig(threads=1)), begin, RATE, TrackerConfig()))
    assert sum(np.count_nonzero(truth) < 10 for _, truth in found) >= SECONDS_HIDDEN * RATE
    return found


@pytest.fixture(scope='module', autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope='module')
def with_a_look_alike() -> Drive:
    return follow(LOOK_ALIKE_IN_THE_WAY)


@pytest.fixture(scope='module')
def without() -> Drive:
    return follow(LOOK_ALIKE_GONE)


def keeps_its_id(found: Drive) -> bool:
    return all([(one.object_id, one.label) for one in result.objects] == [(1, 'red car')] for result, _ in found)


def test_a_car_that_is_hidden_for_two_seconds_keeps_its_id(with_a_look_alike: Drive, without: Drive) -> None:
    assert keeps_its_id(with_a_look_alike) and keeps_its_id(without)


def test_a_car_that_was_hidden_for_two_seconds_is_found_again(without: Drive) -> None:
    assert is_found(*without[-1])


def test_so_is_one_that_a_look_alike_drove_past_before(with_a_look_alike: Drive) -> None:
    assert is_found(*with_a_look_alike[-1])


def test_the_benchmark_tells_at_which_rates_it_is_found(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr('sys.argv', ['hidden_car', '--rates', '4', '--begins', '15.5', '--stray-cover', '0'])
    hidden_car.main()
    assert 'stray_cover 0, from 15.5 s: 0 of 1 (at none Hz)' in capsys.readouterr().out
