"""Frames per second rendered and trained: does the renderer keep up with the model?

    python -m benchmarks.training [--config training/configs/compact.yaml] [--steps 12] [--out DIR] [key=value ...]

For every stage of a configuration, single process: frames rendered per second, frames trained per second (forward,
backward and optimiser, on clips that lie ready), their ratio, and the passes over each rendering that the stage takes.
The renderer starves the model where passes times ratio is below one.  Corrupting clips, for which a stage may ask, is
in neither figure.
"""

from __future__ import annotations

import argparse
import csv
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import torch

from robust_pvos_ros.procedural.video import render_clips
from training.config import Stage, load_config
from training.train import Trainer


class Speed(NamedTuple):
    """Frames per second of one stage."""

    rendered: float
    trained: float


def median_seconds(action: Callable[[int], object], rounds: int, device: torch.device) -> float:
    """Median time of ``action(round)`` after one warm-up."""
    times = []
    for index in range(rounds + 1):
        start = time.perf_counter()
        action(index)
        if device.type == 'cuda':
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))


def measure(trainer: Trainer, number: int, steps: int) -> Speed:
    """Speed of stage ``number``."""
    progress = trainer.progress
    progress.stage, progress.stage_step, progress.step = number, 1, 1  # 0 would calibrate the memory attention
    stage, device = trainer.stage, trainer.device
    bank = trainer.stream.bank(0)

    def render(seed: int) -> object:
        shape = stage.clips, stage.frames, stage.size
        return render_clips(*shape, seed, bank, stage.pace, stage.scale, stage.ease, stage.vanish, stage.livery)

    ready = [trainer._batch() for _ in range(2)]
    frames = stage.clips * stage.frames
    rendered = frames / median_seconds(render, steps, device)
    with mock.patch.object(trainer, '_batch', lambda: ready[trainer.progress.step % 2]):
        trained = frames / median_seconds(lambda _: trainer.train_step(), steps, device)
    return Speed(rendered, trained)


def describe(stage: Stage) -> str:
    """Size of a batch in words."""
    return f'{stage.clips} x {stage.frames} frames of {stage.size} px'


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--config', default='training/configs/compact.yaml')
    parser.add_argument('--steps', type=int, default=12)
    parser.add_argument('--out', type=Path, help='folder for training.csv')
    parser.add_argument('overrides', nargs='*', help='key=value')
    options = parser.parse_args()
    config = load_config(options.config, options.overrides)
    torch.set_num_threads(config.threads)
    torch.set_flush_denormal(True)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(config, Path(folder))
        where = torch.cuda.get_device_name() if trainer.device.type == 'cuda' else platform.machine()
        print(f'{where}, torch {torch.__version__}, {config.threads} threads, bfloat16 {config.bfloat16}')
        print(f'{"stage":>10} {"batch":>26} {"rendered/s":>11} {"trained/s":>10} {"ratio":>6} {"passes":>7}')
        for number, stage in enumerate(config.stages):
            speed = measure(trainer, number, options.steps)
            ratio = speed.rendered / speed.trained
            batch, (rendered, trained) = describe(stage), speed
            rows.append([stage.name, batch, round(rendered, 1), round(trained, 1), round(ratio, 2), stage.passes])
            print(f'{stage.name:>10} {batch:>26} {rendered:11.1f} {trained:10.1f} {ratio:6.2f} {stage.passes:7d}')
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        with (options.out / 'training.csv').open('w', newline='') as file:
            writer = csv.writer(file)
            writer.writerow(['stage', 'batch', 'rendered_fps', 'trained_fps', 'ratio', 'passes'])
            writer.writerows(rows)


if __name__ == '__main__':
    main()
