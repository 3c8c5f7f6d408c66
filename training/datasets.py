"""Training clips from folders of labelled video: finds the videos, draws clips of them, makes batches.

=========== ==================================================================================================
davis       ``JPEGImages/480p/VIDEO/*.jpg``, for each a mask ``Annotations/480p/VIDEO/*.png``, and lists of
            videos in ``ImageSets/2017/SPLIT.txt``
mose        ``[SPLIT/]JPEGImages/VIDEO`` and ``[SPLIT/]Annotations/VIDEO``, masks for all or some images;
            ``[SPLIT/]meta.json``, where there is one, names the objects and their frames
youtube_vos the same, with ``meta.json``
sav         SA-V: ``VIDEO.mp4``, or a folder ``VIDEO`` of its frames, beside ``VIDEO_manual.json`` and
            ``VIDEO_auto.json``, which hold a mask of each object on every fourth frame
=========== ==================================================================================================

Only frames with masks are used.  Finding videos lists folders; what is wrong with a video is said when it is loaded or
read.  To have a whole dataset read before a training run, and everything that is wrong with it printed::

    python -m training.datasets ROOT [--layout auto] [--split train]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from training.layouts import DatasetError, Video, load_folder, load_sav, read_json

LAYOUTS = ('davis', 'mose', 'youtube_vos', 'sav')
RESOLUTIONS = ('480p', 'Full-Resolution', '1080p')
MAX_IDS = 255
_DRAWS = 100
_CROPS = 5
_OVERLAP = 0.05
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


class VideoEntry(NamedTuple):
    """A video that was found; ``load`` reads its lists and raises DatasetError where they do not fit together."""

    name: str
    load: Callable[[], Video]


def find_videos(root: str | Path, layout: str = 'auto', split: str = 'train') -> list[VideoEntry]:
    """Videos under ``root`` in alphabetical order.

    Args:
        layout: one of ``LAYOUTS``, or ``auto`` for the one the folders look like.
        split: list of DAVIS, or subfolder of the others; where a dataset has no splits, ``train`` is all of it.
            The empty string takes all videos of DAVIS, and those of ``root`` itself elsewhere.

    Raises:
        DatasetError: if there are none, or ``meta.json`` or a list of videos cannot be used.
    """
    root = Path(root)
    if not root.is_dir():
        raise DatasetError(f'{root} is not a folder: give the folder of a dataset')
    if layout == 'auto':
        layout = detect_layout(root, split)
    if layout == 'davis':
        return _find_davis(root, split)
    if layout in ('mose', 'youtube_vos'):
        return _find_listed(_base(root, split), layout)
    if layout == 'sav':
        return _find_sav(_base(root, split))
    raise DatasetError(f'there is no layout {layout!r}: choose one of auto, {", ".join(LAYOUTS)}')


def detect_layout(root: Path, split: str = 'train') -> str:
    """The one of ``LAYOUTS`` that ``root`` looks like.  Raises DatasetError if none."""
    if (root / 'ImageSets').is_dir() or any((root / 'JPEGImages' / name).is_dir() for name in RESOLUTIONS):
        return 'davis'
    base = _base(root, split)
    if (base / 'JPEGImages').is_dir():
        return 'youtube_vos' if (base / 'meta.json').is_file() else 'mose'
    if next(_sav_files(base), None):
        return 'sav'
    raise DatasetError(
        f'{base} is in no known layout: it must hold JPEGImages and Annotations, or VIDEO_manual.json files of SA-V'
    )


def problems(entries: Sequence[VideoEntry]) -> Iterator[str]:
    """Read every frame of every video; says the first thing that is wrong with each bad one."""
    for entry in entries:
        try:
            video = entry.load()
            for _ in video.read(range(len(video))):
                pass
        except DatasetError as error:
            yield str(error)


def _base(root: Path, split: str) -> Path:
    if split and (root / split).is_dir():
        return root / split
    if split in ('', 'train'):
        return root
    raise DatasetError(f'{root} has no split {split}: the folder {root / split} does not exist')


def _subfolder(folder: Path, name: str) -> Path:
    if not (folder / name).is_dir():
        raise DatasetError(f'{folder / name} is missing: it must hold one folder for each video')
    return folder / name


def _names(folder: Path) -> list[str]:
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith('.'))
    if not names:
        raise DatasetError(f'{folder} has no videos: each must be a folder of .jpg images')
    return names


def _find_davis(root: Path, split: str) -> list[VideoEntry]:
    images, annotations = _subfolder(root, 'JPEGImages'), _subfolder(root, 'Annotations')
    resolution = next((name for name in RESOLUTIONS if (images / name).is_dir()), '')
    images, annotations = _subfolder(images, resolution), _subfolder(annotations, resolution)
    names = _names(images)
    lists = root / 'ImageSets' / '2017'
    if split and (lists.is_dir() or split != 'train'):
        chosen = lists / f'{split}.txt'
        if not chosen.is_file():
            raise DatasetError(f'{chosen} is missing: it must name the videos of the split {split}, one per line')
        known, names = set(names), chosen.read_text().split()
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            raise DatasetError(
                f'{chosen} names {unknown[0] if unknown else "no video"}: each line must be a folder of {images}'
            )
    return [VideoEntry(name, partial(load_folder, images / name, annotations / name)) for name in names]


def _find_listed(base: Path, layout: str) -> list[VideoEntry]:
    images, annotations = _subfolder(base, 'JPEGImages'), _subfolder(base, 'Annotations')
    meta = base / 'meta.json'
    listed: dict[str, Any] | None = None
    if meta.is_file():
        content = read_json(meta)
        listed = content.get('videos') if isinstance(content, dict) else None
        if not isinstance(listed, dict):
            raise DatasetError(f'{meta} has no dictionary "videos": it must be {{"videos": {{VIDEO: ...}}}}')
    elif layout == 'youtube_vos':
        raise DatasetError(f'{meta} is missing: YouTube-VOS names its objects there')
    return [
        VideoEntry(
            name,
            partial(
                load_folder, images / name, annotations / name, dense=False, meta=meta if listed is not None else None,
                described=None if listed is None else listed.get(name),
            ),
        )
        for name in _names(images)
    ]  # fmt: skip


def _sav_files(base: Path) -> Iterator[Path]:
    for pattern in ('*_manual.json', '*_auto.json', '*/*_manual.json', '*/*_auto.json'):
        yield from (path for path in base.glob(pattern) if not path.name.startswith('.'))


def _find_sav(base: Path) -> list[VideoEntry]:
    videos: dict[Path, list[Path]] = {}
    for path in _sav_files(base):  # manual masks come before automatic ones
        videos.setdefault(path.with_name(path.stem.rpartition('_')[0]), []).append(path)
    if not videos:
        raise DatasetError(f'{base} has no masks of SA-V: it must hold files such as sav_000001_manual.json')
    return [VideoEntry(stem.name, partial(load_sav, stem, tuple(files))) for stem, files in sorted(videos.items())]


class LabelledClips(NamedTuple):
    """One clip, or a batch of B of them with that dimension in front.

    Attributes:
        images: uint8 (T, 3, S, S) RGB.
        ids: uint8 (T, S, S), the ID of the object at each pixel, 1 .. n within a clip, 0 where there is background or
            something unlabelled.
    """

    images: Tensor
    ids: Tensor


@dataclass(frozen=True)
class ClipOptions:
    """What clips are like.

    Attributes:
        frames, size: T and S.
        max_stride: annotated frames from one frame of a clip to the next: 1 to this, less where a video is short.
        reverse, flip: chance of a clip that plays backwards, and of one mirrored left to right.
        crop: smallest width and height of the random crop, as share of the image; 1 takes whole images.
        jitter: largest relative change of brightness, contrast and saturation, one draw for a whole clip.
        min_area: share of the first frame that at least one object covers, that of ``choose_objects``.
    """

    frames: int = 8
    size: int = 512
    max_stride: int = 3
    reverse: float = 0.5
    flip: float = 0.5
    crop: float = 0.6
    jitter: float = 0.1
    min_area: float = 0.003

    def __post_init__(self) -> None:
        if min(self.frames, self.size, self.max_stride) < 1:
            raise DatasetError('frames, size and max_stride of a clip must be at least 1')
        if not (0 <= self.reverse <= 1 and 0 <= self.flip <= 1):
            raise DatasetError('reverse and flip are chances: they must be from 0 to 1')
        if not (0 < self.crop <= 1 and 0 <= self.jitter < 1 and 0 < self.min_area < 1):
            raise DatasetError('crop must be above 0 and at most 1, jitter from 0 to below 1, min_area between 0 and 1')


class Crop(NamedTuple):
    """Part of an image, as shares of its height and width."""

    top: float = 0.0
    left: float = 0.0
    height: float = 1.0
    width: float = 1.0

    def resize(self, picture: np.ndarray, size: int) -> np.ndarray:
        """The part of an image uint8 (H, W, 3) or a mask bool (H, W), squashed to a square as the node does.

        See ``Sam2Model.preprocess`` for the images; masks take the nearest pixel.
        """
        rows, columns = picture.shape[:2]
        y, x = int(self.top * rows), int(self.left * columns)
        part = picture[y : y + max(1, round(self.height * rows)), x : x + max(1, round(self.width * columns))]
        if part.dtype == bool:
            return cv2.resize(part.view(np.uint8), (size, size), interpolation=cv2.INTER_NEAREST_EXACT).view(bool)
        shrinks = part.shape[0] > size and part.shape[1] > size
        return cv2.resize(part, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


class ClipSampler:
    """Draws clips; the one of an index depends on the seed and the index only.

    ``torch.utils.data.DataLoader(clips, batch_size=B, sampler=range(first, last), num_workers=N)`` draws them in other
    processes and gives the batches of :meth:`batch`.

    Args:
        videos: from :func:`find_videos`; those of several datasets may be joined.

    Raises:
        DatasetError: from every draw, naming the file, where a sample is bad; or if no clip can be found.
    """

    def __init__(self, videos: Sequence[VideoEntry], options: ClipOptions | None = None, seed: int = 0) -> None:
        if not videos:
            raise DatasetError('there are no videos to draw clips of: give at least one')
        if seed < 0:
            raise DatasetError(f'the seed of clips is {seed}: it must not be negative')
        self._videos, self._seed = tuple(videos), seed
        self.options = options or ClipOptions()

    def __getitem__(self, index: int) -> LabelledClips:
        """Clip ``index`` >= 0: images (T, 3, S, S) and IDs (T, S, S)."""
        if index < 0:
            raise DatasetError(f'there is no clip {index}: they are counted from 0')
        rng = np.random.default_rng([self._seed, index])
        for _ in range(_DRAWS):
            clip = _draw(self._videos[rng.integers(len(self._videos))].load(), self.options, rng)
            if clip is not None:
                return clip
        raise DatasetError(
            f'{_DRAWS} draws from {len(self._videos)} videos such as {self._videos[0].name} gave no clip: they need '
            f'{self.options.frames} frames with masks, and an object on {self.options.min_area:.1%} of the first'
        )

    def batch(self, step: int, clips: int) -> LabelledClips:
        """Clips ``step * clips`` and following: images (B, T, 3, S, S) and IDs (B, T, S, S)."""
        drawn = [self[index] for index in range(step * clips, (step + 1) * clips)]
        return LabelledClips(torch.stack([c.images for c in drawn]), torch.stack([c.ids for c in drawn]))


def choose_frames(video: Video, options: ClipOptions, rng: np.random.Generator) -> list[int] | None:
    """T annotated frames in the order of a clip, descending if it plays backwards.

    The first is one on which an object may be seen, where that is known; None if there are no such frames.
    """
    steps = options.frames - 1
    if len(video) < options.frames:
        return None
    stride = int(rng.integers(1, min(options.max_stride, (len(video) - 1) // max(1, steps)) + 1)) if steps else 1
    backwards = rng.uniform() < options.reverse
    span = steps * stride
    starts = list(range(span, len(video)) if backwards else range(len(video) - span))
    if video.objects is not None:
        seen = set().union(*video.objects.values())
        starts = [start for start in starts if start in seen]
    if not starts:
        return None
    first = starts[rng.integers(len(starts))]
    return [first + (-stride if backwards else stride) * i for i in range(options.frames)]


def _draw(video: Video, options: ClipOptions, rng: np.random.Generator) -> LabelledClips | None:
    """A clip of a video; None if it would begin without an object."""
    frames = choose_frames(video, options, rng)
    crop = None if frames is None else _choose_crop(video.read_masks(frames[0]).objects, options, rng)
    if frames is None or crop is None:
        return None
    size, order = options.size, np.argsort(frames)
    images = np.empty((options.frames, size, size, 3), np.uint8)
    masks: dict[int, np.ndarray] = {}
    for place, (rgb, found) in zip(order, video.read([frames[i] for i in order])):
        images[place] = crop.resize(rgb, size)
        for number, mask in found.objects.items():
            masks.setdefault(number, np.zeros(images.shape[:3], bool))[place] = crop.resize(mask, size)
    ids = merge_masks(masks, options.min_area, rng)
    images = jitter_colours(images, options.jitter, rng)
    if rng.uniform() < options.flip:
        images, ids = images[:, :, ::-1], ids[:, :, ::-1]
    images = images.transpose(0, 3, 1, 2)
    return LabelledClips(*(torch.from_numpy(np.ascontiguousarray(x)) for x in (images, ids)))


def _choose_crop(first: dict[int, np.ndarray], options: ClipOptions, rng: np.random.Generator) -> Crop | None:
    """A part of the image in which an object is large enough on the first frame; the whole where none is found."""
    for attempt in range(_CROPS + 1):
        crop = Crop()
        if attempt < _CROPS:
            share, ratio = rng.uniform(options.crop, 1), math.exp(rng.uniform(-0.15, 0.15))
            height, width = (float(np.clip(v, options.crop, 1)) for v in (share * ratio, share / ratio))
            crop = Crop(rng.uniform(0, 1 - height), rng.uniform(0, 1 - width), height, width)
        if any(crop.resize(mask, options.size).mean() >= options.min_area for mask in first.values()):
            return crop
    return None


def merge_masks(masks: dict[int, np.ndarray], min_area: float, rng: np.random.Generator) -> np.ndarray:
    """One map of IDs uint8 (T, S, S), 1 .. n in the order of the old ones, of masks bool (T, S, S) that may overlap.

    Of objects that share more than a rim, such as a person and their hand in SA-V, a random one stays and the others
    become background, so that no mask has a hole; an object of ``min_area`` on the first frame goes before others.
    """
    kept: dict[int, np.ndarray] = {}
    numbers = [number for number in sorted(masks) if masks[number].any()]
    shuffled = [numbers[i] for i in rng.permutation(len(numbers))]
    for number in sorted(shuffled, key=lambda n: masks[n][0].mean() < min_area):
        mask = masks[number]
        shared = {other: int((mask & kept[other]).sum()) for other in kept}
        rims = all(n <= _OVERLAP * min(mask.sum(), kept[other].sum()) for other, n in shared.items())
        if rims and len(kept) < MAX_IDS:
            kept[number] = mask
    ids = np.zeros(next(iter(masks.values())).shape, np.uint8)
    new = {number: i + 1 for i, number in enumerate(sorted(kept))}
    for number in reversed(kept):
        ids[kept[number]] = new[number]
    return ids


def jitter_colours(images: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Change brightness, contrast and saturation of uint8 (T, S, S, 3) by up to ``strength``, alike on all frames."""
    brightness, contrast, saturation = rng.uniform(1 - strength, 1 + strength, 3)
    if strength == 0:
        return images
    colours = images.astype(np.float32) * brightness
    grey = (colours @ _LUMA)[..., None]
    colours = grey + saturation * (colours - grey)
    mean = grey.mean()
    return np.clip(np.round(mean + contrast * (colours - mean)), 0, 255).astype(np.uint8)


def main() -> None:
    """Command line; exits with 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description='Read a whole dataset and print what is wrong with it.')
    parser.add_argument('root', type=Path)
    parser.add_argument('--layout', default='auto', choices=('auto', *LAYOUTS))
    parser.add_argument('--split', default='train')
    arguments = parser.parse_args()
    entries = find_videos(arguments.root, arguments.layout, arguments.split)
    bad = 0
    for problem in problems(entries):
        print(problem, flush=True)
        bad += 1
    print(f'{len(entries)} videos, {bad} of them bad')
    raise SystemExit(bad > 0)


if __name__ == '__main__':
    main()
