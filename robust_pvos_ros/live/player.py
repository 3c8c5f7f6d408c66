"""Plays a bag to the running system: pictures and whatever else, the clock, and the requests of the drive."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from robust_pvos_interfaces.msg import TrackedObjects
from rosgraph_msgs.msg import Clock

from robust_pvos_ros import interface
from robust_pvos_ros.bags.definitions import IMAGE, BagError, interface_typestore, message_types, serialise
from robust_pvos_ros.bags.frames import COMPRESSED_SUFFIX, CameraTopic, find_cameras
from robust_pvos_ros.bags.prompts import FrameKey, PlannedPrompts, Request, prompts_from_file, recorded_prompts
from robust_pvos_ros.bags.reader import BagReader, RawEntry, picture_of
from robust_pvos_ros.bags.writer import header_stamp, with_stamp
from robust_pvos_ros.corruption.corruption import ClipCorruption, parse_corruptions
from robust_pvos_ros.live.pace import Acknowledgements, Pace
from robust_pvos_ros.live.prompter import Prompter
from robust_pvos_ros.live.recorder import class_of, images_of
from robust_pvos_ros.message_core import make_image
from robust_pvos_ros.messages import time_message
from robust_pvos_ros.node_process import StoppableNode, run
from robust_pvos_ros.stop_signal import StopSignal

Stamps = Literal['recorded', 'monotonic', 'now']
PERIOD = 0.01
"""Longest sleep, and so the rhythm of the clock, seconds."""
LATCHED = ('/tf_static', '/robot_description')
LIVE_TOPICS = (interface.DIAGNOSTICS.name, '/clock', '/rosout', '/parameter_events')
"""What the running system says of itself."""
GAP = 33_333_333
"""Nanoseconds between the end of a bag and its next beginning."""


@dataclass(frozen=True)
class PlayOptions:
    """How a bag is played.

    Attributes:
        rate: times faster than recorded; 0 for as fast as the node acknowledges.
        node: full name of the segmentation node.
        cameras: ``TOPIC`` or ``NAME=TOPIC``, NAME being the node's name of the camera; none for all.
        topics: topics to play, besides those of the cameras; none for all but the node's own outputs.
        prompts: repeat the prompts and decisions in the bag.
        prompt_file: YAML or JSON, in place of those in the bag.
        corrupt, seed: such as ``fog:3``, as in ``pvos_bag run``.
        loops: how often; 0 for ever.
        stamps: ``recorded``; ``monotonic``: they go on counting in each loop; ``now``: the drive begins now.
        clock: publish ``/clock``.
        window: frames of a camera that may be unacknowledged; 0 does not wait for the node.
        patience: seconds to wait for the node, and for an acknowledgement.
    """

    rate: float = 1.0
    node: str = interface.NODE
    cameras: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()
    prompts: bool = True
    prompt_file: Path | None = None
    corrupt: str = ''
    seed: int = 0
    loops: int = 1
    stamps: Stamps = 'monotonic'
    clock: bool = True
    window: int = 0
    patience: float = 30.0


class _StoppedError(Exception):
    """The process is ending."""


@dataclass
class PlayedCamera:
    """A camera of the bag: what its pictures go through, and where they go."""

    camera: CameraTopic
    publisher: Publisher
    answers: Acknowledgements
    corruption: ClipCorruption | None
    frames: int = 0


class Player(StoppableNode):
    """Plays on a thread of its own and ends its process after the last message.

    Args:
        bag: to be played.
        options: see :class:`PlayOptions`.
        done: called at the end.

    Raises:
        BagError: if the bag cannot be read, or lacks what ``options`` names.
    """

    def __init__(self, bag: Path, options: PlayOptions, done: Callable[[], None]) -> None:
        super().__init__('pvos_player')
        self.problem = ''
        self.published = 0
        self._bag = bag
        self._options = options
        self._done = done
        self._ending = False
        self._pace = Pace(options.rate)
        self._shift = self._length = 0
        self._outputs: dict[str, Publisher] = {}
        with BagReader(bag) as reader:
            found = self._found = find_cameras(reader, options.cameras)
            clip = reader.about.get('sequence', reader.name)
            self._topics = _chosen(reader, found, options)
            self._requests = _planned(reader, found, options)
        clips = {c.name: clip if len(found) == 1 else f'{clip}/{c.name}' for c in found}
        self.cameras = {c.topic: self._played(c, clips[c.name]) for c in found}
        self._prompter = Prompter(self, options.node, lambda: self._ending) if self._requests else None
        self._ticks = self.create_publisher(Clock, '/clock', 10) if options.clock else None
        self._thread = threading.Thread(target=self._work, name='player')
        self._thread.start()

    def _played(self, camera: CameraTopic, clip: str) -> PlayedCamera:
        options = self._options
        specs = parse_corruptions(options.corrupt)
        depth = max(options.window, 5)
        topic = camera.topic.removesuffix(COMPRESSED_SUFFIX)
        publisher = self.create_publisher(class_of(IMAGE), topic, QoSProfile(depth=depth))
        answers = Acknowledgements()
        objects = interface.resolved(interface.OBJECTS.of(camera.name), options.node)

        def answered(data: Any) -> None:
            answers.answered(header_stamp(data))

        self.create_subscription(TrackedObjects, objects, answered, QoSProfile(depth=100), raw=True)
        corruption = ClipCorruption(specs, options.seed, clip) if specs else None
        return PlayedCamera(camera, publisher, answers, corruption)

    def stop(self) -> bool:
        """Stop playing."""
        self._ending = True
        self._thread.join()
        return True

    # ----------------------------------------------------------------------------------------------------- the thread

    def _work(self) -> None:
        try:
            self._meet_the_node()
            for loop in range(self._options.loops) if self._options.loops else itertools.count():
                with BagReader(self._bag) as reader:
                    self._play_once(reader, loop)
            self._drain()
        except _StoppedError:
            pass
        except Exception as error:
            self.problem = str(error) if isinstance(error, BagError) else f'{type(error).__name__}: {error}'
        self._done()

    def _meet_the_node(self) -> None:
        """Wait until all who read the cameras are connected, and the node among them, so that no frame is missed."""
        end = time.monotonic() + self._options.patience
        self._sleep(0.5)  # for the others to be discovered
        for played in self.cameras.values():
            topic = played.publisher.topic_name
            while not self._is_met(topic, played.publisher):
                if time.monotonic() < end:
                    self._sleep(0.05)
                elif self._node_needed:
                    raise BagError(
                        f'{self._options.node} does not read {topic}: start the segmentation node with this image '
                        f'topic, and make it active'
                    )
                else:
                    break
        self._sleep(0.5)  # the middleware tells one side of a match before the other

    def _is_met(self, topic: str, publisher: Publisher) -> bool:
        if publisher.get_subscription_count() < self.count_subscribers(topic):
            return False
        return not self._node_needed or topic in images_of(self, self._options.node)

    @property
    def _node_needed(self) -> bool:
        return bool(self._options.window or self._requests)

    def _play_once(self, reader: BagReader, loop: int) -> None:
        first: int | None = None
        last = 0
        requests = _planned(reader, self._found, self._options)
        if self._prompter is not None:
            for problem in self._prompter.start_over():
                self.get_logger().warning(problem)
        for played in self.cameras.values():
            played.frames = 0
            played.answers.clear()
        self._pace = Pace(self._options.rate)
        for entry in reader.raw(self._topics):
            if first is None:
                first = entry.time
                self._shift = self._shift_of(loop, entry)
            last = entry.time
            self._wait_until(entry.time)
            if entry.topic in self.cameras:
                self._frame(self.cameras[entry.topic], entry, reader, requests)
            else:
                self._publish(entry)
            self.published += 1
        if first is None:
            raise BagError(f'bag {self._bag} has nothing to play')
        if requests is not None:
            requests.finish()
        self._length = last + GAP - first

    def _shift_of(self, loop: int, entry: RawEntry) -> int:
        """Nanoseconds that are added to every stamp of this loop."""
        if self._options.stamps == 'recorded':
            return 0
        if self._options.stamps == 'now':
            return time.time_ns() - entry.time
        return self._shift + self._length if loop else 0

    def _frame(
        self, played: PlayedCamera, entry: RawEntry, reader: BagReader, requests: PlannedPrompts | None
    ) -> None:
        recorded = header_stamp(entry.data)
        data = self._picture(played, entry, reader)
        key = FrameKey(played.camera.name, played.frames, recorded, entry.time)
        due = requests.due(key) if requests is not None else []
        stamp = recorded + self._shift
        begun = time.monotonic()
        if self._options.window:
            self._wait_for_answers(played, self._options.window)
        played.answers.sent(stamp)
        played.publisher.publish(with_stamp(data, stamp) if self._shift else data)
        played.frames += 1
        if due and self._prompter is not None:
            answered = self._answered(played)
            for request in due:
                self._repeat(self._prompter, request, played, stamp if answered else 0)
        self._pace.hold(time.monotonic() - begun)

    @staticmethod
    def _picture(played: PlayedCamera, entry: RawEntry, reader: BagReader) -> bytes:
        """Serialised image to publish: as recorded, or unpacked and corrupted."""
        if entry.type == IMAGE and played.corruption is None:
            return entry.data
        message = reader.parse(entry)
        rgb = picture_of(message, entry.type)
        if played.corruption is not None:
            rgb = played.corruption.rgb(np.array(rgb), played.frames)
        return serialise(make_image(message_types(), rgb, 'rgb8', message.header), IMAGE)

    def _repeat(self, prompter: Prompter, request: Request, played: PlayedCamera, stamp: int) -> None:
        where = f'{played.camera.name}, frame {played.frames - 1}'
        try:
            self.get_logger().info(f'{where}: {prompter.ask(request, played.camera.name, stamp)}')
        except BagError as error:
            if self._options.window:
                raise
            # A node that drops frames need not end up where it did in the drive.
            self.get_logger().warning(f'{where}: {error}')

    def _answered(self, played: PlayedCamera) -> bool:
        """Wait until the node has done every frame that it got; without a window it may have dropped the last."""
        if self._options.window:
            self._wait_for_answers(played, 1)
            return True
        return played.answers.wait(1, 2.0)

    def _wait_for_answers(self, played: PlayedCamera, fewer_than: int) -> None:
        begun = time.monotonic()
        while not played.answers.wait(fewer_than, 0.2):
            if self._ending:
                raise _StoppedError
            if time.monotonic() - begun > self._options.patience:
                raise BagError(
                    f'{self._options.node} has not answered a frame of camera {played.camera.name} for '
                    f'{self._options.patience:.0f} s: it needs the camera of that name, overload_policy every and a '
                    f'queue_depth of at least {self._options.window}'
                )

    def _drain(self) -> None:
        if self._options.window:
            for played in self.cameras.values():
                self._wait_for_answers(played, 1)
        self._sleep(0.2)

    # -------------------------------------------------------------------------------------------------------- messages

    def _publish(self, entry: RawEntry) -> None:
        if entry.topic not in self._outputs:
            latched = entry.topic in LATCHED
            self._outputs[entry.topic] = self.create_publisher(
                class_of(entry.type),
                entry.topic,
                QoSProfile(
                    depth=100 if latched else 10,
                    reliability=ReliabilityPolicy.RELIABLE,
                    durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
                ),
            )
        data = entry.data
        if self._shift and has_header(entry.type):
            data = with_stamp(data, header_stamp(data) + self._shift)
        self._outputs[entry.topic].publish(data)

    def _tick(self, at: int) -> None:
        if self._ticks is not None:
            self._ticks.publish(Clock(clock=time_message(at + self._shift)))

    def _wait_until(self, at: int) -> None:
        """Sleep until a message is due; the clock goes on meanwhile."""
        while (left := self._pace.delay(at)) > 0:
            self._tick(at - int(left * 1e9 * self._options.rate))
            self._sleep(min(left, PERIOD))
        self._tick(at)

    def _sleep(self, seconds: float) -> None:
        time.sleep(seconds)
        if self._ending:
            raise _StoppedError


def _chosen(reader: BagReader, cameras: Sequence[CameraTopic], options: PlayOptions) -> list[str]:
    """The topics to play: those of the cameras first, none of them twice in another form."""
    for topic in options.topics:
        reader.require(topic)
    own = f'{options.node}/'
    others = [
        topic
        for topic in options.topics or reader.topics
        if options.topics or not (topic.startswith(own) or topic in LIVE_TOPICS)
    ]
    pictures = {camera.topic.removesuffix(COMPRESSED_SUFFIX) for camera in cameras}
    kept = [topic for topic in others if topic.removesuffix(COMPRESSED_SUFFIX) not in pictures]
    return [*(camera.topic for camera in cameras), *kept]


def _planned(reader: BagReader, cameras: Sequence[CameraTopic], options: PlayOptions) -> PlannedPrompts | None:
    """The requests of a drive; None where there are none."""
    if options.prompt_file is not None:
        return prompts_from_file(options.prompt_file).checked(cameras)
    topic, decisions = (f'{options.node}{t.name.removeprefix("~")}' for t in (interface.PROMPTS, interface.DECISIONS))
    if not options.prompts or topic not in reader.topics or not reader.topics[topic].messages:
        return None
    return recorded_prompts(reader, topic, decisions).checked(cameras)


def has_header(message_type: str) -> bool:
    """Whether messages of a type begin with a ``std_msgs/Header``; unknown ones do not."""
    fields = interface_typestore().fielddefs.get(message_type, ([], []))[1]
    return bool(fields) and fields[0][0] == 'header'


def play(bag: Path, options: PlayOptions) -> Player:
    """Play a bag until its end, or SIGINT or SIGTERM.

    Raises:
        BagError: if it cannot be read or played, or the node does not answer.
        CorruptionError: if ``options.corrupt`` is malformed.
    """
    parse_corruptions(options.corrupt)
    with BagReader(bag) as reader:
        find_cameras(reader, options.cameras)
    stop = StopSignal()
    made: list[Player] = []

    def create() -> Player:
        made.append(Player(bag, options, stop.set))
        return made[0]

    if run(create, stop, []) or not made:
        raise BagError('playing did not start')
    if made[0].problem:
        raise BagError(made[0].problem)
    return made[0]
