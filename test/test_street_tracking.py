"""An object of the rendered street that is hidden for two seconds keeps its ID, with the model that ships."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from robust_pvos_ros.procedural.street import StreetScene
from robust_pvos_ros.tracking.association import mask_iou
from robust_pvos_ros.tracking.checkpoints import shipped_weights
from robust_pvos_ros.tracking.model import load_model
from robust_pvos_ros.tracking.tracker import VideoTracker
from robust_pvos_ros.tracking.types import FrameResult, ModelConfig, ObjectState, Prompt

pytestmark = pytest.mark.skipif(not shipped_weights().is_file(), reason=f'{shipped_weights().name} is not there')

RATE = 8
RED_CAR = 1
LOOK_ALIKE_IN_THE_WAY, LOOK_ALIKE_GONE = 11.5, 14.2
BEHIND_THE_VAN, END = 16.0, 20.5
SECONDS_HIDDEN = 2.0
ENOUGH = 0.5


def moments(begin: float) -> np.ndarray:
    """Seconds of the scene at which frames are taken; traffic stands still while the red car is behind the van."""
    before, after = np.arange(begin, BEHIND_THE_VAN, 1 / RATE), np.arange(BEHIND_THE_VAN, END, 1 / RATE)
    return np.concatenate([before, np.full(round(SECONDS_HIDDEN * RATE), BEHIND_THE_VAN), after])


Drive = tuple[FrameResult, np.ndarray, list[list[tuple[int, str]]]]


def follow(begin: float) -> Drive:
    """The last frame, the red car's true mask on it, and IDs and labels on every frame."""
    scene = StreetScene(320, 240, seed=0, prepare=False)
    tracker = VideoTracker(load_model(ModelConfig(threads=1)))
    hidden, listed = 0, []
    for index, moment in enumerate(moments(begin)):
        rgb, labels = scene.frame(float(moment))
        truth = labels == RED_CAR
        hidden += int(np.count_nonzero(truth) < 10)
        prompts = [Prompt(mask=truth, label='red car')] if index == 0 else ()
        result = tracker.step(rgb, index * 10**9 // RATE, prompts)
        listed.append([(tracked.object_id, tracked.label) for tracked in result.objects])
    assert hidden >= SECONDS_HIDDEN * RATE
    return result, truth, listed


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


def keeps_its_id(drive: Drive) -> bool:
    return bool(drive[2]) and all(objects == [(1, 'red car')] for objects in drive[2])


def found_again(drive: Drive) -> bool:
    result, truth, _ = drive
    return result.objects[0].state == ObjectState.TRACKING and mask_iou(result.mask(1), truth) >= ENOUGH


def test_a_car_that_is_hidden_for_two_seconds_keeps_its_id(with_a_look_alike: Drive, without: Drive) -> None:
    assert keeps_its_id(with_a_look_alike) and keeps_its_id(without)


def test_a_car_that_was_hidden_for_two_seconds_is_found_again(without: Drive) -> None:
    assert found_again(without)


def test_so_is_one_that_a_look_alike_drove_past_before(with_a_look_alike: Drive) -> None:
    assert found_again(with_a_look_alike)
