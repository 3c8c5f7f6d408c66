"""Where the demo's pictures come from: the street scene, a video file, a folder of pictures.  No ROS."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
import numpy as np

from robust_pvos_ros.procedural.street import StreetScene
from robust_pvos_ros.tracking.types import PvosError

PICTURES = ('.bmp', '.jpeg', '.jpg', '.png', '.ppm', '.tif', '.tiff', '.webp')
STREET_RATE = 15.0
FASTEST = 30.0


class SourceError(PvosError):
    """Pictures that cannot be read."""


class Picture(NamedTuple):
    """uint8 RGB (H, W, 3), and uint16 (H, W) object IDs where the truth is known."""

    rgb: np.ndarray
    truth: np.ndarray | None = None


class Source(Protocol):
    """Pictures over time.

    Attributes:
        rate: natural rate, Hz.
        duration: seconds, or infinity where the end is not known in advance.
    """

    rate: float
    duration: float

    def at(self, time: float) -> Picture | None:
        """Picture at ``time`` seconds, which must not decrease between calls; None after the end."""


class StreetSource:
    """The rendered street scene with its truth."""

    def __init__(self, width: int = 640, height: int = 480, seed: int = 0) -> None:
        self._scene = StreetScene(width, height, seed)
        self.rate, self.duration = STREET_RATE, self._scene.duration

    def at(self, time: float) -> Picture | None:
        """See ``Source``."""
        return None if time > self.duration else Picture(*self._scene.frame(time))


class VideoSource:
    """A video file read through OpenCV.

    Raises:
        SourceError: if OpenCV cannot read it.
    """

    def __init__(self, path: Path) -> None:
        self._capture = cv2.VideoCapture(str(path))
        self._position = -1
        self._newest: np.ndarray | None = None
        if not self._advance():
            raise SourceError(f'{path} cannot be read as a video: give a video file that OpenCV reads, or a folder')
        self._native = self._capture.get(cv2.CAP_PROP_FPS)
        if not 1.0 <= self._native <= 1000.0:
            self._native = FASTEST
        frames = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.rate = min(self._native, FASTEST)
        self.duration = (frames - 1) / self._native if frames > 0 else float('inf')

    def _advance(self) -> bool:
        read, bgr = self._capture.read()
        if read:
            self._newest = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
            self._position += 1
        return read

    def at(self, time: float) -> Picture | None:
        """See ``Source``."""
        wanted = round(time * self._native)
        while self._position + 1 < wanted:
            if not self._capture.grab():
                return None
            self._position += 1
        if self._position < wanted and not self._advance():
            return None
        return None if self._newest is None else Picture(self._newest)


class FolderSource:
    """A folder of pictures in the order of their names, all of one size.

    Raises:
        SourceError: if there are none.
    """

    def __init__(self, folder: Path, rate: float | None) -> None:
        self._paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
        if not self._paths:
            raise SourceError(f'{folder} has no pictures: it should contain files such as 00000.jpg or 00000.png')
        self.rate = STREET_RATE if rate is None else rate
        self.duration = (len(self._paths) - 1) / self.rate

    def at(self, time: float) -> Picture | None:
        """See ``Source``; raises ``SourceError`` for a file that is no picture."""
        index = round(time * self.rate)
        if index >= len(self._paths):
            return None
        bgr = cv2.imread(str(self._paths[index]), cv2.IMREAD_COLOR)
        if bgr is None:
            raise SourceError(f'{self._paths[index]} cannot be read as a picture')
        return Picture(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))


def open_source(video: Path | None, rate: float | None = None, seed: int = 0) -> Source:
    """Pictures of a video file or a folder; of the street scene where ``video`` is None.

    Raises:
        SourceError: if there is no such file or it holds no pictures.
    """
    if video is None:
        return StreetSource(seed=seed)
    if not video.exists():
        raise SourceError(f'{video} does not exist: give a video file or a folder of pictures')
    return FolderSource(video, rate) if video.is_dir() else VideoSource(video)
