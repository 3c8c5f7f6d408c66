"""Trackers over one clip, frame by frame in turns, so that a noisy machine hits them alike."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from sam2.sam2_video_predictor import SAM2VideoPredictor

from robust_pvos_ros.tracking.model import Sam2Model
from robust_pvos_ros.tracking.tracker import VideoTracker
from robust_pvos_ros.tracking.types import Prompt, TrackerConfig

WARMUP = 18  # frames until every object attends to as many memories and pointers as it ever will
Held = Callable[[], int]
"""Bytes that a contender holds for what it has seen, beside the network."""
Run = Callable[[], Iterator[Held]]


class Measured(NamedTuple):
    """Milliseconds of every frame after the warm-up, and the bytes that are held after the last one."""

    times: list[float]
    held: int


def make_clip(
    size: tuple[int, int], frames: int, objects: int, seed: int = 0
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Textured discs that drift over a textured ground: RGB frames (H, W, 3) and first-frame boxes (x0, y0, x1, y1).

    Args:
        size: W and H, pixels; frames, objects: how many.
    """
    rng = np.random.default_rng(seed)
    ground = cv2.resize(rng.integers(40, 215, (24, 24, 3), dtype=np.uint8), size, interpolation=cv2.INTER_CUBIC)
    radius = min(size) / 12
    centres = rng.uniform(0.2, 0.8, (objects, 2)) * size
    speeds = rng.uniform(-0.3, 0.3, (objects, 2))
    colours = rng.integers(0, 255, (objects, 3))
    clip = []
    for index in range(frames):
        frame = ground.copy()
        for centre, speed, colour in zip(centres, speeds, colours, strict=True):
            at = tuple(int(v) for v in centre + index * speed)
            cv2.circle(frame, at, int(radius), tuple(int(c) for c in colour), -1, cv2.LINE_AA)
        clip.append(frame)
    edge = np.array([*size, *size]) - 1
    return clip, [np.concatenate([c - radius, c + radius]).clip(0, edge).astype(np.float32) for c in centres]


def official_frames(
    predictor: SAM2VideoPredictor, clip: list[np.ndarray], boxes: list[np.ndarray], precision: str
) -> Iterator[Held]:
    """The official predictor over a clip, one frame for each ``next``."""
    with tempfile.TemporaryDirectory() as folder:
        for index, frame in enumerate(clip):
            cv2.imwrite(str(Path(folder) / f'{index:05d}.jpg'), frame[..., ::-1])
        autocast = torch.autocast(predictor.device.type, torch.bfloat16, enabled=precision == 'bfloat16')
        with autocast:
            state = predictor.init_state(folder)
            for number, box in enumerate(boxes):
                predictor.add_new_points_or_box(state, 0, number + 1, box=box)
            propagation = predictor.propagate_in_video(state)
    while True:
        with autocast:
            if next(propagation, None) is None:
                return
        yield partial(_bytes_of, state)


def _bytes_of(state: Any) -> int:
    """Bytes of all tensors in nested containers."""
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, dict):
        return sum(map(_bytes_of, state.values()))
    return sum(map(_bytes_of, state)) if isinstance(state, (list, tuple)) else 0


def streaming_frames(model: Sam2Model, clip: list[np.ndarray], boxes: list[np.ndarray]) -> Iterator[Held]:
    """The streaming tracker over a clip, one frame for each ``next``."""
    tracker = VideoTracker(model, TrackerConfig(max_objects=len(boxes)))
    for index, frame in enumerate(clip):
        tracker.step(frame, index, [Prompt(box=box) for box in boxes] if index == 0 else ())
        yield lambda: tracker.memory_bytes() + tracker.history_bytes()


def _finish_queued_work() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def side_by_side(runs: dict[str, Run], rounds: int) -> dict[str, Measured]:
    """What each run takes, all of them advancing in turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    held = dict.fromkeys(runs, 0)
    for _ in range(rounds):
        running = {name: make() for name, make in runs.items()}
        index = 0
        while running:
            for name in list(running):
                _finish_queued_work()
                start = time.perf_counter()
                measure = next(running[name], None)
                _finish_queued_work()
                elapsed = (time.perf_counter() - start) * 1e3
                if measure is None:
                    del running[name]
                elif index >= WARMUP:
                    times[name].append(elapsed)
                    held[name] = measure()
            index += 1
    return {name: Measured(times[name], held[name]) for name in runs}
