"""One camera of the segmentation node: its subscriptions, its tracker, and what became of its frames."""

from __future__ import annotations

import dataclasses
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from robust_pvos_interfaces.msg import Prompt as PromptMsg
from robust_pvos_interfaces.msg import TrackedObjects
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from robust_pvos_ros import interface, messages
from robust_pvos_ros.diagnostics import FrameStatistics
from robust_pvos_ros.image_codec import check_compressed, check_image, compressed_to_rgb, image_to_rgb
from robust_pvos_ros.node_output import CameraOutput
from robust_pvos_ros.parameters import CameraConfig, NodeConfig, ParameterError
from robust_pvos_ros.tracking.types import (
    FrameError,
    FrameResult,
    Prompt,
    PromptError,
    PvosError,
    TrackedObject,
    seconds_text,
)
from robust_pvos_ros.worker import FrameQueue, Worker

if TYPE_CHECKING:  # torch loads in `configure`, so that the node answers from its first second
    from robust_pvos_ros.relief import MemoryRelief
    from robust_pvos_ros.tracking.association import Scene
    from robust_pvos_ros.tracking.encoder import EncoderOutput
    from robust_pvos_ros.tracking.tracker import VideoTracker

LIVE_DEPTH = 5  # messages the middleware keeps while the executor is busy; the slot behind it holds one
DETECTIONS_DEPTH = 5
SILENCE_ERROR = 3  # times silence_timeout
COMPRESSED = '/compressed'


@dataclass
class IncomingFrame:
    """An image on its way through the worker.

    Attributes:
        header: of the message; rgb: uint8 (H, W, 3).
        started, converted: ``time.perf_counter`` before and after the conversion, seconds.
        features: of ``rgb``, where it was encoded beforehand; encode_ms: what that took, or its share of a batch.
    """

    header: Header
    rgb: np.ndarray
    started: float
    converted: float
    features: EncoderOutput | None = None
    encode_ms: float = 0.0


