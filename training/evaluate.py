"""J&F of the base model and adapters on your own labelled video, clean and corrupted.

    python -m training.evaluate --data /data/MOSE --methods base moga=moga.safetensors --out runs/mose \
        [--layout auto] [--split val] [--corruptions fog rain] [--severities 3]

Layouts are those of :mod:`training.datasets`.  Only annotated frames are shown to the tracker, so that numbers on
sparsely annotated sets (YouTube-VOS, SA-V) are not those of their servers.  Options, resuming and the files in
``--out`` are those of ``python -m benchmarks.robustness``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.robustness import add_options, score
from robust_pvos_ros.evaluation.davis import AnnotatedFrame
from training.datasets import find_videos
from training.layouts import DatasetError, Video


@dataclass(frozen=True)
class AnnotatedClip:
    """The annotated frames of a video, read one at a time."""

    video: Video

    def __iter__(self) -> Iterator[AnnotatedFrame]:
        for index, (rgb, masks) in enumerate(self.video.read(range(len(self.video)))):
            labels = np.zeros(masks.shape, np.uint8)
            for number, mask in masks.objects.items():
                labels[mask] = number
            yield AnnotatedFrame(index, rgb, labels)


def find_clips(options: argparse.Namespace) -> dict[str, AnnotatedClip]:
    """Name -> clip.

    Raises:
        DatasetError: if there are none, or ``--sequences`` names one that is not there.
    """
    entries = find_videos(options.data, options.layout, options.split)
    clips = {entry.name: AnnotatedClip(entry.load()) for entry in entries}
    missing = sorted(set(options.sequences) - set(clips))
    if missing:
        raise DatasetError(f'{options.data} has no videos {", ".join(missing)}: it has {", ".join(sorted(clips)[:20])}')
    return {name: clip for name, clip in clips.items() if not options.sequences or name in options.sequences}


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 2 on bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, required=True, help='folder of a dataset')
    parser.add_argument('--layout', default='auto', help='auto, davis, mose, youtube_vos or sav')
    parser.add_argument('--split', default='', help='of the dataset; empty takes the videos of the folder itself')
    parser.add_argument('--sequences', nargs='+', default=[], metavar='NAME')
    add_options(parser)
    options = parser.parse_args(argv)
    options.held_out = options.street = 0
    return score(options, partial(find_clips, options))


if __name__ == '__main__':
    sys.exit(main())
