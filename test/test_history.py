"""Prompts for past frames: they have the effect that they would have had in time."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from robust_pvos_ros.tracking.checkpoints import build_sam
from robust_pvos_ros.tracking.history import StreamFrame
from robust_pvos_ros.tracking.model import Sam2Model
from robust_pvos_ros.tracking.tracker import VideoTracker
from robust_pvos_ros.tracking.types import FrameResult, ObjectState, Prompt, PromptError, TrackerConfig


def draw(index: int) -> np.ndarray:
    """A red board and a blue disc that drift over a textured ground, uint8 (96, 128, 3)."""
    rng = np.random.default_rng(0)
    frame = cv2.resize(rng.integers(80, 160, (9, 12, 3), dtype=np.uint8), (128, 96), interpolation=cv2.INTER_CUBIC)
    cv2.rectangle(frame, (20 + index, 20), (60 + index, 60), (210, 40, 30), -1)
    cv2.circle(frame, (95 - index, 70), 17, (40, 60, 220), -1, cv2.LINE_AA)
    return frame


CLIP = [draw(index) for index in range(24)]
MASK = np.zeros((96, 128), bool)
MASK[20:61, 24:65] = True
PROMPTS = {
    'point': Prompt(points=[[44, 40]], point_labels=[1]),
    'box': Prompt(box=[24, 20, 65, 61]),
    'mask': Prompt(mask=MASK),
}


@pytest.fixture(scope='module')
def model() -> Sam2Model:
    torch.set_num_threads(1)
    sam = build_sam('compact', image_size=128).requires_grad_(False)
    return Sam2Model(sam, 'compact', memory_dtype=torch.float32)  # no rounding that a last bit could flip


def play(
    tracker: VideoTracker, events: dict[int, list[tuple[int, Prompt]]], frames: int = len(CLIP)
) -> list[FrameResult]:
    """Frames at stamps 100, 200, ...; after frame t the prompts of ``events[t]`` are given for frame (their number)."""
    results = []
    for index in range(frames):
        results.append(tracker.step(CLIP[index], 100 * (index + 1)))
        for drawn_on, prompt in events.get(index, []):
            results[-1] = tracker.apply([prompt], 100 * (drawn_on + 1))
    return results


def same(late: FrameResult, timely: FrameResult) -> None:
    assert [o.object_id for o in late.objects] == [o.object_id for o in timely.objects]
    np.testing.assert_allclose(late.mask_logits, timely.mask_logits, atol=2e-3, rtol=1e-3)
    for a, b in zip(late.objects, timely.objects, strict=True):
        assert (a.state, a.label, a.frames_since_seen) == (b.state, b.label, b.frames_since_seen)


@pytest.mark.parametrize('kind', PROMPTS)
def test_a_prompt_ten_frames_old_gives_the_masks_of_one_in_time(model: Sam2Model, kind: str) -> None:
    first = (0, [(0, Prompt(box=[78, 53, 113, 88], label='other'))])
    timely = play(VideoTracker(model), dict([first, (4, [(4, PROMPTS[kind])])]))
    late = play(VideoTracker(model), dict([first, (14, [(4, PROMPTS[kind])])]))
    assert len(late[13].objects) == 1 and len(late[14].objects) == 2
    for index in range(14, len(CLIP)):
        same(late[index], timely[index])
    same(late[10], alone(model, first)[10])


def alone(model: Sam2Model, first: tuple[int, list[tuple[int, Prompt]]]) -> list[FrameResult]:
    """The other object as it is tracked without the second."""
    return play(VideoTracker(model), dict([first]))


@pytest.mark.parametrize('keep_recent', [True, False])
def test_a_late_correction_sticks_as_one_in_time(model: Sam2Model, keep_recent: bool) -> None:
    config = TrackerConfig(clear_memory_on_refine=not keep_recent)
    begin = [(0, PROMPTS['box'])]
    correction = Prompt(object_id=1, points=[[88, 75], [60, 50]], point_labels=[1, 0])
    timely = play(VideoTracker(model, config), {0: begin, 7: [(7, correction)]})
    late = play(VideoTracker(model, config), {0: begin, 15: [(7, correction)]})
    for index in range(15, len(CLIP)):
        same(late[index], timely[index])
    assert np.abs(late[14].mask_logits - timely[14].mask_logits).max() > 0.5, 'the correction does something'


def test_later_corrections_outlive_an_earlier_prompt_that_comes_late(model: Sam2Model) -> None:
    begin = [(0, PROMPTS['box'])]
    early = Prompt(object_id=1, points=[[90, 72]], point_labels=[1])
    newer = Prompt(object_id=1, points=[[30, 50]], point_labels=[1])
    late = play(VideoTracker(model), {0: begin, 9: [(9, newer)], 12: [(5, early)]})
    kept = play(VideoTracker(model), {0: begin, 9: [(9, newer)]})
    assert [m.frame_index for m in _memory(model, {0: begin, 9: [(9, newer)], 12: [(5, early)]})] == [0, 5, 9]
    assert np.abs(late[13].mask_logits - kept[13].mask_logits).max() > 0.05


def _memory(model: Sam2Model, events: dict[int, list[tuple[int, Prompt]]]) -> list:
    tracker = VideoTracker(model)
    play(tracker, events, 14)
    return tracker._table[1].memory.conditioning


def test_two_late_prompts_build_on_each_other(model: Sam2Model) -> None:
    more = Prompt(object_id=1, points=[[35, 50]], point_labels=[1])
    timely = play(VideoTracker(model), {4: [(4, PROMPTS['box'])], 6: [(6, more)]})
    late = play(VideoTracker(model), {12: [(4, PROMPTS['box']), (6, more)]})
    same(late[-1], timely[-1])


def test_a_name_given_meanwhile_is_kept(model: Sam2Model) -> None:
    tracker = VideoTracker(model)
    play(tracker, {0: [(0, PROMPTS['box'])]}, 6)
    tracker.set_label(1, 'dog')
    result = tracker.apply([Prompt(object_id=1, points=[[50, 50]], point_labels=[1])], 300)
    assert result.objects[0].label == 'dog'
    result = tracker.apply([Prompt(object_id=1, points=[[50, 50]], point_labels=[1], label='cat')], 300)
    assert result.objects[0].label == 'cat'


@pytest.mark.parametrize(('stamp', 'message'), [
    (150, 'is that of no processed frame'),
    (800, 'is older than the frames that are kept: give the stamp of a frame from 0.000000900 to 0.000002400, or'),
    (9999, 'is newer than the newest processed frame'),
])  # fmt: skip
def test_stamps_that_cannot_be_taken_are_refused(model: Sam2Model, stamp: int, message: str) -> None:
    tracker = VideoTracker(model)
    last = play(tracker, {0: [(0, PROMPTS['box'])]})[-1]
    if stamp == 150:
        tracker = VideoTracker(model)
        last = play(tracker, {0: [(0, PROMPTS['box'])]}, 4)[-1]
    with pytest.raises(PromptError, match=message):
        tracker.apply([PROMPTS['point']], stamp)
    assert tracker.last_result is last and len(tracker.objects) == 1


def test_an_object_cannot_be_corrected_before_it_was_there(model: Sam2Model) -> None:
    tracker = VideoTracker(model)
    play(tracker, {5: [(5, PROMPTS['box'])]}, 8)
    with pytest.raises(PromptError, match='object 1 did not exist on the frame of this prompt'):
        tracker.apply([Prompt(object_id=1, points=[[50, 50]], point_labels=[1])], 300)
    tracker.remove(1)
    with pytest.raises(PromptError, match='there is no object 1'):
        tracker.apply([Prompt(object_id=1, points=[[50, 50]], point_labels=[1])], 700)


def test_coordinates_belong_to_the_past_frame(model: Sam2Model) -> None:
    tracker = VideoTracker(model)
    tracker.step(np.zeros((40, 50, 3), np.uint8), 1)
    tracker.step(CLIP[0], 2)
    with pytest.raises(PromptError, match='outside'):
        tracker.apply([Prompt(points=[[60, 30]], point_labels=[1])], 1)
    result = tracker.apply([Prompt(points=[[30, 30]], point_labels=[1])], 1)
    assert (result.height, result.width) == CLIP[0].shape[:2] and result.prompted == (1,)


def test_the_history_is_bounded_and_can_be_switched_off(model: Sam2Model) -> None:
    tracker, sizes = VideoTracker(model, TrackerConfig(history_frames=4)), []
    for index in range(12):
        tracker.step(CLIP[index], 100 * (index + 1))
        sizes.append(tracker.history_bytes())
    assert sizes[0] == 0 and sizes[4] == sizes[-1] == 4 * sizes[1] > 0
    assert tracker.stamps() == (800, 1200)
    off = VideoTracker(model, TrackerConfig(history_frames=0))
    play(off, {}, 3)
    assert off.history_bytes() == 0 and off.stamps() == (300, 300)
    with pytest.raises(PromptError, match='older than the frames that are kept'):
        off.apply([PROMPTS['point']], 200)
    with pytest.raises(ValueError, match='history_frames'):
        VideoTracker(model, TrackerConfig(history_frames=-1))


def test_a_reset_forgets_the_past_too(model: Sam2Model) -> None:
    tracker = VideoTracker(model)
    play(tracker, {0: [(0, PROMPTS['box'])]}, 4)
    with_object, frames = tracker.history_bytes(), VideoTracker(model)
    play(frames, {}, 4)
    assert with_object > frames.history_bytes() > 0, 'what the object remembered counts'
    tracker.reset()
    assert tracker.history_bytes() == 0
    with pytest.raises(PromptError, match='older than the frames that are kept'):
        tracker.apply([PROMPTS['point']], 200)
    assert tracker.apply([PROMPTS['point']], 400).prompted == (2,)


def test_after_a_cut_no_frame_from_before_can_be_prompted_and_objects_stay(model: Sam2Model) -> None:
    tracker, calm = VideoTracker(model), VideoTracker(model)
    for one in (tracker, calm):
        play(one, {0: [(0, PROMPTS['box'])]}, 6)
    tracker.cut()
    assert tracker.history_bytes() == 0 and tracker.stamps() is None
    assert [o.object_id for o in tracker.objects] == [1]
    for stamp in (None, 600, 300):
        with pytest.raises(PromptError, match='since the jump of time'):
            tracker.apply([PROMPTS['point']], stamp)
    result = tracker.step(CLIP[6], 50)
    np.testing.assert_array_equal(result.mask_logits, calm.step(CLIP[6], 700).mask_logits)
    assert tracker.stamps() == (50, 50), 'the frame before the cut is not among the past ones'
    tracker.step(CLIP[7], 150)
    assert tracker.stamps() == (50, 150)
    with pytest.raises(PromptError, match='is newer than the newest processed frame'):
        tracker.apply([PROMPTS['point']], 600)
    assert tracker.apply([PROMPTS['point']], 50).prompted == (2,)


def test_the_nearest_frame_is_found_within_a_tolerance(model: Sam2Model) -> None:
    tracker = VideoTracker(model, TrackerConfig(history_frames=4))
    with pytest.raises(PromptError, match='no frame has been processed'):
        tracker.nearest(100, 50)
    play(tracker, {}, 8)
    assert tracker.stamps() == (400, 800)
    for stamp, found in ((700, 700), (749, 700), (751, 800), (850, 800), (390, 400)):
        assert tracker.nearest(stamp, 50) == found
    for stamp in (851, 349):
        with pytest.raises(PromptError, match='away from the nearest frame that is kept'):
            tracker.nearest(stamp, 50)
    with pytest.raises(PromptError, match='away from'):
        tracker.nearest(701, 0)


def test_an_object_that_was_prompted_late_knows_where_it_was_last_seen(model: Sam2Model, monkeypatch) -> None:
    features, track = [model.encode(frame) for frame in CLIP[:8]], model.track

    def hidden_at_last(frame, fused):
        decoded = track(frame, fused)
        if frame is not features[-1]:
            return decoded
        return decoded._replace(logits=torch.full_like(decoded.logits, -1024.0), score=decoded.score.clamp(max=-9.0))

    monkeypatch.setattr(model, 'track', hidden_at_last)
    places = []
    for given_after in (3, 7):
        tracker = VideoTracker(model)
        for index, maps in enumerate(features):
            tracker.step(CLIP[index], 100 * (index + 1), (), maps)
            if index == given_after:
                tracker.apply([PROMPTS['box']], 400)
        assert tracker.objects[0].state == ObjectState.OCCLUDED
        places.append([tracker.scene(stamp).last_boxes[1] for stamp in (600, 800)])
    timely, late = np.array(places)
    np.testing.assert_allclose(late, timely, atol=1.5)
    assert (late[:, 2] - late[:, 0] > 20).all() and (late[:, 3] - late[:, 1] > 20).all()


def test_masks_of_other_objects_count_for_a_late_prompt(model: Sam2Model, monkeypatch) -> None:
    tracker = VideoTracker(model, TrackerConfig(exclusive_memory=0.5))
    play(tracker, {0: [(0, PROMPTS['box'])]}, 6)
    real, beside_of = tracker._steps.track, {}

    def track(frame, entries, config, beside=()):
        beside_of[frame.index] = list(beside)
        return real(frame, entries, config, beside)

    monkeypatch.setattr(tracker._steps, 'track', track)
    tracker.apply([PROMPTS['point']], 300)
    assert {index: len(beside) for index, beside in beside_of.items()} == {3: 1, 4: 1, 5: 1}
    row = tracker._table[2]
    following = StreamFrame(700, 6, CLIP[6].shape[0], CLIP[6].shape[1], model.encode(CLIP[6]))
    [own] = real(following, [row], tracker.config)
    for score, waits in ((1.0, True), (-1.0, False)):
        other = own.decoded._replace(score=own.decoded.score + score)
        [one] = real(following, [row], tracker.config, [replace(row, object_id=9, decoded=other)])
        assert one.contested == waits and not own.contested
