"""How the console joins what comes of one frame, whatever the order; and what it makes of the node's reports."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from robust_pvos_interfaces.msg import TrackedObject, TrackedObjects
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from robust_pvos_ros.console.bridge import Bridge
from robust_pvos_ros.console.encoding import Frame
from robust_pvos_ros.console.feed import CameraFeed, Pictures
from robust_pvos_ros.console.health import read_health
from robust_pvos_ros.messages import image_message, time_message

SECOND = 1_000_000_000


def header(stamp: int) -> Header:
    return Header(stamp=time_message(stamp))


class Wires:
    """Stands where a node would: keeps the callbacks, so that a test decides what comes when."""

    def __init__(self, camera_type: str = 'sensor_msgs/msg/Image') -> None:
        self.callbacks: dict[str, Callable[[Any], None]] = {}
        self.kinds: dict[str, type] = {}
        self.frames: list[Frame] = []
        self.processing = True
        self._camera_type = camera_type

    def get_topic_names_and_types(self) -> list[tuple[str, list[str]]]:
        return [('/camera/image_raw', [self._camera_type])] if self._camera_type else []

    def create_subscription(self, kind: type, topic: str, callback: Callable[[Any], None], *_: Any, **__: Any) -> str:
        self.callbacks[topic], self.kinds[topic] = callback, kind
        return topic

    def destroy_subscription(self, topic: str) -> None:
        del self.callbacks[topic]

    def picture(self, stamp: int) -> None:
        message = image_message(np.full((4, 6, 3), stamp % 256, np.uint8), 'rgb8', header(stamp))
        self.callbacks['/camera/image_raw'](message)

    def labels(self, stamp: int, value: int = 0) -> None:
        message = image_message(np.full((4, 6), value, np.uint16), '16UC1', header(stamp))
        self.callbacks['/robust_pvos/camera/label_image'](message)

    def past(self, stamp: int, value: int) -> None:
        message = image_message(np.full((4, 6), value, np.uint16), '16UC1', header(stamp))
        self.callbacks['/robust_pvos/camera/past_label_image'](message)

    def objects(self, stamp: int, *ids: int) -> None:
        table = TrackedObjects(header=header(stamp), objects=[TrackedObject(id=number) for number in ids])
        self.callbacks['/robust_pvos/camera/objects'](table)

    @property
    def told(self) -> list[tuple[int, bool, bool, list[int]]]:
        """(stamp, picture, masks, IDs) of every frame so far."""
        return [
            (frame.stamp, frame.image is not None, frame.labels is not None, [o.object_id for o in frame.objects])
            for frame in self.frames
        ]


@pytest.fixture
def wires() -> Wires:
    return Wires()


@pytest.fixture
def feed(wires: Wires) -> CameraFeed:
    feed = CameraFeed(
        wires, '/robust_pvos', 'camera', '/camera/image_raw', wires.frames.append, lambda: wires.processing
    )  # fmt: skip
    feed.look(True)
    return feed


@pytest.mark.parametrize('order', ['plo', 'pol', 'lpo', 'lop', 'opl', 'olp'])
def test_picture_masks_and_objects_become_one_frame_in_any_order(wires: Wires, feed: CameraFeed, order: str) -> None:
    for letter in order:
        if letter == 'p':
            wires.picture(5)
        elif letter == 'l':
            wires.labels(5, 1)
        else:
            wires.objects(5, 1)
    assert wires.told == [(5, True, True, [1])]


def test_frames_that_overlap_are_kept_apart(wires: Wires, feed: CameraFeed) -> None:
    for stamp in (1, 2, 3):
        wires.picture(stamp)
    for stamp in (1, 2, 3):
        wires.labels(stamp)
        wires.objects(stamp, stamp)
    assert wires.told == [(1, True, True, [1]), (2, True, True, [2]), (3, True, True, [3])]
    for frame in wires.frames:
        assert frame.image.data[0] == frame.stamp


def test_a_frame_that_is_published_again_is_told_again(wires: Wires, feed: CameraFeed) -> None:
    wires.picture(5)
    wires.labels(5)
    wires.objects(5)
    wires.objects(5, 1)
    wires.labels(5, 1)
    assert wires.told == [(5, True, True, []), (5, True, True, [1]), (5, True, True, [1])]
    assert wires.frames[-1].labels.data[0] == 1, 'the mask that came last'


def test_what_is_lost_does_not_hold_the_rest_back(
    wires: Wires, feed: CameraFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    wires.labels(5)
    wires.objects(5, 1)
    assert wires.told == []
    monkeypatch.setattr('robust_pvos_ros.console.feed.PATIENCE', 0.0)
    feed.look(True)
    feed.look(True)
    assert wires.told == [(5, False, True, [1])]


def test_objects_come_through_however_fast_their_tables_follow_each_other(
    wires: Wires, feed: CameraFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr('robust_pvos_ros.console.feed.time', SimpleNamespace(monotonic=lambda: now[0]))
    for stamp in range(1, 61):
        now[0] += 0.1
        wires.objects(stamp, stamp)
        if stamp % 2 == 0:
            feed.look(True)
    assert len(wires.told) > 10, 'no picture ever comes, and a table every tenth of a second'
    assert wires.told[-1][0] > 55 and wires.told[-1][3] == [wires.told[-1][0]]
    told = len(wires.told)
    wires.picture(61)
    wires.labels(61)
    wires.objects(61, 1)
    assert wires.told[told:] == [(61, True, True, [1])], 'and a whole frame once pictures come again'


def test_a_frame_is_as_old_as_its_picture(
    wires: Wires, feed: CameraFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr('robust_pvos_ros.console.feed.time', SimpleNamespace(monotonic=lambda: now[0]))
    wires.picture(5)
    now[0] = 103.0
    wires.labels(5)
    wires.objects(5, 1)
    now[0] = 160.0
    wires.labels(5, 1)
    feed.forget()
    assert [frame.arrived for frame in wires.frames] == [100.0, 100.0, 100.0]


def test_pictures_without_a_node_go_out_bare(wires: Wires, feed: CameraFeed) -> None:
    wires.processing = False
    wires.picture(5)
    (frame,) = wires.frames
    assert not frame.processed and frame.image is not None and frame.labels is None


def test_ages_count_in_image_time_and_go_with_their_object(wires: Wires, feed: CameraFeed) -> None:
    for stamp, ids in ((SECOND, (1,)), (3 * SECOND, (1, 2)), (4 * SECOND, (2,)), (5 * SECOND, (1, 2))):
        wires.picture(stamp)
        wires.labels(stamp)
        wires.objects(stamp, *ids)
    assert [dict(frame.ages or {}) for frame in wires.frames] == [
        {1: 0.0}, {1: 2.0, 2: 0.0}, {2: 1.0}, {1: 0.0, 2: 2.0},
    ]  # fmt: skip


def test_a_node_that_goes_takes_its_objects_along(wires: Wires, feed: CameraFeed) -> None:
    wires.picture(5)
    wires.labels(5, 1)
    wires.objects(5, 1)
    feed.forget()
    assert wires.told[-1] == (5, True, False, [])
    assert not wires.frames[-1].processed
    feed.forget()
    assert len(wires.frames) == 2


def test_masks_of_a_past_frame_come_with_the_objects_that_the_next_table_names(wires: Wires, feed: CameraFeed) -> None:
    wires.objects(9)
    wires.past(5, 1)
    assert wires.told == []
    wires.objects(9, 1)
    assert wires.told == [(5, False, True, [1])]
    assert wires.frames[0].past
    wires.picture(9)
    wires.labels(9, 1)
    assert wires.told[1:] == [(9, True, True, [1])] and not wires.frames[1].past


def test_masks_of_a_past_frame_come_also_where_no_table_does(
    wires: Wires, feed: CameraFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    wires.objects(9, 1)
    wires.past(5, 1)
    feed.look(True)
    assert [frame for frame in wires.frames if frame.past] == []
    monkeypatch.setattr('robust_pvos_ros.console.feed.PATIENCE', 0.0)
    for _ in range(2):
        feed.look(True)
    assert [frame.stamp for frame in wires.frames if frame.past] == [5]


def test_pictures_are_given_back_when_nobody_looks(
    wires: Wires, feed: CameraFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(wires.callbacks) == 4
    feed.look(False)
    assert len(wires.callbacks) == 4, 'a page that is reloaded comes back at once'
    monkeypatch.setattr('robust_pvos_ros.console.feed.LINGER', -1.0)
    feed.look(False)
    assert list(wires.callbacks) == ['/robust_pvos/camera/objects']
    feed.destroy()
    assert not wires.callbacks


@pytest.mark.parametrize('name, kind', [('Image', Image), ('CompressedImage', CompressedImage)])
def test_the_type_of_the_pictures_is_that_of_their_topic(name: str, kind: type) -> None:
    wires = Wires(f'sensor_msgs/msg/{name}')
    CameraFeed(wires, '/robust_pvos', 'camera', '/camera/image_raw', wires.frames.append, lambda: True).look(True)
    assert wires.kinds['/camera/image_raw'] is kind


@pytest.mark.parametrize('topic, kind', [('/camera/image', Image), ('/camera/image/compressed', CompressedImage)])
def test_the_type_of_a_topic_that_nobody_publishes_yet_is_read_off_its_name(topic: str, kind: type) -> None:
    wires = Wires(camera_type='')
    CameraFeed(wires, '/robust_pvos', 'camera', topic, wires.frames.append, lambda: True).look(True)
    assert wires.kinds[topic] is kind


def test_a_type_that_is_known_counts_more_than_a_name() -> None:
    wires = Wires()
    wires.get_topic_names_and_types = lambda: [('/odd/compressed', ['sensor_msgs/msg/Image'])]  # type: ignore[method-assign]
    CameraFeed(wires, '/robust_pvos', 'camera', '/odd/compressed', wires.frames.append, lambda: True).look(True)
    assert wires.kinds['/odd/compressed'] is Image


def test_pictures_take_no_more_than_their_room() -> None:
    pictures = Pictures(limit=100)
    for stamp in range(10):
        pictures.put(stamp, SimpleNamespace(data=bytes(30)))
    assert len(pictures) == 3 and pictures.get(9) is not None and pictures.get(6) is None
    pictures.put(9, SimpleNamespace(data=bytes(80)))
    assert len(pictures) == 1
    pictures.put(10, SimpleNamespace(data=bytes(500)))
    assert len(pictures) == 1 and pictures.get(10) is not None, 'the newest stays, however large'
    pictures.put(3, SimpleNamespace(data=bytes(1)))
    pictures.forget_before(77)
    assert pictures.get(3) is not None
    pictures.forget_before(3)
    assert len(pictures) == 1


# -------------------------------------------------------------------------------------------------------------- bridge


def test_masks_of_a_past_frame_do_not_give_way_to_a_newer_frame() -> None:
    loop = asyncio.new_event_loop()
    frames: list[Frame] = []
    bridge = Bridge(loop, frames.append, lambda state: None)
    for frame in (Frame('c', 5, past=True), Frame('c', 8), Frame('c', 9)):
        bridge.frame(frame)
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    assert [(frame.stamp, frame.past) for frame in frames] == [(5, True), (9, False)]


def test_of_what_the_loop_has_not_taken_only_the_newest_waits() -> None:
    loop = asyncio.new_event_loop()
    frames: list[Frame] = []
    states: list[dict[str, Any]] = []
    bridge = Bridge(loop, frames.append, states.append)
    for stamp in range(100):
        bridge.frame(Frame('front', stamp))
        bridge.frame(Frame('rear', stamp))
        bridge.state({'stamp': stamp})
    loop.run_until_complete(asyncio.sleep(0))
    assert {(frame.camera, frame.stamp) for frame in frames} == {('front', 99), ('rear', 99)}
    assert states == [{'stamp': 99}]
    bridge.frame(Frame('front', 100))
    loop.run_until_complete(asyncio.sleep(0))
    assert frames[-1].stamp == 100
    loop.close()
    bridge.frame(Frame('front', 101))
    assert frames[-1].stamp == 100


# -------------------------------------------------------------------------------------------------------------- health


def status(name: str, **values: str) -> DiagnosticStatus:
    pairs = [KeyValue(key=key, value=value) for key, value in values.items()]
    return DiagnosticStatus(name=name, message=f'{name} says', values=pairs)


def test_health_is_read_from_the_reports_of_one_node() -> None:
    statuses = [
        status('robust_pvos', node='/a/robust_pvos', state='active', resident_memory_mb='412.50', model='compact'),
        status(
            'robust_pvos: front', node='/a/robust_pvos', camera='front', image_topic='/front/image', fps='23.30',
            dropped='4', image_age_p50_ms='nan', surprise='1',
        ),
        status('robust_pvos', node='/b/robust_pvos', state='inactive'),
        status('battery', level='low'),
    ]
    health = read_health(statuses, '/a/robust_pvos')
    assert health is not None
    assert (health.state, health.memory_mb, health.texts) == ('active', 412.5, {'model': 'compact'})
    (camera,) = health.cameras.values()
    assert (camera.name, camera.image_topic, camera.figures) == ('front', '/front/image', {'fps': 23.3, 'dropped': 4.0})
    other = read_health(statuses, '/b/robust_pvos')
    assert other is not None and (other.state, other.cameras, other.memory_mb) == ('inactive', {}, None)
    assert read_health(statuses, '/c/robust_pvos') is None
