"""Clips of the rendered street, for choices: another renderer than that of the training clips, so that it shows what
does not carry over from them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.held_out import SMALLEST
from robust_pvos_ros.evaluation.davis import AnnotatedFrame
from robust_pvos_ros.procedural.street import StreetScene

WIDTH, HEIGHT, RATE = 320, 240, 8
SECONDS = 4.0
BEGINS = 1.0, 8.5, 14.2, 18.5
"""Seconds of the scene: traffic, a look-alike's pass, one car behind another, rain."""
FIRST_SEED = 1
"""Seed 0 is the scene of the demo and of tests."""


def street_names(count: int) -> list[str]:
    """Names of the first clips: a seed of the scene and where it begins."""
    return [f'street_{FIRST_SEED + n // len(BEGINS)}_{BEGINS[n % len(BEGINS)]}' for n in range(count)]


def street_frames(name: str) -> Iterator[AnnotatedFrame]:
    """One clip; objects that are not on its first frame, or too small there, are background."""
    _, seed, begin = name.split('_')
    scene = StreetScene(WIDTH, HEIGHT, seed=int(seed), prepare=False)
    kept = np.zeros(256, bool)
    for index, moment in enumerate(np.arange(0, SECONDS, 1 / RATE)):
        rgb, labels = scene.frame(float(begin) + float(moment))
        if index == 0:
            kept = np.bincount(labels.ravel(), minlength=256) >= SMALLEST * WIDTH * HEIGHT
            kept[0] = False
        yield AnnotatedFrame(index, np.ascontiguousarray(rgb), np.where(kept[labels], labels, 0).astype(np.uint8))
