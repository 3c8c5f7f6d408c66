"""J&F of the tracker on held-out rendered clips: what choices are made on, since real clips only report.

    python -m benchmarks.held_out [--clips 12] [--frames 40] [--prompts mask point box] [--settings stock selective]

Clips are rendered with seeds that training never draws; objects leave, hide and return.  The first frame of each object
is given by a prompt and not scored.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from benchmarks.identity import SETTINGS
from robust_pvos_ros.evaluation.davis import AnnotatedFrame
from robust_pvos_ros.evaluation.metrics import ObjectScore, mean_score
from robust_pvos_ros.evaluation.protocol import PromptKind, TrackerSegmenter, evaluate_sequence
from robust_pvos_ros.procedural.video import render_clips
from robust_pvos_ros.tracking.model import load_model
from robust_pvos_ros.tracking.tracker import VideoTracker
from robust_pvos_ros.tracking.types import ModelConfig
from training.validate import VALIDATION_SEED, validation_bank

SMALLEST = 0.003  # of the picture: objects that begin smaller are left out


def annotated_frames(seed: int, frames: int, size: int) -> Iterator[AnnotatedFrame]:
    """One rendered clip; objects that are not on its first frame, or too small there, are background."""
    clip = render_clips(1, frames, size, seed, validation_bank(), pace=0.6, vanish=0.3)
    labels = clip.ids[0].numpy()
    areas = np.bincount(labels[0].ravel(), minlength=256)
    kept = areas >= SMALLEST * size * size
    kept[0] = False
    labels = np.where(kept[labels], labels, 0)
    for index, picture in enumerate(clip.images[0].permute(0, 2, 3, 1).numpy()):
        yield AnnotatedFrame(index, np.ascontiguousarray(picture), labels[index].astype(np.uint8))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--clips', type=int, default=12)
    parser.add_argument('--frames', type=int, default=40)
    parser.add_argument('--size', type=int, default=384, help='pixels of the rendered pictures')
    parser.add_argument('--prompts', nargs='+', choices=get_args(PromptKind), default=list(get_args(PromptKind)))
    parser.add_argument('--settings', nargs='+', choices=SETTINGS, default=['stock'], help='of benchmarks.identity')
    parser.add_argument('--weights', nargs='+', type=Path, default=[], help='files (default: what ships)')
    parser.add_argument('--threads', type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    models = {
        str(path or 'shipped'): load_model(ModelConfig(checkpoint=str(path or ''), threads=options.threads))
        for path in options.weights or [None]
    }
    trackers = [(name, kind, setting) for name in models for kind in options.prompts for setting in options.settings]
    scores: dict[tuple[str, str, str], list[ObjectScore]] = {key: [] for key in trackers}
    for number in range(options.clips):
        methods = {
            ' '.join(key): TrackerSegmenter(
                VideoTracker(models[key[0]], replace(SETTINGS[key[2]], max_objects=16)), key[1]
            )
            for key in trackers
        }
        frames = annotated_frames(VALIDATION_SEED + 1000 + number, options.frames, options.size)
        found = evaluate_sequence(f'clip {number}', frames, methods, 'after_first')
        for key in trackers:
            scores[key] += found[' '.join(key)].objects
    wide = max(20, *(len(name) + 2 for name in models))
    print(f'{"weights":<{wide}}{"prompt":<8}{"setting":<12}{"objects":>8}{"J":>7}{"F":>7}{"J&F":>7}')
    for key, objects in scores.items():
        mean = mean_score(objects)
        numbers = ''.join(f'{100 * value:7.1f}' for value in (mean.region, mean.contour, mean.mean))
        print(f'{key[0]:<{wide}}{key[1]:<8}{key[2]:<12}{len(objects):>8}{numbers}')


if __name__ == '__main__':
    main()
