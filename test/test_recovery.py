"""Objects that were out of sight and come back."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.identity import SETTINGS, Clip, cross, fate_of, hide
from robust_pvos_ros.tracking import steps
from robust_pvos_ros.tracking.checkpoints import shipped_weights
from robust_pvos_ros.tracking.contest import Settled, _absent
from robust_pvos_ros.tracking.memory import ObjectMemory
from robust_pvos_ros.tracking.model import Sam2Model, load_model
from robust_pvos_ros.tracking.motion import Cells, track_of
from robust_pvos_ros.tracking.pieces import Waypoint
from robust_pvos_ros.tracking.presence import Evidence
from robust_pvos_ros.tracking.recovery import GOOD_LOOKS, Sighting, seen_whole, sighted
from robust_pvos_ros.tracking.tracker import VideoTracker
from robust_pvos_ros.tracking.types import FrameResult, ModelConfig, ObjectState, Prompt, TrackerConfig

RATE = 15


def block(x: int) -> torch.Tensor:
    logits = torch.full((32, 32), -1.0)
    logits[8:16, x : x + 8] = 1.0
    return logits


MOTION = track_of(Cells(64.0, (11.5, 11.5)), block(8), 0)
GOOD = Evidence(0.95, 0.8, Cells(64.0, (11.5, 11.5)))


def looks(xs: list[int], evidence: list[Evidence] | None = None) -> list[Sighting | None]:
    found: list[Sighting | None] = []
    for index, (x, one) in enumerate(zip(xs, evidence or [GOOD] * len(xs), strict=True)):
        found.append(sighted(block(x), one, MOTION, found[-1] if found else None, index, 0.9))
    return found


def test_an_object_is_found_where_it_is_seen_several_times_in_a_row() -> None:
    assert [one is not None and one.is_sure for one in looks([8, 9, 10, 11])] == [False] * (GOOD_LOOKS - 1) + [True] * 2
    assert [one and one.frames for one in looks([8, 9, 20, 21])] == [1, 2, 1, 2], 'it was somewhere else'


@pytest.mark.parametrize(
    'poor',
    [
        GOOD._replace(score=0.89),
        GOOD._replace(iou=0.4),
        GOOD._replace(cells=Cells(20.0, (11.5, 11.5))),
        GOOD._replace(cells=Cells(140.0, (11.5, 11.5))),
        GOOD._replace(cells=Cells(0.0, (0.0, 0.0))),
    ],
)
def test_one_poor_look_is_forgiven_and_two_begin_the_count_anew(poor: Evidence) -> None:
    found = looks([8] * 4, [GOOD, GOOD, poor, GOOD])
    assert [one and (one.frames, one.frame_index) for one in found] == [(1, 0), (2, 1), (2, 1), (3, 3)]
    found = looks([8] * 5, [GOOD, GOOD, poor, poor, GOOD])
    assert [one and one.frames for one in found] == [1, 2, 2, None, 1]


def test_two_frames_that_were_left_out_begin_the_count_anew() -> None:
    before = Sighting(3, block(8) > 0, 2)
    for frame, count in ((5, 3), (6, 1), (3, 1), (2, 1)):
        again = sighted(block(8), GOOD, MOTION, before, frame, 0.9)
        assert again is not None and again.frames == count
    assert sighted(block(8), GOOD, None, before, 4, 0.9) is None, 'nothing is known of its size'


def test_an_object_is_whole_unless_it_shrank_within_seconds() -> None:
    memory = ObjectMemory(7, 16, 4)
    trail = tuple(Waypoint(replace(MOTION, area=area), 3.0) for area in (50.0, 64.0, 40.0))
    for area, largest in ((70.0, 70.0), (39.0, 64.0)):
        whole = seen_whole(memory, area, trail)
        assert whole is not None and whole.area == largest and whole.memory is not memory
    assert seen_whole(memory, 38.0, trail) is None
    assert seen_whole(memory, 1.0, ()) is not None


# ----------------------------------------------------------------------------------------------- with the shipped model


@pytest.fixture(scope='module')
def model() -> Iterator[Sam2Model]:
    if not shipped_weights().is_file():
        pytest.skip(f'{shipped_weights().name} is not there')
    before = torch.get_num_threads()
    yield load_model(ModelConfig(threads=1))
    torch.set_num_threads(before)


def follow(tracker: VideoTracker, clip: Clip, frames: range) -> list[FrameResult]:
    results = []
    for index in frames:
        prompts = [Prompt(mask=mask) for mask in clip.truth[0]] if index == 0 else []
        results.append(tracker.step(clip.frames[index], index * 10**9 // RATE, prompts))
    return results


def fates(result: FrameResult, truth: np.ndarray) -> list[str]:
    return [fate_of(result.masks[place], truth[place], np.delete(truth, place, 0)) for place in range(len(truth))]


def test_an_object_behind_a_wall_comes_back_with_its_id(model: Sam2Model) -> None:
    clip, ends = hide(0), {}
    for name in ('stock', 'default'):
        results = follow(VideoTracker(model, SETTINGS[name]), clip, range(len(clip.frames)))
        states = [result.objects[0].state for result in results]
        assert ObjectState.OCCLUDED in states and all(result.objects[0].object_id == 1 for result in results)
        ends[name] = fates(results[-1], clip.truth[-1]), states[-1]
    assert ends['default'] == (['kept'], ObjectState.TRACKING)
    assert ends['stock'] == (['lost'], ObjectState.OCCLUDED), 'what is tested here would not be needed'


def test_look_alikes_that_cross_keep_their_ids(model: Sam2Model) -> None:
    clip = cross(1)
    ends = {}
    for name in ('stock', 'default'):
        *_, last = follow(VideoTracker(model, SETTINGS[name]), clip, range(len(clip.frames)))
        ends[name] = fates(last, clip.truth[-1])
    assert ends['default'] == ['kept', 'kept']
    assert 'kept' not in ends['stock'], 'what is tested here would not be needed'


def test_what_is_known_of_a_hidden_object_survives_a_restart(model: Sam2Model) -> None:
    clip = hide(0)
    hidden = next(index for index in range(len(clip.frames)) if not clip.truth[index].any()) + 6
    straight = VideoTracker(model)
    follow(straight, clip, range(hidden))
    file = io.BytesIO()
    torch.save(straight.state(), file)
    file.seek(0)
    resumed = VideoTracker(model)
    resumed.restore(torch.load(file, weights_only=True))
    assert straight.memory_bytes() == resumed.memory_bytes(), 'what several memories share is stored once'
    rest = range(hidden, len(clip.frames))
    for one, other in zip(follow(straight, clip, rest), follow(resumed, clip, rest), strict=True):
        np.testing.assert_array_equal(one.mask_logits, other.mask_logits)
    assert straight.objects[0].state == ObjectState.TRACKING
    assert straight.memory_bytes() == resumed.memory_bytes()


def test_what_is_kept_of_a_hidden_object_is_from_before_it_shrank(model: Sam2Model) -> None:
    clip, tracker = hide(0), VideoTracker(model)
    gone = next(index for index in range(len(clip.frames)) if not clip.truth[index].any())
    areas = [result.objects[0].area_px for result in follow(tracker, clip, range(gone + 6))]
    row = tracker._table[1]
    assert row.keepsake is not None and row.whole is not None and row.motion is not None
    assert row.keepsake is row.whole.memory and row.motion.area == row.whole.area
    newest = row.keepsake.recent[-1].frame_index
    assert areas[newest] >= 0.5 * max(areas) and max(areas[newest + 1 :]) < areas[newest]


def test_what_is_kept_aside_is_counted_and_forgotten(model: Sam2Model) -> None:
    clip, tracker = hide(0), VideoTracker(model)
    begin = next(index for index in range(len(clip.frames)) if not clip.truth[index].any())
    follow(tracker, clip, range(begin + 12))
    row = tracker._table[1]
    assert row.keepsake is not None and tracker.memory_bytes() > sum(
        t.numel() * t.element_size() for t in row.memory.tensors()
    )
    tracker.apply([Prompt(object_id=1, mask=clip.truth[0][0])])
    assert tracker._table[1].keepsake is None
    without = VideoTracker(model, replace(TrackerConfig(), recovery_score=1.0))
    follow(without, clip, range(begin + 12))
    assert without._table[1].keepsake is None


def test_an_object_that_is_found_on_another_ones_pixels_is_not_back(model: Sam2Model, monkeypatch) -> None:
    clip, tracker = hide(0), VideoTracker(model)
    follow(tracker, clip, range(len(clip.frames) - 20))
    assert tracker.objects[0].state == ObjectState.OCCLUDED
    denied: list[int] = []

    def deny(claims, shared, stamp, threshold):
        denied.append(stamp)
        return {0: Settled(_absent(claims[0].decoded), claims[0].row.motion)}

    tracker.apply([Prompt(box=[5, 5, 40, 40])])  # there must be another object
    monkeypatch.setattr(steps, 'settle', deny)
    memory = tracker._table[1].memory
    results = follow(tracker, clip, range(len(clip.frames) - 20, len(clip.frames)))
    assert denied and all(result.objects[0].state != ObjectState.TRACKING for result in results)
    assert tracker._table[1].keepsake is not None and tracker._table[1].memory is memory


def test_an_object_that_left_over_the_edge_is_not_looked_for(model: Sam2Model) -> None:
    clip = hide(0)
    begin = next(index for index in range(len(clip.frames)) if not clip.truth[index].any())
    x = int(np.flatnonzero(clip.truth[begin - 6, 0].any(0)).max()) + 1  # the wall begins at the edge of this picture
    cut = Clip(clip.frames[:, :, :x].copy(), clip.truth[:, :, :, :x])
    tracker = VideoTracker(model)
    follow(tracker, cut, range(begin + 12))
    assert tracker.objects[0].state == ObjectState.OCCLUDED and tracker._table[1].keepsake is None
