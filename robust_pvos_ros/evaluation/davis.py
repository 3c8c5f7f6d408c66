"""Reads video object segmentation datasets in DAVIS folder layout.

``ROOT/JPEGImages[/480p]/SEQUENCE/*.jpg`` and ``ROOT/Annotations[/480p]/SEQUENCE/*.png``, one annotation per image with
the same stem.  Annotations are palette or grey PNGs whose value is the object ID (DAVIS-2017), or binary 0/255 ones
with a single object (DAVIS-2016); in the former 255 is void, which counts as background.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from robust_pvos_ros.evaluation.metrics import EvaluationError

VOID = 255
RESOLUTIONS = ('480p', 'Full-Resolution', '1080p')


@dataclass(frozen=True, eq=False)
class AnnotatedFrame:
    """One frame.  ``rgb`` is uint8 (H, W, 3); ``labels`` is uint8 (H, W), object ID at each pixel, 0 background."""

    index: int
    rgb: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class AnnotatedSequence:
    """One clip; iterating reads its frames from disk one at a time.

    Raises (when a frame is read):
        EvaluationError: naming the file that cannot be read or does not fit its image.
    """

    name: str
    image_paths: tuple[Path, ...]
    annotation_paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.image_paths)

    def __iter__(self) -> Iterator[AnnotatedFrame]:
        for index in range(len(self)):
            yield self.frame(index)

    def frame(self, index: int) -> AnnotatedFrame:
        """Read frame ``index``, counted from 0."""
        rgb = read_image(self.image_paths[index])
        path = self.annotation_paths[index]
        values = read_annotation(path)
        if values.shape != rgb.shape[:2]:
            raise EvaluationError(
                f'{path} is {values.shape[1]}x{values.shape[0]} pixels, but {self.image_paths[index].name} is '
                f'{rgb.shape[1]}x{rgb.shape[0]}'
            )
        if self._is_binary:
            labels = (values != 0).astype(np.uint8)
        else:
            labels = np.where(values == VOID, 0, values).astype(np.uint8)
        return AnnotatedFrame(index, rgb, labels)

    @cached_property
    def _is_binary(self) -> bool:
        """Whether 255 means the one object: so where it is all that the first annotation with anything in it holds."""
        for path in self.annotation_paths:
            values = np.unique(read_annotation(path))
            if values.any():
                return set(values.tolist()) <= {0, VOID}
        return False


def read_image(path: Path) -> np.ndarray:
    """uint8 (H, W, 3) RGB.  Raises EvaluationError naming the file."""
    try:
        with Image.open(path) as image:
            return np.array(image.convert('RGB'))
    except (OSError, ValueError) as error:
        raise EvaluationError(f'cannot read the image {path}: {error}') from error


def read_annotation(path: Path) -> np.ndarray:
    """uint8 (H, W) palette index or grey value of a PNG.  Raises EvaluationError naming the file."""
    try:
        with Image.open(path) as image:
            values = np.array(image)
    except (OSError, ValueError) as error:
        raise EvaluationError(f'cannot read the annotation {path}: {error}') from error
    if values.ndim == 3:  # some releases of DAVIS-2016 store a few grey masks as colour images
        colours = values[..., :3]
        if (colours != colours[..., :1]).any():
            raise EvaluationError(f'the annotation {path} is a colour image: it must be a palette or grey PNG')
        values = colours[..., 0]
    if values.dtype == bool:
        return values.astype(np.uint8) * VOID
    if values.dtype != np.uint8:
        raise EvaluationError(f'the annotation {path} has {values.dtype} pixels: it must have 8 bits or 1 bit')
    return values


def find_sequences(root: Path, names: Sequence[str] = ()) -> list[AnnotatedSequence]:
    """The sequences under ``root`` in alphabetical order, or those named, in the order given.

    Raises:
        EvaluationError: if a folder, a named sequence or an annotation is missing.
    """
    images, annotations = _content_folder(root, 'JPEGImages'), _content_folder(root, 'Annotations')
    known = sorted(folder.name for folder in images.iterdir() if folder.is_dir())
    unknown = [name for name in names if name not in known]
    if unknown:
        raise EvaluationError(f'{images} has no sequence {", ".join(unknown)}; it has {", ".join(known) or "none"}')
    if not known:
        raise EvaluationError(f'{images} has no sequences: each must be a folder of .jpg images')
    return [_sequence(name, images / name, annotations / name) for name in names or known]


def _content_folder(root: Path, kind: str) -> Path:
    folder = root / kind
    if not folder.is_dir():
        raise EvaluationError(f'{root} is not a dataset in DAVIS layout: the folder {folder} does not exist')
    for resolution in RESOLUTIONS:
        if (folder / resolution).is_dir():
            return folder / resolution
    return folder


def _sequence(name: str, images: Path, annotations: Path) -> AnnotatedSequence:
    image_paths = tuple(sorted(path for path in images.iterdir() if path.suffix.lower() in ('.jpg', '.jpeg', '.png')))
    if not image_paths:
        raise EvaluationError(f'{images} has no .jpg images')
    annotation_paths = tuple(annotations / f'{path.stem}.png' for path in image_paths)
    for image_path, path in zip(image_paths, annotation_paths):
        if not path.is_file():
            raise EvaluationError(f'{path} is missing: {image_path} has no annotation')
    return AnnotatedSequence(name, image_paths, annotation_paths)
