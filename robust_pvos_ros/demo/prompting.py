"""Where a prompt goes: from the truth of the scene, from the command line, or from what stands out.  No ROS."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np

from robust_pvos_ros.tracking.types import Prompt, PromptError

SMALLEST_PROMPT = 250  # pixels of an object that is worth pointing at
WORKING_WIDTH = 320


def largest_part(mask: np.ndarray) -> np.ndarray:
    """The largest connected component of a bool mask (H, W); an empty mask stays empty."""
    count, parts, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if count < 2:
        return np.zeros_like(mask)
    return parts == 1 + int(statistics[1:, cv2.CC_STAT_AREA].argmax())


def innermost_point(mask: np.ndarray) -> tuple[float, float]:
    """(x, y) of the pixel of a bool mask (H, W) that is farthest from its outline and the image border."""
    padded = np.pad(mask.astype(np.uint8), 1)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(distance.argmax()), distance.shape)
    return float(x), float(y)


def bounding_box(mask: np.ndarray) -> np.ndarray:
    """float32 (x0, y0, x1, y1), half-open, of a bool mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)


def points_along(mask: np.ndarray, count: int) -> np.ndarray:
    """``count`` points inside an object: the innermost one of each of as many bands, from top to bottom.

    Returns:
        float32 (P, 2), P at most ``count``.
    """
    _, first, _, last = bounding_box(mask)
    points = []
    for top, bottom in pairwise(np.linspace(first, last, count + 1).astype(int)):
        band = np.zeros_like(mask)
        band[top:bottom] = mask[top:bottom]
        if band.any():
            points.append(innermost_point(largest_part(band)))
    return np.array(points, np.float32)


def prompt_from_truth(mask: np.ndarray, label: str, how: str) -> Prompt | None:
    """A prompt as a person would draw it who sees the object.

    Args:
        mask: bool (H, W), the object's true mask.
        how: ``point``, ``points`` (three, from top to bottom), ``box`` or ``mask``.

    Returns:
        None where too little of the object is visible.
    """
    if np.count_nonzero(mask) < SMALLEST_PROMPT:
        return None
    if how == 'mask':
        return Prompt(label=label, mask=mask)
    if how == 'box':
        return Prompt(label=label, box=bounding_box(mask))
    points = points_along(mask, 3 if how == 'points' else 1)
    return Prompt(label=label, points=points, point_labels=np.ones(len(points), np.int32))


def correction(truth: np.ndarray, predicted: np.ndarray, object_id: int) -> Prompt | None:
    """A click into the middle of the largest error: foreground where the object was missed, background where not.

    Args:
        truth, predicted: bool (H, W).

    Returns:
        None where nothing of the object is visible; a click on the object itself where nothing is wrong.
    """
    if np.count_nonzero(truth) < SMALLEST_PROMPT:
        return None
    missed, extra = largest_part(truth & ~predicted), largest_part(predicted & ~truth)
    worst, foreground = (missed, 1) if missed.sum() >= extra.sum() else (extra, 0)
    if not worst.any():
        worst, foreground = truth, 1
    return Prompt(object_id, points=np.array([innermost_point(worst)], np.float32),
                  point_labels=np.array([foreground], np.int32))


def parse_prompt(text: str) -> Prompt:
    """Prompt from the command line: ``point:x,y``, ``point:x,y;x,y`` or ``box:x0,y0,x1,y1``, and ``@label`` at the end.

    Raises:
        PromptError: if the text is none of these.
    """
    body, _, label = text.partition('@')
    kind, _, numbers = body.partition(':')
    try:
        rows = [[float(number) for number in part.split(',')] for part in numbers.split(';')]
    except ValueError:
        rows = []
    if kind == 'point' and rows and all(len(row) == 2 for row in rows):
        return Prompt(label=label, points=np.array(rows, np.float32), point_labels=np.ones(len(rows), np.int32))
    if kind == 'box' and len(rows) == 1 and len(rows[0]) == 4:
        return Prompt(label=label, box=np.array(rows[0], np.float32))
    raise PromptError(f'prompt {text!r} is not understood: write point:x,y or box:x0,y0,x1,y1 in pixels, '
                      f'with @label at the end if you like')


