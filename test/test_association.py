"""Which object a detection shows: neither doubled nor let go."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robust_pvos_ros.message_core import MAX_DETECTIONS, detections_to_prompts
from robust_pvos_ros.tracking.association import Match, Verdict, associate, box_iou, mask_box, mask_iou, same_thing
from robust_pvos_ros.tracking.checkpoints import build_sam
from robust_pvos_ros.tracking.model import Sam2Model
from robust_pvos_ros.tracking.tracker import VideoTracker
from robust_pvos_ros.tracking.types import FrameResult, ObjectState, Prompt, PromptError, TrackedObject

HEIGHT, WIDTH = 40, 60
corner = st.integers(0, 20)
boxes = st.tuples(corner, corner, corner, corner).map(lambda v: (v[0], v[1], v[0] + v[2], v[1] + v[3]))


def mask_of(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y0:y1, x0:x1] = True
    return mask


@given(boxes, boxes)
def test_boxes_overlap_as_their_masks_do(a, b) -> None:
    assert box_iou(a, b) == pytest.approx(mask_iou(mask_of(*a), mask_of(*b)))
    assert box_iou(a, b) == pytest.approx(box_iou(b, a))


@given(boxes)
def test_the_box_of_a_mask_is_the_box_it_was_made_from(box) -> None:
    empty = box[0] == box[2] or box[1] == box[3]
    assert mask_box(mask_of(*box)) == ((0, 0, 0, 0) if empty else box)


def tracked(object_id: int, box: tuple[int, int, int, int], state: ObjectState, label: str = '') -> TrackedObject:
    area = (box[2] - box[0]) * (box[3] - box[1])
    return TrackedObject(object_id, label, state, 0.9, 0.9, box, (0.0, 0.0), area, 0, 1)


def result_of(*objects: TrackedObject) -> FrameResult:
    masks = np.stack([mask_of(*o.box) for o in objects]) if objects else np.zeros((0, HEIGHT, WIDTH), bool)
    logits = np.zeros((len(objects), 2, 2), np.float32)
    return FrameResult(1, 0, HEIGHT, WIDTH, tuple(objects), logits, masks, np.zeros((HEIGHT, WIDTH), np.uint16))


NOWHERE = (0, 0, 0, 0)
CAR, LOST_CAR = (10, 10, 30, 20), (32, 10, 52, 20)
SCENE = result_of(
    tracked(1, CAR, ObjectState.TRACKING, 'car'),
    tracked(2, NOWHERE, ObjectState.LOST, 'car'),
    tracked(3, NOWHERE, ObjectState.OCCLUDED),
)
LAST = {2: LOST_CAR, 3: (0, 30, 10, 40)}
CASES = {
    'a visible one': (Prompt(box=[11, 10, 30, 20]), Verdict.KNOWN, 1),
    'its mask': (Prompt(mask=mask_of(*CAR)), Verdict.KNOWN, 1),
    'a click on it': (Prompt(points=[[12, 12]], point_labels=[1]), Verdict.KNOWN, 1),
    'a click on its very edge': (Prompt(points=[[29.4, 19.4]], point_labels=[1]), Verdict.KNOWN, 1),
    'a click beside it': (Prompt(points=[[12, 12], [29.6, 12]], point_labels=[1, 1]), Verdict.START, 0),
    'a click that excludes it': (Prompt(points=[[5, 5], [12, 12]], point_labels=[1, 0]), Verdict.START, 0),
    'too little of it': (Prompt(box=[20, 10, 40, 20]), Verdict.START, 0),
    'one that was lost': (Prompt(box=[32, 10, 50, 20], label='car'), Verdict.RESEED, 2),
    'the mask of one that was lost': (Prompt(mask=mask_of(*LOST_CAR)), Verdict.RESEED, 2),
    'another kind of thing where one was lost': (Prompt(box=[32, 10, 50, 20], label='dog'), Verdict.START, 0),
    'an unnamed one that is hidden': (Prompt(box=[0, 30, 10, 39], label='dog'), Verdict.RESEED, 3),
    'a new one': (Prompt(box=[40, 25, 58, 38]), Verdict.START, 0),
}


@pytest.mark.parametrize('case', CASES)
def test_a_detection_is_matched_with(case: str) -> None:
    prompt, verdict, object_id = CASES[case]
    match = associate(prompt, SCENE, LAST, 0.5)
    assert (match.verdict, match.object_id) == (verdict, object_id)
    assert match.overlap >= 0.5 or verdict is Verdict.START


def test_who_is_visible_comes_before_who_was_lost_there() -> None:
    scene = result_of(tracked(1, NOWHERE, ObjectState.LOST), tracked(2, CAR, ObjectState.TRACKING))
    assert associate(Prompt(box=list(CAR)), scene, {1: CAR}, 0.5) == Match(Verdict.KNOWN, 2, 1.0)


def test_the_best_of_several_is_taken() -> None:
    scene = result_of(tracked(1, (10, 10, 28, 20), ObjectState.TRACKING), tracked(2, CAR, ObjectState.TRACKING))
    assert associate(Prompt(box=list(CAR)), scene, {}, 0.5).object_id == 2
    lost = result_of(tracked(1, NOWHERE, ObjectState.LOST), tracked(2, NOWHERE, ObjectState.LOST))
    assert associate(Prompt(box=list(CAR)), lost, {1: (10, 10, 28, 20), 2: CAR}, 0.5).object_id == 2


def test_two_prompts_of_one_thing() -> None:
    assert same_thing(Prompt(box=[0, 0, 10, 10]), Prompt(mask=mask_of(0, 0, 10, 9)), 0.5)
    assert not same_thing(Prompt(box=[0, 0, 10, 10]), Prompt(box=[9, 0, 19, 10]), 0.5)
    click = Prompt(points=[[5, 5]], point_labels=[1])
    assert not same_thing(click, click, 0.5)


# ------------------------------------------------------------------------------------------------------------- tracker


def draw(index: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    frame = cv2.resize(rng.integers(80, 160, (9, 12, 3), dtype=np.uint8), (128, 96), interpolation=cv2.INTER_CUBIC)
    cv2.rectangle(frame, (20 + 4 * index, 20), (60 + 4 * index, 60), (210, 40, 30), -1)
    return frame


@pytest.fixture(scope='module')
def tracker() -> VideoTracker:
    tracker = VideoTracker(Sam2Model(build_sam('compact', image_size=128).requires_grad_(False), 'compact'))
    mask = np.zeros((96, 128), bool)
    mask[20:61, 20:61] = True
    for index in range(8):
        tracker.step(draw(index), 100 + index, [Prompt(mask=mask, label='board')] if index == 0 else ())
    return tracker


def test_a_late_detection_is_matched_on_its_own_frame(tracker: VideoTracker) -> None:
    then, now = [24.0, 20, 65, 61], [48.0, 20, 89, 61]
    assert tracker.scene(101).match(Prompt(box=then), 0.6).verdict is Verdict.KNOWN
    assert tracker.scene(101).match(Prompt(box=now), 0.6).verdict is Verdict.START
    assert tracker.scene().match(Prompt(box=now), 0.6).verdict is Verdict.KNOWN
    assert tracker.scene(107).match(Prompt(box=then), 0.6).verdict is Verdict.START
    with pytest.raises(PromptError, match='is newer'):
        tracker.scene(999).match(Prompt(box=now), 0.6)
    with pytest.raises(PromptError, match='must have positive size'):
        tracker.scene().match(Prompt(box=[0, 0, 200, 10]), 0.6)


def test_a_lost_object_is_matched_where_it_was_last_seen(tracker: VideoTracker) -> None:
    bias = tracker.model.sam.sam_mask_decoder.pred_obj_score_head.layers[-1].bias
    before = bias.data.clone()
    state = tracker.state()
    try:
        bias.data.fill_(-50.0)
        result = tracker.step(draw(7), 108)
        assert result.objects[0].state == ObjectState.OCCLUDED
        match = tracker.scene().match(Prompt(box=[48, 20, 89, 61]), 0.6)
        assert (match.verdict, match.object_id) == (Verdict.RESEED, 1)
    finally:
        bias.data.copy_(before)
    result = tracker.apply([Prompt(object_id=1, box=[48, 20, 89, 61])])
    assert result.objects[0].state == ObjectState.TRACKING
    assert abs(result.objects[0].area_px / (41 * 41) - 1) < 0.6
    assert state['objects'][0]['object_id'] == result.objects[0].object_id


# ---------------------------------------------------------------------------------------------------------- detections


def detection(x: float, y: float, width: float, height: float, theta: float = 0.0, **classes: float) -> SimpleNamespace:
    center = SimpleNamespace(position=SimpleNamespace(x=x, y=y), theta=theta)
    results = [SimpleNamespace(hypothesis=SimpleNamespace(class_id=n, score=s)) for n, s in classes.items()]
    return SimpleNamespace(bbox=SimpleNamespace(center=center, size_x=width, size_y=height), results=results)


def array(*detections: SimpleNamespace) -> SimpleNamespace:
    return SimpleNamespace(detections=list(detections))


def test_detections_become_boxes_with_their_best_class() -> None:
    prompts, refused = detections_to_prompts(array(detection(19.5, 14.5, 20, 10, dog=0.2, car=0.7)), WIDTH, HEIGHT)
    [prompt] = prompts
    assert not refused
    assert (prompt.label, prompt.box.tolist(), prompt.object_id) == ('car', [10, 10, 30, 20], 0)
    [nameless], _ = detections_to_prompts(array(detection(19.5, 14.5, 20, 10)), WIDTH, HEIGHT)
    assert nameless.label == ''


def test_a_turned_box_is_replaced_by_the_upright_one_and_cut_at_the_edge() -> None:
    [turned], _ = detections_to_prompts(array(detection(29.5, 19.5, 20, 10, theta=np.pi / 2)), WIDTH, HEIGHT)
    np.testing.assert_allclose(turned.box, [25, 10, 35, 30], atol=1e-5)
    [cut], _ = detections_to_prompts(array(detection(0.0, 0.0, 20, 10)), WIDTH, HEIGHT)
    np.testing.assert_allclose(cut.box, [0, 0, 10.5, 5.5])
    cut.check_against(HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ('wrong', 'reason'),
    [
        (detection(np.nan, 1, 5, 5), 'finite numbers'),
        (detection(1, 1, np.inf, 5), 'finite numbers'),
        (detection(1, 1, 0, 5), 'positive size'),
        (detection(500, 1, 5, 5), 'outside the 60x40 image'),
        (detection(10, 10, 5, 5, **{'x' * 129: 1.0}), 'at most 128 characters'),
    ],
)
def test_a_wrong_detection_is_refused_alone(wrong: SimpleNamespace, reason: str) -> None:
    prompts, refused = detections_to_prompts(array(wrong, detection(19.5, 14.5, 20, 10)), WIDTH, HEIGHT)
    assert len(prompts) == 1
    [text] = refused
    assert text.startswith('detection 0: ') and reason in text


def test_too_many_detections_are_refused_at_once() -> None:
    many = array(*[detection(10, 10, 5, 5)] * (MAX_DETECTIONS + 1))
    with pytest.raises(PromptError, match=f'at most {MAX_DETECTIONS} detections, got {MAX_DETECTIONS + 1}'):
        detections_to_prompts(many, WIDTH, HEIGHT)


numbers = st.floats(allow_nan=True, allow_infinity=True)


@given(st.lists(st.tuples(numbers, numbers, numbers, numbers, numbers), max_size=5))
def test_any_detection_gives_a_box_in_the_image_or_a_sentence(rows) -> None:
    message = array(*[detection(*row) for row in rows])
    prompts, refused = detections_to_prompts(message, WIDTH, HEIGHT)
    assert len(prompts) + len(refused) == len(rows)
    for prompt in prompts:
        prompt.check_against(HEIGHT, WIDTH)


@pytest.fixture(autouse=True, scope='module')
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
