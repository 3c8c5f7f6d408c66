"""Datasets and videos become bags."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from robust_pvos_ros import interface
from robust_pvos_ros.bags.definitions import (
    COMPRESSED_IMAGE,
    IMAGE,
    BagError,
    compressed_message,
    jpeg_of,
    message_types,
)
from robust_pvos_ros.bags.frames import COMPRESSED_SUFFIX, truth_topic
from robust_pvos_ros.bags.places import fresh
from robust_pvos_ros.bags.writer import BagWriter
from robust_pvos_ros.evaluation.davis import AnnotatedSequence, find_sequences
from robust_pvos_ros.message_core import LABEL_ENCODING, NANOSECONDS, make_header, make_image
from robust_pvos_ros.video_file import VideoReader

START = NANOSECONDS  # not 0: a prompt with a stamp of zero means the newest frame
SLOWEST, FASTEST = 0.01, 1000.0


@dataclass(frozen=True)
class ImportOptions:
    """How a bag is made.

    Attributes:
        rate: Hz; 0 takes that of a video, and 30 for pictures.
        camera: its name.
        compressed: store pictures as files, a dataset's as they are and a video's as JPEG, instead of raw.
        truth: store the true labels of a dataset.
        quiet: show no progress bar.
    """

    rate: float = 0.0
    camera: str = 'camera'
    compressed: bool = False
    truth: bool = True
    quiet: bool = False


class _Frames:
    """Writes the frames of one clip at even times."""

    def __init__(self, writer: BagWriter, rate: float, options: ImportOptions) -> None:
        if not SLOWEST <= rate <= FASTEST:
            raise BagError(f'the rate must be from {SLOWEST:g} to {FASTEST:g} Hz, got {rate:g}')
        self._writer, self._rate, self._options = writer, rate, options
        self._topic = '/' + interface.IMAGE.of(options.camera)
        self.count = 0

    def add(self, rgb: np.ndarray, content: tuple[bytes, str] | None, labels: np.ndarray | None) -> None:
        """One frame; ``content`` is the file that ``rgb`` was read from and its format."""
        types = message_types()
        stamp = START + round(self.count * NANOSECONDS / self._rate)
        header = make_header(types, stamp, self._options.camera)
        if labels is not None:
            truth = make_image(types, labels.astype(np.uint16), LABEL_ENCODING, header)
            self._writer.write_message(truth_topic(self._options.camera), IMAGE, stamp, truth)
        if self._options.compressed:
            data, kind = content or (jpeg_of(rgb, 95), 'jpeg')
            message = compressed_message(data, kind, header)
            self._writer.write(self._topic + COMPRESSED_SUFFIX, COMPRESSED_IMAGE, stamp, message)
        else:
            self._writer.write_message(self._topic, IMAGE, stamp, make_image(types, rgb, 'rgb8', header))
        self.count += 1


def import_dataset(
    root: Path, out: Path, names: Sequence[str] = (), options: ImportOptions | None = None
) -> list[Path]:
    """A folder in DAVIS layout becomes a folder of bags, one for each sequence.

    Images go to ``/CAMERA/image_raw`` and true labels to ``/CAMERA/truth`` (16UC1, pixel = object ID), under one
    header.

    Args:
        root: with ``JPEGImages`` and ``Annotations``.
        out: folder to be made; it appears when all bags are complete.
        names: of sequences; none for all.
        options: see :class:`ImportOptions`.

    Raises:
        EvaluationError: naming what is wrong with the dataset.
        BagError: if the bags cannot be written.
    """
    options = options or ImportOptions()
    sequences = find_sequences(root, names)
    with fresh(out) as folder:
        folder.mkdir()
        total = sum(len(sequence) for sequence in sequences)
        with tqdm(total=total, unit='frame', disable=True if options.quiet else None) as progress:
            for sequence in sequences:
                progress.set_description(sequence.name)
                with BagWriter(folder / sequence.name, about={'sequence': sequence.name}) as writer:
                    for _ in _write_sequence(sequence, _Frames(writer, options.rate or 30.0, options), options):
                        progress.update()
    return [out / sequence.name for sequence in sequences]


def _write_sequence(sequence: AnnotatedSequence, frames: _Frames, options: ImportOptions) -> Iterator[None]:
    for frame in sequence:
        path = sequence.image_paths[frame.index]
        kind = 'png' if path.suffix.lower() == '.png' else 'jpeg'
        content = (path.read_bytes(), kind) if options.compressed else None
        frames.add(frame.rgb, content, frame.labels if options.truth else None)
        yield


def import_video(path: Path, out: Path, options: ImportOptions | None = None) -> int:
    """A video file becomes one bag; returns the number of frames.

    Raises:
        VideoError: if it cannot be read.
        BagError: if it has no frames or the bag cannot be written.
    """
    options = options or ImportOptions()
    video = VideoReader(path)
    rate = options.rate or (video.rate if SLOWEST <= video.rate <= FASTEST else 30.0)
    with BagWriter(out, about={'sequence': path.stem}) as writer:
        frames = _Frames(writer, rate, options)
        for rgb in tqdm(video, total=video.frames or None, unit='frame', disable=True if options.quiet else None):
            frames.add(rgb, None, None)
        if not frames.count:
            raise BagError(f'{path} has no frames that can be read')
        return frames.count