def salient_box(pictures: Sequence[np.ndarray]) -> tuple[np.ndarray, str]:
    """Box around what a person would most likely look at: near the middle, unlike the border in colour, moving.

    A heuristic that finds a lone subject; say what you mean with a prompt of your own where there are several.

    Args:
        pictures: one or more consecutive uint8 (H, W, 3) RGB frames; the box belongs to the last.

    Returns:
        (float32 (x0, y0, x1, y1), why it was chosen).
    """
    height, width = pictures[-1].shape[:2]
    scale = min(1.0, WORKING_WIDTH / width)
    small = [cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) for picture in pictures]
    rows, columns = small[-1].shape[:2]
    y, x = np.mgrid[:rows, :columns]
    centre = np.exp(-(((x / columns - 0.5) / 0.38) ** 2 + ((y / rows - 0.5) / 0.38) ** 2))
    contrast = _contrast_to_border(small[-1])
    motion = _own_motion(small[0], small[-1]) if len(small) > 1 else np.zeros((rows, columns), np.float32)
    moves = float(np.percentile(motion, 99)) > 0.8
    cues = _stretched(contrast) + (1.5 * _stretched(motion) if moves else 0.0)
    salience = cv2.GaussianBlur((cues * centre).astype(np.float32), (0, 0), 3)
    part = _best_part(salience > max(float(np.percentile(salience, 85)), 0.45 * float(salience.max())), salience)
    if not part.any():
        part = centre > 0.5
    box = np.clip(bounding_box(part) / scale, 0, [width, height, width, height]).astype(np.float32)
    return box, 'it moves and stands out' if moves else 'it stands out'


def _stretched(values: np.ndarray) -> np.ndarray:
    """Values mapped so that the median becomes 0 and the 98th percentile 1, clipped to that range."""
    low, high = np.percentile(values, (50, 98))
    return np.clip((values - low) / max(float(high - low), 1e-6), 0, 1)


def _own_motion(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Length of the optical flow, in pixels, that an affine camera motion does not explain; 0 where nothing is seen."""
    grey = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (first, last)]
    start = np.zeros((*grey[0].shape, 2), np.float32)
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST).calc(grey[1], grey[0], start)
    y, x = np.mgrid[:flow.shape[0], :flow.shape[1]].astype(np.float32)
    here = np.stack([x, y], -1)
    grid = (slice(4, None, 8), slice(4, None, 8))
    matrix, _ = cv2.estimateAffine2D(here[grid].reshape(-1, 2), (here + flow)[grid].reshape(-1, 2),
                                     ransacReprojThreshold=1.0)
    if matrix is None:
        return np.zeros(flow.shape[:2], np.float32)
    explained = here @ matrix[:, :2].T.astype(np.float32) + matrix[:, 2].astype(np.float32) - here
    texture = cv2.blur(cv2.morphologyEx(grey[1], cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)), (9, 9))
    seen = np.clip(texture.astype(np.float32) / 24, 0, 1)  # flow over a plain surface is a guess
    return np.minimum(np.linalg.norm(flow - explained, axis=2), 6) * seen


def _contrast_to_border(picture: np.ndarray) -> np.ndarray:
    """Distance in Lab to the nearest of the colours that the border of the picture is made of."""
    lab = cv2.GaussianBlur(cv2.cvtColor(picture, cv2.COLOR_RGB2LAB), (0, 0), 1.5).astype(np.float32)
    rim = max(2, min(lab.shape[:2]) // 20)
    border = np.concatenate([lab[:rim].reshape(-1, 3), lab[-rim:].reshape(-1, 3), lab[:, :rim].reshape(-1, 3),
                             lab[:, -rim:].reshape(-1, 3)])
    cv2.setRNGSeed(0)
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 12, 0.5)
    _, _, centres = cv2.kmeans(border, min(8, len(border)), np.zeros((len(border), 1), np.int32), stop, 1,
                               cv2.KMEANS_PP_CENTERS)
    return np.min([np.linalg.norm(lab - colour, axis=2) for colour in centres], axis=0)


def _best_part(mask: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The connected component of ``mask`` with the largest sum of ``weight``."""
    closed = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((7, 7), np.uint8))
    count, parts = cv2.connectedComponents(closed)
    if count < 2:
        return np.zeros_like(mask)
    sums = np.bincount(parts.ravel(), weight.ravel().astype(np.float64), count)
    sums[0] = -1
    return parts == int(sums.argmax())
