"""Where an object is headed, and which pixels are whose where several objects claim the same ones.  NumPy and OpenCV.

SAM 2 goes by looks and by place.  Of two things that look alike and pass each other it makes one, or lets them trade
places, for nothing in a mask says which way a thing was going.  Here every object has a constant-velocity track of its
mask (an alpha-beta filter of the centroid), fed while the object is seen whole and alone; where several claim the same
pixels, each is given those where its track puts the shape that it had last.

Places, shapes and areas are in cells of the mask decoder's grid, S / 4 on a side over the whole image; x before y.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np
from torch import Tensor

from robust_pvos_ros.tracking.association import mask_iou

Place = tuple[float, float]

POSITION_GAIN, VELOCITY_GAIN = 0.6, 0.15
"""Of the alpha-beta filter, per frame; at first it is a least-squares line through all places."""
AREA_GAIN = 0.1
WHOLE = 0.85, 1.2
"""Area of a mask over the mean of the last ones within which the object counts as seen whole."""
GROWN = 1.4
"""Likewise, from which on it may have taken in another object."""
FRESH = 1.0
"""Seconds for which a track can be carried on."""
REACH = 2
"""Cells that a shape may be away from where its track puts it."""
STRAY_COST = 0.01
"""IoU that each cell away from the track must gain."""
FIT, STILL_FITS = 0.75, 0.5
"""IoU of all shapes together and all that is claimed, from which on tracks are believed; and go on to be."""
NOWHERE = -32.0


class Cells(NamedTuple):
    """A mask's number of cells, and their centroid (x, y)."""

    area: float
    centre: Place


@dataclass(frozen=True)
class Motion:
    """The track of one object.

    Attributes:
        stamp: nanoseconds, of the frame that the rest belongs to.
        centre: (x, y), cells.
        velocity: (x, y), cells a second.
        area: mean of the last frames, cells.
        shape: float32 (h, w), mask logits of the last frame on which it was seen whole.
        anchor: (x, y) centroid of ``shape``.
        places: number of places that led to ``velocity``.
        contested: whether others claimed its pixels on that frame.
    """

    stamp: int
    centre: Place
    velocity: Place
    area: float
    shape: Tensor
    anchor: Place
    places: int = 1
    contested: bool = False

    @property
    def radius(self) -> float:
        """Of a disc of its area, cells."""
        return math.sqrt(self.area / math.pi)

    def is_fresh(self, stamp: int) -> bool:
        """Whether it says where the object is at a time, nanoseconds."""
        return 0 <= stamp - self.stamp <= FRESH * 1e9

    def at(self, stamp: int) -> Motion:
        """Carried on to another time; the object stands still where that is too far away."""
        seconds = (stamp - self.stamp) / 1e9
        if not self.is_fresh(stamp):
            return replace(self, stamp=stamp, velocity=(0.0, 0.0))
        x, y = (place + speed * seconds for place, speed in zip(self.centre, self.velocity, strict=True))
        return replace(self, stamp=stamp, centre=(x, y))

    def nudged(self, dx: float, dy: float, stamp: int) -> Motion:
        """Carried on to a time and moved by some cells, at the velocity that it had."""
        ahead = self.at(stamp)
        x, y = (place + POSITION_GAIN * off for place, off in zip(ahead.centre, (dx, dy), strict=True))
        return replace(ahead, centre=(x, y), contested=True)

    def found(self, centre: Place, stamp: int) -> Motion:
        """Carried on to a time and drawn towards where it was found then."""
        ahead, seconds = self.at(stamp), (stamp - self.stamp) / 1e9
        if seconds == 0 or not self.is_fresh(stamp):
            return replace(ahead, centre=centre, places=1, contested=False)
        count = self.places + 1
        gain = max(POSITION_GAIN, 2 * (2 * count - 1) / (count * (count + 1)))
        speed_gain = max(VELOCITY_GAIN, 6 / (count * (count + 1)))
        error = [own - place for own, place in zip(centre, ahead.centre, strict=True)]
        x, y = (place + gain * off for place, off in zip(ahead.centre, error, strict=True))
        u, v = (speed + speed_gain * off / seconds for speed, off in zip(ahead.velocity, error, strict=True))
        return replace(ahead, centre=(x, y), velocity=(u, v), places=count, contested=False)

    def seen(self, cells: Cells, logits: Tensor, stamp: int) -> Motion:
        """After a mask that is the object's alone, logits (h, w)."""
        mean = self.area + AREA_GAIN * (cells.area - self.area)
        if not WHOLE[0] * self.area <= cells.area <= WHOLE[1] * self.area:
            # partly hidden, or spread over something else
            ahead = self.at(stamp) if self.is_fresh(stamp) else self.found(cells.centre, stamp)
            return replace(ahead, area=mean, contested=False)
        return replace(self.found(cells.centre, stamp), area=mean, shape=logits, anchor=cells.centre)


