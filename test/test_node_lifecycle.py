"""Transitions again and again: nothing is left behind."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from lifecycle_msgs.msg import Transition
from node_harness import Harness, box_prompt

from robust_pvos_ros.diagnostics import resident_megabytes
from robust_pvos_ros.tracking.model import Sam2Model
from robust_pvos_ros.tracking.tracker import VideoTracker

SMALL = 128  # pixels that the network sees: the model is loaded on every round
SETTLED = 3  # rounds after which caches and pools are full
LOOKS, BETWEEN_LOOKS = 4, 0.05  # seconds; a file counts if it is open in every look
GROWTH_MB = 40.0  # of the allocator; a leaked model alone would take 25 MB a round


def open_now() -> set[tuple[Path, Path]]:
    """Number and target of each open file, without the one that lists them."""
    found = set()
    for file in list(Path('/proc/self/fd').iterdir()):
        with contextlib.suppress(FileNotFoundError):  # closed since it was listed
            found.add((file, file.readlink()))
    return found


def open_files() -> int:
    """How many files stay open: the node's reports open /proc/self/statm for a moment, on a thread of their own."""
    found = open_now()
    for _ in range(LOOKS - 1):
        time.sleep(BETWEEN_LOOKS)
        found &= open_now()
    return len(found)


def held(harness: Harness) -> dict[str, int]:
    """What the node and the process hold: entities of ROS, threads, open files, networks and trackers."""
    gc.collect()
    node = harness.node
    alive = Counter(type(thing) for thing in gc.get_objects())
    return {
        'publishers': len(list(node.publishers)),
        'subscriptions': len(list(node.subscriptions)),
        'services': len(list(node.services)),
        'timers': len(list(node.timers)),
        'threads': threading.active_count(),
        'files': open_files(),
        'models': alive[Sam2Model],
        'trackers': alive[VideoTracker],
    }


@pytest.fixture
def harness():
    cameras = {'cameras': ['camera', 'rear'], 'rear__transport': 'compressed'}
    harness = Harness(threads=1, image_size=SMALL, **cameras)
    try:
        harness.wait_active()
        yield harness
    finally:
        harness.close()


def round_trip(harness: Harness) -> None:
    harness.frame()
    assert harness.call('add_object', prompt=box_prompt(camera='camera')).success
    harness.frame()
    for transition in ('DEACTIVATE', 'ACTIVATE', 'DEACTIVATE', 'CLEANUP', 'CONFIGURE', 'ACTIVATE'):
        assert harness.transition(getattr(Transition, f'TRANSITION_{transition}')), transition


@pytest.mark.timeout(1200)
@pytest.mark.parametrize('rounds', [8, pytest.param(50, marks=pytest.mark.slow)])
def test_transitions_leak_nothing(harness, rounds):
    for _ in range(SETTLED):
        round_trip(harness)
    before, memory = held(harness), resident_megabytes()
    for _ in range(rounds):
        round_trip(harness)
    after = held(harness)
    assert before['models'] == 1 and before['trackers'] == 2
    assert after == before
    assert resident_megabytes() - memory < GROWTH_MB, f'{memory:.0f} MB before {rounds} rounds'


def test_every_transition_from_every_state_ends_in_a_known_state(harness):
    """Those that a state does not allow are refused and change nothing."""
    moves = {
        'unconfigured': {'configure': 'inactive'},
        'inactive': {'activate': 'active', 'cleanup': 'unconfigured'},
        'active': {'deactivate': 'inactive'},
    }
    paths = {'active': (), 'inactive': ('deactivate',), 'unconfigured': ('deactivate', 'cleanup')}
    back = {'inactive': ('activate',), 'unconfigured': ('configure', 'activate'), 'active': ()}
    for state, path in paths.items():
        for label in ('configure', 'activate', 'deactivate', 'cleanup'):
            for step in path:
                assert harness.transition(label=step)
            assert harness.state() == state
            allowed = label in moves[state]
            assert harness.transition(label=label) == allowed, f'{label} from {state}'
            reached = moves[state].get(label, state)
            assert harness.state() == reached
            for step in back[reached]:
                assert harness.transition(label=step)
    harness.frame()


def test_a_configuration_that_fails_leaves_nothing_behind(harness):
    for label in ('deactivate', 'cleanup'):
        assert harness.transition(label=label)
    before = held(harness)
    assert harness.set(checkpoint='/nowhere.safetensors') == (True, '')
    for _ in range(3):
        assert not harness.transition(label='configure')
        assert harness.state() == 'unconfigured'
    assert held(harness) == before
    assert before['models'] == before['trackers'] == 0
