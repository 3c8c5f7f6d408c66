"""Region similarity J and contour accuracy F of video object segmentation, as the DAVIS toolkit computes them.

Definitions: Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation", CVPR 2016,
section 5; conventions (boundary maps, tolerance, empty masks, frames that count) of ``davis2017-evaluation``.

Masks are bool (H, W), or any dtype whose non-zero pixels are the object.  Scores are fractions in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np

from robust_pvos_ros.tracking.types import PvosError

BOUNDARY_TOLERANCE = 0.008
"""Distance within which two contours agree, as a fraction of the image diagonal."""

ScoredFrames = Literal['interior', 'after_first']
"""Frames that count.  ``interior``: all but the first and the last (DAVIS semi-supervised, its toolkit);
``after_first``: all but the first (YouTube-VOS, and most reports of J&F elsewhere)."""


class EvaluationError(PvosError):
    """Masks, files or options that cannot be scored."""


def region_similarity(truth: np.ndarray, predicted: np.ndarray, void: np.ndarray | None = None) -> float:
    """J: intersection over union of two masks; 1 where both are empty.

    Args:
        truth, predicted: (H, W) masks.
        void: (H, W) mask of pixels that count for neither, or None.

    Raises:
        EvaluationError: if the shapes differ.
    """
    truth, predicted = _as_masks(truth, predicted, void)
    union = cv2.countNonZero(cv2.bitwise_or(truth, predicted))
    if union == 0:
        return 1.0
    return cv2.countNonZero(cv2.bitwise_and(truth, predicted)) / union


def swapped_ids(truth: np.ndarray, predicted: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of objects that have taken each other's place in one frame.

    Two objects are swapped where each predicted mask overlaps the other's true mask more, by J, than its own.

    Args:
        truth, predicted: integer (H, W) object IDs, 0 background.

    Returns:
        pairs (smaller ID, larger ID), ascending.

    Raises:
        EvaluationError: if the shapes differ.
    """
    if truth.shape != predicted.shape:
        raise EvaluationError(f'truth and prediction differ in shape: {truth.shape} and {predicted.shape}')
    ids = [int(value) for value in np.union1d(truth, predicted) if value]
    if len(ids) < 2:
        return []
    rows, columns = (np.searchsorted([0, *ids], labels.ravel()) for labels in (truth, predicted))
    both = np.bincount(rows * (len(ids) + 1) + columns, minlength=(len(ids) + 1) ** 2).reshape(len(ids) + 1, -1)
    union = both.sum(1, keepdims=True) + both.sum(0, keepdims=True) - both
    overlap = (both / np.maximum(union, 1))[1:, 1:]  # of each true mask with each predicted one
    own = overlap.diagonal()
    taken = overlap > own[None]  # [i, j]: mask j lies on object i rather than on its own
    return [(ids[i], ids[j]) for i in range(len(ids)) for j in range(i + 1, len(ids)) if taken[i, j] and taken[j, i]]


def contour_accuracy(
    truth: np.ndarray,
    predicted: np.ndarray,
    void: np.ndarray | None = None,
    tolerance: float = BOUNDARY_TOLERANCE,
) -> float:
    """F: harmonic mean of the precision and the recall of the contour.

    A contour pixel is right where the other contour passes within the tolerance, which is what dilating the other
    contour with a disk does.  Two masks without a contour score 1, one without against one with scores 0.

    Args:
        truth, predicted: (H, W) masks.
        void: (H, W) mask of pixels that are cleared in both masks before their contours are taken, or None.
        tolerance: fraction of the image diagonal, at 1 or above, pixels; rounded up to whole pixels.

    Raises:
        EvaluationError: if the shapes differ.
    """
    truth, predicted = _as_masks(truth, predicted, void)
    radius = math.ceil(tolerance if tolerance >= 1 else tolerance * math.hypot(*truth.shape))
    truth_contour, predicted_contour = boundary_map(truth), boundary_map(predicted)
    truth_count, predicted_count = cv2.countNonZero(truth_contour), cv2.countNonZero(predicted_contour)
    if truth_count == 0 or predicted_count == 0:
        return float(truth_count == predicted_count)
    # Every contour pixel lies in this window: nothing outside it can match.
    x, y, width, height = cv2.boundingRect(cv2.bitwise_or(truth_contour, predicted_contour))
    window = np.s_[y : y + height, x : x + width]
    truth_contour, predicted_contour = truth_contour[window], predicted_contour[window]
    precision = cv2.countNonZero(cv2.bitwise_and(predicted_contour, _near(truth_contour, radius))) / predicted_count
    recall = cv2.countNonZero(cv2.bitwise_and(truth_contour, _near(predicted_contour, radius))) / truth_count
    if precision + recall == 0:
        return 0.0
    return 2 * precision * recall / (precision + recall)


