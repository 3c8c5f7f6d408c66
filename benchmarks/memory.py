"""Resident memory of a tracker over a long run, with four objects that come and go.

Frames are drawn on the fly.  Objects are added, refined and removed on a schedule, and leave the view and return; the
last line printed is ``growth N.N MB``, and the exit status is 1 where that is too much.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import psutil
from tqdm import tqdm

from robust_pvos_ros.tracking.checkpoints import MODEL_NAMES
from robust_pvos_ros.tracking.model import load_model
from robust_pvos_ros.tracking.tracker import VideoTracker
from robust_pvos_ros.tracking.types import ModelConfig, Prompt, PvosError, TrackerConfig

WIDTH, HEIGHT = 320, 240
OBJECTS = 4
REPLACE_EVERY = 45
"""Frames after which the oldest object makes room for a fresh one."""
REFINE_EVERY = 20
"""Frames after which one object is prompted again."""
REPORT_EVERY = 500
LIMIT_MB = 20.0
MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Disc:
    """A textured disc on a Lissajous path that is wider than the view, so that the disc leaves it now and then."""

    radius: int
    colour: tuple[int, int, int]
    speed: float
    phase: float

    def centre(self, index: int) -> tuple[int, int]:
        """(x, y) pixels on frame ``index``."""
        angle = self.speed * index + self.phase
        return (
            round(WIDTH * (0.5 + 0.7 * np.sin(angle))),
            round(HEIGHT * (0.5 + 0.35 * np.sin(1.7 * angle + self.phase))),
        )


class Scene:
    """An endless video, uint8 (240, 320, 3) RGB: discs over a drifting texture."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        coarse = rng.integers(40, 160, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
        self._background = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        self.discs = tuple(
            Disc(
                int(rng.integers(18, 34)),
                (int(rng.integers(80, 256)), int(rng.integers(80, 256)), int(rng.integers(80, 256))),
                float(rng.uniform(0.01, 0.03)),
                float(rng.uniform(0, 2 * np.pi)),
            )
            for _ in range(OBJECTS)
        )

    def frame(self, index: int) -> np.ndarray:
        """The picture of frame ``index``."""
        image = np.roll(self._background, index, axis=1)
        for disc in self.discs:
            centre = disc.centre(index)
            cv2.circle(image, centre, disc.radius, disc.colour, -1, cv2.LINE_AA)
            cv2.circle(image, centre, disc.radius // 2, tuple(255 - value for value in disc.colour), 3, cv2.LINE_AA)
        return image

    def mask(self, number: int, index: int) -> np.ndarray:
        """bool (240, 320): the pixels of disc ``number`` on frame ``index``; empty while it is out of view."""
        canvas = np.zeros((HEIGHT, WIDTH), np.uint8)
        cv2.circle(canvas, self.discs[number].centre(index), self.discs[number].radius, 1, -1)
        return canvas.astype(bool)


class Schedule:
    """Adds, replaces and refines objects as an operator would, and counts what it did."""

    def __init__(self, tracker: VideoTracker, scene: Scene) -> None:
        self.tracker = tracker
        self.scene = scene
        self.added = self.removed = self.refined = 0
        self._disc_of: dict[int, int] = {}

    def step(self, index: int) -> None:
        """Process frame ``index``, with the prompts that are due on it."""
        if index % REPLACE_EVERY == 0 and len(self._disc_of) == OBJECTS:
            oldest = min(self._disc_of)
            self.tracker.remove(oldest)
            del self._disc_of[oldest]
            self.removed += 1
        discs, prompts = self._additions(index)
        if index % REFINE_EVERY == 0:
            prompts += self._refinement(index)
        result = self.tracker.step(self.scene.frame(index), index * 33_333_333, prompts)
        self._disc_of.update(zip(result.prompted, discs))
        self.added += len(discs)

    def _additions(self, index: int) -> tuple[list[int], list[Prompt]]:
        """A disc that is in view and not in the table starts with its mask, a click or a box, in turn."""
        discs, prompts = [], []
        for number in range(OBJECTS):
            mask = self.scene.mask(number, index)
            x, y = self.scene.discs[number].centre(index)
            if number in self._disc_of.values() or not (0 <= x < WIDTH and 0 <= y < HEIGHT):
                continue
            box = cv2.boundingRect(mask.astype(np.uint8))
            kinds = (
                Prompt(mask=mask),
                Prompt(points=np.array([[x, y]]), point_labels=np.array([1])),
                Prompt(box=np.array([box[0], box[1], box[0] + box[2], box[1] + box[3]])),
            )
            discs.append(number)
            prompts.append(kinds[(self.added + len(discs)) % len(kinds)])
        return discs, prompts

    def _refinement(self, index: int) -> list[Prompt]:
        """A click on the first tracked disc, in turn, whose centre is in view."""
        ids = sorted(self._disc_of)
        for position in range(len(ids)):
            object_id = ids[(index // REFINE_EVERY + position) % len(ids)]
            x, y = self.scene.discs[self._disc_of[object_id]].centre(index)
            if 0 <= x < WIDTH and 0 <= y < HEIGHT:
                self.refined += 1
                return [Prompt(object_id, points=np.array([[x, y]]), point_labels=np.array([1]))]
        return []


def measure(tracker: VideoTracker, frames: int, warmup: int) -> float:
    """Run the schedule over ``frames`` frames, printing a table; return the growth of resident memory since frame
    ``warmup`` in MB (2^20 bytes), at the end of the run."""
    process = psutil.Process()
    schedule = Schedule(tracker, Scene())
    baseline = 0.0
    print(
        f'{"frame":>7}{"RSS MB":>10}{"since warm-up":>15}{"objects":>9}{"added":>7}{"removed":>9}{"refined":>9}'
        f'{"memories MB":>13}{"ms/frame":>10}'
    )
    start, last_report = time.perf_counter(), 0
    for index in tqdm(range(1, frames + 1), unit='frame', disable=None, leave=False):
        schedule.step(index)
        resident = process.memory_info().rss / MEGABYTE
        if index == warmup:
            baseline = resident
        if index % REPORT_EVERY == 0 or index in (warmup, frames):
            milliseconds = 1e3 * (time.perf_counter() - start) / (index - last_report)
            growth = f'{resident - baseline:+.1f}' if index >= warmup else '-'
            tqdm.write(
                f'{index:>7}{resident:>10.1f}{growth:>15}{len(tracker.objects):>9}{schedule.added:>7}'
                f'{schedule.removed:>9}{schedule.refined:>9}{tracker.memory_bytes() / MEGABYTE:>13.2f}'
                f'{milliseconds:>10.1f}',
                file=sys.stdout,
            )
            start, last_report = time.perf_counter(), index
    return resident - baseline


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0 where memory is bounded, 1 where it grew too much, 2 on bad input."""
    parser = argparse.ArgumentParser(prog='python -m benchmarks.memory', description=__doc__)
    parser.add_argument('--frames', type=int, default=5000, help='frames of the run (default: 5000)')
    parser.add_argument('--warmup', type=int, default=500, help='frame that growth is counted from (default: 500)')
    parser.add_argument('--limit', type=float, default=LIMIT_MB, help='growth in MB that fails (default: %(default)s)')
    parser.add_argument('--model', choices=MODEL_NAMES, default='compact')
    parser.add_argument('--checkpoint', default='', help='weights file (default: the shipped compact model)')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    parser.add_argument('--threads', type=int, default=1, help='CPU threads of torch and of OpenCV (default: 1)')
    options = parser.parse_args(argv)
    if not 1 <= options.warmup < options.frames:
        parser.error(f'--warmup must be in [1, {options.frames}), got {options.warmup}')
    cv2.setNumThreads(options.threads)
    try:
        config = ModelConfig(options.model, options.checkpoint, device=options.device, threads=options.threads)
        tracker = VideoTracker(load_model(config), TrackerConfig(max_objects=OBJECTS))
        growth = measure(tracker, options.frames, options.warmup)
    except PvosError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    print(f'growth {growth:.1f} MB')
    return 1 if growth >= options.limit else 0


if __name__ == '__main__':
    sys.exit(main())
