"""Faults of a vehicle: rubbish in every input, silence, jumps of time, other resolutions, subscribers that stall.

Each costs what was malformed and nothing else.
"""

from __future__ import annotations

import array
import itertools
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import rclpy
from geometry_msgs.msg import Point
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from node_harness import Harness, Spinning, box_prompt, image, mask_prompt, scene, stamp, wait_until
from rclpy.context import Context
from rclpy.node import Node
from robust_pvos_interfaces.msg import Prompt, TrackedObjects
from sensor_msgs.msg import CompressedImage, Image, RegionOfInterest
from std_msgs.msg import Header

from robust_pvos_ros.image_codec import ENCODINGS

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = 1000
FATES = ('processed', 'dropped', 'malformed', 'failed')
FUZZ = settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]


@pytest.fixture(scope='module')
def harness():
    cameras = {'cameras': ['camera', 'rear'], 'rear__transport': 'compressed'}
    harness = Harness(threads=1, image_size=128, silence_timeout=0.5, **cameras)
    try:
        harness.wait_active()
        yield harness
    finally:
        harness.close()


@pytest.fixture(autouse=True)
def empty_table(harness):
    assert harness.call('reset').success
    harness.frame()
    yield
    assert harness.call('reset').success
    harness.frame()  # it lives, whatever has happened


def settled(harness, camera: str) -> dict[str, int]:
    """Counters once every image has met its fate."""
    def counts() -> dict[str, int] | None:
        found = harness.counts(camera)
        return found if found['received'] == sum(found[fate] for fate in FATES) else None

    return wait_until(counts, 'every image to be counted')


# ------------------------------------------------------------------------------------------------------------- rubbish

texts = st.text(st.characters(codec='utf-8', exclude_characters='\x00'), max_size=300)
raw_images = st.builds(
    lambda encoding, height, width, step, big, data: Image(
        encoding=encoding, height=height, width=width, step=step, is_bigendian=big, data=array.array('B', data)
    ),
    st.sampled_from([*ENCODINGS, 'jpeg']) | texts,
    st.integers(0, 40) | st.integers(0, 2**32 - 1),
    st.integers(0, 40) | st.integers(0, 2**32 - 1),
    st.integers(0, 200) | st.integers(0, 2**32 - 1),
    st.integers(0, 255),
    st.binary(max_size=2000),
)


def test_a_thousand_malformed_images_are_counted_one_by_one(harness):
    camera = harness.node.cameras['camera']
    before, count = settled(harness, 'camera'), 0

    @FUZZ
    @given(raw_images)
    def fuzz(message: Image) -> None:
        nonlocal count
        camera.on_image(message)
        count += 1

    fuzz()
    assert count >= EXAMPLES
    after = settled(harness, 'camera')
    assert after['received'] - before['received'] == count
    assert after['failed'] == before['failed'], camera.last_problem
    assert after['malformed'] - before['malformed'] > 0.8 * count


def test_a_thousand_malformed_compressed_images_are_counted_one_by_one(harness):
    camera = harness.node.cameras['rear']
    beginnings = st.sampled_from([b'', b'\xff\xd8\xff\xe0', b'\x89PNG\r\n\x1a\n'])
    before, count = settled(harness, 'rear'), 0

    @FUZZ
    @given(texts, beginnings, st.binary(max_size=500))
    def fuzz(kind: str, beginning: bytes, data: bytes) -> None:
        nonlocal count
        camera.on_image(CompressedImage(format=kind, data=array.array('B', beginning + data)))
        count += 1

    fuzz()
    after = settled(harness, 'rear')
    assert after['received'] - before['received'] == count >= EXAMPLES
    assert after['failed'] == before['failed'], camera.last_problem
    assert after['malformed'] - before['malformed'] + after['dropped'] - before['dropped'] == count


floats = st.floats(allow_nan=True, allow_infinity=True, width=64) | st.integers(-5, 200).map(float)
numbers = st.integers(0, 200) | st.integers(0, 2**32 - 1)
masks = st.just(Image()) | raw_images
prompts = st.builds(
    Prompt,
    header=st.builds(
        Header, stamp=st.builds(stamp, st.just(0) | st.integers(0, 2**31 * 10**9 - 1)), frame_id=texts
    ),
    camera=st.sampled_from(['camera', 'camera', 'rear', '']) | texts,
    object_id=st.integers(0, 3) | st.integers(0, 2**32 - 1),
    label=texts,
    points=st.lists(st.builds(Point, x=floats, y=floats, z=floats), max_size=70),
    point_labels=st.lists(st.integers(0, 2), max_size=70).map(lambda v: array.array('B', v)),
    has_box=st.booleans(),
    box=st.builds(RegionOfInterest, x_offset=numbers, y_offset=numbers, width=numbers, height=numbers),
    mask=masks,
)


