"""Detections that come before their image has been processed wait for it, but not for ever and not in any number."""

from __future__ import annotations

import pytest

from robust_pvos_ros.detections import HOLD, MAX_HELD, HeldDetections
from robust_pvos_ros.tracking.types import PromptError


class Clock:
    seconds = 5.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_they_wait_for_their_frame_or_a_later_one(clock: Clock) -> None:
    held = HeldDetections(clock)
    for stamp in (30, 20, 40):
        held.add(stamp, f'at {stamp}')
    assert held.take(None) == [] and held.take(19) == []
    assert held.take(30) == ['at 30', 'at 20'] and len(held) == 1
    assert held.take(30) == []
    assert held.take(90) == ['at 40'] and len(held) == 0


def test_they_wait_for_a_bounded_time(clock: Clock) -> None:
    held = HeldDetections(clock)
    assert not held.overdue()
    held.add(30, 'first')
    clock.seconds += HOLD / 2
    held.add(30, 'second')
    assert not held.overdue() and held.take(0) == []
    clock.seconds += HOLD / 2
    assert held.overdue() and held.take(0) == ['first']
    assert not held.overdue() and len(held) == 1


def test_so_many_wait_and_no_more(clock: Clock) -> None:
    held = HeldDetections(clock)
    for stamp in range(MAX_HELD):
        held.add(10 + stamp, stamp)
    with pytest.raises(PromptError, match=f'{MAX_HELD} messages of detections wait for their images already'):
        held.add(99, 'one too many')
    assert held.take(1000) == list(range(MAX_HELD))
