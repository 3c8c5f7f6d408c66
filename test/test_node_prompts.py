"""Prompts and detections by topic: objects are started, left alone, brought back, or refused with a sentence."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
from node_harness import BOX, Harness, box_prompt, image, mask_prompt, point_prompt, scene, stamp, wait_until
from robust_pvos_interfaces.msg import Decision, Prompt
from std_msgs.msg import Header

from robust_pvos_ros import messages


@pytest.fixture(scope='module')
def harness():
    harness = Harness(threads=1, max_objects=3)
    harness.decisions = harness.listen(Decision, 'decisions', depth=100)
    harness.send = harness.talk(Prompt, 'robust_pvos/prompt')
    try:
        harness.wait_active()
        yield harness
    finally:
        harness.close()


@pytest.fixture(autouse=True)
def empty_table(harness):
    assert harness.call('reset').success
    harness.frame()
    harness.decisions.clear()
    harness.prompts.clear()
    yield


def decide(harness, prompt: Prompt) -> Decision:
    harness.decisions.clear()
    harness.send(prompt)
    return wait_until(lambda: [d for d in harness.decisions if d.service == 'prompt'], 'a decision')[0]


def test_a_prompt_by_topic_starts_an_object_and_is_not_doubled(harness):
    started = decide(harness, mask_prompt(label='square'))
    assert started.success and 'started' in started.message
    [echo] = wait_until(lambda: harness.prompts, 'the echo')
    assert (echo.object_id, echo.label) == (started.object_id, 'square')
    for again in (box_prompt(), mask_prompt(), point_prompt((80, 60))):
        decision = decide(harness, again)
        assert not decision.success and decision.object_id == started.object_id
        assert f'object {started.object_id} shows this already' in decision.message
    assert list(harness.table()) == [started.object_id]
    assert decide(harness, box_prompt((5, 5, 30, 30))).success
    assert len(harness.table()) == 2


def test_a_prompt_by_topic_may_name_its_object(harness):
    started = decide(harness, mask_prompt())
    decision = decide(harness, box_prompt(object_id=started.object_id, label='named'))
    assert decision.success and decision.object_id == started.object_id and 'prompted again' in decision.message
    assert harness.table()[started.object_id].label == 'named'
    decision = decide(harness, box_prompt(object_id=999))
    assert not decision.success and 'there is no object 999' in decision.message


def test_the_threshold_can_be_changed(harness):
    decide(harness, mask_prompt())
    x0, y0, x1, y1 = BOX
    beside = box_prompt((x0 + 12, y0, x1 + 12, y1))  # overlaps by about a half
    assert harness.set(association_iou=0.3) == (True, '')
    assert not decide(harness, beside).success
    assert harness.set(association_iou=0.9) == (True, '')
    assert decide(harness, beside).success
    assert harness.set(association_iou=0.5) == (True, '')


def hide(harness) -> None:
    """Frames on which the model sees no object."""
    bias = harness.node.model.sam.sam_mask_decoder.pred_obj_score_head.layers[-1].bias
    before = bias.data.clone()
    try:
        bias.data.fill_(-50.0)
        for _ in range(2):
            harness.frame()
    finally:
        bias.data.copy_(before)


def test_a_lost_object_is_brought_back_under_its_id(harness):
    started = decide(harness, mask_prompt(label='square'))
    harness.frame()
    hide(harness)
    assert harness.table()[started.object_id].state == 1
    decision = decide(harness, box_prompt(label='square'))
    assert decision.success and decision.object_id == started.object_id and 'prompted again' in decision.message
    assert harness.table()[started.object_id].state == 0
    assert len(harness.table()) == 1


REFUSED = {
    'no such camera': (box_prompt(camera='rear'), "no camera 'rear'"),
    'nothing': (Prompt(), 'the prompt is empty'),
    'outside': (box_prompt((10, 10, 999, 20)), '160x120'),
    'too many points': (point_prompt(*[(5, 5)] * 65), 'at most 64 points'),
    'label too long': (box_prompt(label='x' * 1000), 'at most 128 characters'),
    'future': (box_prompt(header=Header(stamp=stamp(10**18))), 'is newer'),
}


@pytest.mark.parametrize('case', REFUSED)
def test_a_refusal_is_published_and_changes_nothing(harness, case):
    prompt, reason = REFUSED[case]
    decision = decide(harness, prompt)
    assert not decision.success and reason in decision.message
    assert len(decision.label) <= 128
    assert harness.table() == {} and not harness.prompts


def test_a_full_table_refuses_by_topic_too(harness):
    for box in ((5, 5, 30, 30), (110, 5, 140, 30), (5, 80, 30, 110)):
        assert decide(harness, box_prompt(box)).success
    decision = decide(harness, box_prompt())
    assert not decision.success and 'holds 3 of at most 3' in decision.message


def test_a_flood_is_bounded(harness, monkeypatch):
    monkeypatch.setattr(harness.node._intake.admission, 'most', 5)
    busy, release = threading.Event(), threading.Event()
    harness.node.worker.submit(lambda: busy.set() or release.wait(30))
    assert busy.wait(30)
    for _ in range(8):
        harness.send(mask_prompt())
    refused = wait_until(lambda: [d for d in harness.decisions if 'wait already' in d.message][2:], 'refusals')
    release.set()
    assert not refused[0].success
    wait_until(lambda: len([d for d in harness.decisions if d.service == 'prompt']) == 8, 'all decisions')
    assert len(harness.table()) == 1, 'the other four show the same thing'


# ---------------------------------------------------------------------------------------------------------- detections


def message_of(*boxes: tuple[int, int, int, int], at: int = 0, label: str = '') -> SimpleNamespace:
    """Fields of a ``vision_msgs/Detection2DArray``."""
    found = []
    for x0, y0, x1, y1 in boxes:
        center = SimpleNamespace(position=SimpleNamespace(x=(x0 + x1 - 1) / 2, y=(y0 + y1 - 1) / 2), theta=0.0)
        bbox = SimpleNamespace(center=center, size_x=x1 - x0, size_y=y1 - y0)
        results = [SimpleNamespace(hypothesis=SimpleNamespace(class_id=label, score=0.9))] if label else []
        found.append(SimpleNamespace(bbox=bbox, results=results))
    return SimpleNamespace(header=Header(stamp=stamp(at)), detections=found)


def detect(harness, *boxes: tuple[int, int, int, int], at: int = 0, label: str = 'car') -> None:
    """Give the camera a detector's message as its subscription would, and wait until it is dealt with."""
    harness.decisions.clear()
    harness.node.cameras['camera'].on_detections(message_of(*boxes, at=at, label=label))
    harness.node.worker.call(lambda: None)


