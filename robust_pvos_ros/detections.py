"""Messages of a detector that come before their image has been processed.  No ROS."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from robust_pvos_ros.tracking.types import PromptError

MAX_HELD = 32
"""Messages of a camera that may wait for their images; a second of a detector at 30 Hz."""
HOLD = 1.0
"""Seconds that a message may wait: its image may have been lost, and objects move on."""


class _Held(NamedTuple):
    stamp: int
    deadline: float
    message: Any


class HeldDetections:
    """Keeps messages until their image, or a later one, has been processed; bounded in number and time.

    All calls but :meth:`overdue` belong on one thread.

    Args:
        clock: seconds, of any origin.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._held: tuple[_Held, ...] = ()  # replaced and never changed, since another thread looks at it

    def __len__(self) -> int:
        return len(self._held)

    def add(self, stamp: int, message: Any) -> None:
        """Keep a message.

        Args:
            stamp: nanoseconds, of its image.
            message: to be given back by :meth:`take`.

        Raises:
            PromptError: if too many are kept already.
        """
        if len(self._held) >= MAX_HELD:
            raise PromptError(
                f'{MAX_HELD} messages of detections wait for their images already: let the detector send fewer'
            )
        self._held = (*self._held, _Held(stamp, self._clock() + HOLD, message))

    def take(self, newest: int | None) -> list[Any]:
        """The messages that need not or must not wait any longer, in the order in which they came.

        Args:
            newest: stamp of the newest processed frame, nanoseconds; None before the first.
        """
        moment = self._clock()
        taken: list[_Held] = []
        waiting: list[_Held] = []
        for one in self._held:
            waits = (newest is None or one.stamp > newest) and moment < one.deadline
            (waiting if waits else taken).append(one)
        self._held = tuple(waiting)
        return [one.message for one in taken]

    def overdue(self) -> bool:
        """Whether a message has waited for too long."""
        held = self._held
        return bool(held) and self._clock() >= held[0].deadline
