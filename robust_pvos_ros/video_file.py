"""Video files under construction and for reading, through OpenCV.  No ROS."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from robust_pvos_ros.tracking.types import PvosError

CODECS = {'.mp4': 'mp4v', '.webm': 'VP80', '.avi': 'MJPG'}


class VideoError(PvosError):
    """A video file that cannot be written or read."""


class VideoFile:
    """A video file under construction; it is made with the first picture.

    Args:
        path: ending in ``.mp4`` (MPEG-4), ``.webm`` (VP8, which browsers play) or ``.avi``.
        rate: Hz.

    Raises:
        VideoError: if the ending is another one.
    """

    def __init__(self, path: Path, rate: float) -> None:
        if path.suffix not in CODECS:
            raise VideoError(f'a video must end in {", ".join(CODECS)}, got {path.name}')
        self.path = path
        self.frames = 0
        self._rate = rate
        self._size = (0, 0)
        self._writer: cv2.VideoWriter | None = None

    def add(self, bgr: np.ndarray) -> None:
        """Append a picture, uint8 (H, W, 3); one of another size than the first is scaled to that.

        Raises:
            VideoError: if OpenCV cannot write the file.
        """
        if self._writer is None:
            self._size = (bgr.shape[1], bgr.shape[0])
            codec = cv2.VideoWriter.fourcc(*CODECS[self.path.suffix])
            with _hushed():
                self._writer = cv2.VideoWriter(str(self.path), codec, self._rate, self._size)
            if not self._writer.isOpened():
                raise VideoError(f'OpenCV cannot write {self.path}: its build lacks the encoder')
        if (bgr.shape[1], bgr.shape[0]) != self._size:
            bgr = cv2.resize(bgr, self._size, interpolation=cv2.INTER_AREA)
        self._writer.write(bgr)
        self.frames += 1

    def close(self) -> None:
        """Finish the file and read it back.  Raises ``VideoError`` if pictures are missing in it."""
        if self._writer is not None:
            self._writer.release()
        count = count_frames(self.path)
        if count != self.frames:
            raise VideoError(f'{self.path} holds {count} of {self.frames} pictures')


@contextmanager
def _hushed() -> Iterator[None]:
    """Without OpenCV's remarks on fourcc tags, which it writes past all its log levels."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(nowhere)
        os.close(kept)


def count_frames(path: Path) -> int:
    """Number of frames that can be read from a video file."""
    capture = cv2.VideoCapture(str(path))
    count = 0
    while capture.grab():
        count += 1
    capture.release()
    return count


class VideoReader:
    """Frames of a video file in order, each once.

    Args:
        path: any file that OpenCV reads.

    Raises:
        VideoError: if it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise VideoError(f'{path} is no file')
        os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')  # what it would say is in the error below
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise VideoError(f'{path} cannot be read as a video')
        self.rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        self.frames = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))

    def __iter__(self) -> Iterator[np.ndarray]:
        """uint8 (H, W, 3) RGB."""
        while True:
            read, bgr = self._capture.read()
            if not read:
                self._capture.release()
                return
            yield cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
