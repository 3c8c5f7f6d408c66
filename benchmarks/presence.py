"""How well the thresholds of presence tell a mask that is right from one that is not.

    python -m benchmarks.presence [--clips 24] [--frames 40] [--out FILE]

Held-out rendered clips, whose objects hide, leave and return, first mask given.  Of every object on every later frame
the tracker's object score and predicted IoU are recorded, and whether its mask overlaps the truth by an IoU of 0.5 or
more.  Then each setting says on which frames the object is TRACKING:

    precision  share of these frames on which the mask is right,
    recall     share of the frames with a right mask on which it is,
    changes    of state for each object, a hundred frames long.

Objects are not looked for a second time here, since that depends on the states.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.held_out import annotated_frames
from benchmarks.provenance import describe_run
from benchmarks.tables import write_table
from robust_pvos_ros.tracking.association import mask_iou
from robust_pvos_ros.tracking.model import Sam2Model, load_model
from robust_pvos_ros.tracking.motion import Cells
from robust_pvos_ros.tracking.presence import Evidence, is_present
from robust_pvos_ros.tracking.tracker import VideoTracker
from robust_pvos_ros.tracking.types import ModelConfig, Prompt, TrackerConfig
from training.validate import VALIDATION_SEED

SCORES, IOUS, MARGINS = (0.3, 0.5, 0.7, 0.9), (0.0, 0.1, 0.3, 0.5, 0.7), (0.0, 0.1, 0.2)
RIGHT = 0.5


class Look(NamedTuple):
    """An object on a frame: what the model says of it, and whether its mask is right."""

    evidence: Evidence
    right: bool


def record(model: Sam2Model, seed: int, frames: int, size: int = 384) -> list[list[Look]]:
    """Every object of a clip, frame by frame after the first."""
    tracker = VideoTracker(model, TrackerConfig(recovery_score=1.0))
    looks: list[list[Look]] = []
    ids: list[int] = []
    for index, frame in enumerate(annotated_frames(seed, frames, size)):
        if index == 0:
            ids = [int(number) for number in np.unique(frame.labels) if number]
            looks = [[] for _ in ids]
        prompts = [Prompt(mask=frame.labels == number) for number in ids] if index == 0 else ()
        result = tracker.step(frame.rgb, index * 10**9 // 15, prompts)
        for row, number in enumerate(ids if index else ()):
            found = result.objects[row]
            cells = Cells(float(result.masks[row].sum()), found.centroid)
            right = mask_iou(result.masks[row], frame.labels == number) >= RIGHT
            looks[row].append(Look(Evidence(found.object_score, found.predicted_iou, cells), right))
    return looks


def judge(objects: Sequence[Sequence[Look]], config: TrackerConfig) -> tuple[float, float, float]:
    """Precision, recall and changes of state for each object and hundred frames."""
    true = said = right = changes = frames = 0
    for looks in objects:
        present = True
        for look in looks:
            before, present = present, is_present(present, look.evidence, config)
            changes += before != present
            said += present
            true += look.right
            right += present and look.right
            frames += 1
    return right / max(1, said), right / max(1, true), 100 * changes / max(1, frames)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--clips', type=int, default=24)
    parser.add_argument('--frames', type=int, default=40)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--out', type=Path, help='table of all results, .csv and .md')
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = load_model(ModelConfig(threads=options.threads))
    for name, value in describe_run().items():
        print(f'{name}: {value}')
    seeds = range(VALIDATION_SEED + 1000, VALIDATION_SEED + 1000 + options.clips)
    objects = [looks for seed in seeds for looks in record(model, seed, options.frames)]
    usual = TrackerConfig()
    print(f'{len(objects)} objects; default: {usual.presence_score}, {usual.presence_iou}, {usual.presence_margin}')
    rows: list[dict[str, str]] = []
    for score, iou, margin in itertools.product(SCORES, IOUS, MARGINS):
        config = replace(TrackerConfig(), presence_score=score, presence_iou=iou, presence_margin=margin)
        precision, recall, changes = judge(objects, config)
        rows.append(
            {
                'presence_score': f'{score}',
                'presence_iou': f'{iou}',
                'presence_margin': f'{margin}',
                'precision': f'{precision:.3f}',
                'recall': f'{recall:.3f}',
                'F1': f'{2 * precision * recall / max(1e-9, precision + recall):.3f}',
                'changes': f'{changes:.2f}',
            }
        )
    for row in sorted(rows, key=lambda row: -float(row['F1'])):
        print('  '.join(f'{name} {value}' for name, value in row.items()))
    if options.out:
        write_table(rows, options.out)


if __name__ == '__main__':
    main()
