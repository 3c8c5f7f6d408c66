"""Presence with hysteresis, look-alikes, objects tracked in turns, and frames encoded together."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from robust_pvos_ros.tracking.compact import CompactConfig, build_compact
from robust_pvos_ros.tracking.model import Decoded, Sam2Model
from robust_pvos_ros.tracking.motion import Cells
from robust_pvos_ros.tracking.presence import Evidence, contested, evidence_of, is_present
from robust_pvos_ros.tracking.tracker import VideoTracker
from robust_pvos_ros.tracking.types import FrameResult, ObjectState, Prompt, PromptError, TrackerConfig

SIZE = 128
SOME = Cells(9.0, (1.0, 1.0))


@pytest.fixture(scope='module')
def model() -> Sam2Model:
    torch.manual_seed(0)
    sam = build_compact(CompactConfig(image_size=SIZE))
    sam.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.data.fill_(4.0)  # objects count as visible
    return Sam2Model(sam.requires_grad_(False), 'compact', memory_dtype=torch.float32)


def noise(count: int, height: int = 96, width: int = 160) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 255, (count, height, width, 3), dtype=np.uint8))


def box(x: float, y: float, size: float = 30, **fields) -> Prompt:
    return Prompt(box=[x, y, x + size, y + size], **fields)


BOXES = [box(10, 10), box(60, 40), box(100, 20), box(30, 60)]


# ------------------------------------------------------------------------------------------------------------ presence


def states(scores: list[float], config: TrackerConfig, ious: list[float] | None = None) -> str:
    present, seen = True, ''
    for score, iou in zip(scores, ious or [1.0] * len(scores), strict=True):
        present = is_present(present, Evidence(score, iou, SOME), config)
        seen += 'T' if present else '-'
    return seen


def test_a_score_about_the_threshold_does_not_flicker() -> None:
    config = TrackerConfig(presence_score=0.5, presence_margin=0.1)
    assert states([0.9, 0.52, 0.49, 0.55, 0.45, 0.59, 0.61, 0.51], config) == 'TT----TT'
    assert states([0.52, 0.49, 0.52, 0.49], TrackerConfig(presence_margin=0.0)) == 'T-T-'


def test_a_mask_that_the_model_does_not_trust_is_no_presence() -> None:
    config = TrackerConfig(presence_iou=0.3, presence_margin=0.1)
    assert states([0.9] * 5, config, [0.5, 0.29, 0.35, 0.41, 0.31]) == 'T--TT'
    assert not is_present(True, Evidence(1.0, 1.0, Cells(0.0, (0.0, 0.0))), config)


def test_an_object_can_always_come_back() -> None:
    config = TrackerConfig(presence_score=0.95, presence_iou=0.9, presence_margin=0.5)
    assert is_present(False, Evidence(0.99, 0.99, SOME), config)


def test_states_follow_the_score_and_the_id_survives(model: Sam2Model) -> None:
    bias = model.sam.sam_mask_decoder.pred_obj_score_head.layers[-1].bias
    tracker = VideoTracker(model, TrackerConfig(lost_after=3, presence_iou=0.0))
    frames = noise(9)
    tracker.step(frames[0], 0, [box(10, 10)])
    found = []
    try:
        for index, frame in enumerate(frames[1:], 1):
            bias.data.fill_(-4.0 if 2 <= index < 6 else 4.0)
            found.append(tracker.step(frame, index).objects[0])
    finally:
        bias.data.fill_(4.0)
    tracking, occluded, lost = ObjectState.TRACKING, ObjectState.OCCLUDED, ObjectState.LOST
    assert [o.state for o in found] == [tracking, occluded, occluded, lost, lost, tracking, tracking, tracking]
    assert [o.frames_since_seen for o in found] == [0, 1, 2, 3, 4, 0, 0, 0]
    assert {o.object_id for o in found} == {1}


@pytest.mark.parametrize(
    'fields', [{'presence_score': 1.5}, {'presence_iou': -0.1}, {'exclusive_memory': 2.0}, {'object_budget': -1},
     {'contest_overlap': 1.1}, {'recovery_score': -0.1}, {'stray_cover': 1.1}]
)
def test_bad_configurations_are_refused(fields: dict) -> None:
    with pytest.raises(ValueError):
        TrackerConfig(**fields)


# --------------------------------------------------------------------------------------------------------- look-alikes


def decoded(rows: slice, score: float) -> Decoded:
    logits = torch.full((1, 1, 8, 8), -1.0)
    logits[..., rows, :] = 1.0
    return Decoded(logits, torch.tensor([[score]]), torch.ones(1), torch.zeros(1, 4))


def waits(masks: list[Decoded], threshold: float) -> list[bool]:
    return contested(*evidence_of(masks), threshold)


def test_of_two_that_claim_the_same_pixels_the_less_sure_one_waits() -> None:
    same = [decoded(slice(0, 4), 1.0), decoded(slice(0, 4), 2.0), decoded(slice(5, 8), 0.1)]
    assert waits(same, 0.7) == [True, False, False]
    assert waits([decoded(slice(0, 4), 1.0), decoded(slice(0, 4), 1.0)], 0.7) == [False, True]
    assert waits(same, 1.0) == [False] * 3
    nested = [decoded(slice(0, 8), 2.0), decoded(slice(0, 2), 1.0)]
    assert waits(nested, 0.7) == [False, False], 'a part of a thing is no look-alike'
    empty = [decoded(slice(0, 0), 2.0), decoded(slice(0, 0), 1.0)]
    assert waits(empty, 0.1) == [False, False]


def test_evidence_tells_where_masks_lie_and_what_they_share() -> None:
    first, second = decoded(slice(0, 4), 0.0), decoded(slice(3, 8), 2.0)
    evidence, shared = evidence_of([first, second])
    assert [one.cells for one in evidence] == [Cells(32.0, (3.5, 1.5)), Cells(40.0, (3.5, 5.0))]
    assert shared.tolist() == [[32.0, 8.0], [8.0, 40.0]]
    assert evidence[0].score == pytest.approx(0.5) and evidence[1].score == pytest.approx(0.8808, abs=1e-4)
    assert evidence_of([])[0] == []


def test_a_contested_frame_leaves_no_memory(model: Sam2Model) -> None:
    frames = noise(4)
    for threshold, kept in ((0.7, [3, 0]), (1.0, [3, 3])):
        tracker = VideoTracker(model, TrackerConfig(exclusive_memory=threshold))
        tracker.step(frames[0], 0, [box(10, 10), box(10, 10)])  # equal in every respect: the second waits
        for index in range(1, 4):
            result = tracker.step(frames[index], index)
        assert np.array_equal(result.masks[0], result.masks[1]) or threshold < 1
        assert [len(tracker._table[number].memory.recent) for number in (1, 2)] == kept
        assert len(tracker._table[2].memory.conditioning) == 1


# -------------------------------------------------------------------------------------------------------------- budget


def play(model: Sam2Model, config: TrackerConfig, count: int = 13) -> list[FrameResult]:
    tracker = VideoTracker(model, config)
    return [tracker.step(frame, index * 1000, BOXES if index == 0 else ()) for index, frame in enumerate(noise(count))]


def test_objects_beyond_the_budget_take_turns_and_tell_the_age_of_their_masks(model: Sam2Model) -> None:
    results = play(model, TrackerConfig(object_budget=2))
    fresh = [[o.object_id for o in r.objects if o.mask_stamp == r.stamp] for r in results]
    assert fresh[:5] == [[1, 2, 3, 4], [1, 2], [3, 4], [1, 2], [3, 4]]
    for result in results[1:]:
        assert len(result.objects) == 4
        assert {(result.stamp - o.mask_stamp) // 1000 for o in result.objects} == {0, 1}


def test_three_of_four_take_turns_evenly(model: Sam2Model) -> None:
    results = play(model, TrackerConfig(object_budget=3))
    turns = [sum(r.objects[row].mask_stamp == r.stamp for r in results[1:]) for row in range(4)]
    assert turns == [9, 9, 9, 9]


def test_a_budget_that_suffices_changes_nothing(model: Sam2Model) -> None:
    for free, enough in zip(play(model, TrackerConfig()), play(model, TrackerConfig(object_budget=4)), strict=True):
        np.testing.assert_array_equal(free.mask_logits, enough.mask_logits)


def test_an_object_tracked_on_every_second_frame_keeps_its_slots(model: Sam2Model) -> None:
    tracker = VideoTracker(model, TrackerConfig(object_budget=2))
    for index, frame in enumerate(noise(24)):
        tracker.step(frame, index, BOXES if index == 0 else ())
    spatial, pointers = zip(*(row.memory.group_key(24) for row in tracker._table.values()))
    assert set(spatial) == {7}, 'the prompt and six frames, though every second frame was left out'
    assert sorted(pointers) == [12, 12, 13, 13]


def test_a_prompt_for_an_object_that_waits_builds_on_this_frame(model: Sam2Model) -> None:
    tracker = VideoTracker(model, TrackerConfig(object_budget=2))
    for index, frame in enumerate(noise(4)):
        result = tracker.step(frame, index, BOXES if index == 0 else ())
    waiting = next(o.object_id for o in result.objects if o.mask_stamp < 3)
    result = tracker.apply([Prompt(object_id=waiting, points=[[50, 50]], point_labels=[1])])
    assert result.objects[result.index_of[waiting]].mask_stamp == 3
    indices = [m.frame_index for m in tracker._table[waiting].memory.conditioning]
    assert indices == [0, 3]


# ------------------------------------------------------------------------------------------------------ several cameras


@pytest.mark.parametrize('precision', ['float32', 'bfloat16'])
def test_frames_encoded_together_equal_those_encoded_alone(precision: str) -> None:
    torch.manual_seed(1)
    sam = build_compact(CompactConfig(image_size=SIZE)).requires_grad_(False)
    model = Sam2Model(sam, 'compact', precision=precision)
    pictures = [noise(1, 96, 160)[0], noise(1, 200, 120)[0], noise(1, SIZE, SIZE)[0]]
    together = model.encode_batch(pictures)
    tolerance = 2e-5 if precision == 'float32' else 2e-2
    for picture, batched in zip(pictures, together, strict=True):
        for one, other in zip(model.encode(picture), batched, strict=True):
            assert one.shape == other.shape and one.dtype == other.dtype == torch.float32
            assert float((one - other).abs().max() / one.abs().max()) < tolerance
            assert other.untyped_storage().nbytes() == other.numel() * 4, 'a view keeps the whole batch alive'


def test_an_encoder_of_a_fixed_size_takes_one_image_at_a_time(model: Sam2Model, monkeypatch) -> None:
    batches = []
    plain = model.encoder

    class Fixed:
        name, takes_batches = 'fixed', False

        def __call__(self, image):
            batches.append(len(image))
            return plain(image)

    monkeypatch.setattr(model, 'encoder', Fixed())
    assert len(model.encode_batch(noise(3))) == 3
    assert batches == [1, 1, 1]


def test_given_features_are_used(model: Sam2Model) -> None:
    frames = noise(4)
    alone, fed = VideoTracker(model), VideoTracker(model)
    for index, frame in enumerate(frames):
        prompts = BOXES[:2] if index == 0 else ()
        a = alone.step(frame, index, prompts)
        b = fed.step(frame, index, prompts, model.encode(frame))
        np.testing.assert_array_equal(a.mask_logits, b.mask_logits)
    assert fed.timings['encode'] == 0


def test_objects_elsewhere_count_for_the_table(model: Sam2Model) -> None:
    tracker = VideoTracker(model, TrackerConfig(max_objects=3), elsewhere=lambda: 2)
    tracker.step(noise(1)[0], 0, [box(10, 10)])
    with pytest.raises(PromptError, match='holds 3 of at most 3'):
        tracker.apply([box(50, 50)])
    tracker.apply([box(12, 12, object_id=1)])  # a correction needs no room


def test_a_prompt_that_fails_midway_changes_nothing(model: Sam2Model, monkeypatch) -> None:
    tracker = VideoTracker(model)
    tracker.step(noise(1)[0], 0, [box(10, 10)])
    before = dataclasses.replace(tracker._table[1])
    decode, calls = model.decode, []

    def fails_at_last(*args):
        calls.append(1)
        if len(calls) == 2:
            raise torch.OutOfMemoryError('no room')
        return decode(*args)

    monkeypatch.setattr(model, 'decode', fails_at_last)
    with pytest.raises(torch.OutOfMemoryError):
        tracker.apply([box(20, 20, object_id=1), box(60, 40)])
    assert list(tracker._table) == [1]
    assert tracker._table[1].decoded is before.decoded


def test_a_late_prompt_that_fails_midway_changes_nothing(model: Sam2Model, monkeypatch) -> None:
    tracker, calm = VideoTracker(model), VideoTracker(model)
    for index, frame in enumerate(noise(6)):
        prompts = [box(10, 10)] if index == 0 else ()
        tracker.step(frame, index, prompts)
        calm.step(frame, index, prompts)
    condition, calls = model.condition, []

    def fails_at_last(*args):
        calls.append(1)
        if len(calls) == 3:
            raise torch.OutOfMemoryError('no room')
        return condition(*args)

    correction = Prompt(object_id=1, points=[[50, 50]], point_labels=[1])
    with monkeypatch.context() as patch:
        patch.setattr(model, 'condition', fails_at_last)
        with pytest.raises(torch.OutOfMemoryError):
            tracker.apply([correction, box(60, 40)], 2)
    late, timely = tracker.apply([correction], 2), calm.apply([correction], 2)
    np.testing.assert_array_equal(late.mask_logits, timely.mask_logits)
    assert [o.object_id for o in late.objects] == [1]
