"""The node end to end: real DDS, the real tracker, the shipped model."""

from __future__ import annotations

import fnmatch
import threading
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from lifecycle_msgs.msg import Transition
from node_harness import (
    BOX,
    HEIGHT,
    WIDTH,
    Harness,
    box_prompt,
    mask_prompt,
    point_prompt,
    scene,
    square_mask,
    stamp,
    wait_until,
)
from sensor_msgs.msg import Image

from robust_pvos_ros import interface, node_output

# Of simulated time, of vision_msgs, and of ROS distributions that have them.
OPTIONAL = {
    '/clock', '/parameter_events', '~/camera/detections', '~/get_transition_graph', '~/get_type_description',
}  # fmt: skip
POLICY = Path(__file__).resolve().parent.parent / 'config' / 'sros2_policy.xml'


@pytest.fixture(scope='module')
def harness():
    harness = Harness(threads=1)
    harness.wait_active()
    yield harness
    harness.close()


@pytest.fixture(autouse=True)
def empty_table(harness):
    assert harness.call('reset').success
    yield


def pixels(message: Image, dtype: type) -> np.ndarray:
    return np.frombuffer(message.data, dtype).reshape(message.height, message.width)


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    """IoU."""
    return (one & other).sum() / (one | other).sum()


def test_a_box_becomes_a_mask_in_every_output_under_the_header_of_its_image(harness):
    labels = harness.listen(Image, 'camera/label_image')
    harness.frame()
    reply = harness.call('add_object', prompt=box_prompt(label='square'))
    assert reply.success, reply.message
    masks = harness.listen(Image, f'camera/object_{reply.object_id}/mask')
    name = f'/robust_pvos/camera/object_{reply.object_id}/mask'
    wait_until(lambda: harness.node.count_subscribers(name), 'the mask subscription')
    wait_until(lambda: harness.node.count_subscribers('/robust_pvos/camera/label_image'), 'the label subscription')
    for _ in range(100):
        if labels and masks:
            break
        at = harness.frame()
        time.sleep(0.05)
    at = harness.frame()
    objects = wait_until(lambda: harness.objects_at(at), 'objects')[0]
    label_image = wait_until(lambda: [m for m in labels if m.header.stamp == stamp(at)], 'the label image')[0]
    mask = wait_until(lambda: [m for m in masks if m.header.stamp == stamp(at)], 'the mask')[0]

    for message in (objects, label_image, mask):
        assert message.header.stamp == stamp(at)
        assert message.header.frame_id == 'camera_optical'
    assert (label_image.encoding, label_image.step) == ('16UC1', WIDTH * 2)
    assert (mask.encoding, mask.step) == ('mono8', WIDTH)
    assert objects.camera == 'camera'
    (tracked,) = objects.objects
    assert (tracked.id, tracked.label) == (reply.object_id, 'square')
    assert tracked.mask_stamp == stamp(at)
    inside = pixels(mask, np.uint8)
    assert set(np.unique(inside)) <= {0, 255}
    assert (inside > 0).sum() == tracked.area_px
    assert np.array_equal(pixels(label_image, np.uint16), np.where(inside, reply.object_id, 0))


def test_the_square_is_found_and_followed(harness):
    harness.frame()
    reply = harness.call('add_object', prompt=box_prompt())
    for shift in range(2, 22, 2):
        at = harness.frame(scene(shift=shift))
    (tracked,) = harness.objects_at(at)[0].objects
    assert tracked.state == tracked.TRACKING
    assert 0.6 < tracked.area_px / square_mask().sum() < 1.5
    assert abs(tracked.centroid.x - (BOX[0] + BOX[2] - 1) / 2 - 20) < 5
    assert abs(tracked.centroid.y - (BOX[1] + BOX[3] - 1) / 2) < 5
    assert tracked.id == reply.object_id


def test_on_a_paused_stream_a_prompt_publishes_the_cached_frame_with_its_mask(harness):
    at = harness.frame()
    assert harness.objects_at(at)[0].objects == []
    reply = harness.call('add_object', prompt=mask_prompt(label='first'))
    assert reply.success
    assert reply.mask_stamp == stamp(at)
    assert 0.8 < reply.area_px / square_mask().sum() < 1.2
    again = wait_until(lambda: len(harness.objects_at(at)) == 2 and harness.objects_at(at)[1], 'the frame once more')
    assert [tracked.id for tracked in again.objects] == [reply.object_id]
    assert again.objects[0].area_px == reply.area_px

    echoed = wait_until(lambda: [p for p in harness.prompts if p.object_id == reply.object_id], 'the prompt')[0]
    assert (echoed.header.stamp, echoed.header.frame_id) == (stamp(at), 'camera_optical')
    assert (echoed.camera, echoed.label) == ('camera', 'first')
    assert np.array_equal(pixels(echoed.mask, np.uint8) > 0, square_mask())


