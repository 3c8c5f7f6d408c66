"""Which tracked object a detection belongs to, so that a detector neither doubles objects nor lets them go.  NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

import numpy as np

from robust_pvos_ros.tracking.types import FrameResult, ObjectState, Prompt, TrackedObject

Box = tuple[float, float, float, float]


class Verdict(Enum):
    """What to do with a detection: start an object, leave a tracked one alone, or prompt one that was not seen."""

    START = 'start'
    KNOWN = 'known'
    RESEED = 'reseed'


class Match(NamedTuple):
    """Verdict, the ID it concerns (0 with START), and the overlap in [0, 1] that decided."""

    verdict: Verdict
    object_id: int = 0
    overlap: float = 0.0


class Scene(NamedTuple):
    """The objects on one frame, and where those that are not TRACKING there were last seen, in pixels of that frame."""

    result: FrameResult
    last_boxes: Mapping[int, Box]

    def match(self, prompt: Prompt, threshold: float) -> Match:
        """Which object a prompt for a new one shows; see :func:`associate`.

        Raises:
            PromptError: if the prompt does not fit the frame.
        """
        prompt.check_against(self.result.height, self.result.width)
        return associate(prompt, self.result, self.last_boxes, threshold)


def box_iou(a: Box, b: Box) -> float:
    """IoU of two boxes (x0, y0, x1, y1); 0 where one is empty."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union


def mask_iou(a: np.ndarray, b: np.ndarray) -> float:
    """IoU of two bool (H, W) masks; 0 where both are empty."""
    union = np.count_nonzero(a | b)
    return float(np.count_nonzero(a & b) / union) if union else 0.0


def mask_box(mask: np.ndarray) -> Box:
    """Half-open box around a bool (H, W) mask; all 0 where it is empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return 0.0, 0.0, 0.0, 0.0
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def overlap_with_mask(prompt: Prompt, mask: np.ndarray, box: Box) -> float:
    """Overlap in [0, 1] of a prompt with a visible object.

    A mask is compared with the mask, a box with the box around it; points alone overlap wholly or not at all: every
    foreground point must lie in the mask, and no background point.

    Args:
        prompt: drawn on the image of the mask.
        mask: bool (H, W); box: around it, half-open.
    """
    if prompt.mask is not None:
        return mask_iou(prompt.mask, mask)
    if prompt.box is not None:
        return box_iou(_box_of(prompt), box)
    columns, rows = np.floor(prompt.points + 0.5).astype(int).T
    inside = mask[np.clip(rows, 0, mask.shape[0] - 1), np.clip(columns, 0, mask.shape[1] - 1)]
    return float((inside == (prompt.point_labels == 1)).all())


def overlap_with_box(prompt: Prompt, box: Box) -> float:
    """Overlap in [0, 1] of a prompt with the box in which an object was last seen."""
    if prompt.mask is not None or prompt.box is not None:
        return box_iou(_box_of(prompt), box)
    x, y = prompt.points[prompt.point_labels == 1].T
    return float(((x >= box[0]) & (x < box[2]) & (y >= box[1]) & (y < box[3])).all())


def associate(prompt: Prompt, result: FrameResult, last_boxes: Mapping[int, Box], threshold: float) -> Match:
    """Find the object that a prompt for a new one shows already.

    An object that is TRACKING counts with its mask, one that is not with the box in which it was last seen, and only
    if not both have labels and they differ.

    Args:
        prompt: of a new object, drawn on the frame of ``result`` and checked against it.
        result: the objects on that frame.
        last_boxes: object ID -> box in pixels of that frame, for the objects that are not TRACKING.
        threshold: least overlap in [0, 1] of one and the same object.
    """
    best = Match(Verdict.START)
    for tracked in result.objects:
        if tracked.state == ObjectState.TRACKING:
            overlap = overlap_with_mask(prompt, result.mask(tracked.object_id), tracked.box)
            if overlap >= threshold and overlap > best.overlap:
                best = Match(Verdict.KNOWN, tracked.object_id, overlap)
    if best.verdict is Verdict.KNOWN:
        return best
    for tracked in result.objects:
        if tracked.state != ObjectState.TRACKING and _may_be(prompt, tracked):
            overlap = overlap_with_box(prompt, last_boxes.get(tracked.object_id, (0.0, 0.0, 0.0, 0.0)))
            if overlap >= threshold and overlap > best.overlap:
                best = Match(Verdict.RESEED, tracked.object_id, overlap)
    return best


def _may_be(prompt: Prompt, tracked: TrackedObject) -> bool:
    return not prompt.label or not tracked.label or prompt.label == tracked.label


def same_thing(a: Prompt, b: Prompt, threshold: float) -> bool:
    """Whether the boxes of, or around, two prompts overlap by ``threshold`` or more; points alone never do."""
    first, second = (_box_of(prompt) for prompt in (a, b))
    return box_iou(first, second) >= threshold


def _box_of(prompt: Prompt) -> Box:
    if prompt.mask is not None:
        return mask_box(prompt.mask)
    if prompt.box is None:
        return 0.0, 0.0, 0.0, 0.0
    x0, y0, x1, y1 = prompt.box.tolist()
    return x0, y0, x1, y1