def decided(harness, count: int) -> list[Decision]:
    return wait_until(lambda: [d for d in harness.decisions if d.service == 'detections'][count - 1 :] and [
        d for d in harness.decisions if d.service == 'detections'
    ], f'{count} decisions')  # fmt: skip


def test_detections_start_objects_once(harness):
    detect(harness, BOX, (5, 5, 30, 30))
    assert [d.success for d in decided(harness, 2)] == [True, True]
    assert {tracked.label for tracked in harness.table().values()} == {'car'}
    before = harness.counts()['associated']
    harness.frame()
    boxes = [o.box for o in harness.table().values() if o.area_px]
    detect(harness, *[(b.x_offset, b.y_offset, b.x_offset + b.width, b.y_offset + b.height) for b in boxes])
    assert harness.counts()['associated'] == before + len(boxes) > before
    assert len(harness.table()) == 2
    assert not [d for d in harness.decisions if d.service == 'detections'], 'what is known is no news'


def test_detections_of_one_thing_in_one_message_start_one_object(harness):
    x0, y0, x1, y1 = BOX
    detect(harness, BOX, (x0 + 1, y0, x1, y1))
    assert len(harness.table()) == 1


def test_detections_beyond_the_table_are_refused_and_the_rest_kept(harness):
    boxes = ((5, 5, 30, 30), (110, 5, 140, 30), (5, 80, 30, 110), BOX)
    detect(harness, *boxes)
    assert sorted(d.success for d in decided(harness, 4)) == [False, True, True, True]
    assert len(harness.table()) == 3


def test_a_detector_that_is_late_starts_the_object_on_its_own_frame(harness):
    at = harness.frame()
    for shift in range(4, 24, 4):
        newest = harness.frame(scene(shift=shift))
    detect(harness, BOX, at=at)
    assert decided(harness, 1)[0].success
    [tracked] = harness.table().values()
    assert tracked.mask_stamp == stamp(newest)
    assert abs(tracked.centroid.x - (79.5 + 20)) < 6
    detect(harness, BOX, at=at)
    assert len(harness.table()) == 1


