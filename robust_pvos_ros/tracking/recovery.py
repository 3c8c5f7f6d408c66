"""How an object that was out of sight is found again.

SAM 2 remembers every frame, and of a frame without the object it remembers that there is none; after a second of them
it does not know the object any more when it comes back.  So what an object remembered when it was last seen whole is
kept aside, and as long as it is not TRACKING, the frame is looked at a second time with that memory, as if no time had
passed.  Whole, since what goes behind something is a sliver at last, and a memory of slivers finds slivers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from robust_pvos_ros.tracking.memory import ObjectMemory
from robust_pvos_ros.tracking.motion import Motion
from robust_pvos_ros.tracking.pieces import Waypoint
from robust_pvos_ros.tracking.presence import Evidence

GOOD_LOOKS = 3
"""Frames on which an object must be found in the same place."""
POOR = 1
"""Frames between two of them on which it may be missed, as in heavy rain."""
SAME_PLACE = 0.5
"""IoU of its masks on two frames in a row."""
SIZE = 0.4, 2.0
"""Area of the mask over that of the object before it went."""
LEAST_IOU = 0.5
"""Predicted IoU of the mask."""
WHOLE = 0.6
"""Area of a mask over the largest of the last seconds from which on the object counts as seen whole."""


class Whole(NamedTuple):
    """An object when it was last seen whole: what it remembered then, and the largest area of its mask, cells."""

    memory: ObjectMemory
    area: float


def seen_whole(memory: ObjectMemory, area: float, trail: Sequence[Waypoint]) -> Whole | None:
    """What to keep of an object whose mask has this area, cells, by its waypoints; None where a part is hidden."""
    largest = max((area, *(point.motion.area for point in trail)))
    return Whole(memory.copy(), largest) if area >= WHOLE * largest else None


class Sighting(NamedTuple):
    """An object that may have been found again.

    Attributes:
        frame_index: of the last frame on which it was; mask: bool (h, w) there; frames: on how many it was.
    """

    frame_index: int
    mask: Tensor
    frames: int

    @property
    def is_sure(self) -> bool:
        """Whether it was found often enough."""
        return self.frames >= GOOD_LOOKS


def sighted(
    logits: Tensor, evidence: Evidence, motion: Motion | None, before: Sighting | None, frame_index: int, least: float
) -> Sighting | None:
    """What a second look at a frame says; what was said before where it was missed, None where it is not found.

    Args:
        logits: (h, w) of the mask of the second look; evidence: of it.
        motion: of the object when it was last TRACKING.
        before: what the second look at the frame before said.
        frame_index: of the frame.
        least: object score that it takes, ``TrackerConfig.recovery_score``.
    """
    if motion is None:
        return None
    since = frame_index - before.frame_index if before is not None else 0
    credible = evidence.score >= least and evidence.iou >= LEAST_IOU
    if not credible or not SIZE[0] * motion.area <= evidence.cells.area <= SIZE[1] * motion.area:
        return before if 0 < since <= POOR else None
    mask = logits > 0
    if before is None or not 0 < since <= 1 + POOR:
        return Sighting(frame_index, mask, 1)
    same = float((mask & before.mask).sum() / (mask | before.mask).sum()) >= SAME_PLACE
    return Sighting(frame_index, mask, before.frames + 1 if same else 1)
