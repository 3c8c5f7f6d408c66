"""Records topics into a bag as they come off the wire, so that a crash costs the last second at most."""

from __future__ import annotations

import importlib
import re
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosbags.rosbag2.errors import WriterError

from robust_pvos_ros import interface
from robust_pvos_ros.bags.definitions import COMPRESSED_IMAGE, IMAGE, BagError
from robust_pvos_ros.bags.writer import BagWriter
from robust_pvos_ros.live.early import EarlySubscription, offered
from robust_pvos_ros.node_process import StoppableNode, run
from robust_pvos_ros.stop_signal import StopSignal

DEPTH = 100
BACKLOG_BYTES = 256 << 20
"""Most that waits between the middleware and the file."""
FLUSH_PERIOD = 0.5
LOOK_PERIOD = 0.25
MASK_TOPIC = re.compile(r'.*/object_\d+/mask')


class Received(NamedTuple):
    """A serialised message; ``time`` in nanoseconds, of its arrival."""

    topic: str
    type: str
    time: int
    data: bytes


@dataclass(frozen=True)
class Selection:
    """Which topics are recorded.

    By default those that belong to a segmentation node: its camera images, its outputs without those that repeat others
    (overlay, single masks) and ``/diagnostics``.

    Attributes:
        node: full name of that node.
        topics: patterns, as in a shell, of further topics.
        without: patterns of topics that are left out.
        pictures: also record overlay and single masks.
    """

    node: str = interface.NODE
    topics: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    pictures: bool = False

    def wants(self, topic: str, images: Sequence[str]) -> bool:
        """Whether a topic is recorded.

        Args:
            topic: full name.
            images: topics that the segmentation node reads.
        """
        if any(fnmatchcase(topic, pattern) for pattern in self.without):
            return False
        if topic in images or topic == interface.DIAGNOSTICS.name:
            return True
        if any(fnmatchcase(topic, pattern) for pattern in self.topics):
            return True
        repeats = MASK_TOPIC.fullmatch(topic) or topic.endswith(('/overlay', '/past_label_image'))
        return topic.startswith(f'{self.node}/') and (self.pictures or not repeats)