def test_detections_that_make_no_box_are_told(harness):
    before = harness.counts()['refused']
    detect(harness, (500, 5, 530, 30))
    [decision] = decided(harness, 1)
    assert not decision.success and 'detection 0: the box around' in decision.message
    assert harness.counts()['refused'] == before + 1


def test_a_detection_on_an_image_that_was_dropped_is_taken_for_the_nearest_frame(harness):
    at = harness.frame()
    for _ in range(2):
        harness.tick()
    newest = harness.frame()
    detect(harness, BOX, at=at + 40_000_000)
    assert decided(harness, 1)[0].success
    [echo] = wait_until(lambda: harness.prompts, 'the echo')
    assert echo.header.stamp == stamp(at), 'the frame that it was drawn on for the tracker'
    assert [tracked.mask_stamp for tracked in harness.table().values()] == [stamp(newest)]

    assert harness.set(detection_tolerance=0) == (True, '')
    try:
        before = harness.counts()['refused']
        detect(harness, (5, 5, 30, 30), at=at + 40_000_000)
        [decision] = decided(harness, 1)
        assert not decision.success and 'is 0.040 s away from the nearest frame that is kept' in decision.message
        assert harness.counts()['refused'] == before + 1
        detect(harness, (5, 5, 30, 30), at=at)
        assert decided(harness, 1)[0].success, 'its own frame does'
    finally:
        assert harness.set(detection_tolerance=0.15) == (True, '')


def test_a_detection_that_is_ahead_waits_for_its_image(harness):
    at = harness._clock + 33_333_333
    detect(harness, BOX, at=at)
    assert harness.table() == {} and not [d for d in harness.decisions if d.service == 'detections']
    assert harness.frame() == at
    assert decided(harness, 1)[0].success
    assert [tracked.mask_stamp for tracked in harness.table().values()] == [stamp(at)]


def test_messages_about_one_past_frame_are_matched_with_one_scene(harness, monkeypatch):
    at = harness.frame()
    harness.frame()
    tracker, built = harness.node.cameras['camera'].tracker, []
    build = tracker.scene
    monkeypatch.setattr(tracker, 'scene', lambda stamp: built.append(stamp) or build(stamp))
    detect(harness, BOX, at=at)
    for _ in range(3):
        detect(harness, BOX, at=at)
    assert built == [at, at], 'once more since an object was started'
    harness.frame()
    detect(harness, BOX, at=at)
    assert built == [at] * 3 and len(harness.table()) == 1


def test_a_detection_whose_image_does_not_come_is_refused_in_time(harness):
    before = harness.counts()['refused']
    detect(harness, BOX, at=harness._clock + 10**12)
    [decision] = decided(harness, 1)
    assert not decision.success and 's away from the nearest frame that is kept' in decision.message
    assert harness.counts()['refused'] == before + 1 and harness.table() == {}


def test_detections_are_measured_by_the_size_of_their_own_image(harness):
    at = harness.frame(scene(240, 320))
    harness.frame()
    detect(harness, (200, 150, 300, 230), at=at)
    assert decided(harness, 1)[0].success
    [echo] = wait_until(lambda: harness.prompts, 'the echo')
    box = echo.box
    assert (box.x_offset, box.y_offset, box.width, box.height) == (200, 150, 100, 80)


@pytest.mark.skipif(messages.vision_msgs is not None, reason='vision_msgs is installed')
def test_without_vision_msgs_a_detections_topic_fails_configure_with_what_to_do():
    other = Harness(namespace='/other', threads=1, camera__detections_topic='detections')
    try:
        wait_until(lambda: 'cannot configure' in other.node.problem, 'configure to fail', 60)
        assert 'camera.detections_topic needs the package vision_msgs' in other.node.problem
        assert other.set(camera__detections_topic='') == (True, '')
    finally:
        other.close()


def test_an_inactive_node_refuses(harness):
    assert harness.transition(label='deactivate')
    try:
        decision = decide(harness, box_prompt())
        assert not decision.success and 'inactive' in decision.message
    finally:
        assert harness.transition(label='activate')
    harness.publish(image(scene(), harness.tick()))
