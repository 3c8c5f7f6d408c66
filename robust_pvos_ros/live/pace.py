"""When messages are due, and which of them the node has answered.  No ROS."""

from __future__ import annotations

import threading
import time
from collections import deque

UNANSWERED = 1000
"""Frames of a camera that are waited for at most: a node that drops frames answers most of the others."""


class Pace:
    """When a message is due: recording times, stretched by the rate, on the machine's steady clock."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._origin: tuple[int, float] | None = None

    def delay(self, at: int) -> float:
        """Seconds until the message recorded at ``at`` (nanoseconds) is due; 0 or less if it is late."""
        if not self._rate:
            return 0.0
        if self._origin is None:
            self._origin = at, time.monotonic()
        first, begun = self._origin
        return (at - first) / 1e9 / self._rate - (time.monotonic() - begun)

    def hold(self, seconds: float) -> None:
        """Put everything that follows off: something else took so long."""
        if self._origin is not None:
            self._origin = self._origin[0], self._origin[1] + seconds


class Acknowledgements:
    """The frames of one camera that the node has not answered yet."""

    def __init__(self) -> None:
        self._pending: deque[int] = deque(maxlen=UNANSWERED)
        self._changed = threading.Condition()

    def sent(self, stamp: int) -> None:
        """A frame is on its way."""
        with self._changed:
            self._pending.append(stamp)

    def answered(self, stamp: int) -> None:
        """Its objects have come; frames before it will not be answered any more."""
        with self._changed:
            if stamp in self._pending:
                while self._pending.popleft() != stamp:
                    pass
                self._changed.notify_all()

    def clear(self) -> None:
        """Forget what was not answered."""
        with self._changed:
            self._pending.clear()

    def wait(self, fewer_than: int, timeout: float) -> bool:
        """Wait until fewer frames are unanswered; False after ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._pending) < fewer_than, timeout)
