"""What one camera of the segmentation node publishes, put together frame by frame for the console."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from robust_pvos_interfaces.msg import TrackedObjects
from sensor_msgs.msg import CompressedImage, Image

from robust_pvos_ros import interface
from robust_pvos_ros.console.encoding import Frame
from robust_pvos_ros.message_core import nanoseconds, tracked_from_message
from robust_pvos_ros.tracking.types import TrackedObject

KEPT_BYTES = 256 << 20
"""Most that the pictures which wait for their masks may take."""
KEPT_LABELS = 4
LINGER = 10.0
"""Seconds that pictures are still read after the last page looked away: a page that is reloaded comes back at once."""
PATIENCE = 0.2
"""Seconds that the objects of a frame wait for its picture and its masks."""
COMPRESSED, COMPRESSED_SUFFIX = 'sensor_msgs/msg/CompressedImage', '/compressed'


class Pictures:
    """Pictures by stamp in the order in which they came, as many as fit into ``limit`` bytes, and always the newest."""

    def __init__(self, limit: int = KEPT_BYTES) -> None:
        self._limit = limit
        self._held = 0
        self._images: OrderedDict[int, Any] = OrderedDict()
        self._arrived: dict[int, float] = {}

    def put(self, stamp: int, image: Any) -> None:
        """Keep one; the oldest make room."""
        if stamp in self._images:
            self._held -= len(self._images.pop(stamp).data)
        self._held += len(image.data)
        self._images[stamp], self._arrived[stamp] = image, time.monotonic()
        while self._held > self._limit and len(self._images) > 1:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        stamp, image = self._images.popitem(last=False)
        self._held -= len(image.data)
        del self._arrived[stamp]

    def get(self, stamp: int) -> Any:
        """The one with a stamp, or None."""
        return self._images.get(stamp)

    def arrived(self, stamp: int) -> float:
        """When the one with a stamp came, by ``time.monotonic``; the present where there is none."""
        return self._arrived.get(stamp, time.monotonic())

    def forget_before(self, stamp: int) -> None:
        """Drop what came before the one with a stamp; nothing where there is none."""
        while stamp in self._images and next(iter(self._images)) != stamp:
            self._drop_oldest()

    def __len__(self) -> int:
        return len(self._images)


class CameraFeed:
    """Joins picture, masks and objects of a frame by their stamp; runs on the executor's thread.

    Objects are always read, pictures and masks only while somebody looks.

    Args:
        node: owner of the subscriptions.
        served: full name of the segmentation node.
        camera: name of the camera.
        image_topic: full name of its images.
        emit: gets every frame.
        processing: whether the segmentation node is at work; if not, pictures go out without masks.
    """

    def __init__(
        self,
        node: Node,
        served: str,
        camera: str,
        image_topic: str,
        emit: Callable[[Frame], None],
        processing: Callable[[], bool],
    ) -> None:
        self.image_topic = image_topic
        self._node = node
        self._served = served
        self._camera = camera
        self._emit = emit
        self._processing = processing
        self._images = Pictures()
        self._labels: OrderedDict[int, Image] = OrderedDict()
        self._past: Image | None = None
        self._past_since = 0.0
        self._objects: TrackedObjects | None = None
        self._since = 0.0
        self._sent: int | None = None
        self._born: dict[int, int] = {}
        self._last_looked = -LINGER
        self._pictures: list[Subscription] = []
        self._table = self._subscribe(TrackedObjects, self._topic(interface.OBJECTS), self._on_objects, 10)

    # -------------------------------------------------------------------------------------------------- subscriptions

    def _topic(self, topic: interface.Topic) -> str:
        return topic.of(self._camera).replace('~', self._served, 1)

    def _subscribe(
        self, kind: type, topic: str, callback: Callable[[Any], None], depth: int, reliable: bool = True
    ) -> Subscription:
        reliability = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
        # Subscriptions come and go here; without event callbacks the executor has nothing else to wait for on them.
        return self._node.create_subscription(
            kind, topic, callback, QoSProfile(depth=depth, reliability=reliability),
            event_callbacks=SubscriptionEventCallbacks(use_default_callbacks=False),
        )  # fmt: skip

    def look(self, watched: bool) -> None:
        """Called now and then: read pictures while they are watched, and send what has waited long enough."""
        if watched:
            self._last_looked = time.monotonic()
        wanted = time.monotonic() - self._last_looked < LINGER
        if wanted and not self._pictures:
            self._open()
        elif not wanted and self._pictures:
            self._close()
        if self._objects is not None and self._sent is None and time.monotonic() - self._since > PATIENCE:
            self._send()
        if time.monotonic() - self._past_since > PATIENCE:
            self._send_past()

    def _open(self) -> None:
        types = dict(self._node.get_topic_names_and_types()).get(self.image_topic, [])
        # A topic that nobody publishes yet has no type, but image_transport names those of compressed images.
        compressed = COMPRESSED in types or (not types and self.image_topic.endswith(COMPRESSED_SUFFIX))
        kind = CompressedImage if compressed else Image
        # Best effort: a camera must never wait for the console.  Masks are reliable, since those of a paused stream
        # come only once; the node's publisher keeps its last messages and does not wait either.
        self._pictures = [
            self._subscribe(kind, self.image_topic, self._on_image, 2, reliable=False),
            self._subscribe(Image, self._topic(interface.LABEL_IMAGE), self._on_labels, 2),
            self._subscribe(Image, self._topic(interface.PAST_LABEL_IMAGE), self._on_past, 2),
        ]

    def _close(self) -> None:
        for subscription in self._pictures:
            self._node.destroy_subscription(subscription)
        self._pictures = []
        self._labels.clear()
        self._past = None
        self._images = Pictures()

    def destroy(self) -> None:
        """Give the subscriptions back."""
        self._close()
        self._node.destroy_subscription(self._table)

    # ------------------------------------------------------------------------------------------------------- messages

    def _on_image(self, message: Any) -> None:
        stamp = nanoseconds(message.header.stamp)
        self._images.put(stamp, message)
        if self._processing():
            self._match()
        else:
            self._images.forget_before(stamp)
            self._emit(Frame(self._camera, stamp, message, None, *self._known(stamp), processed=False))

    def _on_labels(self, message: Image) -> None:
        stamp = nanoseconds(message.header.stamp)
        self._labels[stamp] = message
        while len(self._labels) > KEPT_LABELS:
            self._labels.popitem(last=False)
        if stamp == self._sent:
            self._send()  # the frame was published once more, with a mask that has changed
        else:
            self._match()

    def _on_past(self, message: Image) -> None:
        self._past, self._past_since = message, time.monotonic()

    def _on_objects(self, message: TrackedObjects) -> None:
        if self._objects is None or self._sent is not None:
            self._since = time.monotonic()  # a table in the place of one that waits does not begin to wait anew
        self._objects, self._sent = message, None
        stamp = nanoseconds(message.header.stamp)
        self._born = {tracked.id: self._born.get(tracked.id, stamp) for tracked in message.objects}
        self._match()
        self._send_past()

    # --------------------------------------------------------------------------------------------------------- frames

    def _match(self) -> None:
        if self._objects is None or self._sent is not None:
            return
        stamp = nanoseconds(self._objects.header.stamp)
        if stamp in self._labels and self._images.get(stamp) is not None:
            self._send()

    def _send(self) -> None:
        if self._objects is None:
            return
        stamp = nanoseconds(self._objects.header.stamp)
        self._sent = stamp
        self._images.forget_before(stamp)
        image, labels, arrived = self._images.get(stamp), self._labels.get(stamp), self._images.arrived(stamp)
        self._emit(Frame(self._camera, stamp, image, labels, *self._known(stamp), arrived=arrived))

    def _send_past(self) -> None:
        # The label of an object that is new comes with the next table.
        if self._past is None:
            return
        message, self._past = self._past, None
        stamp = nanoseconds(message.header.stamp)
        self._emit(Frame(self._camera, stamp, None, message, *self._known(stamp), past=True))

    def _known(self, stamp: int) -> tuple[tuple[TrackedObject, ...], dict[int, float]]:
        """The object table, and how old each object is at ``stamp``."""
        objects = () if self._objects is None else self._objects.objects
        ages = {object_id: max(0.0, (stamp - born) / 1e9) for object_id, born in self._born.items()}
        return tuple(tracked_from_message(tracked) for tracked in objects), ages

    def forget(self) -> None:
        """The segmentation node has gone: its objects are no more."""
        if self._objects is None:
            return
        stamp = nanoseconds(self._objects.header.stamp)
        self._objects, self._sent, self._born, self._past = None, None, {}, None
        self._labels.clear()
        arrived = self._images.arrived(stamp)
        self._emit(Frame(self._camera, stamp, self._images.get(stamp), processed=False, arrived=arrived))
