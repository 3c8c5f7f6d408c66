"""A picture for people: every object's mask, outline, ID, label and state on the camera image.  NumPy and OpenCV.

Colours follow the ID and never change; neighbouring IDs differ most.  They are the palette of Okabe and Ito (2008),
which people with any common colour-vision deficiency can tell apart; the ID is written as well, so colour is never the
only clue.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import cv2
import numpy as np

from robust_pvos_ros.tracking.types import ObjectState, TrackedObject

# RGB: vermillion, sky blue, yellow, bluish green, orange, blue, reddish purple.
PALETTE = (
    (213, 94, 0),
    (86, 180, 233),
    (240, 228, 66),
    (0, 158, 115),
    (230, 159, 0),
    (0, 114, 178),
    (204, 121, 167),
)
TINT = 0.45
FONT = cv2.FONT_HERSHEY_SIMPLEX
LONGEST_LABEL = 24


def colour_of(object_id: int) -> tuple[int, int, int]:
    """RGB colour of an object, the same for ever."""
    return PALETTE[(object_id - 1) % len(PALETTE)]


def describe(tracked: TrackedObject) -> str:
    """What is written beside an object: ``3 car``, ``3 car OCCLUDED 12`` (frames since it was seen)."""
    label = unicodedata.normalize('NFKD', tracked.label).encode('ascii', 'ignore').decode()
    if len(label) > LONGEST_LABEL:
        label = label[: LONGEST_LABEL - 2] + '..'
    words = [str(tracked.object_id)] + ([label] if label else [])
    if tracked.state != ObjectState.TRACKING:
        words += [tracked.state.name, str(tracked.frames_since_seen)]
    return ' '.join(words)


def draw_overlay(rgb: np.ndarray, masks: np.ndarray, objects: Sequence[TrackedObject]) -> np.ndarray:
    """Draw the objects of a frame.

    Args:
        rgb: uint8 (H, W, 3) camera image; it is not changed.
        masks: bool (N, H, W).
        objects: N objects, aligned with ``masks``.

    Returns:
        uint8 (H, W, 3) in OpenCV's BGR order.
    """
    canvas = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    thickness = max(1, round(min(canvas.shape[:2]) / 320))
    for mask, tracked in zip(masks, objects, strict=True):
        if tracked.area_px:
            _draw_mask(canvas, mask, tracked, thickness)
    row = 0
    for tracked in objects:
        if tracked.area_px:
            _write(canvas, describe(tracked), tracked.object_id, (tracked.box[0], tracked.box[1]), above=True)
        else:
            row += _write(canvas, describe(tracked), tracked.object_id, (0, row), above=False)
    return canvas


def _draw_mask(canvas: np.ndarray, mask: np.ndarray, tracked: TrackedObject, thickness: int) -> None:
    x0, y0, x1, y1 = tracked.box
    bgr = colour_of(tracked.object_id)[::-1]
    window, inside = canvas[y0:y1, x0:x1], mask[y0:y1, x0:x1]
    tinted = cv2.addWeighted(window, 1 - TINT, np.full_like(window, bgr), TINT, 0)
    np.copyto(window, tinted, where=inside[..., None])
    contours, _ = cv2.findContours(
        inside.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=(x0, y0)
    )
    cv2.drawContours(canvas, contours, -1, (0, 0, 0), thickness + 2, cv2.LINE_AA)
    cv2.drawContours(canvas, contours, -1, bgr, thickness, cv2.LINE_AA)


def _write(canvas: np.ndarray, text: str, object_id: int, corner: tuple[int, int], above: bool) -> int:
    """Text on a filled tag in the object's colour, kept inside the picture; returns the tag's height in pixels."""
    height, width = canvas.shape[:2]
    scale = min(max(min(height, width) / 900, 0.4), 1.6)
    stroke = max(1, round(scale * 1.5))
    (text_width, text_height), baseline = cv2.getTextSize(text, FONT, scale, stroke)
    pad = max(2, text_height // 4)
    tag_width, tag_height = text_width + 2 * pad, text_height + baseline + 2 * pad
    x = int(np.clip(corner[0], 0, max(width - tag_width, 0)))
    y = int(np.clip(corner[1] - (tag_height if above else 0), 0, max(height - tag_height, 0)))
    rgb = colour_of(object_id)
    cv2.rectangle(canvas, (x, y), (x + tag_width - 1, y + tag_height - 1), rgb[::-1], cv2.FILLED)
    dark_text = np.dot(rgb, (0.299, 0.587, 0.114)) > 110
    ink = (0, 0, 0) if dark_text else (255, 255, 255)
    cv2.putText(canvas, text, (x + pad, y + pad + text_height), FONT, scale, ink, stroke, cv2.LINE_AA)
    return tag_height
