"""Cameras that are listened to before they speak."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription

from robust_pvos_ros.bags.writer import header_stamp

Receive = Callable[..., None]


class EarlySubscription:
    """A subscription to a topic that nobody publishes on yet, so that nothing of its first images is missed.

    It begins best effort, which fits every publisher.  Once there are publishers, and all offer more, a second one
    takes over with its first message; what both bring is passed on once.

    Args:
        node: that subscribes.
        message_type: class of the messages, which begin with a header.
        topic: full name.
        receive: takes serialised messages, with what the middleware knows of them.
        depth: messages that may wait for the executor.
    """

    def __init__(self, node: Node, message_type: type, topic: str, receive: Receive, depth: int) -> None:
        self._node, self._type, self._topic, self._receive, self._depth = node, message_type, topic, receive, depth
        self._stamps: deque[int] = deque(maxlen=depth)
        self._taken_over = False
        self._second: Subscription | None = None
        self._first: Subscription | None = self._subscribe(best_effort(depth), self._on_first)

    def settle(self, publishers: Sequence[Any]) -> bool:
        """Go on to what the publishers offer; to be called every now and then until it returns True.

        Args:
            publishers: endpoint infos of the topic.
        """
        if self._second is None and publishers:
            qos = offered(publishers, self._depth)
            if qos == best_effort(self._depth):
                return True
            self._second = self._subscribe(qos, self._on_second)
        if self._taken_over and self._first is not None:
            self._node.destroy_subscription(self._first)
            self._first = None
        return self._first is None

    def _subscribe(self, qos: QoSProfile, callback: Receive) -> Subscription:
        # rclpy takes a callback of two arguments to want the message's info.
        return self._node.create_subscription(self._type, self._topic, callback, qos, raw=True)

    def _on_first(self, data: bytes, info: dict[str, Any]) -> None:
        if not self._taken_over:
            self._stamps.append(header_stamp(data))
            self._receive(data, info)

    def _on_second(self, data: bytes, info: dict[str, Any]) -> None:
        self._taken_over = True
        if header_stamp(data) not in self._stamps:
            self._receive(data, info)


def best_effort(depth: int) -> QoSProfile:
    """What every publisher can serve."""
    return QoSProfile(depth=depth, reliability=ReliabilityPolicy.BEST_EFFORT, durability=DurabilityPolicy.VOLATILE)


def offered(publishers: Sequence[Any], depth: int) -> QoSProfile:
    """The strongest subscription that all publishers of a topic can serve.

    Args:
        publishers: endpoint infos of the topic.
        depth: messages that may wait for the executor.
    """
    profiles = [publisher.qos_profile for publisher in publishers]
    reliable = all(profile.reliability == ReliabilityPolicy.RELIABLE for profile in profiles)
    latched = all(profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for profile in profiles)
    return QoSProfile(
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )
