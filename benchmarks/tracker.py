"""Frames per second of the streaming tracker beside the official video predictor: same weights, same clip, one run.

    python -m benchmarks.tracker [--objects 1 4 8] [--frames 48] [--rounds 3] [--model compact] [--out DIR]

Both run frame by frame in turns, so that a noisy machine hits them alike; the figure that counts is the ratio of the
medians in one row.  The image encoder is included, reading and resizing images is not; the first frames, on which the
memory is still filling, are left out.
"""

from __future__ import annotations

import argparse
import csv
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import torch
from sam2.modeling.sam2_base import SAM2Base
from sam2.sam2_video_predictor import SAM2VideoPredictor

from benchmarks.official import build_predictor
from robust_pvos_ros.tracking.adapters import MogaConfig, inject
from robust_pvos_ros.tracking.checkpoints import (
    build_official,
    build_sam,
    read_compact,
    resolve_device,
    shipped_weights,
)
from robust_pvos_ros.tracking.compact import CompactConfig, build_compact
from robust_pvos_ros.tracking.model import Sam2Model
from robust_pvos_ros.tracking.tracker import VideoTracker
from robust_pvos_ros.tracking.types import Prompt, TrackerConfig

WARMUP = 18  # frames until every object attends to as many memories and pointers as it ever will


def make_clip(size: int, frames: int, objects: int, seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Textured discs that drift over a textured ground: RGB frames (S, S, 3) and first-frame boxes (x0, y0, x1, y1)."""
    rng = np.random.default_rng(seed)
    ground = cv2.resize(rng.integers(40, 215, (24, 24, 3), dtype=np.uint8), (size, size), interpolation=cv2.INTER_CUBIC)
    radius = size / 12
    centres = rng.uniform(0.2 * size, 0.8 * size, (objects, 2))
    speeds = rng.uniform(-0.3, 0.3, (objects, 2))
    colours = rng.integers(0, 255, (objects, 3))
    clip = []
    for index in range(frames):
        frame = ground.copy()
        for centre, speed, colour in zip(centres, speeds, colours, strict=True):
            at = tuple(int(v) for v in centre + index * speed)
            cv2.circle(frame, at, int(radius), tuple(int(c) for c in colour), -1, cv2.LINE_AA)
        clip.append(frame)
    return clip, [np.concatenate([c - radius, c + radius]).clip(0, size - 1).astype(np.float32) for c in centres]


def load_sam(model: str, checkpoint: str) -> SAM2Base:
    """The network to measure; without weights at hand a random one, whose speed is the same."""
    torch.manual_seed(0)
    if checkpoint:
        return build_sam(model, checkpoint)
    if model != 'compact':
        return build_official(model)
    return build_sam(model) if shipped_weights().is_file() else build_compact(CompactConfig())


def official_frames(
    predictor: SAM2VideoPredictor, clip: list[np.ndarray], boxes: list[np.ndarray], precision: str
) -> Iterator[None]:
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
        yield


def streaming_frames(model: Sam2Model, clip: list[np.ndarray], boxes: list[np.ndarray]) -> Iterator[None]:
    """The streaming tracker over a clip, one frame for each ``next``."""
    tracker = VideoTracker(model, TrackerConfig(max_objects=len(boxes)))
    for index, frame in enumerate(clip):
        tracker.step(frame, index, [Prompt(box=box) for box in boxes] if index == 0 else ())
        yield


def _finish_queued_work() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def side_by_side(runs: dict[str, Callable[[], Iterator[None]]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every frame after the warm-up, all runs advancing in turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        running = {name: make() for name, make in runs.items()}
        index = 0
        while running:
            for name in list(running):
                _finish_queued_work()
                start = time.perf_counter()
                alive = next(running[name], StopIteration) is not StopIteration
                _finish_queued_work()
                elapsed = (time.perf_counter() - start) * 1e3
                if not alive:
                    del running[name]
                elif index >= WARMUP:
                    times[name].append(elapsed)
            index += 1
    return times


def build_runs(args: argparse.Namespace, objects: int) -> dict[str, Callable[[], Iterator[None]]]:
    """The contenders for one number of objects, by row name."""
    device = resolve_device(args.device)
    sam = load_sam(args.model, args.checkpoint).to(device)
    clip, boxes = make_clip(sam.image_size, args.frames, objects)
    runs: dict[str, Callable[[], Iterator[None]]] = {}
    file = Path(args.checkpoint) if args.checkpoint else shipped_weights()
    compact = read_compact(file)[0] if args.model == 'compact' and file.is_file() else None
    for precision in args.precisions:
        predictor = build_predictor(args.model, sam, compact)
        runs[f'official {precision}'] = partial(official_frames, predictor, clip, boxes, precision)
        own = load_sam(args.model, args.checkpoint).to(device)
        model = Sam2Model(own, args.model, precision=precision)
        runs[f'ours {precision}'] = partial(streaming_frames, model, clip, boxes)
        adapted = load_sam(args.model, args.checkpoint).to(device)
        adapter = inject(adapted, MogaConfig())
        with_moga = Sam2Model(adapted.eval(), args.model, adapter, precision)
        runs[f'ours {precision} + MoGA'] = partial(streaming_frames, with_moga, clip, boxes)
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default='compact')
    parser.add_argument('--checkpoint', default='', help='weights; random ones for an official model without it')
    parser.add_argument('--objects', type=int, nargs='+', default=[1, 4, 8])
    parser.add_argument('--frames', type=int, default=48)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--device', default='auto')
    parser.add_argument('--threads', type=int, default=0)
    parser.add_argument('--precisions', nargs='+', default=['float32', 'bfloat16'])
    parser.add_argument('--out', type=Path, help='folder for tracker.csv')
    args = parser.parse_args()
    if args.frames <= WARMUP:
        parser.error(f'--frames must be above {WARMUP}, the frames on which the memory is still filling')
    if args.threads:
        torch.set_num_threads(args.threads)
    print(f'{args.model} on {platform.processor() or platform.machine()}, torch {torch.__version__}, '
          f'{torch.get_num_threads()} threads')
    print(f'{"objects":>7}  {"run":24} {"p50 ms":>8} {"p99 ms":>8} {"fps":>7} {"x official":>11}')
    rows = []
    for objects in args.objects:
        with mock.patch('sam2.sam2_video_predictor.tqdm', lambda frames, **_: frames):
            times = side_by_side(build_runs(args, objects), args.rounds)
        for name, values in times.items():
            median, slow = np.percentile(values, [50, 99])
            reference = float(np.median(times[f'official {name.split()[1]}']))
            rows.append((objects, name, round(median, 2), round(slow, 2), round(1e3 / median, 1), reference / median))
            print(f'{objects:7d}  {name:24} {median:8.1f} {slow:8.1f} {1e3 / median:7.1f} {reference / median:10.2f}x',
                  flush=True)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        with (args.out / 'tracker.csv').open('w', newline='') as file:
            writer = csv.writer(file)
            writer.writerow(['objects', 'run', 'p50_ms', 'p99_ms', 'fps', 'ratio_to_official'])
            writer.writerows(rows)


if __name__ == '__main__':
    main()
