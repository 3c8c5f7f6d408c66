"""The demo's pictures: a video with the masks drawn in, and a contact sheet of it.  No ROS."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from robust_pvos_ros.demo.report import ReplayedFrame, ReportError
from robust_pvos_ros.overlay import draw_overlay

GAP = 4
CAPTION = 22
FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw_frame(frame: ReplayedFrame) -> np.ndarray:
    """Overlay of one frame: uint8 BGR (H, W, 3)."""
    ids = np.array([tracked.object_id for tracked in frame.objects], np.uint16).reshape(-1, 1, 1)
    return draw_overlay(frame.rgb, frame.labels[None] == ids, frame.objects)


def contact_sheet(tiles: list[tuple[str, np.ndarray]], columns: int, tile_width: int) -> np.ndarray:
    """Pictures in rows, each with a caption below it.

    Args:
        tiles: (caption, uint8 BGR (H, W, 3)), in reading order; at least one.
        columns: tiles in a row.
        tile_width: pixels.

    Returns:
        uint8 BGR.
    """
    height = round(tile_width * tiles[0][1].shape[0] / tiles[0][1].shape[1])
    rows = -(-len(tiles) // columns)
    sheet = np.full((rows * (height + CAPTION + GAP) + GAP, columns * (tile_width + GAP) + GAP, 3), 24, np.uint8)
    for index, (caption, picture) in enumerate(tiles):
        top = GAP + index // columns * (height + CAPTION + GAP)
        left = GAP + index % columns * (tile_width + GAP)
        sheet[top:top + height, left:left + tile_width] = cv2.resize(
            picture, (tile_width, height), interpolation=cv2.INTER_AREA)
        cv2.putText(sheet, caption, (left + 4, top + height + CAPTION - 7), FONT, 0.45, (225, 225, 225), 1, cv2.LINE_AA)
    return sheet


def save_sheet(path: Path, bgr: np.ndarray) -> None:
    """Write a PNG of 256 colours, a third of the size of a full one.  Raises ``ReportError`` if that fails."""
    from PIL import Image

    picture = Image.fromarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))
    try:
        picture.quantize(256, kmeans=2, dither=Image.Dither.NONE).save(path, optimize=True)
    except OSError as error:
        raise ReportError(f'{path} cannot be written: {error}') from error
