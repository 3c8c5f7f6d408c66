"""What goes wrong with the images of one camera: counted, and logged at a bounded rate.  No ROS."""

from __future__ import annotations

import traceback
from typing import Any

from robust_pvos_ros.diagnostics import FrameStatistics
from robust_pvos_ros.throttle import Throttle
from robust_pvos_ros.tracking.types import FrameError, PvosError, seconds_text

Size = tuple[int, int]
"""Width and height of an image, pixels."""


class CameraWatch:
    """Counts and reports the faults of a camera's images; every method may be called from any thread.

    Args:
        name: of the camera.
        statistics: its counters.
        logger: of the node.
        throttle: that decides which lines are logged.

    Attributes:
        last_problem: what was wrong with the last image that was lost, or empty.
    """

    def __init__(self, name: str, statistics: FrameStatistics, logger: Any, throttle: Throttle | None = None) -> None:
        self.last_problem = ''
        self._name, self._statistics, self._logger = name, statistics, logger
        self._throttle = throttle or Throttle()
        self._logged_problem = ''

    def lost(self, error: Exception) -> None:
        """Count and report an image that an exception, the one being handled, has cost."""
        if isinstance(error, FrameError):
            self._fault('malformed', f'image dropped: {error}')
        elif isinstance(error, PvosError):
            self._fault('failed', f'frame lost: {error}')
        else:
            problem = f'frame lost to an unexpected {type(error).__name__}: {error}'
            self._fault('failed', problem, traceback.format_exc())

    def overflowed(self, dropped: int, queue_depth: int) -> None:
        """Report that a frame was dropped where none should be; ``dropped`` of them so far."""
        if _is_round(dropped):
            self._logger.error(
                f'{self._name}: {dropped} frames lost although overload_policy is every: the player must keep fewer '
                f'than queue_depth = {queue_depth} frames unacknowledged'
            )

    def jumped_forward(self, before: int, after: int) -> None:
        """Count and report a jump between two stamps, nanoseconds; a camera may be that slow all the time."""
        jumps = self._statistics.count('forward_jumps')
        if _is_round(jumps):
            text = f'image time jumped forward from {seconds_text(before)} to {seconds_text(after)}; objects kept'
            self._logger.warning(f'{self._name}: {text} ({jumps} forward_jumps so far)')

    def jumped_back(self, before: int, after: int, removed: int | None) -> None:
        """Count and report a jump back between two stamps, nanoseconds.

        Args:
            removed: objects that it cost; None where the policy is to keep them.
        """
        jumps = self._statistics.count('time_jumps')
        fate = 'objects kept' if removed is None else f'{removed} objects removed'
        policy = 'keep' if removed is None else 'remove_objects'
        text = (
            f'{self._name}: image time jumped back from {seconds_text(before)} to {seconds_text(after)}; {fate} '
            f'(time_jump_policy is {policy}; {jumps} time_jumps so far)'
        )
        if said := self._throttle.line('jump back', text):
            self._logger.warning(said)

    def resized(self, before: Size, after: Size) -> None:
        """Report that images have another size than before."""
        text = f'{self._name}: images changed from {before[0]}x{before[1]} to {after[0]}x{after[1]} pixels'
        if said := self._throttle.line('size', text):
            self._logger.warning(said)

    def _fault(self, counter: str, problem: str, details: str = '') -> None:
        """Count a fault, and log it if it is another one than was logged last or has come 1, 10, 100, ... times."""
        self.last_problem = problem
        count = self._statistics.count(counter)
        if problem == self._logged_problem and not _is_round(count):
            return
        if said := self._throttle.line(counter, f'{self._name}: {problem} ({count} {counter} so far)\n{details}'):
            self._logged_problem = problem
            self._logger.error(said.rstrip())


def _is_round(count: int) -> bool:
    """True at 1, 10, 100, ...: a fault that lasts is reported again, ever more rarely."""
    return count == 10 ** (len(str(count)) - 1)