class Backlog:
    """Messages between the middleware's thread and the writer's; what does not fit is lost and counted."""

    def __init__(self, limit: int = BACKLOG_BYTES) -> None:
        self.lost: Counter[str] = Counter()
        self._limit = limit
        self._held = 0
        self._messages: deque[Received] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, message: Received) -> None:
        """Append a message, or count it as lost."""
        with self._changed:
            if self._held + len(message.data) > self._limit and self._messages:
                self.lost[message.topic] += 1
                return
            self._held += len(message.data)
            self._messages.append(message)
            self._changed.notify()

    def take(self, timeout: float) -> list[Received]:
        """All messages that wait; none after ``timeout`` seconds or once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._messages or self._closed, timeout)
            taken = list(self._messages)
            self._messages.clear()
            self._held = 0
            return taken

    def close(self) -> None:
        """Let nobody wait any longer."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class Recorder(StoppableNode):
    """Subscribes without taking messages apart; a thread of its own compresses, writes and flushes.

    Args:
        writer: of the bag; the recorder closes it.
        selection: of the topics, which it looks for as long as it lives.
        failed: called when the bag cannot be written.
        known: topics, full name -> type, that are subscribed to before anybody publishes there.
        name: of this node.
    """

    def __init__(
        self,
        writer: BagWriter,
        selection: Selection,
        failed: Callable[[], None],
        known: Mapping[str, str] | None = None,
        name: str = 'pvos_recorder',
    ) -> None:
        super().__init__(name)
        self.backlog = Backlog()
        self.problem = ''
        self.counts: Counter[str] = Counter()
        self._writer = writer
        self._selection = selection
        self._failed = failed
        self._writing = threading.Lock()  # topics are found on the executor's thread
        self._flushed = time.monotonic()
        self._refused: set[str] = set()
        self._topics: dict[str, str] = {}
        self._early: dict[str, EarlySubscription] = {}
        for topic, message_type in (known or {}).items():
            self._record(topic, message_type, QoSProfile(depth=DEPTH, reliability=ReliabilityPolicy.RELIABLE))
        self._stopping = False
        self._thread = threading.Thread(target=self._write, name='writer')
        self._thread.start()
        self._look()
        self.create_timer(LOOK_PERIOD, self._look, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _look(self) -> None:
        """Subscribe to what has appeared."""
        images = images_of(self, self._selection.node)
        for topic, types in self.get_topic_names_and_types():
            if topic in self._topics or topic in self._refused or not self._selection.wants(topic, images):
                continue
            publishers = self.get_publishers_info_by_topic(topic)
            if publishers:
                self._record(topic, types[0], offered(publishers, DEPTH))
            elif topic in images:
                self._record(topic, types[0], None)
        for topic, early in list(self._early.items()):
            if early.settle(self.get_publishers_info_by_topic(topic)):
                del self._early[topic]

    def _record(self, topic: str, message_type: str, qos: QoSProfile | None) -> None:
        """Subscribe; a camera without publishers, so ``qos`` None, early."""
        try:
            message_class = class_of(message_type)
            with self._writing:
                self._writer.add_topic(topic, message_type)
        except BagError as error:
            self._refused.add(topic)
            self.get_logger().warning(f'topic {topic} is not recorded: {error}')
            return
        self._topics[topic] = message_type
        receive = partial(self._receive, topic, message_type)
        if qos is None:
            self._early[topic] = EarlySubscription(self, message_class, topic, receive, DEPTH)
        else:
            self.create_subscription(message_class, topic, receive, qos, raw=True)

    def _receive(self, topic: str, message_type: str, data: bytes, info: dict[str, Any]) -> None:
        # The middleware notes the time of arrival; this callback may come later.
        arrival = int(info.get('received_timestamp') or 0) or self.get_clock().now().nanoseconds
        self.counts[topic] += 1
        self.backlog.put(Received(topic, message_type, arrival, data))

    def _write(self) -> None:
        try:
            while (messages := self.backlog.take(FLUSH_PERIOD)) or not self._stopping:
                for message in messages:
                    with self._writing:
                        self._writer.write(*message)
                    self._flush_if_due()
                self._flush_if_due()
        except (OSError, BagError, WriterError) as error:
            self.problem = f'bag {self._writer.path} cannot be written any more: {error}; what it has is kept'
            self._failed()

    def _flush_if_due(self) -> None:
        if time.monotonic() - self._flushed >= FLUSH_PERIOD:
            with self._writing:
                self._writer.flush()
            self._flushed = time.monotonic()

    def stop(self) -> bool:
        """Write what waits and complete the bag; one without messages is removed."""
        self._stopping = True
        self.backlog.close()
        self._thread.join()
        if self.problem:
            self._writer.leave()
        elif not self._writer.written:
            self._writer.discard()
            self.problem = f'nothing was recorded: no topic of {self._selection.node} had a message'
        else:
            try:
                self._writer.close()
            except BagError as error:
                self.problem = str(error)
        return True

    def status(self) -> str:
        """One line for a person."""
        lost = sum(self.backlog.lost.values())
        text = f'{len(self._topics)} topics, {sum(self.counts.values())} messages, {self._writer.bytes / 1e6:.0f} MB'
        return f'{text}, {lost} lost because the disk is too slow' if lost else text


def class_of(message_type: str) -> type:
    """Class of a message type such as ``sensor_msgs/msg/Image``.  Raises ``BagError`` if it is not installed."""
    package, _, name = message_type.partition('/msg/')
    try:
        found = getattr(importlib.import_module(f'{package}.msg'), name)
    except (ImportError, AttributeError) as error:
        raise BagError(f'its type {message_type} is not installed here') from error
    assert isinstance(found, type)
    return found


def images_of(node: Node, served: str) -> list[str]:
    """Topics with images that a segmentation node reads; none while it is not there."""
    namespace, _, name = served.rpartition('/')
    wanted = name, namespace or '/'
    found = []
    for topic, types in node.get_topic_names_and_types():
        if {IMAGE, COMPRESSED_IMAGE}.intersection(types):
            readers = node.get_subscriptions_info_by_topic(topic)
            if wanted in [(reader.node_name, reader.node_namespace) for reader in readers]:
                found.append(topic)
    return found


def record(path: Path, selection: Selection, duration: float = 0.0) -> Recorder:
    """Record until SIGINT, SIGTERM or the end of ``duration`` seconds; 0 for no end.

    Raises:
        BagError: if the bag cannot be made or written, or nothing came; what was written until then is kept.
    """
    stop = StopSignal()
    writer = BagWriter(path)
    made: list[Recorder] = []

    def create() -> Recorder:
        recorder = Recorder(writer, selection, stop.set)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        recorder.create_timer(1.0, partial(_show_progress, recorder, time.monotonic()), clock=steady)
        if duration:
            recorder.create_timer(duration, stop.set, clock=steady)
        made.append(recorder)
        return recorder

    if run(create, stop, []) or not made:
        writer.discard()
        raise BagError('recording did not start')
    if made[0].problem:
        raise BagError(made[0].problem)
    return made[0]


def _show_progress(recorder: Recorder, begun: float) -> None:
    """Write the status over the last one, where somebody looks on."""
    if sys.stderr.isatty():
        print(f'\r{time.monotonic() - begun:7.1f} s  {recorder.status()}   ', end='', file=sys.stderr, flush=True)
