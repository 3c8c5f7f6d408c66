"""One camera of the segmentation node: its subscriptions, its tracker, and what became of its frames."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

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
from robust_pvos_ros.camera_watch import CameraWatch
from robust_pvos_ros.detections import HeldDetections
from robust_pvos_ros.diagnostics import FrameStatistics
from robust_pvos_ros.image_codec import check_compressed, check_image, compressed_to_rgb, image_to_rgb
from robust_pvos_ros.node_output import CameraOutput
from robust_pvos_ros.parameters import CameraConfig, NodeConfig, ParameterError
from robust_pvos_ros.tracking.types import (
    FrameError,
    FrameResult,
    Prompt,
    PromptError,
    TrackedObject,
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


class DetectionIntake(Protocol):
    """What a camera hands the messages of its detector to."""

    def on_detections(self, camera: Camera, message: Any) -> None:
        """Take a message, on the executor's thread."""

    def on_frame(self, camera: Camera) -> None:
        """Learn that a frame of the camera has been processed, on the worker's thread."""


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
        intake: takes the messages of ``detections_topic``.

    Attributes:
        held: messages of the detector that wait for their images.

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
        intake: DetectionIntake,
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
        self.held = HeldDetections()
        self.object_memory_bytes = self.history_bytes = 0
        self._node = node
        self._worker = worker
        self._relief = relief
        self._prompts = prompts
        self._intake = intake
        self._watch = CameraWatch(name, self.statistics, node.get_logger())
        self._every = policies.overload_policy == 'every'
        self._compressed = config.transport == 'compressed'
        depth = policies.queue_depth if self._every else 1
        self.queue: FrameQueue[Any] = FrameQueue(depth, self.process)
        self._active = False
        self._subscriptions: list[Subscription] = []
        self._header: Header | None = None
        self._rgb: np.ndarray | None = None
        self._silence = 0
        self._scene: tuple[int, FrameResult | None, Scene] | None = None
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
        self._subscribe(kind, self._image_topic(), self.on_image, QoSProfile(depth=depth, reliability=reliability))
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
        return self._node.resolve_topic_name(self._image_topic())

    def _image_topic(self) -> str:
        """Name of the image topic before remapping, which is done once and by whom the name is given to."""
        if not self._compressed:
            return self.config.image_topic
        topic = self._node.resolve_topic_name(self.config.image_topic)  # /compressed follows the remapped name
        return topic if topic.endswith(COMPRESSED) else topic + COMPRESSED

    @property
    def last_problem(self) -> str:
        """What was wrong with the last image that was lost, or empty."""
        return self._watch.last_problem

    def silence(self) -> str:
        """Why no images arrive, as far as the graph tells."""
        publishers = self._node.get_publishers_info_by_topic(self._image_topic())
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
            self._watch.lost(error)
            return
        if not self._worker.offer(self.queue, message):
            dropped = self.statistics.count('dropped')
            if self._every and self._active:
                self._watch.overflowed(dropped, self.policies.queue_depth)

    def prepare(self, message: Any) -> IncomingFrame | None:
        """Pixels of a queued image; None, reported and counted, if it is malformed."""
        start = time.perf_counter()
        try:
            rgb = compressed_to_rgb(message) if self._compressed else image_to_rgb(message)
        except Exception as error:
            self._watch.lost(error)
            return None
        return IncomingFrame(message.header, rgb, start, time.perf_counter())

    def process(self, frame: IncomingFrame) -> None:
        """Track the objects into a frame and publish the result; a failure is reported and costs this frame."""
        stamp = messages.nanoseconds(frame.header.stamp)
        try:
            self._follow_time(stamp)
            if self._rgb is not None and self._rgb.shape != frame.rgb.shape:
                self._watch.resized(_size_of(self._rgb), _size_of(frame.rgb))
            result = self._relief.run(lambda: self.tracker.step(frame.rgb, stamp, (), frame.features))
            self._rgb, self._header = frame.rgb, frame.header
            stepped = time.perf_counter()
            self.publish(result)
        except Exception as error:
            self._watch.lost(error)
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
        self._intake.on_frame(self)

    def _follow_time(self, stamp: int) -> None:
        newest = self.newest_stamp
        if newest is None or 0 <= stamp - newest <= self.policies.forward_jump * 1e9:
            return
        if stamp > newest:
            self._watch.jumped_forward(newest, stamp)
            return
        removed = self.tracker.reset() if self.policies.time_jump_policy == 'remove_objects' else None
        self.tracker.cut()
        self._watch.jumped_back(newest, stamp, removed)

    # -------------------------------------------------------------------------------------------------------- prompts

    @property
    def newest_stamp(self) -> int | None:
        """Nanoseconds of the newest processed frame."""
        return None if self._header is None else messages.nanoseconds(self._header.stamp)

    @property
    def header(self) -> Header | None:
        """Header of the newest processed frame."""
        return self._header

    def on_detections(self, message: Any) -> None:
        """Hand a detector's message on."""
        self._intake.on_detections(self, message)

    def frame_near(self, stamp: int) -> int:
        """Stamp, nanoseconds, of the processed frame that a detection at ``stamp`` is taken for; 0 is the newest.

        Raises:
            PromptError: if none that is kept was taken within ``detection_tolerance`` of it.
        """
        if stamp == 0:
            return 0
        return self.tracker.nearest(stamp, round(self.policies.detection_tolerance * 1e9))

    def apply(self, prompts: Sequence[Prompt], stamp: int) -> list[TrackedObject]:
        """Apply prompts to the frame they were drawn on, publish the newest frame again and return the objects.

        The masks of a past frame are published, too, where somebody reads them.

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
        if header is not self._header and self._output.past_is_read:
            # Nothing may be given up for it, past frames least of all: the prompts are applied already.
            past = self._relief.attempt(lambda: self.tracker.result_at(stamp), '')
            if past is not None:
                self._output.publish_past(past, header)
        return [result.objects[result.index_of[object_id]] for object_id in result.prompted]

    def scene(self, stamp: int) -> Scene:
        """The objects on the frame that a prompt was drawn on; argument and errors as :meth:`apply`."""
        self._prompt_header(stamp)
        newest = self.tracker.last_result  # another one whenever anything about the objects has changed
        if self._scene is None or self._scene[0] != stamp or self._scene[1] is not newest:
            self._scene = stamp, newest, self.tracker.scene(stamp or None)
        return self._scene[2]

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


def _size_of(rgb: np.ndarray) -> tuple[int, int]:
    """Width and height."""
    return rgb.shape[1], rgb.shape[0]
