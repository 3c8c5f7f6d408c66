"""Overlays of several methods on one clip without truth, side by side, to be looked at.

    python -m benchmarks.side_by_side FRAMES OUT.png --box 200 150 320 230 [--point 410 220] \
        --methods base moga=moga.safetensors [--corruption rain:3] [--every 10]

FRAMES is a folder of pictures.  Every box and point starts an object on the first one.  Methods are those of
``benchmarks.robustness``.  With an ending such as .mp4 a video of all frames is written instead of a sheet.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.robustness import load_methods
from robust_pvos_ros.corruption.corruption import ClipCorruption, parse_corruptions
from robust_pvos_ros.demo.sources import PICTURES
from robust_pvos_ros.evaluation.davis import read_image
from robust_pvos_ros.evaluation.sheet import SheetRow, write_sheet
from robust_pvos_ros.overlay import draw_overlay
from robust_pvos_ros.tracking.tracker import VideoTracker
from robust_pvos_ros.tracking.types import Prompt, TrackerConfig


def frames_of(folder: Path, corruption: str) -> Iterator[np.ndarray]:
    """uint8 (H, W, 3) RGB pictures of a folder in the order of their names, corrupted."""
    corrupt = ClipCorruption(parse_corruptions(corruption))
    for index, path in enumerate(sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURES)):
        yield corrupt.rgb(read_image(path), index)


def overlays(trackers: dict[str, VideoTracker], rgb: np.ndarray, index: int, prompts: list[Prompt]) -> list[np.ndarray]:
    """The frame as each method sees it, uint8 (H, W, 3) RGB."""
    pictures = []
    for tracker in trackers.values():
        result = tracker.step(rgb, index, prompts if index == 0 else ())
        drawn = draw_overlay(rgb, result.masks, result.objects)
        pictures.append(cv2.cvtColor(drawn, cv2.COLOR_BGR2RGB))
    return pictures


def write_video(path: Path, names: list[str], frames: Iterator[list[np.ndarray]], rate: float) -> None:
    """Methods beside one another, with their names."""
    writer = None
    for pictures in frames:
        named = [cv2.putText(p.copy(), n, (8, 22), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 2, cv2.LINE_AA)
                 for n, p in zip(names, pictures, strict=True)]  # fmt: skip
        wide = cv2.cvtColor(np.hstack(named), cv2.COLOR_RGB2BGR)
        if writer is None:
            code = cv2.VideoWriter.fourcc(*'mp4v')
            writer = cv2.VideoWriter(str(path), code, rate, (wide.shape[1], wide.shape[0]))
        writer.write(wide)
    if writer is not None:
        writer.release()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('frames', type=Path)
    parser.add_argument('output', type=Path)
    parser.add_argument('--box', type=float, nargs=4, action='append', default=[], metavar=('X0', 'Y0', 'X1', 'Y1'))
    parser.add_argument('--point', type=float, nargs=2, action='append', default=[], metavar=('X', 'Y'))
    parser.add_argument('--methods', nargs='+', default=['base'], metavar='NAME[=FILE]')
    parser.add_argument('--model', default='compact')
    parser.add_argument('--checkpoint', default='')
    parser.add_argument('--corruption', default='')
    parser.add_argument('--every', type=int, default=12, help='frames between two rows of the sheet')
    parser.add_argument('--rate', type=float, default=12.0, help='frames a second of the video')
    parser.add_argument('--threads', type=int, default=1)
    options = parser.parse_args()
    if not options.box and not options.point:
        parser.error('give at least one --box or --point')
    torch.set_num_threads(options.threads)
    models = load_methods(options.methods, options.model, options.checkpoint, options.threads)
    trackers = {name: VideoTracker(model, TrackerConfig(max_objects=64)) for name, model in models.items()}
    prompts = [Prompt(box=np.array(box, np.float32)) for box in options.box]
    prompts += [Prompt(points=np.array([p], np.float32), point_labels=np.array([1], np.int32)) for p in options.point]
    pictures = enumerate(frames_of(options.frames, options.corruption))
    seen = (overlays(trackers, rgb, index, prompts) for index, rgb in pictures)
    if options.output.suffix.lower() in ('.mp4', '.avi', '.mkv'):
        write_video(options.output, list(trackers), seen, options.rate)
    else:
        rows = [SheetRow(f'frame {i}: {", ".join(trackers)}', tuple(p)) for i, p in enumerate(seen)
                if i % options.every == 0]  # fmt: skip
        write_sheet(options.output, rows)
    print(f'wrote {options.output}')


if __name__ == '__main__':
    main()
