"""Which of the encoder's maps a corruption spoils: whether an adapter behind the encoder sits where it must.

    python -m benchmarks.reach [--clips 6] [--severity 3] [--adapter FILE] --out docs/robustness/reach

Held-out rendered clips, first mask given.  The tracker reads corrupted frames but gets some of the encoder's maps from
the same frames uncorrupted: all of them (``clean``), none (``corrupted``), those at stride 16, which the memory
attention and with it the adapter works on, or those at strides 4 and 8, which go around it into the mask decoder.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.robustness import Case, clips_of
from benchmarks.tables import write_table
from robust_pvos_ros.corruption.corruption import KINDS
from robust_pvos_ros.evaluation.davis import AnnotatedFrame
from robust_pvos_ros.evaluation.protocol import TrackerSegmenter, evaluate_sequence
from robust_pvos_ros.tracking.encoder import EncoderOutput
from robust_pvos_ros.tracking.model import Sam2Model, load_model
from robust_pvos_ros.tracking.tracker import VideoTracker
from robust_pvos_ros.tracking.types import ModelConfig, TrackerConfig

MIXES: dict[str, tuple[str, ...]] = {
    'clean': ('stride4', 'stride8', 'stride16'),
    'clean at stride 16': ('stride16',),
    'clean at strides 4 and 8': ('stride4', 'stride8'),
    'corrupted': (),
}
"""Maps that are taken from the uncorrupted frame."""


def mix(clean: EncoderOutput, corrupted: EncoderOutput, fields: Sequence[str]) -> EncoderOutput:
    """The maps of a corrupted frame, but ``fields`` of the clean one."""
    return corrupted._replace(**{name: getattr(clean, name) for name in fields})


class Frames:
    """The corrupted frames of a clip.

    Attributes:
        maps: of the newest frame, uncorrupted and corrupted.
    """

    maps: tuple[EncoderOutput, EncoderOutput]

    def __init__(self, model: Sam2Model, clip: Sequence[AnnotatedFrame], name: str, case: Case) -> None:
        self._model, self._clip, self._name, self._case = model, clip, name, case

    def __iter__(self) -> Iterator[AnnotatedFrame]:
        corrupted = self._case.frames(self._name, self._clip)
        for clean, frame in zip(self._clip, corrupted, strict=True):
            self.maps = self._model.encode(clean.rgb), self._model.encode(frame.rgb)
            yield frame

    def mixed(self, fields: Sequence[str], _: np.ndarray) -> EncoderOutput:
        """What a tracker is given in place of what it would have encoded, see :func:`mix`."""
        return mix(*self.maps, fields)


def scores_of(model: Sam2Model, clips: Mapping[str, Iterable[AnnotatedFrame]], case: Case) -> dict[str, float]:
    """Mean J&F over clips of each of ``MIXES``, percent."""
    config = TrackerConfig(max_objects=255)
    found: dict[str, list[float]] = {name: [] for name in MIXES}
    for name, clip in clips.items():
        frames = Frames(model, list(clip), name, case)
        methods = {
            method: TrackerSegmenter(VideoTracker(model, config), encode=partial(frames.mixed, fields))
            for method, fields in MIXES.items()
        }
        for method, score in evaluate_sequence(name, frames, methods, 'after_first').items():
            if score.objects:
                found[method].append(100 * score.mean.mean)
    return {method: float(np.mean(values)) for method, values in found.items()}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--clips', type=int, default=6)
    parser.add_argument('--frames', type=int, default=24)
    parser.add_argument('--severity', type=float, default=3.0)
    parser.add_argument('--corruptions', nargs='+', choices=list(KINDS), default=list(KINDS))
    parser.add_argument('--adapter', default='')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--out', type=Path, required=True, help='table, .csv and .md')
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = load_model(ModelConfig(adapter=options.adapter, threads=options.threads))
    options.held_out, options.street = options.clips, 0
    clips = clips_of(options)
    rows = {kind: scores_of(model, clips, Case(kind, options.severity, 0)) for kind in options.corruptions}
    rows['mean'] = {name: float(np.mean([row[name] for row in rows.values()])) for name in MIXES}
    cells = [{'corruption': kind, **{n: f'{value:.1f}' for n, value in row.items()}} for kind, row in rows.items()]
    print(write_table(cells, options.out))


if __name__ == '__main__':
    main()
