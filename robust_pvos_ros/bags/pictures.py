"""Pictures of a scored clip for the report: close-ups of chosen moments, and a small video, as data URIs."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from robust_pvos_ros.bags.definitions import jpeg_of
from robust_pvos_ros.bags.scoring import ScoredClip, ScoredFrame, Source, scored_frames_of
from robust_pvos_ros.evaluation.sheet import draw_tile
from robust_pvos_ros.video_file import VideoError, VideoFile

TILE_WIDTH = 300
VIDEO_WIDTH = 480
VIDEO_FRAMES = 240
ASPECT = 4 / 3
CONTEXT = 2.2
"""Width of a close-up in widths of what it shows."""


@dataclass
class ClipPictures:
    """Data URIs.

    Attributes:
        tiles: (frame, object ID) -> JPEG.
        video: WebM, or empty; ``poster`` is a JPEG from the middle of it.
    """

    tiles: dict[tuple[int, int], str] = field(default_factory=dict)
    video: str = ''
    poster: str = ''


def draw_pictures(source: Source, clip: ScoredClip, wanted: Mapping[int, Sequence[int]]) -> ClipPictures:
    """Draw a clip.

    Args:
        source: of the frames.
        clip: as scored.
        wanted: frame -> IDs of the objects to be shown there.
    """
    found = ClipPictures()
    every = -(-clip.score.frames // VIDEO_FRAMES)
    with tempfile.TemporaryDirectory() as folder:
        seconds = clip.seconds_per_frame * every
        rate = min(30.0, max(2.0, 1 / seconds)) if seconds > 0 else 10.0
        video = VideoFile(Path(folder) / 'overlay.webm', rate)
        try:
            for index, frame in enumerate(scored_frames_of(source, clip)):
                for object_id in wanted.get(index, ()):
                    found.tiles[index, object_id] = data_uri(jpeg_of(close_up(frame, object_id), 82), 'image/jpeg')
                if index % every == 0:
                    tile = draw_tile(frame.rgb(), frame.truth, frame.labels, VIDEO_WIDTH)
                    even = tile[: tile.shape[0] // 2 * 2]
                    video.add(cv2.cvtColor(even, cv2.COLOR_RGB2BGR))
                    if not found.poster or index <= clip.score.frames // 2:
                        found.poster = data_uri(jpeg_of(even, 80), 'image/jpeg')
            video.close()
            found.video = data_uri(video.path.read_bytes(), 'video/webm')
        except VideoError:
            found.video = ''  # this OpenCV cannot write WebM; the report does without
    return found


def data_uri(content: bytes, media_type: str) -> str:
    """Content as part of a page."""
    return f'data:{media_type};base64,{base64.b64encode(content).decode()}'


def close_up(frame: ScoredFrame, object_id: int) -> np.ndarray:
    """Tile, uint8 (h, w, 3) RGB, around the true and the predicted mask of an object: predictions as tints, truth as
    white outlines."""
    height, width = frame.truth.shape
    rgb = frame.rgb()
    ys, xs = np.nonzero((frame.truth == object_id) | (frame.labels == object_id))
    if not len(xs):
        ys, xs = np.array([0, height - 1]), np.array([0, width - 1])
    wide = max(CONTEXT * (xs.max() - xs.min()), CONTEXT * ASPECT * (ys.max() - ys.min()), width / 4)
    wide = int(min(wide, width, ASPECT * height))
    tall = max(1, int(wide / ASPECT))
    left = int(np.clip((xs.min() + xs.max() - wide) / 2, 0, width - wide))
    top = int(np.clip((ys.min() + ys.max() - tall) / 2, 0, height - tall))
    window = np.s_[top : top + tall, left : left + wide]
    return draw_tile(rgb[window], frame.truth[window], frame.labels[window], TILE_WIDTH)