def test_refining_changes_the_mask_and_keeps_the_id(harness):
    harness.frame()
    added = harness.call('add_object', prompt=mask_prompt(label='square'))
    smaller = np.zeros((HEIGHT, WIDTH), bool)
    smaller[50:70, 70:90] = True
    refined = harness.call('refine_object', prompt=mask_prompt(smaller, object_id=added.object_id))
    assert refined.success, refined.message
    assert refined.object_id == added.object_id
    assert 0.7 < refined.area_px / smaller.sum() < 1.3
    assert harness.table()[added.object_id].label == 'square'
    clicked = harness.call('refine_object', prompt=point_prompt((80, 60), object_id=added.object_id, label='renamed'))
    assert clicked.success, clicked.message
    assert harness.table()[added.object_id].label == 'renamed'


def test_ids_are_never_reused(harness):
    harness.frame()
    first, second, third = (harness.call('add_object', prompt=mask_prompt()).object_id for _ in range(3))
    assert first < second < third
    assert harness.call('remove_object', object_id=second).success
    assert list(harness.table()) == [first, third]
    fourth = harness.call('add_object', prompt=mask_prompt()).object_id
    assert fourth > third
    assert harness.call('reset').removed == 3
    assert harness.table() == {}
    harness.frame()
    assert harness.call('add_object', prompt=mask_prompt()).object_id > fourth


def test_a_mask_topic_lives_as_long_as_its_object(harness):
    harness.frame()
    object_id = harness.call('add_object', prompt=mask_prompt()).object_id
    name = f'/robust_pvos/camera/object_{object_id}/mask'
    wait_until(lambda: harness.client.count_publishers(name) == 1, 'the mask topic to appear')
    assert harness.call('remove_object', object_id=object_id).success
    wait_until(lambda: harness.client.count_publishers(name) == 0, 'the mask topic to go')


def test_labels_change_and_show_at_once(harness):
    at = harness.frame()
    object_id = harness.call('add_object', prompt=mask_prompt(label='old')).object_id
    assert harness.call('set_label', object_id=object_id, label='new').success
    assert harness.table()[object_id].label == 'new'
    wait_until(lambda: [m for m in harness.objects_at(at) if m.objects and m.objects[0].label == 'new'], 'the label')


def test_services_answer_while_images_flow(harness):
    harness.frame()
    ended = threading.Event()

    def stream():
        while not ended.wait(1 / 30):
            harness.publish_next()

    thread = threading.Thread(target=stream)
    thread.start()
    waits = []
    try:
        for _ in range(10):
            start = time.monotonic()
            reply = harness.call('add_object', prompt=box_prompt())
            waits.append(time.monotonic() - start)
            assert reply.success, reply.message
            start = time.monotonic()
            assert harness.call('remove_object', object_id=reply.object_id).success
            waits.append(time.monotonic() - start)
    finally:
        ended.set()
        thread.join()
    assert max(waits) < 1.0


def test_the_overlay_is_drawn_only_while_somebody_listens(harness, monkeypatch):
    drawn = []
    draw = node_output.draw_overlay
    monkeypatch.setattr(node_output, 'draw_overlay', lambda *args: drawn.append(1) or draw(*args))
    harness.frame()
    harness.call('add_object', prompt=mask_prompt())
    assert not drawn
    received: list[Image] = []
    subscription = harness.client.create_subscription(Image, '/robust_pvos/camera/overlay', received.append, 1)
    wait_until(lambda: harness.frame() and received, 'an overlay')
    assert received[0].encoding == 'bgr8'
    assert len(received[0].data) == HEIGHT * WIDTH * 3
    harness.client.destroy_subscription(subscription)
    wait_until(lambda: not harness.node.count_subscribers('/robust_pvos/camera/overlay'), 'the subscription to go')
    harness.frame()
    seen = len(drawn)
    harness.frame()
    assert len(drawn) == seen


