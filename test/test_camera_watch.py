"""Faults of a camera's images are counted one by one and logged at a bounded rate."""

from __future__ import annotations

import pytest

from robust_pvos_ros.camera_watch import CameraWatch
from robust_pvos_ros.diagnostics import FrameStatistics
from robust_pvos_ros.throttle import Throttle
from robust_pvos_ros.tracking.types import FrameError, ModelError


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


class Log:
    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def warning(self, text: str) -> None:
        self.lines.append(('warning', text))

    def error(self, text: str) -> None:
        self.lines.append(('error', text))


class World:
    def __init__(self) -> None:
        self.clock, self.log, self.statistics = Clock(), Log(), FrameStatistics()
        self.watch = CameraWatch('front', self.statistics, self.log, Throttle(1.0, self.clock))

    def said(self) -> list[str]:
        lines, self.log.lines = [text for _, text in self.log.lines], []
        return lines


@pytest.fixture
def world() -> World:
    return World()


def test_one_line_of_a_kind_a_second_and_the_rest_is_counted() -> None:
    clock = Clock()
    throttle = Throttle(1.0, clock)
    assert throttle.line('a', 'first') == 'first'
    assert [throttle.line('a', f'more {number}') for number in range(3)] == [''] * 3
    assert throttle.line('b', 'another kind') == 'another kind'
    clock.seconds += 1.0
    assert throttle.line('a', 'later\nand its details') == (
        'later (3 lines of this kind left out)\nand its details'
    )
    clock.seconds += 1.0
    assert throttle.line('a', 'last') == 'last'


def test_messages_whose_numbers_vary_are_logged_once_a_second(world: World) -> None:
    for number in range(90):  # three seconds at 30 Hz
        world.watch.lost(FrameError(f'image data has {number} bytes'))
        world.clock.seconds += 1 / 30
    assert world.statistics.counts()['malformed'] == 90
    said = world.said()
    assert len(said) <= 4 and 'lines of this kind left out' in said[1]
    assert world.watch.last_problem == 'image dropped: image data has 89 bytes'


def test_a_fault_that_lasts_is_reported_ever_more_rarely(world: World) -> None:
    for _ in range(1000):
        world.watch.lost(ModelError('out of GPU memory'))
        world.clock.seconds += 1 / 30
    assert [text.split('(')[1].split()[0] for text in world.said()] == ['1', '100', '1000'], 'the tenth came too early'


def test_another_fault_that_began_within_a_second_is_told_as_soon_as_that_is_over(world: World) -> None:
    world.watch.lost(FrameError('one'))
    for _ in range(40):
        world.watch.lost(FrameError('two'))
        world.clock.seconds += 1 / 30
    first, second = world.said()
    assert 'one' in first and 'two' in second


def test_an_unexpected_failure_comes_with_its_traceback(world: World) -> None:
    try:
        raise RuntimeError('the device is on fire')
    except RuntimeError as error:
        world.watch.lost(error)
    [text] = world.said()
    assert text.startswith('front: frame lost to an unexpected RuntimeError: the device is on fire (1 failed so far)\n')
    assert 'Traceback' in text and world.statistics.counts()['failed'] == 1


def test_jumps_and_sizes_are_counted_and_logged_once_a_second(world: World) -> None:
    for number in range(60):
        world.watch.jumped_back(10**9 * (number + 5), 10**9, 3 if number == 0 else None)
        world.watch.resized((640, 480), (320, 240 + number))
        world.watch.jumped_forward(0, 10**10)
        world.clock.seconds += 1 / 30
    counts = world.statistics.counts()
    assert (counts['time_jumps'], counts['forward_jumps']) == (60, 60)
    said = world.said()
    assert len([text for text in said if 'jumped back' in text]) <= 3
    assert len([text for text in said if 'images changed from 640x480' in text]) <= 3
    assert len([text for text in said if 'jumped forward' in text]) == 2, '1 and 10'
    assert '3 objects removed (time_jump_policy is remove_objects; 1 time_jumps so far)' in said[0]


def test_frames_that_must_not_be_lost_are_reported(world: World) -> None:
    for dropped in range(1, 101):
        world.watch.overflowed(dropped, 32)
    assert [text.split()[1] for text in world.said()] == ['1', '10', '100']
