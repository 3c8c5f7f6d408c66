"""Contact sheets: what a method did to a clip, at a glance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from robust_pvos_ros.evaluation.metrics import EvaluationError

COLOURS_RGB = np.array(
    [(255, 140, 0), (0, 190, 255), (255, 80, 200), (120, 230, 60), (160, 120, 255), (255, 220, 0), (0, 220, 170)],
    np.uint8,
)
"""Tints of objects, by ID; they repeat."""

TITLE_HEIGHT = 28
TITLE_FONT = cv2.FONT_HERSHEY_SIMPLEX


@dataclass(frozen=True, eq=False)
class SheetRow:
    """A title above tiles, uint8 (h, w, 3) RGB of one height."""

    title: str
    tiles: tuple[np.ndarray, ...]


def draw_tile(rgb: np.ndarray, truth: np.ndarray, predicted: np.ndarray, width: int = 320) -> np.ndarray:
    """A small picture of one frame: predictions as tints, the true objects as white outlines.

    Args:
        rgb: uint8 (H, W, 3).
        truth: integer (H, W) object IDs.
        predicted: integer (H, W) object IDs.
        width: of the tile, pixels.

    Returns:
        uint8 (width * H / W, width, 3) RGB.
    """
    size = width, max(1, round(width * rgb.shape[0] / rgb.shape[1]))
    tile = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    small_truth = cv2.resize(truth.astype(np.uint16), size, interpolation=cv2.INTER_NEAREST)
    small_predicted = cv2.resize(predicted.astype(np.uint16), size, interpolation=cv2.INTER_NEAREST)
    inside = small_predicted > 0
    tint = COLOURS_RGB[(small_predicted[inside].astype(int) - 1) % len(COLOURS_RGB)]
    tile[inside] = (0.45 * tile[inside] + 0.55 * tint).astype(np.uint8)
    for object_id in np.unique(small_truth[small_truth > 0]):
        mask = (small_truth == object_id).astype(np.uint8)
        outlines, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(tile, outlines, -1, (0, 0, 0), 2)
        cv2.drawContours(tile, outlines, -1, (255, 255, 255), 1)
    return tile


def write_sheet(path: Path, rows: Sequence[SheetRow], gap: int = 4) -> None:
    """Write the rows below one another into one image file; short rows are filled up on the right.

    Raises:
        EvaluationError: if there is nothing to draw or the file cannot be written.
    """
    bands = [_draw_row(row, gap) for row in rows if row.tiles]
    if not bands:
        raise EvaluationError(f'nothing to draw in {path}: there are no frames')
    width = max(band.shape[1] for band in bands)
    sheet = np.concatenate([np.pad(band, ((0, 0), (0, width - band.shape[1]), (0, 0))) for band in bands])
    written, data = cv2.imencode(path.suffix, cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    if not written:
        raise EvaluationError(f'cannot encode {path}: use the ending .png or .jpg')
    path.write_bytes(data.tobytes())


def _draw_row(row: SheetRow, gap: int) -> np.ndarray:
    strip = np.concatenate([np.pad(tile, ((0, gap), (0, gap), (0, 0))) for tile in row.tiles], axis=1)
    title = np.zeros((TITLE_HEIGHT, strip.shape[1], 3), np.uint8)
    cv2.putText(title, row.title, (6, TITLE_HEIGHT - 9), TITLE_FONT, 0.55, (255, 255, 255), 1, cv2.LINE_AA)
    return np.concatenate([title, strip])