def test_diagnostics_and_status_tell_how_it_runs(harness):
    harness.frame()
    harness.call('add_object', prompt=mask_prompt())
    harness.frame()
    harness.diagnostics.clear()
    harness.status.clear()
    report = wait_until(lambda: harness.diagnostics, 'diagnostics')[0]
    node, camera = report.status
    assert (node.name, camera.name) == ('robust_pvos', 'robust_pvos: camera')
    values = {pair.key: pair.value for status in report.status for pair in status.values}
    for key in ('fps', 'received', 'processed', 'dropped', 'malformed', 'image_age_p99_ms', 'resident_memory_mb'):
        assert float(values[key]) >= 0, key
    for stage in ('encode', 'condition', 'decode', 'remember', 'output', 'total'):
        assert float(values[f'{stage}_p50_ms']) <= float(values[f'{stage}_p99_ms'])
    assert values['model'] == 'compact'
    assert values['encoder'] in ('torch', 'onnx') and values['encoder_reason']
    assert float(values['resident_memory_mb']) > 50
    line = wait_until(lambda: harness.status, 'status')[0].data
    assert line.startswith('active | camera: 1 tracking')


@pytest.fixture(scope='module')
def alone():
    """A node whose full name no other node of this machine has: the graph is asked about it by name."""
    harness = Harness('alone', threads=1)
    harness.wait_active()
    yield harness
    harness.close()


def test_the_interface_tables_name_what_the_node_really_has(alone):
    alone.frame()
    object_id = alone.call('add_object', prompt=mask_prompt()).object_id
    name, namespace = 'robust_pvos', '/alone'
    published = dict(alone.node.get_publisher_names_and_types_by_node(name, namespace))
    subscribed = dict(alone.node.get_subscriber_names_and_types_by_node(name, namespace))
    served = dict(alone.node.get_service_names_and_types_by_node(name, namespace))
    for topic in interface.TOPICS:
        if topic is interface.DETECTIONS and node_output.messages.vision_msgs is None:
            continue
        full = alone.node.resolve_topic_name(topic.of('camera', object_id))
        package, kind = topic.type.split('/')
        assert (published if topic.direction == 'out' else subscribed)[full] == [f'{package}/msg/{kind}']
    for service in interface.SERVICES:
        package, kind = service.type.split('/')
        assert served[alone.node.resolve_service_name(service.name)] == [f'{package}/srv/{kind}']
    documented = {alone.node.resolve_topic_name(topic.of('camera', object_id)) for topic in interface.TOPICS}
    own = {topic for topic in published if topic.startswith(('/alone/robust_pvos/', '/diagnostics'))}
    assert own - documented == {'/alone/robust_pvos/transition_event'}


def test_the_security_policy_allows_what_the_node_does_and_no_more(alone):
    alone.frame()
    assert alone.call('add_object', prompt=mask_prompt()).success
    root = ElementTree.parse(POLICY).getroot()
    profile = root.find(".//enclave[@path='/robust_pvos']//profile")
    assert (profile.get('ns'), profile.get('node')) == ('/', 'robust_pvos')

    def allowed(kind: str, right: str) -> set[str]:
        entries = profile.findall(f"{kind}s[@{right}='ALLOW']/{kind}")
        names = (alone.node.resolve_topic_name(entry.text.replace('*', 'ANY')) for entry in entries)
        return {full.replace('ANY', '*') for full in names}

    def used(names_and_types) -> set[str]:
        return {entry for entry, _ in names_and_types('robust_pvos', '/alone')}

    for has, may in (
        (used(alone.node.get_publisher_names_and_types_by_node), allowed('topic', 'publish')),
        (used(alone.node.get_subscriber_names_and_types_by_node), allowed('topic', 'subscribe')),
        (used(alone.node.get_service_names_and_types_by_node), allowed('service', 'reply')),
    ):
        assert has
        forbidden = [entry for entry in has if not any(fnmatch.fnmatchcase(entry, pattern) for pattern in may)]
        assert not forbidden
        optional = {alone.node.resolve_topic_name(entry) for entry in OPTIONAL}
        needless = [p for p in may - optional if not any(fnmatch.fnmatchcase(entry, p) for entry in has)]
        assert not needless


def test_a_backward_jump_of_image_time_follows_the_policy(harness):
    harness.frame()
    later = harness.tick() + 100 * 10**9
    harness.frame(nanoseconds=later)
    kept = harness.call('add_object', prompt=mask_prompt()).object_id
    assert harness.set(time_jump_policy='keep') == (True, '')
    harness.frame()
    assert list(harness.table()) == [kept]
    stale = mask_prompt()
    stale.header.stamp = stamp(later)
    reply = harness.call('add_object', prompt=stale)
    assert not reply.success and 'is newer than the newest processed frame' in reply.message

    harness.frame(nanoseconds=later)
    assert harness.set(time_jump_policy='remove_objects') == (True, '')
    jumps = harness.counts()['time_jumps']
    at = harness.frame()
    assert harness.counts()['time_jumps'] == jumps + 1
    assert harness.table() == {}
    assert harness.objects_at(at)[0].objects == []
    assert harness.call('add_object', prompt=mask_prompt()).object_id > kept


