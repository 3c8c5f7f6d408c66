"""An object of the rendered street that is hidden for two seconds keeps its ID, with the model that ships."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robust_pvos_ros.procedural.street import StreetScene
from robust_pvos_ros.tracking.association import mask_iou
from robust_pvos_ros.tracking.checkpoints import shipped_weights
from robust_pvos_ros.tracking.model import load_model
from robust_pvos_ros.tracking.tracker import VideoTracker
from robust_pvos_ros.tracking.types import ModelConfig, ObjectState, Prompt

pytestmark = pytest.mark.skipif(not shipped_weights().is_file(), reason=f'{shipped_weights().name} is not there')

RATE = 8
RED_CAR = 1
BEGIN, BEHIND_THE_VAN, END = 11.5, 16.0, 20.5
SECONDS_HIDDEN = 2.0
ENOUGH = 0.5


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def moments() -> np.ndarray:
    """Seconds of the scene at which frames are taken; traffic stands still while the red car is behind the van."""
    before, after = np.arange(BEGIN, BEHIND_THE_VAN, 1 / RATE), np.arange(BEHIND_THE_VAN, END, 1 / RATE)
    return np.concatenate([before, np.full(round(SECONDS_HIDDEN * RATE), BEHIND_THE_VAN), after])


def test_a_car_that_is_hidden_for_two_seconds_is_found_again_under_its_id() -> None:
    scene = StreetScene(320, 240, seed=0, prepare=False)
    tracker = VideoTracker(load_model(ModelConfig(threads=1)))
    hidden = 0
    for index, moment in enumerate(moments()):
        rgb, labels = scene.frame(float(moment))
        truth = labels == RED_CAR
        hidden += int(np.count_nonzero(truth) < 10)
        prompts = [Prompt(mask=truth, label='red car')] if index == 0 else ()
        result = tracker.step(rgb, index * 10**9 // RATE, prompts)
        assert [(tracked.object_id, tracked.label) for tracked in result.objects] == [(1, 'red car')]
    assert hidden >= SECONDS_HIDDEN * RATE
    [tracked] = result.objects
    assert tracked.state == ObjectState.TRACKING
    assert mask_iou(result.mask(1), truth) >= ENOUGH, 'something else goes by its ID'
