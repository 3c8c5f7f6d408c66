"""At most one line of each kind a second: what goes wrong with every image must not fill a log.  No ROS."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable

PERIOD = 1.0


class Throttle:
    """Decides which lines are logged; every method may be called from any thread.

    Args:
        period: seconds between two lines of one kind.
        clock: seconds, of any origin.
    """

    def __init__(self, period: float = PERIOD, clock: Callable[[], float] = time.monotonic) -> None:
        self._period, self._clock = period, clock
        self._lock = threading.Lock()
        self._logged: dict[str, float] = {}
        self._left_out: Counter[str] = Counter()

    def line(self, kind: str, text: str) -> str:
        """``text`` as it is to be logged; empty if a line of its kind was logged less than a period ago.

        Its first line then tells how many were left out since.

        Args:
            kind: one of a few constants.
            text: of one line or several.
        """
        moment = self._clock()
        with self._lock:
            if kind in self._logged and moment - self._logged[kind] < self._period:
                self._left_out[kind] += 1
                return ''
            self._logged[kind] = moment
            left_out = self._left_out.pop(kind, 0)
        if not left_out:
            return text
        first, newline, rest = text.partition('\n')
        return f'{first} ({left_out} lines of this kind left out){newline}{rest}'
