"""Pieces of a mask that went off with something else.  NumPy and OpenCV.

A look-alike that nobody has pointed at passes an object, the mask spreads over both, and when they part it comes apart.
By looks the wrong piece may well be the better one, where the object itself is about to be hidden.  But things do not
come apart: of a mask in several pieces, those are the object's that lie where its track of a second ago led, before the
two were mixed up, and pieces far from there are not.

Places, shapes and areas are in cells of the mask decoder's grid, as in :mod:`motion`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np
import torch

from robust_pvos_ros.tracking.motion import NOWHERE, Motion, moved
from robust_pvos_ros.tracking.presence import Evidence

SPACING = 0.25
"""Seconds between two waypoints."""
AGE = 1.0, 2.1
"""Seconds; younger waypoints may have followed both things, and older ones know too little."""
BASELINE = 0.5, 1.0
"""Seconds between the two places that a waypoint's velocity is taken from: frame by frame masks shake."""
WITNESSES = 3
"""Waypoints of that age that it takes."""
SMALLEST = 0.1
"""Share of the mask from which on a part of it counts as a piece."""
HOME = 0.6
"""Share of a piece that lies where the track leads, from which on the piece is the object's."""
SPREAD = 1.15
"""Growth of the spread of a mask below which it is not looked at for pieces."""


class Waypoint(NamedTuple):
    """A track as it was, shape in float16, and the mask's RMS distance from its centroid then, cells."""

    motion: Motion
    spread: float


class Parted(NamedTuple):
    """What is left of a mask whose pieces parted.

    Attributes:
        logits: float32 (h, w), with the strays taken out; motion: the track from before, on the frame.
        trail: the waypoints, without what was learnt from the strays.
    """

    logits: np.ndarray
    motion: Motion
    trail: tuple[Waypoint, ...]


def carried(motion: Motion, stamp: int) -> Motion:
    """A track on another frame, however far away: :meth:`Motion.at` believes it for a second only."""
    seconds = (stamp - motion.stamp) / 1e9
    x, y = (place + speed * seconds for place, speed in zip(motion.centre, motion.velocity, strict=True))
    return replace(motion, stamp=stamp, centre=(x, y))


def extended(trail: tuple[Waypoint, ...], motion: Motion, spread: float) -> tuple[Waypoint, ...]:
    """A trail with the track of a frame at its end, if the last waypoint is long enough ago, and without old ones."""
    since = (motion.stamp - trail[-1].motion.stamp) / 1e9 if trail else math.inf
    if since < 0:
        trail = ()
    elif since < SPACING:
        return trail
    kept = tuple(point for point in trail if motion.stamp - point.motion.stamp <= AGE[1] * 1e9)
    steady = replace(motion, velocity=_velocity(kept, motion), shape=motion.shape.to(torch.float16, copy=True))
    return (*kept, Waypoint(steady, spread))


def _velocity(trail: Sequence[Waypoint], motion: Motion) -> tuple[float, float]:
    for before in trail:
        seconds = (motion.stamp - before.motion.stamp) / 1e9
        if BASELINE[0] <= seconds <= BASELINE[1]:
            x, y = np.subtract(motion.centre, before.motion.centre) / seconds
            return float(x), float(y)
    return motion.velocity


def witnesses(trail: Sequence[Waypoint], stamp: int) -> list[Waypoint]:
    """The waypoints that tell where the object is on a frame; none where they are too few."""
    found = [point for point in trail if AGE[0] <= (stamp - point.motion.stamp) / 1e9 <= AGE[1]]
    return found if len(found) >= WITNESSES else []


def may_have_parted(trail: Sequence[Waypoint], evidence: Evidence, stamp: int) -> bool:
    """Whether a mask is spread wider than before, so that it is worth looking for pieces."""
    asked = witnesses(trail, stamp)
    return bool(asked) and evidence.spread > SPREAD * min(point.spread for point in asked)


def part(logits: np.ndarray, trail: Sequence[Waypoint], stamp: int, stray: float) -> Parted | None:
    """Take the strays out of a mask.

    Args:
        logits: float32 (h, w) of the object's mask on a frame.
        trail: its waypoints.
        stamp: nanoseconds, of the frame.
        stray: share of a piece that lies where the track leads, up to which the piece is not the object's.

    Returns:
        None where the mask is in one piece, or its track does not tell the pieces apart.
    """
    mask = logits > 0
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    pieces = [n for n in range(1, count) if stats[n, cv2.CC_STAT_AREA] >= SMALLEST * np.count_nonzero(mask)]
    asked = witnesses(trail, stamp)
    if len(pieces) < 2 or not asked:
        return None
    shapes = []
    for point in asked:
        offset = np.subtract(carried(point.motion, stamp).centre, point.motion.anchor)
        shapes.append(moved(point.motion.shape.float().cpu().numpy(), *offset) > 0)
    cover = np.array([[np.mean(shape[labels == n]) for shape in shapes] for n in pieces])
    own, strays = cover.mean(1) >= HOME, cover.mean(1) <= stray
    if not own.any() or not strays.any():
        return None
    best = asked[int(np.argmax(cover[own].mean(0)))].motion
    rest = [
        point if point.motion.stamp <= best.stamp else point._replace(motion=carried(best, point.motion.stamp))
        for point in trail
    ]
    gone = np.isin(labels, [n for n, flag in zip(pieces, strays, strict=True) if flag])
    return Parted(np.where(gone, NOWHERE, logits), carried(best, stamp), tuple(rest))