class Camera:
    """Wires one camera's images to its tracker and the results to topics.

    ``on_image`` runs on the executor's thread; everything else on the worker's, except the constructor's caller and the
    read-only members that diagnostics look at.

    Args:
        node: owner of subscriptions and publishers.
        name: as in the parameter ``cameras``.
        config: of this camera.
        policies: of the node.
        tracker: of this camera alone.
        worker: thread that runs the tracker.
        relief: runs what may need more of the GPU's memory than there is.
        prompts: publisher of accepted prompts, shared by all cameras.
        on_detections: takes this camera and a message of its ``detections_topic``, on the executor's thread.

    Raises:
        ParameterError: if ``detections_topic`` is given but ``vision_msgs`` is not installed.
    """

    def __init__(
        self,
        node: Node,
        name: str,
        config: CameraConfig,
        policies: NodeConfig,
        tracker: VideoTracker,
        worker: Worker,
        relief: MemoryRelief,
        prompts: Publisher,
        on_detections: Callable[[Camera, Any], None],
    ) -> None:
        if config.detections_topic and messages.vision_msgs is None:
            raise ParameterError(
                f'parameter {name}.detections_topic needs the package vision_msgs, which is not installed: install it '
                f'or leave the parameter empty'
            )
        self.name = name
        self.config = config
        self.policies = policies
        self.tracker = tracker
        self.statistics = FrameStatistics()
        self.last_problem = ''
        self.object_memory_bytes = self.history_bytes = 0
        self._node = node
        self._worker = worker
        self._relief = relief
        self._prompts = prompts
        self._on_detections = on_detections
        self._every = policies.overload_policy == 'every'
        self._compressed = config.transport == 'compressed'
        depth = policies.queue_depth if self._every else 1
        self.queue: FrameQueue[Any] = FrameQueue(depth, self.process)
        self._active = False
        self._subscriptions: list[Subscription] = []
        self._header: Header | None = None
        self._rgb: np.ndarray | None = None
        self._silence = 0
        self._output = CameraOutput(node, name)

    # ------------------------------------------------------------------------------------------------------ lifecycle

    def activate(self) -> None:
        """Subscribe to the images, and to detections where asked for."""
        self._active = True
        self._worker.attach(self.queue)
        self.statistics.begin()
        depth = self.policies.queue_depth if self._every else LIVE_DEPTH
        reliability = ReliabilityPolicy.RELIABLE if self._every else ReliabilityPolicy.BEST_EFFORT
        kind = CompressedImage if self._compressed else Image
        self._subscribe(kind, self.topic, self.on_image, QoSProfile(depth=depth, reliability=reliability))
        if self.config.detections_topic:
            quality = QoSProfile(depth=DETECTIONS_DEPTH, reliability=ReliabilityPolicy.BEST_EFFORT)
            kind = messages.vision_msgs.Detection2DArray
            self._subscribe(kind, self.config.detections_topic, self.on_detections, quality)

    def _subscribe(self, kind: type, topic: str, callback: Callable[[Any], None], quality: QoSProfile) -> None:
        # An executor that waits for a subscription's events fails when another thread destroys the subscription.
        events = SubscriptionEventCallbacks(use_default_callbacks=False)
        self._subscriptions.append(
            self._node.create_subscription(kind, topic, callback, quality, event_callbacks=events)
        )

    def deactivate(self) -> None:
        """Stop reading images; objects and the newest frame stay."""
        if not self._active:
            return
        self._active = False
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []
        self.statistics.count('dropped', self._worker.detach(self.queue))
        self._silence = 0

    def destroy(self) -> None:
        """Give everything back that the node owns."""
        self.deactivate()
        self._output.destroy()

    # --------------------------------------------------------------------------------------------------------- images

    @property
    def topic(self) -> str:
        """Full name of the image topic."""
        topic = self._node.resolve_topic_name(self.config.image_topic)
        return topic + COMPRESSED if self._compressed and not topic.endswith(COMPRESSED) else topic

    def silence(self) -> str:
        """Why no images arrive, as far as the graph tells."""
        publishers = self._node.get_publishers_info_by_topic(self.topic)
        if not publishers:
            return f'nobody publishes on {self.topic}'
        if self._every and all(p.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT for p in publishers):
            return f'{self.topic} is published best effort, but overload_policy every needs a reliable publisher'
        return f'no images arrive on {self.topic} though somebody publishes there'

    def silence_level(self) -> int:
        """0 while images arrive, 1 after ``silence_timeout``, 2 after three times as long; a change is logged."""
        if not self._active:
            return 0
        quiet = self.statistics.silent_for()
        level = int(quiet > self.policies.silence_timeout) + int(quiet > SILENCE_ERROR * self.policies.silence_timeout)
        before, self._silence = self._silence, level
        logger = self._node.get_logger()
        if level > before:
            text = f'{self.name}: silent for {quiet:.1f} s: {self.silence()}'
            if level == 1:
                logger.warning(text)
            else:
                logger.error(text)
        elif before and not level:
            logger.info(f'{self.name}: images arrive again')
        return level

    def on_image(self, message: Any) -> None:
        """Queue one image, or drop and report it if it is malformed."""
        self.statistics.count('received')
        try:
            if self._compressed:
                check_compressed(message)
            else:
                check_image(message)
        except FrameError as error:
            self._lose(error)
            return
        if not self._worker.offer(self.queue, message):
            dropped = self.statistics.count('dropped')
            if self._every and self._active and _is_round(dropped):
                self._node.get_logger().error(
                    f'{self.name}: {dropped} frames lost although overload_policy is every: the player must keep fewer '
                    f'than queue_depth = {self.policies.queue_depth} frames unacknowledged'
                )

    def prepare(self, message: Any) -> IncomingFrame | None:
        """Pixels of a queued image; None, reported and counted, if it is malformed."""
        start = time.perf_counter()
        try:
            rgb = compressed_to_rgb(message) if self._compressed else image_to_rgb(message)
        except Exception as error:
            self._lose(error)
            return None
        return IncomingFrame(message.header, rgb, start, time.perf_counter())

    def process(self, frame: IncomingFrame) -> None:
        """Track the objects into a frame and publish the result; a failure is reported and costs this frame."""
        stamp = messages.nanoseconds(frame.header.stamp)
        try:
            self._follow_time(stamp)
            self._note_size(frame.rgb)
            result = self._relief.run(lambda: self.tracker.step(frame.rgb, stamp, (), frame.features))
            self._rgb, self._header = frame.rgb, frame.header
            stepped = time.perf_counter()
            self.publish(result)
        except Exception as error:
            self._lose(error)
            return
        end = time.perf_counter()
        timings = dict(self.tracker.timings)
        timings['encode'] += frame.encode_ms
        timings.update(
            convert=(frame.converted - frame.started) * 1e3, publish=(end - stepped) * 1e3,
            total=(end - frame.started) * 1e3,
        )  # fmt: skip
        timings['image_age'] = (self._node.get_clock().now().nanoseconds - stamp) / 1e6
        self.statistics.frame(timings)

    def _lose(self, error: Exception) -> None:
        """Count and report a frame that an exception, the one being handled, has cost."""
        if isinstance(error, FrameError):
            self._report('malformed', f'image dropped: {error}')
        elif isinstance(error, PvosError):
            self._report('failed', f'frame lost: {error}')
        else:
            problem = f'frame lost to an unexpected {type(error).__name__}: {error}'
            self._report('failed', problem, traceback.format_exc())

    def _follow_time(self, stamp: int) -> None:
        newest = self.newest_stamp
        if newest is None or 0 <= stamp - newest <= self.policies.forward_jump * 1e9:
            return
        before, after = seconds_text(newest), seconds_text(stamp)
        if stamp > newest:
            jumps = self.statistics.count('forward_jumps')
            if _is_round(jumps):  # a camera may be that slow
                text = f'{self.name}: image time jumped forward from {before} to {after}; objects kept'
                self._node.get_logger().warning(f'{text} ({jumps} forward_jumps so far)')
            return
        self.statistics.count('time_jumps')
        text = f'{self.name}: image time jumped back from {before} to {after}'
        if self.policies.time_jump_policy == 'remove_objects':
            removed = self.tracker.reset()
            text += f'; {removed} objects removed (time_jump_policy is remove_objects)'
        else:
            text += '; objects kept (time_jump_policy is keep)'
        self._node.get_logger().warning(text)

    def _note_size(self, rgb: np.ndarray) -> None:
        if self._rgb is not None and self._rgb.shape != rgb.shape:
            before, after = self._rgb.shape, rgb.shape
            self._node.get_logger().warning(
                f'{self.name}: images changed from {before[1]}x{before[0]} to {after[1]}x{after[0]} pixels'
            )

    def _report(self, counter: str, problem: str, details: str = '') -> None:
        """Count a fault, and log it if it is another one than before or has come 1, 10, 100, ... times."""
        count = self.statistics.count(counter)
        if problem != self.last_problem or _is_round(count):
            self._node.get_logger().error(f'{self.name}: {problem} ({count} {counter} so far)\n{details}'.rstrip())
        self.last_problem = problem

    # -------------------------------------------------------------------------------------------------------- prompts

    @property
    def newest_stamp(self) -> int | None:
        """Nanoseconds of the newest processed frame."""
        return None if self._header is None else messages.nanoseconds(self._header.stamp)

    @property
    def header(self) -> Header | None:
        """Header of the newest processed frame."""
        return self._header

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height of the newest processed image, pixels."""
        return None if self._rgb is None else (self._rgb.shape[1], self._rgb.shape[0])

    def on_detections(self, message: Any) -> None:
        """Hand a detector's message on."""
        self._on_detections(self, message)

    def apply(self, prompts: Sequence[Prompt], stamp: int) -> list[TrackedObject]:
        """Apply prompts to the frame they were drawn on, publish the newest frame again and return the objects.

        Args:
            prompts: to apply, all or none.
            stamp: nanoseconds of that frame, one of those that the tracker keeps; 0 for the newest.

        Raises:
            PromptError: if one cannot be applied; nothing has changed.
        """
        header = self._prompt_header(stamp)
        result = self._relief.run(lambda: self.tracker.apply(prompts, stamp or None))
        for prompt, object_id in zip(prompts, result.prompted, strict=True):
            self._prompts.publish(messages.prompt_message(prompt, header, self.name, object_id))
        self.publish(result)
        return [result.objects[result.index_of[object_id]] for object_id in result.prompted]

    def scene(self, stamp: int) -> Scene:
        """The objects on the frame that a prompt was drawn on; argument and errors as :meth:`apply`."""
        self._prompt_header(stamp)
        return self.tracker.scene(stamp or None)

    def _prompt_header(self, stamp: int) -> Header:
        """Header of the frame that a prompt was drawn on."""
        if self._header is None:
            raise PromptError(
                f'camera {self.name} has not processed a frame yet: publish images on {self.topic}, then prompt'
            )
        if stamp in (0, self.newest_stamp):
            return self._header
        return Header(stamp=messages.time_message(stamp), frame_id=self._header.frame_id)

    def has(self, object_id: int) -> bool:
        """Whether the object is in this camera's table."""
        return any(tracked.object_id == object_id for tracked in self.tracker.objects)

    def remove(self, object_id: int) -> None:
        """Forget an object and publish the newest frame without it.  Raises ``PromptError`` for an unknown ID."""
        self.tracker.remove(object_id)
        self.publish_again()

    def set_label(self, object_id: int, label: str) -> None:
        """Rename an object and publish the newest frame with it.  Raises ``PromptError`` if that cannot be."""
        self.tracker.set_label(object_id, label)
        self.publish_again()

    def reset(self) -> int:
        """Forget every object and publish the newest frame without them; returns their number."""
        removed = self.tracker.reset()
        self.publish_again()
        return removed

    def table(self) -> TrackedObjects:
        """The objects as of the newest frame."""
        return messages.objects_message(self.tracker.objects, self._header or Header(), self.name)

    def configure(self, policies: dict[str, Any], tracking: dict[str, Any]) -> None:
        """Take over changed fields of ``NodeConfig`` and ``TrackerConfig``, all at once."""
        self.policies = dataclasses.replace(self.policies, **policies)
        self.tracker.config = dataclasses.replace(self.tracker.config, **tracking)

    # --------------------------------------------------------------------------------------------------------- output

    def publish_again(self) -> None:
        """Publish the newest frame as the tracker sees it."""
        if self.tracker.last_result is not None:
            self.publish(self.tracker.last_result)

    def publish(self, result: FrameResult) -> None:
        """Publish a result of the newest frame."""
        if self._header is None:
            return
        self.object_memory_bytes = self.tracker.memory_bytes()
        self.history_bytes = self.tracker.history_bytes()
        self._output.publish(result, self._header, self._rgb)


def prompts_publisher(node: Node) -> Publisher:
    """Publisher of ``~/prompts``."""
    return node.create_publisher(PromptMsg, interface.PROMPTS.name, 100)


def _is_round(count: int) -> bool:
    """True at 1, 10, 100, ...: a fault that lasts is reported again, ever more rarely."""
    return count == 10 ** (len(str(count)) - 1)
