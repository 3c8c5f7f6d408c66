"""What happens to a track over time: when it is lost, and whether it comes back after an occlusion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LOST_BELOW = 0.1
"""J of a frame on which the object is not found."""
LOST_FOR = 5
"""Frames in a row, all with the object in view, after which it counts as lost."""
FOUND_ABOVE = 0.5
"""J of a frame on which an object that was hidden is found again."""


def frames_to_loss(region: Sequence[float], visible: Sequence[bool]) -> int | None:
    """Number of frames until an object is lost: until the first of ``LOST_FOR`` frames that show it, with no other such
    frame between them, on all of which J is below ``LOST_BELOW``; None if that never happens.

    Args:
        region: J of each frame after the one the object was given on.
        visible: whether the truth shows it there.
    """
    begun, length = 0, 0
    for index, (score, shown) in enumerate(zip(region, visible, strict=True)):
        if not shown:
            continue
        if score >= LOST_BELOW:
            length = 0
            continue
        begun = index if not length else begun
        length += 1
        if length == LOST_FOR:
            return begun
    return None


@dataclass(frozen=True)
class Occlusion:
    """A time during which the truth does not show an object that it showed before and shows again.

    Attributes:
        start, end: frames, half-open, counted as in the scores.
        recovered_after: frames from ``end`` until J reaches ``FOUND_ABOVE``, 0 where it does at once; None where it
            does not before the object is hidden again or the clip ends.
    """

    start: int
    end: int
    recovered_after: int | None


def occlusions(region: Sequence[float], visible: Sequence[bool]) -> list[Occlusion]:
    """All occlusions of an object, in their order; arguments as in :func:`frames_to_loss`."""
    found: list[Occlusion] = []
    shown = [True, *visible]  # the object is in view on the frame it is given on
    count = len(visible)
    index = 0
    while index < count:
        if visible[index] or not shown[index]:
            index += 1
            continue
        start = index
        while index < count and not visible[index]:
            index += 1
        if index == count:
            break
        end = index
        while index < count and visible[index]:
            index += 1
        delays = [frame - end for frame in range(end, index) if region[frame] >= FOUND_ABOVE]
        found.append(Occlusion(start, end, delays[0] if delays else None))
    return found
