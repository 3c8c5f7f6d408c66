"""What one camera of the segmentation node publishes."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.node import Node
from rclpy.publisher import Publisher
from robust_pvos_interfaces.msg import TrackedObjects
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from robust_pvos_ros import interface, messages
from robust_pvos_ros.overlay import draw_overlay
from robust_pvos_ros.tracking.types import FrameResult

OUTPUT_DEPTH = 10


class CameraOutput:
    """The publishers of one camera; those of masks come and go with their objects.

    Args:
        node: owner of the publishers.
        camera: its name.
    """

    def __init__(self, node: Node, camera: str) -> None:
        self._node = node
        self._camera = camera
        self._labels = self._publisher(Image, interface.LABEL_IMAGE)
        self._past = self._publisher(Image, interface.PAST_LABEL_IMAGE)
        self._objects = self._publisher(TrackedObjects, interface.OBJECTS)
        self._overlay = self._publisher(Image, interface.OVERLAY)
        self._detections = None
        if messages.vision_msgs is not None:
            self._detections = self._publisher(messages.vision_msgs.Detection2DArray, interface.DETECTIONS)
        self._masks: dict[int, Publisher] = {}

    def destroy(self) -> None:
        """Give every publisher back."""
        publishers = [
            self._labels, self._past, self._objects, self._overlay, self._detections, *self._masks.values(),
        ]  # fmt: skip
        for publisher in publishers:
            if publisher is not None:
                self._node.destroy_publisher(publisher)
        self._masks.clear()

    def publish(self, result: FrameResult, header: Header, rgb: np.ndarray | None) -> None:
        """Publish a result under the header of its image; ``objects`` comes last and so tells that the rest is out.

        Args:
            rgb: uint8 (H, W, 3), the image; without it no overlay is drawn.
        """
        self._match_masks(result.index_of)
        if self._labels.get_subscription_count():
            self._labels.publish(messages.label_message(result, header))
        for object_id, publisher in self._masks.items():
            if publisher.get_subscription_count():
                publisher.publish(messages.mask_message(result.mask(object_id), header))
        if self._overlay.get_subscription_count() and rgb is not None:
            picture = draw_overlay(rgb, result.masks, result.objects)
            self._overlay.publish(messages.overlay_message(picture, header))
        if self._detections is not None and self._detections.get_subscription_count():
            self._detections.publish(messages.detections_message(result.objects, header))
        self._objects.publish(messages.objects_message(result.objects, header, self._camera))

    @property
    def past_is_read(self) -> bool:
        """Whether anybody subscribes to the masks of past frames."""
        return bool(self._past.get_subscription_count())

    def publish_past(self, result: FrameResult, header: Header) -> None:
        """Publish the masks of a past frame under its header."""
        self._past.publish(messages.label_message(result, header))

    def _publisher(self, message_type: type, topic: interface.Topic, object_id: int = 0) -> Publisher:
        # Without event callbacks the executor has nothing to wait for on a publisher that comes and goes.
        return self._node.create_publisher(
            message_type,
            topic.of(self._camera, object_id),
            OUTPUT_DEPTH,
            event_callbacks=PublisherEventCallbacks(use_default_callbacks=False),
        )

    def _match_masks(self, object_ids: Iterable[int]) -> None:
        wanted = set(object_ids)
        for object_id in self._masks.keys() - wanted:
            self._node.destroy_publisher(self._masks.pop(object_id))
        for object_id in wanted - self._masks.keys():
            self._masks[object_id] = self._publisher(Image, interface.MASK, object_id)