def test_a_prompt_may_be_for_a_past_frame(harness):
    at = [harness.frame() for _ in range(4)]
    for drawn_on in (at[-1], at[0]):
        prompt = mask_prompt()
        prompt.header.stamp = stamp(drawn_on)
        harness.prompts.clear()
        reply = harness.call('add_object', prompt=prompt)
        assert reply.success and reply.mask_stamp == stamp(at[-1])
        echoed = wait_until(lambda: harness.prompts, 'the echo')[0]
        assert (echoed.header.stamp, echoed.header.frame_id) == (stamp(drawn_on), 'camera_optical')


def test_the_masks_of_a_prompted_past_frame_are_published_under_its_stamp(harness):
    past = harness.listen(Image, 'camera/past_label_image')
    wait_until(lambda: harness.node.count_subscribers('/robust_pvos/camera/past_label_image'), 'the subscription')
    at = [harness.frame(scene(shift=10 * number)) for number in range(3)]

    def add(drawn_on: int, mask: np.ndarray) -> int:
        prompt = mask_prompt(mask)
        prompt.header.stamp = stamp(drawn_on)
        reply = harness.call('add_object', prompt=prompt)
        assert reply.success, reply.message
        return reply.object_id

    corner = np.zeros((HEIGHT, WIDTH), bool)
    corner[90:, :30] = True
    newest = add(at[-1], corner)
    first = add(at[0], square_mask())
    (message,) = wait_until(lambda: list(past), 'the masks')
    assert (message.header.stamp, message.header.frame_id) == (stamp(at[0]), 'camera_optical')
    assert agreement(pixels(message, np.uint16) == first, square_mask()) > 0.95
    assert set(np.unique(pixels(message, np.uint16))) == {0, first}, 'that of the newest frame is not on it yet'
    second = add(at[1], corner)
    message = wait_until(lambda: past[1:], 'the masks of the other frame')[0]
    assert message.header.stamp == stamp(at[1])
    labels = pixels(message, np.uint16)
    assert agreement(labels == second, corner) > 0.95
    assert (labels == first).any() and newest not in labels


def test_simulated_time_that_stands_still_does_not_silence_the_node(harness):
    assert harness.set(use_sim_time=True)[0]
    try:
        harness.status.clear()
        harness.frame()
        assert harness.call('add_object', prompt=mask_prompt()).success
        wait_until(lambda: len(harness.status) > 1, 'two lines of status', 5)
    finally:
        assert harness.set(use_sim_time=False)[0]


def test_deactivating_keeps_objects_and_refuses_requests(harness):
    harness.frame()
    object_id = harness.call('add_object', prompt=mask_prompt(label='kept')).object_id
    assert harness.transition(Transition.TRANSITION_DEACTIVATE)
    assert harness.state() == 'inactive'
    for service in ('add_object', 'refine_object', 'remove_object', 'set_label', 'list_objects', 'reset'):
        reply = harness.call(service)
        assert not reply.success
        assert 'inactive' in reply.message and 'activate' in reply.message
    assert harness.transition(Transition.TRANSITION_ACTIVATE)
    assert harness.table()[object_id].label == 'kept'
    at = harness.frame()
    assert [tracked.id for tracked in harness.objects_at(at)[0].objects] == [object_id]


def test_an_invalid_transition_is_refused_and_the_node_lives_on(harness):
    assert not harness.transition(Transition.TRANSITION_CONFIGURE)
    assert not harness.transition(label='no_such_transition')
    assert not harness.transition(200)
    assert harness.state() == 'active'


def test_after_cleanup_a_changed_configuration_is_used_and_ids_go_on(harness):
    harness.frame()
    before = harness.call('add_object', prompt=mask_prompt()).object_id
    assert harness.transition(Transition.TRANSITION_DEACTIVATE)
    assert harness.transition(Transition.TRANSITION_CLEANUP)
    assert harness.state() == 'unconfigured'
    assert harness.node.model is None
    assert 'unconfigured' in harness.call('list_objects').message
    assert harness.set(overload_policy='every', queue_depth=50) == (True, '')
    assert harness.transition(Transition.TRANSITION_CONFIGURE)
    assert harness.transition(Transition.TRANSITION_ACTIVATE)
    stamps = [harness.publish_next() for _ in range(40)]
    wait_until(lambda: harness.objects_at(stamps[-1]), 'the last frame')
    seen = [message.header.stamp for message in harness.objects][-40:]
    assert seen == [stamp(at) for at in stamps]
    assert harness.counts()['dropped'] == 0
    assert harness.call('add_object', prompt=mask_prompt()).object_id > before
