"""Labelled videos as they lie on disk: folders of images and mask PNGs, and the videos and JSON masks of SA-V.

A video is loaded from file names and lists, and read frame by frame; a file that is missing, cannot be read or does not
fit its neighbours raises ``DatasetError``.  :mod:`training.datasets` finds videos and draws clips of them.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from robust_pvos_ros.tracking.types import PvosError

IMAGES = ('.jpeg', '.jpg', '.png')
VOID = 255
SAV_STEP = 4  # SA-V has 24 frames and 6 masks per second


class DatasetError(PvosError):
    """A dataset, or a file of it, that cannot be used; the text names it and says what would be right."""


class Masks(NamedTuple):
    """Masks of one frame: the file they come from, (H, W), and a bool (H, W) for each visible object by its ID."""

    source: Path
    shape: tuple[int, int]
    objects: dict[int, np.ndarray]


@dataclass(frozen=True)
class Video(ABC):
    """The M annotated frames of one video; frames without annotation are left out.

    Attributes:
        name: of the folder or file.
        frames: M image files in the order of time, or M times the one video file.
        objects: annotated frames (0 to M - 1) on which each object may be seen; None where only the masks tell.
    """

    name: str
    frames: tuple[Path, ...]
    objects: dict[int, tuple[int, ...]] | None

    def __len__(self) -> int:
        return len(self.frames)

    @abstractmethod
    def read_masks(self, index: int) -> Masks:
        """Masks of annotated frame ``index``.  Raises DatasetError."""

    def read_images(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """uint8 (H, W, 3) RGB of annotated frames, whose ``indices`` must ascend.  Raises DatasetError."""
        for index in indices:
            yield read_image(self.frames[index])

    def read(self, indices: Sequence[int]) -> Iterator[tuple[np.ndarray, Masks]]:
        """Images and masks of annotated frames, whose ``indices`` must ascend.

        Raises:
            DatasetError: if a file cannot be read, or a mask has not the size of its image.
        """
        for index, rgb in zip(indices, self.read_images(indices)):
            masks = self.read_masks(index)
            if masks.shape != rgb.shape[:2]:
                raise DatasetError(
                    f'{masks.source} has masks of {masks.shape[1]}x{masks.shape[0]} pixels, but {self.frames[index]} '
                    f'is {rgb.shape[1]}x{rgb.shape[0]}: a mask must have the size of its image'
                )
            yield rgb, masks


def _files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in suffixes and not p.name.startswith('.'))


def load_folder(
    images: Path, annotations: Path, dense: bool = True, meta: Path | None = None, described: Any = None
) -> Video:
    """A video of image and mask files; ``described`` is what ``meta`` says of it."""
    pictures = {path.stem: path for path in _files(images, IMAGES)}
    if not pictures:
        raise DatasetError(f'{images} has no images: it must hold files such as 00000.jpg')
    if not annotations.is_dir():
        raise DatasetError(f'{annotations} is missing: it must hold the masks of {images}')
    masks = {path.stem: path for path in _files(annotations, ['.png'])}
    if not masks:
        raise DatasetError(f'{annotations} has no masks: it must hold files such as {next(iter(pictures))}.png')
    for stem, path in masks.items():
        if stem not in pictures:
            raise DatasetError(f'{path} has no image: {images / stem}.jpg must exist')
    for stem, path in pictures.items():
        if dense and stem not in masks:
            raise DatasetError(f'{annotations / stem}.png is missing: {path} must have a mask')
    objects: dict[int, tuple[int, ...]] | None = None
    if meta is not None:
        index = {stem: i for i, stem in enumerate(masks)}
        objects = {}
        for number, stems in _described_objects(meta, images.name, described).items():
            lost = [stem for stem in stems or () if stem not in index]
            if lost:
                raise DatasetError(
                    f'{annotations / lost[0]}.png is missing: {meta} lists frame {lost[0]} for object {number} of '
                    f'{images.name}, so it must have a mask'
                )
            objects[number] = tuple(sorted(index.values() if stems is None else (index[stem] for stem in stems)))
    frames = tuple(pictures[stem] for stem in masks)
    return FolderVideo(images.name, frames, objects, tuple(masks.values()), meta)


def _described_objects(meta: Path, video: str, described: Any) -> dict[int, list[str] | None]:
    """Names of the frames of every object; None where they are not listed."""
    objects = described.get('objects') if isinstance(described, dict) else None
    if not isinstance(objects, dict) or not objects:
        raise DatasetError(f'{meta} has no objects of the video {video}: it must have videos.{video}.objects')
    found: dict[int, list[str] | None] = {}
    for key, value in objects.items():
        stems = value.get('frames') if isinstance(value, dict) else None
        listed = stems is None or (isinstance(stems, list) and all(isinstance(stem, str) for stem in stems))
        if not (key.isdecimal() and 0 < int(key) < VOID and listed):
            raise DatasetError(
                f'{meta} describes the object {key!r} of {video} wrongly: '
                f'IDs are numbers from 1 to {VOID - 1} and frames a list such as ["00000", "00005"]'
            )
        found[int(key)] = stems
    return found


@dataclass(frozen=True)
class FolderVideo(Video):
    """A video whose masks are palette or grey PNGs; in them 255 is void, which counts as background."""

    annotations: tuple[Path, ...]
    meta: Path | None

    def read_masks(self, index: int) -> Masks:
        """See ``Video``."""
        path = self.annotations[index]
        values = read_labels(path)
        shape = values.shape[0], values.shape[1]
        if self._is_binary:
            return Masks(path, shape, {1: values > 0} if values.any() else {})
        present = [int(v) for v in np.flatnonzero(np.bincount(values.ravel(), minlength=256)) if v not in (0, VOID)]
        unknown = [v for v in present if self.objects is not None and v not in self.objects]
        if unknown:
            raise DatasetError(
                f'{path} has pixels of object {unknown[0]}, but {self.meta} names only '
                f'{", ".join(map(str, sorted(self.objects or {})))} for {self.name}'
            )
        return Masks(path, shape, {v: values == v for v in present})

    @cached_property
    def _is_binary(self) -> bool:
        """Whether 255 is the one object, as in DAVIS-2016: where it is all that the first used mask holds."""
        if self.objects is not None:
            return False
        for path in self.annotations:
            values = read_labels(path)
            if values.any():
                return bool(np.isin(values, (0, VOID)).all())
        return False


def load_sav(stem: Path, files: tuple[Path, ...]) -> Video:
    """A video of SA-V; the objects of all its JSON files are numbered on from 1."""
    tables = [_read_masklets(path) for path in files]
    size, count = tables[0][0], min(len(table) for _, table in tables)
    masklets: dict[int, tuple[Path, list[str | None]]] = {}
    for path, (other, table) in zip(files, tables):
        if other != size:
            raise DatasetError(f'{path} has masks of {other} pixels (height, width), but {files[0]} has {size}')
        for column in range(len(table[0])):
            masklets[len(masklets) + 1] = path, [row[column] for row in table[:count]]
    objects = {
        number: tuple(i for i, counts in enumerate(column) if counts is not None and _holds_anything(counts))
        for number, (_, column) in masklets.items()
    }
    return SavVideo(stem.name, _sav_frames(stem, files[0], count), objects, size, masklets)


def _sav_frames(stem: Path, masks: Path, count: int) -> tuple[Path, ...]:
    """The files of the frames that have masks: those numbered 0, 4, 8 ..., or the video file ``count`` times."""
    if not stem.is_dir():
        video = stem.with_name(f'{stem.name}.mp4')
        if not video.is_file():
            raise DatasetError(f'{masks} has no video: {video}, or a folder {stem} of its frames, must exist')
        return (video,) * count
    numbered = {int(path.stem): path for path in _files(stem, IMAGES) if path.stem.isdecimal()}
    for number in range(0, count * SAV_STEP, SAV_STEP):
        if number not in numbered:
            raise DatasetError(
                f'{stem / f"{number:05d}.jpg"} is missing: {masks} has {count} masks, of every {SAV_STEP}th frame, '
                'and frames must be numbered as in the video'
            )
    return tuple(numbered[number] for number in range(0, count * SAV_STEP, SAV_STEP))


def _read_masklets(path: Path) -> tuple[tuple[int, int], list[list[str | None]]]:
    """(height, width) and the run lengths of every frame and object in a JSON file of SA-V, None where no mask is."""
    content = read_json(path)
    rows = content.get('masklet') if isinstance(content, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, list) and len(row) == len(rows[0]) for row in rows):
        raise DatasetError(f'{path} has no table "masklet": it must be a list of frames with a mask for every object')
    sizes: set[tuple[int, int]] = set()
    table: list[list[str | None]] = []
    for row in rows:
        table.append([])
        for mask in row:
            match mask:
                case None:
                    table[-1].append(None)
                case {'size': [int(height), int(width)], 'counts': str(counts)}:
                    sizes.add((height, width))
                    table[-1].append(counts)
                case _:
                    raise DatasetError(
                        f'{path} has a wrong mask on frame {len(table) - 1}: '
                        'it must be {"size": [height, width], "counts": text}'
                    )
    if len(sizes) != 1:
        raise DatasetError(f'{path} has masks of {len(sizes)} sizes: it must have masks of one size, that of the video')
    return sizes.pop(), table


@dataclass(frozen=True)
class SavVideo(Video):
    """A video of SA-V; its masks may overlap.  ``masklets`` holds the file and the run lengths of every object."""

    size: tuple[int, int]
    masklets: dict[int, tuple[Path, list[str | None]]]

    def read_images(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """See ``Video``."""
        if self.frames[0].suffix == '.mp4':
            return _decode(self.frames[0], [SAV_STEP * index for index in indices])
        return super().read_images(indices)

    def read_masks(self, index: int) -> Masks:
        """See ``Video``."""
        objects = {}
        path = next(iter(self.masklets.values()))[0]
        for number, (path, column) in self.masklets.items():
            counts = column[index]
            if counts is None or not _holds_anything(counts):
                continue
            try:
                objects[number] = decode_rle(counts, *self.size)
            except ValueError as error:
                raise DatasetError(f'{path} has a wrong mask on frame {index}: {error}') from error
        return Masks(path, self.size, objects)


def _decode(path: Path, numbers: Sequence[int]) -> Iterator[np.ndarray]:
    """Frames of a video file.  Decodes from its begin: what seeking finds depends on the codec."""
    capture, wanted = cv2.VideoCapture(str(path)), set(numbers)
    try:
        for number in range(max(wanted, default=-1) + 1):
            read = capture.grab()
            bgr = None
            if read and number in wanted:
                read, bgr = capture.retrieve()
            if not read:
                raise DatasetError(f'{path} cannot be read beyond {number} frames: its masks need {max(wanted) + 1}')
            if bgr is not None:
                yield cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    finally:
        capture.release()


def _holds_anything(counts: str) -> bool:
    """Whether compressed run lengths have a second run, the first one of an object."""
    ends = (not (ord(c) - 48) & 32 for c in counts)
    return any(ends) and any(ends)


def decode_rle(counts: str, height: int, width: int) -> np.ndarray:
    """bool (H, W) mask from COCO's compressed run lengths.

    Runs go down the columns and begin with background.  A character is 48 plus 6 bits, 5 of them of a number in two's
    complement, lowest first, and one set where the number goes on; from the fourth on, numbers are differences to the
    run before the last.

    Raises:
        ValueError: if the text is no such encoding, or its runs do not add up to the image.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f'{character!r} does not occur in compressed run lengths')
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            signed = value - (1 << shift if bits & 16 else 0)
            runs.append(signed + runs[-2] if len(runs) > 2 else signed)
            value = shift = 0
    if shift or min(runs, default=0) < 0 or sum(runs) != height * width:
        raise ValueError(f'run lengths must end, be positive and add up to {height}x{width} pixels, not {sum(runs)}')
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


@contextmanager
def _naming(path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, SyntaxError) as error:  # the last from PNG chunks
        raise DatasetError(f'{path} cannot be read: it must be {kind} ({error})') from error


def read_json(path: Path) -> Any:
    """Content of a JSON file.  Raises DatasetError."""
    with _naming(path, 'JSON'):
        return json.loads(path.read_text('utf-8'))


def read_image(path: Path) -> np.ndarray:
    """uint8 (H, W, 3) RGB.  Raises DatasetError."""
    with _naming(path, 'a JPEG or PNG image'), Image.open(path) as image:
        return np.array(image.convert('RGB'))


def read_labels(path: Path) -> np.ndarray:
    """uint8 (H, W) palette index or grey value of a PNG.  Raises DatasetError."""
    with _naming(path, 'a palette or grey PNG'), Image.open(path) as image:
        values = np.array(image)
    if values.ndim == 3 and (values[..., :3] == values[..., :1]).all():  # grey, stored as colour
        values = values[..., 0]
    if values.dtype == bool:
        values = values.astype(np.uint8) * VOID
    if values.ndim != 2 or values.dtype != np.uint8:
        raise DatasetError(f'{path} has colours or more than 8 bits: it must be a palette or grey PNG of object IDs')
    return values