def track_of(cells: Cells, logits: Tensor, stamp: int, before: Motion | None = None) -> Motion:
    """The track of a mask that is sure to be right, such as a prompt's; it keeps the velocity of one ``before`` it."""
    if before is None or not before.is_fresh(stamp):
        return Motion(stamp, cells.centre, (0.0, 0.0), cells.area, logits, cells.centre)
    followed = before.found(cells.centre, stamp)
    return replace(followed, centre=cells.centre, area=cells.area, shape=logits, anchor=cells.centre)


def has_taken(cells: Cells, own: Motion, other: Motion, stamp: int) -> bool:
    """Whether a mask sits where the track of another object leads and not where its own does."""
    here, there = (math.dist(cells.centre, motion.at(stamp).centre) for motion in (own, other))
    apart = math.dist(own.at(stamp).centre, other.at(stamp).centre)
    return bool(cells.area) and there < 0.5 * other.radius and here > own.radius and apart > own.radius


def covers(logits: np.ndarray, motion: Motion, stamp: int) -> bool:
    """Whether a mask, logits (h, w), lies where a track leads."""
    x, y = (round(place) for place in motion.at(stamp).centre)
    return 0 <= y < logits.shape[0] and 0 <= x < logits.shape[1] and bool(logits[y, x] > 0)


class Share(NamedTuple):
    """What one of several objects gets: mask logits float32 (h, w), and its track on the frame."""

    logits: np.ndarray
    motion: Motion


def moved(shape: np.ndarray, dx: float, dy: float) -> np.ndarray:
    """Mask logits float32 (h, w), so many cells further; what comes in over the border is NOWHERE."""
    matrix = np.array([[1, 0, dx], [0, 1, dy]], np.float32)
    return cv2.warpAffine(shape, matrix, shape.shape[::-1], borderMode=cv2.BORDER_CONSTANT, borderValue=NOWHERE)


def _settle(shapes: Sequence[np.ndarray], claimed: np.ndarray) -> list[tuple[int, int]]:
    """Cells (x, y) that each shape has to move so that together they cover the claimed pixels best."""
    offsets = [(0, 0)] * len(shapes)
    masks = [shape > 0 for shape in shapes]
    steps = [(dx, dy) for dx in range(-REACH, REACH + 1) for dy in range(-REACH, REACH + 1)]
    for _ in range(2):
        for place, shape in enumerate(shapes):
            rest = np.logical_or.reduce([np.zeros_like(claimed), *masks[:place], *masks[place + 1 :]])
            (height, width), wide = shape.shape, np.pad(shape > 0, REACH)
            tries = [wide[REACH - dy :, REACH - dx :][:height, :width] for dx, dy in steps]
            gains = [
                mask_iou(mask | rest, claimed) - STRAY_COST * math.hypot(*step)
                for mask, step in zip(tries, steps, strict=True)
            ]
            best = int(np.argmax(gains))
            offsets[place], masks[place] = steps[best], tries[best]
    return offsets


def tell_apart(
    logits: Sequence[np.ndarray], motions: Sequence[Motion], stamp: int, exchange: bool
) -> list[Share]:
    """Share out the pixels that several objects claim.

    Args:
        logits: float32 (h, w) of each object's mask on the frame.
        motions: their tracks up to an earlier frame.
        stamp: nanoseconds, of the frame.
        exchange: whether an object is also given pixels that only others claim.

    Returns:
        What each object gets; where two shapes overlap both keep the pixel.  Empty where the shapes do not fit what is
        claimed, so that tracks are no guide.
    """
    together = np.maximum.reduce(list(logits))
    claimed = together > 0
    ahead = [motion.at(stamp) for motion in motions]
    shapes = [
        moved(motion.shape.float().cpu().numpy(), *np.subtract(motion.centre, motion.anchor)) for motion in ahead
    ]
    offsets = _settle(shapes, claimed)
    shapes = [moved(shape, *offset) for shape, offset in zip(shapes, offsets, strict=True)]
    covered = np.logical_or.reduce([shape > 0 for shape in shapes])
    if mask_iou(covered, claimed) < (STILL_FITS if all(motion.contested for motion in motions) else FIT):
        return []
    nearest, claims = np.argmax(shapes, 0), np.sum([mask > 0 for mask in logits], 0)
    shares = []
    for place, (shape, raw, (dx, dy)) in enumerate(zip(shapes, logits, offsets, strict=True)):
        fits = (shape > 0) | (nearest == place)
        own = claimed & fits if exchange else (raw > 0) & (fits | (claims == 1))
        part = np.where(own, together, np.minimum(np.minimum(shape, raw), -1.0))
        shares.append(Share(part, motions[place].nudged(dx, dy, stamp)))
    return shares
