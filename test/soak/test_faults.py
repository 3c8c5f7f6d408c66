"""Faults of a vehicle: silence, jumps of time, other resolutions, subscribers that stall, processes that are killed.

Each costs what it must and nothing else; ``SOAK_REPORT`` names a file for what was expected and seen.
"""

from __future__ import annotations

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
from node_harness import Harness, Spinning, box_prompt, image, mask_prompt, scene, stamp, wait_until
from rclpy.context import Context
from rclpy.node import Node
from robust_pvos_interfaces.msg import TrackedObjects
from sensor_msgs.msg import Image
from soak_counters import change, settled
from soak_report import hold

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900), pytest.mark.usefixtures('empty_table')]


# -------------------------------------------------------------------------------------------------- pictures and times


def test_twenty_changes_of_resolution_keep_the_object(harness):
    object_id = harness.call('add_object', prompt=mask_prompt(camera='camera')).object_id
    labels = harness.listen(Image, 'camera/label_image')
    wait_until(lambda: harness.node.count_subscribers('/robust_pvos/camera/label_image'), 'the subscription')
    sizes = [(120 + 20 * (index % 7), 160 + 36 * (index % 5)) for index in range(21)]
    assert sum(a != b for a, b in itertools.pairwise(sizes)) == 20
    kept = 0
    for height, width in sizes:
        at = harness.frame(scene(height, width))
        [message] = harness.objects_at(at)
        kept += [tracked.id for tracked in message.objects] == [object_id]
        picture = wait_until(lambda at=at: [m for m in labels if m.header.stamp == stamp(at)], 'the label image')[0]
        assert (picture.height, picture.width) == (height, width)
    hold('changes of resolution', {'frames with the object': 21}, {'changes': 20, 'frames with the object': kept})
    harness.frame()


def levels(harness) -> list[bytes]:
    return [s.level for d in list(harness.diagnostics) for s in d.status if s.name == 'robust_pvos: camera']


def test_a_camera_that_drops_out_is_reported_and_comes_back(harness):
    times = []
    for _ in range(2):
        harness.diagnostics.clear()
        begin = time.monotonic()
        wait_until(lambda: b'\x02' in levels(harness), 'the silence to be an error', 10)
        times.append(time.monotonic() - begin)
        harness.frame()
        harness.diagnostics.clear()
        for _ in range(12):
            harness.frame()
            time.sleep(0.1)
        assert levels(harness) and set(levels(harness)) == {b'\x00'}, 'images arrive again'
    hold('camera dropouts', {'told': 2, 'most seconds': (0, 10)}, {'told': len(times), 'most seconds': max(times)})


def test_time_may_jump_and_every_jump_is_counted(harness):
    assert harness.set(time_jump_policy='keep') == (True, '')
    try:
        object_id = harness.call('add_object', prompt=mask_prompt(camera='camera')).object_id
        before, clock = harness.counts(), harness._clock
        for index in range(20):
            harness._clock = clock + (100 * 10**9 if index % 2 == 0 else 0) + index * 10**8
            harness.frame()
        seen = {**change(before, harness.counts()), 'objects': list(harness.table())}
        hold('jumps of time', {'forward_jumps': 10, 'time_jumps': 10, 'failed': 0, 'objects': [object_id]}, seen)
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
    seen = change(before, settled(harness, 'camera'))
    hold('subscribers that come and go', {'failed': 0, 'processed': (1, seen['received'])}, seen)


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
        seen: dict[str, float] = dict(change(before, settled(harness, 'camera')))
        seen['publish_p50_ms'] = harness.node.cameras['camera'].statistics.percentiles()['publish'][0]
        wanted = {'processed': (16, stream.sent), 'failed': 0, 'publish_p50_ms': (0, 100)}
        hold('subscribers that stall', wanted, {**seen, 'sent': stream.sent})
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
    before, kept = harness.counts(), 0
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
            kept += known in harness.table()
        seen = {**change(before, settled(harness, 'camera')), 'times the object was kept': kept}
        hold('clients and cameras killed', {'failed': 0, 'times the object was kept': 3}, seen)
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
    kept = sorted(number for index, number in enumerate(ids) if index % 3 != 1)
    assert len(set(ids)) == len(ids) and ids == sorted(ids)
    hold('prompts and frames at once', {'objects': kept}, {'objects': sorted(harness.table())})


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
        strange = len(set(stamps) - {first} - sent)
        rises = bool(np.all(np.diff(stamps) > 0))
        wanted = {'stamps of no input': 0, 'in order': True, 'outputs': (11, len(sent) + 1)}
        hold('stamps of outputs', wanted, {'stamps of no input': strange, 'in order': rises, 'outputs': len(stamps)})
    finally:
        spinning.stop()
        node.destroy_node()
        context.try_shutdown()
    harness.publish(image(scene(), harness.tick()))