def boundary_map(mask: np.ndarray) -> np.ndarray:
    """One pixel wide contour of a mask, displaced by half a pixel towards the origin.

    A pixel is on the contour where it differs from its right, lower or lower right neighbour (Martin's ``seg2bmap``);
    the border of the image is no contour.

    Args:
        mask: uint8 (H, W), 0 or 1.

    Returns:
        uint8 (H, W), 0 or 1.
    """
    contour = np.zeros_like(mask)
    inner = mask[:-1, :-1]
    differs = (inner ^ mask[:-1, 1:]) | (inner ^ mask[1:, :-1]) | (inner ^ mask[1:, 1:])
    contour[:-1, :-1] = differs
    contour[-1, :-1] = mask[-1, :-1] ^ mask[-1, 1:]
    contour[:-1, -1] = mask[:-1, -1] ^ mask[1:, -1]
    return contour


def _near(contour: np.ndarray, radius: int) -> np.ndarray:
    """uint8 (H, W): 1 within ``radius`` pixels of the contour."""
    steps = np.arange(-radius, radius + 1) ** 2
    disk = (steps[:, None] + steps[None, :] <= radius * radius).astype(np.uint8)
    return cv2.dilate(contour, disk)


def _as_masks(truth: np.ndarray, predicted: np.ndarray, void: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Both masks as uint8 0/1 with void pixels cleared."""
    if truth.ndim != 2:
        raise EvaluationError(f'a mask must have shape (H, W), got {truth.shape}')
    if predicted.shape != truth.shape:
        raise EvaluationError(f'the predicted mask is {predicted.shape}, but the true mask is {truth.shape}')
    if void is not None and void.shape != truth.shape:
        raise EvaluationError(f'the void mask is {void.shape}, but the true mask is {truth.shape}')
    truth, predicted = truth.astype(bool, copy=False), predicted.astype(bool, copy=False)
    if void is not None:
        keep = ~void.astype(bool, copy=False)
        truth, predicted = truth & keep, predicted & keep
    return truth.view(np.uint8), predicted.view(np.uint8)


@dataclass(frozen=True)
class Statistics:
    """Summary of one object's per-frame scores, as in the DAVIS tables.

    Attributes:
        mean: mean over the frames.
        recall: fraction of the frames with a score above 0.5.
        decay: mean of the first quarter of the frames minus mean of the last; positive where the track degrades.
    """

    mean: float
    recall: float
    decay: float


def statistics(scores: Sequence[float] | np.ndarray) -> Statistics:
    """Mean, recall and decay of (T,) per-frame scores; all NaN where there is no frame."""
    values = np.asarray(scores, np.float64)
    if values.size == 0:
        return Statistics(math.nan, math.nan, math.nan)
    # The toolkit's quarters share their end frames, and round half up.
    edges = (np.round(np.linspace(1, len(values), 5) + 1e-10) - 1).astype(int)
    decay = values[edges[0] : edges[1] + 1].mean() - values[edges[3] : edges[4] + 1].mean()
    return Statistics(float(values.mean()), float((values > 0.5).mean()), float(decay))


def scored_frames(frame_count: int, first: int = 0, frames: ScoredFrames = 'interior') -> range:
    """Indices of the frames that count for an object prompted on frame ``first`` of ``frame_count``.

    Raises:
        EvaluationError: if ``frames`` is not one of the two conventions.
    """
    if frames not in get_args(ScoredFrames):
        raise EvaluationError(f'scored frames must be one of {", ".join(get_args(ScoredFrames))}, got {frames!r}')
    return range(first + 1, frame_count - 1 if frames == 'interior' else frame_count)


@dataclass(frozen=True)
class ObjectScore:
    """Scores of one object of one sequence.

    Attributes:
        object_id: index of the object in the annotations.
        region: statistics of J.
        contour: statistics of F.
        frames: number of frames that counted.
    """

    object_id: int
    region: Statistics
    contour: Statistics
    frames: int

    @property
    def mean(self) -> float:
        """J&F: mean of the object's mean J and mean F."""
        return (self.region.mean + self.contour.mean) / 2


@dataclass(frozen=True)
class MeanScore:
    """Mean J, F and J&F over objects."""

    region: float
    contour: float
    mean: float


def mean_score(objects: Sequence[ObjectScore]) -> MeanScore:
    """Mean over objects, each with the same weight whatever its sequence, as DAVIS-2017 does; objects without a frame
    that counts are left out; all NaN where none is left."""
    counted = [score for score in objects if score.frames]
    if not counted:
        return MeanScore(math.nan, math.nan, math.nan)
    region = float(np.mean([score.region.mean for score in counted]))
    contour = float(np.mean([score.contour.mean for score in counted]))
    return MeanScore(region, contour, (region + contour) / 2)