def test_a_thousand_malformed_requests_are_answered_with_a_sentence_and_change_nothing(harness):
    known = harness.call('add_object', prompt=mask_prompt(camera='camera', label='kept')).object_id
    before = set(harness.table())
    answers = []

    @FUZZ
    @given(st.sampled_from(['add_object', 'refine_object', 'set_label', 'remove_object']), prompts)
    def fuzz(service: str, prompt: Prompt) -> None:
        if service in ('add_object', 'refine_object'):
            reply = harness.call(service, prompt=prompt)
        elif service == 'set_label':
            reply = harness.call(service, object_id=prompt.object_id, label=prompt.label)
        else:
            reply = harness.call(service, object_id=prompt.object_id + (prompt.object_id == known))
        answers.append(reply)
        assert reply.message and len(reply.message) < 1000
        assert 'unexpected' not in reply.message, reply.message
        if reply.success and service == 'add_object':
            assert harness.call('remove_object', object_id=reply.object_id).success

    fuzz()
    assert len(answers) >= EXAMPLES
    assert sum(not reply.success for reply in answers) > 0.8 * len(answers)
    assert set(harness.table()) == before


def test_a_thousand_malformed_prompts_by_topic_do_no_harm(harness):
    intake = harness.node._intake

    @FUZZ
    @given(prompts)
    def fuzz(prompt: Prompt) -> None:
        prompt.object_id = 0
        intake.on_prompt(prompt)
        harness.node.worker.call(lambda: None)

    fuzz()
    assert harness.call('list_objects').success


# -------------------------------------------------------------------------------------------------- pictures and times


def test_twenty_changes_of_resolution_keep_the_object(harness):
    object_id = harness.call('add_object', prompt=mask_prompt(camera='camera')).object_id
    labels = harness.listen(Image, 'camera/label_image')
    wait_until(lambda: harness.node.count_subscribers('/robust_pvos/camera/label_image'), 'the subscription')
    sizes = [(120 + 20 * (index % 7), 160 + 36 * (index % 5)) for index in range(21)]
    assert sum(a != b for a, b in itertools.pairwise(sizes)) == 20
    for height, width in sizes:
        at = harness.frame(scene(height, width))
        [message] = harness.objects_at(at)
        assert [tracked.id for tracked in message.objects] == [object_id]
        picture = wait_until(lambda at=at: [m for m in labels if m.header.stamp == stamp(at)], 'the label image')[0]
        assert (picture.height, picture.width) == (height, width)
    harness.frame()


def levels(harness) -> list[bytes]:
    return [s.level for d in list(harness.diagnostics) for s in d.status if s.name == 'robust_pvos: camera']


def test_a_camera_that_drops_out_is_reported_and_comes_back(harness):
    for _ in range(2):
        harness.diagnostics.clear()
        wait_until(lambda: b'\x02' in levels(harness), 'the silence to be an error', 10)
        harness.frame()
        harness.diagnostics.clear()
        for _ in range(12):
            harness.frame()
            time.sleep(0.1)
        assert levels(harness) and set(levels(harness)) == {b'\x00'}, 'images arrive again'


def test_time_may_jump_and_every_jump_is_counted(harness):
    assert harness.set(time_jump_policy='keep') == (True, '')
    try:
        object_id = harness.call('add_object', prompt=mask_prompt(camera='camera')).object_id
        before, clock = harness.counts(), harness._clock
        for index in range(20):
            harness._clock = clock + (100 * 10**9 if index % 2 == 0 else 0) + index * 10**8
            harness.frame()
        after = harness.counts()
        assert after['forward_jumps'] - before['forward_jumps'] == 10
        assert after['time_jumps'] - before['time_jumps'] == 10
        assert list(harness.table()) == [object_id]
    finally:
        harness._clock = clock + 200 * 10**9
        assert harness.set(time_jump_policy='remove_objects') == (True, '')
        harness.frame()


# ---------------------------------------------------------------------------------------------- subscribers, processes


class Streaming:
    """Images at a steady rate while something else happens."""

    def __init__(self, harness: Harness, rate: float = 30.0) -> None:
        self._harness, self._period = harness, 1 / rate
        self._ended = threading.Event()
        self.sent = 0
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._ended.wait(self._period):
            self._harness.publish_next()
            self.sent += 1

    def __enter__(self) -> Streaming:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def test_subscribers_that_come_and_go_disturb_nobody(harness):
    object_id = harness.call('add_object', prompt=mask_prompt(camera='camera')).object_id
    before = harness.counts()
    topics = ('camera/label_image', f'camera/object_{object_id}/mask', 'camera/overlay')
    with Streaming(harness):
        for _ in range(10):
            received: list[Image] = []
            subscriptions = [
                harness.client.create_subscription(Image, f'robust_pvos/{topic}', received.append, 1)
                for topic in topics
            ]
            wait_until(lambda received=received: received, 'an image')
            for subscription in subscriptions:
                harness.client.destroy_subscription(subscription)
    after = settled(harness, 'camera')
    assert after['failed'] == before['failed'] and after['processed'] > before['processed']


