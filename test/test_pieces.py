"""Masks that come apart because a part of them went off with a look-alike."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from robust_pvos_ros.tracking.model import Decoded
from robust_pvos_ros.tracking.motion import Motion, track_of
from robust_pvos_ros.tracking.pieces import AGE, SPACING, Waypoint, extended, may_have_parted, part, witnesses
from robust_pvos_ros.tracking.presence import Evidence, evidence_of

SIDE, RADIUS, RATE = 96, 7.0, 10
SPEED = 12.0  # cells a second
STRAY = 0.15


def disc(x: float, y: float = 40.0, radius: float = RADIUS) -> np.ndarray:
    """Logits float32 (SIDE, SIDE), positive inside."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return (radius - np.hypot(columns - x, rows - y)).astype(np.float32)


def evidence(logits: np.ndarray) -> Evidence:
    tensor, one = torch.from_numpy(logits)[None, None], torch.ones(1)
    [found], _ = evidence_of([Decoded(tensor, one[None], one, one[None])])
    return found


def stamp_of(frame: int) -> int:
    return frame * 10**9 // RATE


def place(frame: int, start: float = 12.0, speed: float = SPEED) -> float:
    return start + speed * frame / RATE


def followed(frames: int, start: float = 12.0, speed: float = SPEED) -> tuple[Motion, tuple[Waypoint, ...]]:
    """Track and trail of a disc that goes to the right."""
    first = disc(place(0, start, speed))
    motion = track_of(evidence(first).cells, torch.from_numpy(first), 0)
    trail: tuple[Waypoint, ...] = ()
    for frame in range(1, frames):
        logits = disc(place(frame, start, speed))
        seen = evidence(logits)
        motion = motion.seen(seen.cells, torch.from_numpy(logits), stamp_of(frame))
        trail = extended(trail, motion, seen.spread)
    return motion, trail


def test_a_piece_that_went_the_other_way_is_taken_out() -> None:
    _, trail = followed(20)
    frame = 30
    own, other = disc(place(frame)), disc(8.0)
    both = np.maximum(own, other)
    assert may_have_parted(trail, evidence(both), stamp_of(frame))
    parted = part(both, trail, stamp_of(frame), STRAY)
    assert parted is not None
    np.testing.assert_array_equal(parted.logits > 0, own > 0)
    np.testing.assert_array_equal(parted.logits[own > 0], both[own > 0])
    assert parted.motion.stamp == stamp_of(frame)
    assert parted.motion.centre == pytest.approx((place(frame), 40), abs=1.0)
    assert parted.motion.velocity == pytest.approx((SPEED, 0), abs=0.8)


def test_a_small_piece_of_the_object_is_kept_and_a_large_stray_is_not() -> None:
    _, trail = followed(20)
    own = disc(place(30))
    own[:, round(place(30)) :] = -1  # half of it is behind something
    parted = part(np.maximum(own, disc(10.0, radius=9.0)), trail, stamp_of(30), STRAY)
    assert parted is not None
    np.testing.assert_array_equal(parted.logits > 0, own > 0)


def test_what_was_learnt_from_both_is_forgotten() -> None:
    motion, trail = followed(20)
    for frame in range(20, 30):  # the mask spreads over both, and its centroid stands still
        both = np.maximum(disc(place(frame)), disc(place(19) - (place(frame) - place(19))))
        seen = evidence(both)
        motion = motion.seen(seen.cells, torch.from_numpy(both), stamp_of(frame))
        trail = extended(trail, motion, seen.spread)
    parted = part(np.maximum(disc(place(30)), disc(place(8))), trail, stamp_of(30), STRAY)
    assert parted is not None and [p.motion.stamp for p in parted.trail] == [p.motion.stamp for p in trail]
    for point in parted.trail:
        x = place(0) + SPEED * point.motion.stamp / 1e9
        assert point.motion.centre[0] == pytest.approx(x, abs=1.5)


@pytest.mark.parametrize(
    ('logits', 'why'),
    [
        (disc(place(30)), 'one piece'),
        (np.where(np.abs(np.arange(SIDE) - place(30)) < 2, -1, disc(place(30))), 'a pole before it'),
        (np.maximum(disc(8.0), disc(80.0)), 'neither is where it was heading'),
        (np.maximum(disc(place(30)), disc(8.0, radius=1.5)), 'a crumb'),
        (np.full((SIDE, SIDE), -1, np.float32), 'no mask'),
    ],
)
def test_other_masks_stay(logits: np.ndarray, why: str) -> None:
    _, trail = followed(20)
    assert part(logits.astype(np.float32), trail, stamp_of(30), STRAY) is None, why


def test_without_enough_waypoints_of_the_right_age_nothing_is_taken() -> None:
    both = np.maximum(disc(place(30)), disc(8.0))
    for frames, frame in ((5, 30), (12, 15), (20, 60)):
        _, trail = followed(frames)
        assert not witnesses(trail, stamp_of(frame))
        assert part(both, trail, stamp_of(frame), STRAY) is None
        assert not may_have_parted(trail, evidence(both), stamp_of(frame))


def test_a_compact_mask_is_not_looked_at_for_pieces() -> None:
    _, trail = followed(20)
    assert not may_have_parted(trail, evidence(disc(50.0)), stamp_of(30))


def test_a_trail_has_a_waypoint_now_and_then_and_forgets() -> None:
    _, trail = followed(60)
    stamps = [point.motion.stamp for point in trail]
    assert all(b - a >= SPACING * 1e9 for a, b in itertools.pairwise(stamps))
    assert stamps[-1] - stamps[0] <= AGE[1] * 1e9 and len(trail) > 5
    assert trail[-1].motion.shape.dtype == torch.float16
    early, _ = followed(10)
    assert extended(trail, early, 3.0)[0].motion.stamp == early.stamp, 'time went back'
    assert len(extended(trail, early, 3.0)) == 1


def test_the_velocity_of_a_waypoint_is_not_that_of_one_frame() -> None:
    _, trail = followed(20)
    first = trail[-1].motion
    shaken = Motion(first.stamp + 10**9 // 2, (first.centre[0] + SPEED / 2, 40.0), (-30.0, 9.0), first.area,
                    first.shape, first.anchor)  # fmt: skip
    assert extended(trail, shaken, 3.0)[-1].motion.velocity == pytest.approx((SPEED, 0), abs=0.8)


def test_the_spread_of_a_mask() -> None:
    assert evidence(disc(40.0)).spread == pytest.approx(RADIUS / math.sqrt(2), rel=0.04)
    apart = evidence(np.maximum(disc(20.0), disc(70.0)))
    assert apart.spread == pytest.approx(math.hypot(25, RADIUS / math.sqrt(2)), rel=0.01)
    assert evidence(np.full((SIDE, SIDE), -1, np.float32)).spread == 0
