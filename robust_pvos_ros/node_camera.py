"""One camera of the segmentation node: its subscription, its tracker, its publishers."""

from __future__ import annotations

import dataclasses
import time
import traceback
from typing import TYPE_CHECKING, Any

import numpy as np
from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from robust_pvos_interfaces.msg import Prompt as PromptMsg
from robust_pvos_interfaces.msg import TrackedObjects
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from robust_pvos_ros import interface, messages
from robust_pvos_ros.diagnostics import FrameStatistics
from robust_pvos_ros.image_codec import check_image, image_to_rgb
from robust_pvos_ros.overlay import draw_overlay
from robust_pvos_ros.parameters import CameraConfig, NodeConfig
from robust_pvos_ros.tracking.types import (
    FrameError,
    FrameResult,
    Prompt,
    PromptError,
    TrackedObject,
    seconds_text,
)
from robust_pvos_ros.worker import FrameQueue, Worker

if TYPE_CHECKING:  # torch loads in `configure`, so that the node answers from its first second
    from robust_pvos_ros.tracking.tracker import VideoTracker

LIVE_DEPTH = 5  # messages the middleware keeps while the executor is busy; the slot behind it holds one
OUTPUT_DEPTH = 10


class Camera:
    """Wires one camera's images to its tracker and the results to topics.

    ``on_image`` runs on the executor's thread; everything else on the worker's, except the constructor's caller and the
    read-only members that diagnostics look at.

    Args:
        node: owner of subscription and publishers.
        name: as in the parameter ``cameras``.
        config: of this camera.
        node_config: policies.
        tracker: of this camera alone.
        worker: thread that runs the tracker.
        prompts: publisher of accepted prompts, shared by all cameras.
    """

    def __init__(
        self,
        node: Node,
        name: str,
        config: CameraConfig,
        node_config: NodeConfig,
        tracker: VideoTracker,
        worker: Worker,
        prompts: Publisher,
    ) -> None:
        self.name = name
        self.config = config
        self.tracker = tracker
        self.statistics = FrameStatistics()
        self.time_jump_policy = node_config.time_jump_policy
        self.last_problem = ''
        self.object_memory_bytes = self.history_bytes = 0
        self._node = node
        self._worker = worker
        self._prompts = prompts
        self._every = node_config.overload_policy == 'every'
        self._depth = node_config.queue_depth
        self._queue: FrameQueue[Image] = FrameQueue(self._depth if self._every else 1, self._process)
        self._subscription: Subscription | None = None
        self._header: Header | None = None
        self._rgb: np.ndarray | None = None
        self._labels = self._publisher(Image, interface.LABEL_IMAGE)
        self._objects = self._publisher(TrackedObjects, interface.OBJECTS)
        self._overlay = self._publisher(Image, interface.OVERLAY)
        self._detections = None
        if messages.vision_msgs is not None:
            self._detections = self._publisher(messages.vision_msgs.Detection2DArray, interface.DETECTIONS)
        self._masks: dict[int, Publisher] = {}

    # ------------------------------------------------------------------------------------------------------ lifecycle

    def activate(self) -> None:
        """Subscribe to the images."""
        self._worker.attach(self._queue)
        depth = self._depth if self._every else LIVE_DEPTH
        reliability = ReliabilityPolicy.RELIABLE if self._every else ReliabilityPolicy.BEST_EFFORT
        # An executor that waits for a subscription's events fails when another thread destroys the subscription.
        self._subscription = self._node.create_subscription(
            Image,
            self.config.image_topic,
            self.on_image,
            QoSProfile(depth=depth, reliability=reliability),
            event_callbacks=SubscriptionEventCallbacks(use_default_callbacks=False),
        )

    def deactivate(self) -> None:
        """Stop reading images; objects and the newest frame stay."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None
            self._worker.detach(self._queue)

    def destroy(self) -> None:
        """Give everything back that the node owns."""
        self.deactivate()
        publishers = [self._labels, self._objects, self._overlay, self._detections, *self._masks.values()]
        for publisher in publishers:
            if publisher is not None:
                self._node.destroy_publisher(publisher)
        self._masks.clear()

    def _publisher(self, message_type: type, topic: interface.Topic, object_id: int = 0) -> Publisher:
        # Without event callbacks the executor has nothing to wait for on a publisher that comes and goes.
        return self._node.create_publisher(
            message_type,
            topic.of(self.name, object_id),
            OUTPUT_DEPTH,
            event_callbacks=PublisherEventCallbacks(use_default_callbacks=False),
        )

    # --------------------------------------------------------------------------------------------------------- images

    @property
    def topic(self) -> str:
        """Full name of the image topic."""
        return self._node.resolve_topic_name(self.config.image_topic)

    def silence(self) -> str:
        """Why no images arrive, as far as the graph tells."""
        publishers = self._node.get_publishers_info_by_topic(self.topic)
        if not publishers:
            return f'nobody publishes on {self.topic}'
        if self._every and all(p.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT for p in publishers):
            return f'{self.topic} is published best effort, but overload_policy every needs a reliable publisher'
        return f'no images arrive on {self.topic} though somebody publishes there'

    def on_image(self, message: Image) -> None:
        """Queue one image, or drop and report it if it is malformed."""
        self.statistics.count('received')
        try:
            check_image(message)
        except FrameError as error:
            self._report('malformed', f'image dropped: {error}')
            return
        if not self._worker.offer(self._queue, message):
            dropped = self.statistics.count('dropped')
            if self._every and _is_round(dropped):
                self._node.get_logger().error(
                    f'{self.name}: {dropped} frames lost although overload_policy is every: the player must keep fewer '
                    f'than queue_depth = {self._depth} frames unacknowledged'
                )

    def _process(self, message: Image) -> None:
        start = time.perf_counter()
        try:
            rgb = image_to_rgb(message)
            converted = time.perf_counter()
            self._follow_time(message.header)
            self._note_size(rgb)
            result = self.tracker.step(rgb, messages.nanoseconds(message.header.stamp))
        except FrameError as error:
            self._report('malformed', f'image dropped: {error}')
            return
        except Exception as error:
            problem = f'frame lost to an unexpected {type(error).__name__}: {error}'
            self._report('failed', problem, traceback.format_exc())
            return
        self._rgb, self._header = rgb, message.header
        stepped = time.perf_counter()
        self.publish(result)
        end = time.perf_counter()
        timings = dict(self.tracker.timings)
        timings.update(convert=(converted - start) * 1e3, publish=(end - stepped) * 1e3, total=(end - start) * 1e3)
        now = self._node.get_clock().now().nanoseconds
        timings['image_age'] = (now - result.stamp) / 1e6
        self.statistics.frame(timings)

    def _follow_time(self, header: Header) -> None:
        stamp = messages.nanoseconds(header.stamp)
        newest = self.newest_stamp
        if newest is None or stamp >= newest:
            return
        self.statistics.count('time_jumps')
        before, after = seconds_text(newest), seconds_text(stamp)
        text = f'{self.name}: image time jumped back from {before} to {after}'
        if self.time_jump_policy == 'remove_objects':
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

    def apply(self, prompt: Prompt, stamp: int) -> TrackedObject:
        """Apply one prompt to the frame it was drawn on, publish the newest frame again and return the object.

        Args:
            prompt: to apply.
            stamp: nanoseconds of that frame, one of those that the tracker keeps; 0 for the newest.

        Raises:
            PromptError: if it cannot be applied; nothing has changed.
        """
        header = self._prompt_header(stamp)
        result = self.tracker.apply([prompt], stamp or None)
        object_id = result.prompted[0]
        self._prompts.publish(messages.prompt_message(prompt, header, self.name, object_id))
        self.publish(result)
        return result.objects[result.index_of[object_id]]

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

    def configure_tracker(self, values: dict[str, Any]) -> None:
        """Take over changed fields of ``TrackerConfig``, all at once."""
        self.tracker.config = dataclasses.replace(self.tracker.config, **values)

    # --------------------------------------------------------------------------------------------------------- output

    def publish_again(self) -> None:
        """Publish the newest frame as the tracker sees it."""
        if self.tracker.last_result is not None:
            self.publish(self.tracker.last_result)

    def publish(self, result: FrameResult) -> None:
        """Publish a result under the header of its image; ``objects`` comes last and so tells that the rest is out."""
        header = self._header
        if header is None:
            return
        self.object_memory_bytes = self.tracker.memory_bytes()
        self.history_bytes = self.tracker.history_bytes()
        self._match_mask_publishers(result)
        if self._labels.get_subscription_count():
            self._labels.publish(messages.label_message(result, header))
        for object_id, publisher in self._masks.items():
            if publisher.get_subscription_count():
                publisher.publish(messages.mask_message(result.mask(object_id), header))
        if self._overlay.get_subscription_count() and self._rgb is not None:
            picture = draw_overlay(self._rgb, result.masks, result.objects)
            self._overlay.publish(messages.overlay_message(picture, header))
        if self._detections is not None and self._detections.get_subscription_count():
            self._detections.publish(messages.detections_message(result.objects, header))
        self._objects.publish(messages.objects_message(result.objects, header, self.name))

    def _match_mask_publishers(self, result: FrameResult) -> None:
        for object_id in self._masks.keys() - result.index_of.keys():
            self._node.destroy_publisher(self._masks.pop(object_id))
        for object_id in result.index_of.keys() - self._masks.keys():
            self._masks[object_id] = self._publisher(Image, interface.MASK, object_id)


def prompts_publisher(node: Node) -> Publisher:
    """Publisher of ``~/prompts``."""
    return node.create_publisher(PromptMsg, interface.PROMPTS.name, 100)


def _is_round(count: int) -> bool:
    """True at 1, 10, 100, ...: a fault that lasts is reported again, ever more rarely."""
    return count == 10 ** (len(str(count)) - 1)