def test_a_subscriber_that_stalls_holds_nobody_up(harness):
    harness.call('add_object', prompt=mask_prompt(camera='camera'))
    context = Context()
    rclpy.init(context=context)
    stalled = Node('stalled', context=context)
    try:
        for kind, topic in ((TrackedObjects, 'objects'), (Image, 'label_image'), (Image, 'overlay')):
            stalled.create_subscription(kind, f'/robust_pvos/camera/{topic}', lambda message: None, 1)  # never spun
        wait_until(lambda: harness.node.count_subscribers('/robust_pvos/camera/overlay'), 'the subscription')
        before = harness.counts()
        with Streaming(harness) as stream:
            time.sleep(3)
        after = settled(harness, 'camera')
        assert after['processed'] - before['processed'] > 15, f'of {stream.sent}'
        assert harness.node.cameras['camera'].statistics.percentiles()['publish'][0] < 100
    finally:
        stalled.destroy_node()
        context.try_shutdown()


CLIENT = """
import sys, time, rclpy
from robust_pvos_interfaces.srv import AddObject
from sensor_msgs.msg import Image
rclpy.init()
node = rclpy.create_node('doomed')
images = node.create_publisher(Image, 'camera/image_raw', 5)
client = node.create_client(AddObject, 'robust_pvos/add_object')
node.create_subscription(Image, 'robust_pvos/camera/label_image', lambda message: None, 1)
message = Image(height=120, width=160, encoding='rgb8', step=480)
message.data.frombytes(bytes(120 * 480))
while True:
    now = node.get_clock().now().to_msg()
    message.header.stamp = now
    images.publish(message)
    client.call_async(AddObject.Request())
    rclpy.spin_once(node, timeout_sec=0.02)
"""


def test_clients_and_cameras_may_be_killed(harness):
    known = harness.call('add_object', prompt=mask_prompt(camera='camera')).object_id
    assert harness.set(time_jump_policy='keep') == (True, '')
    try:
        for _ in range(3):
            received = harness.counts()['received']
            process = subprocess.Popen([sys.executable, '-c', CLIENT], cwd=ROOT, stdout=subprocess.DEVNULL)
            try:
                wait_until(lambda received=received: harness.counts()['received'] > received + 5, 'its images', 60)
            finally:
                process.send_signal(signal.SIGKILL)
                process.wait()
            harness._clock = max(harness._clock, time.time_ns() + 10**9)
            harness.frame()
            assert known in harness.table()
        settled(harness, 'camera')
    finally:
        assert harness.set(time_jump_policy='remove_objects') == (True, '')


def test_prompts_and_frames_at_once_leave_an_exact_table(harness):
    ids = []
    with Streaming(harness):
        for _ in range(15):
            reply = harness.call('add_object', prompt=box_prompt(camera='camera'))
            assert reply.success, reply.message
            ids.append(reply.object_id)
            if len(ids) % 3 == 0:
                assert harness.call('remove_object', object_id=ids[-2]).success
    kept = [number for index, number in enumerate(ids) if index % 3 != 1]
    assert sorted(harness.table()) == sorted(kept)
    assert len(set(ids)) == len(ids) and ids == sorted(ids)


def test_an_observer_of_its_own_context_sees_only_stamps_of_inputs(harness):
    context = Context()
    rclpy.init(context=context)
    node, seen = Node('observer', context=context), []
    node.create_subscription(TrackedObjects, '/robust_pvos/camera/objects', seen.append, 1000)
    spinning = Spinning(node, context)
    try:
        wait_until(lambda: harness.node.count_subscribers('/robust_pvos/camera/objects') > 1, 'the subscription')
        first = harness._clock
        with Streaming(harness):
            time.sleep(2)
        sent = {first + 33_333_333 * index for index in range(1, (harness._clock - first) // 33_333_333 + 1)}
        stamps = [message.header.stamp.sec * 10**9 + message.header.stamp.nanosec for message in seen]
        assert len(stamps) > 10 and set(stamps) - {first} <= sent
        assert stamps == sorted(stamps)
        assert np.all(np.diff(stamps) > 0)
    finally:
        spinning.stop()
        node.destroy_node()
        context.try_shutdown()
    harness.publish(image(scene(), harness.tick()))
