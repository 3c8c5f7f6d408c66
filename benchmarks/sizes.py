"""Sizes of the compact model under one short recipe: parameters, milliseconds a frame and held-out J.

    python -m benchmarks.sizes --run runs/sizes [--sizes hiera small shipped large] [--minutes 20] [--out DIR]

Every size is trained from scratch for the same minutes on the same clips (``training/configs/size_trial.yaml``), one
after the other and each in one process; a run that was stopped goes on.  Then all sizes whose training in ``--run`` is
complete are measured side by side: the tracker with one object on one thread, frame by frame in turns.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import platform
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.turns import Run, make_clip, side_by_side, streaming_frames
from robust_pvos_ros.tracking.checkpoints import build_sam
from robust_pvos_ros.tracking.model import load_model
from robust_pvos_ros.tracking.types import ModelConfig
from training.config import load_config
from training.export_weights import export
from training.train import Trainer

RECIPE = Path(__file__).parents[1] / 'training' / 'configs' / 'size_trial.yaml'
SIZES: dict[str, dict[str, object]] = {
    'hiera': {'trunk': 'hiera'},
    'small': {'trunk': 'conv', 'widths': [32, 64, 128, 128], 'depths': [1, 1, 2, 1]},
    'shipped': {'trunk': 'conv'},
    'large': {'trunk': 'conv', 'widths': [64, 192, 288, 288], 'depths': [1, 3, 4, 2]},
}
COLUMNS = ('size', 'parameters', 'minutes', 'steps', 'J track', 'J point', 'J box')


def train(name: str, run: Path, minutes: float) -> Path:
    """Train one size to the end and export it; returns the weights."""
    overrides = [f'model.{key}={value}' for key, value in SIZES[name].items()]
    config = load_config(RECIPE, overrides)
    planned = sum(stage.minutes for stage in config.stages)
    for stage in config.stages:
        stage.minutes *= minutes / planned
    trainer = Trainer(config, run / name)
    trainer.fit()
    weights = run / f'{name}.safetensors'
    export(run / name / 'last.pt', weights)
    return weights


def frame_times(weights: dict[str, Path], image_sizes: Sequence[int], rounds: int) -> dict[str, dict[int, float]]:
    """Median milliseconds a frame of every size at every image size."""
    found: dict[str, dict[int, float]] = {name: {} for name in weights}
    for pixels in image_sizes:
        clip, boxes = make_clip((pixels, pixels), 40, 1)
        configs = {name: ModelConfig(checkpoint=str(p), image_size=pixels, threads=1) for name, p in weights.items()}
        models = {name: load_model(config) for name, config in configs.items()}
        runs: dict[str, Run] = {name: partial(streaming_frames, m, clip, boxes) for name, m in models.items()}
        for name, measured in side_by_side(runs, rounds).items():
            found[name][pixels] = float(np.median(measured.times))
    return found


def row(name: str, weights: Path) -> list[str]:
    """What the training left."""
    parameters = sum(p.numel() for p in build_sam('compact', str(weights)).parameters())
    state = torch.load(weights.parent / name / 'last.pt', map_location='cpu', weights_only=True)
    progress = state['progress']
    scores = [f'{value:.3f}' for value in progress['validation'][-1][3:]]
    return [name, str(parameters), f'{progress["seconds"] / 60:.1f}', str(progress['step']), *scores]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--run', type=Path, required=True, help='folder of the trainings')
    parser.add_argument('--sizes', nargs='*', choices=list(SIZES), default=list(SIZES), help='none only measures')
    parser.add_argument('--minutes', type=float, default=20.0, help='of training for each size')
    parser.add_argument('--image-sizes', nargs='+', type=int, default=[256, 384])
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--out', type=Path, help='folder for sizes.csv')
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format='%(asctime)s %(message)s')
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    for name in options.sizes:
        train(name, options.run, options.minutes)
    weights = {name: options.run / f'{name}.safetensors' for name in SIZES}
    weights = {name: path for name, path in weights.items() if path.is_file()}
    times = frame_times(weights, options.image_sizes, options.rounds)
    header = [*COLUMNS, *(f'ms at {pixels} px' for pixels in options.image_sizes)]
    rows = [[*row(name, path), *(f'{ms:.1f}' for ms in times[name].values())] for name, path in weights.items()]
    for line in [header, *rows]:
        print(''.join(f'{value:>15}' for value in line))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        with (options.out / 'sizes.csv').open('w', newline='') as file:
            writer = csv.writer(file, lineterminator='\n')
            writer.writerows([header, *rows])
        print(json.dumps({'machine': platform.processor() or platform.machine(), 'torch': torch.__version__}))


if __name__ == '__main__':
    main()
