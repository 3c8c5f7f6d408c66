"""Whether IDs survive: two look-alikes that cross, and one object that is hidden for two seconds.

    python -m benchmarks.identity [--seeds 50] [--settings stock default ...] [--out FILE]

The clips are rendered here, with truth: blobs of one and the same cloth over a cluttered ground.  In `cross` two of
them pass each other, one in front; in `hide` one goes behind a wall and comes out on the other side.  Each object is
given by its true mask on the first frame.  On the last frame it is

    kept      its mask overlaps its own truth by an IoU of 0.5 or more,
    swapped   it overlaps the truth of the other by that much,
    lost      neither.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from benchmarks.provenance import describe_run
from benchmarks.tables import write_table
from robust_pvos_ros.tracking.association import mask_iou
from robust_pvos_ros.tracking.model import Sam2Model, load_model
from robust_pvos_ros.tracking.tracker import VideoTracker
from robust_pvos_ros.tracking.types import ModelConfig, Prompt, TrackerConfig

HEIGHT, WIDTH, RATE = 240, 320, 15
ENOUGH = 0.5
FATES = ('kept', 'swapped', 'lost')
STOCK = TrackerConfig(memory_policy='stock', contest_overlap=1.0, stray_cover=0.0, recovery_score=1.0)
SETTINGS: dict[str, TrackerConfig] = {
    'stock': STOCK,
    'selective': replace(STOCK, memory_policy='selective'),
    'exclusive': replace(STOCK, exclusive_memory=0.7),
    'motion': replace(STOCK, contest_overlap=TrackerConfig().contest_overlap),
    'recovery': replace(STOCK, recovery_score=TrackerConfig().recovery_score),
    'default': TrackerConfig(),
}
"""Name -> what is compared."""


class Clip(NamedTuple):
    """Frames, uint8 (T, H, W, 3) RGB, and the visible part of each object, bool (T, N, H, W)."""

    frames: np.ndarray
    truth: np.ndarray


def cloth(rng: np.random.Generator, height: int, width: int, cells: Iterable[int] = (4, 10, 24)) -> np.ndarray:
    """Clutter of several sizes, uint8 (H, W, 3)."""
    canvas = np.full((height, width, 3), rng.uniform(60, 190, 3), np.float32)
    for count in cells:
        noise = rng.normal(0, 90 / count**0.5, (count, max(1, count * width // height), 3)).astype(np.float32)
        canvas += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    return canvas.clip(0, 255).astype(np.uint8)


def blob(rng: np.random.Generator, radius: int) -> np.ndarray:
    """A round shape with bumps, bool (2 * radius + 1, 2 * radius + 1)."""
    angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    bumps = sum(rng.uniform(0, 0.1) * np.cos(k * angle + rng.uniform(0, 6.3)) for k in range(2, 6))
    reach = radius * (0.8 + bumps)
    points = np.stack([radius + reach * np.cos(angle), radius + reach * np.sin(angle)], 1)
    canvas = np.zeros((2 * radius + 1, 2 * radius + 1), np.uint8)
    cv2.fillPoly(canvas, [points.round().astype(np.int32)], 1)
    return canvas.astype(bool)


def _paste(frame: np.ndarray, shape: np.ndarray, look: np.ndarray, x: float, y: float) -> np.ndarray:
    """Draw a shape centred at (x, y) and return its mask, bool (H, W)."""
    mask = np.zeros(frame.shape[:2], bool)
    radius = shape.shape[0] // 2
    left, top = round(x) - radius, round(y) - radius
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + shape.shape[1], frame.shape[1]), min(top + shape.shape[0], frame.shape[0])
    if x0 < x1 and y0 < y1:
        window = np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
        mask[y0:y1, x0:x1] = shape[window]
        np.copyto(frame[y0:y1, x0:x1], look[window], where=shape[window][..., None])
    return mask


def cross(seed: int, seconds: float = 4.0) -> Clip:
    """Two look-alikes that pass each other; the first is behind."""
    rng = np.random.default_rng([seed, 0])
    ground, radius = cloth(rng, HEIGHT, WIDTH), int(rng.integers(26, 40))
    shape = blob(rng, radius)
    look = cloth(rng, len(shape), len(shape), cells=(3, 6))
    height, sway = rng.uniform(0.4, 0.6) * HEIGHT, rng.uniform(0, 12, 2)
    frames, truth = [], []
    count = round(seconds * RATE)
    for index in range(count):
        part = index / (count - 1)
        across = radius + 6 + part * (WIDTH - 2 * radius - 12)
        frame = ground.copy()
        behind = _paste(frame, shape, look, across, height + sway[0] * np.sin(6 * part))
        front = _paste(frame, shape, look, WIDTH - across, height + sway[1] * np.sin(5 * part) + 4)
        frames.append(_seen(rng, frame))
        truth.append([behind & ~front, front])
    return Clip(np.stack(frames), np.array(truth))


def hide(seed: int, seconds: float = 2.0) -> Clip:
    """One object that is wholly behind a wall for a while."""
    rng = np.random.default_rng([seed, 1])
    ground, radius = cloth(rng, HEIGHT, WIDTH), int(rng.integers(22, 32))
    shape = blob(rng, radius)
    look, wall = cloth(rng, len(shape), len(shape), cells=(3, 6)), cloth(rng, HEIGHT, WIDTH, cells=(2, 30))
    thickness = 2 * radius + 40
    left, right = (WIDTH - thickness) // 2, (WIDTH + thickness) // 2
    height, speed = rng.uniform(0.35, 0.65) * HEIGHT, 4.0  # pixels a frame
    x, waited, frames, truth = float(radius + 4), 0, [], []
    while x < WIDTH - radius - 4:
        hidden = left + radius < x < right - radius
        if hidden and waited < round(seconds * RATE):
            waited += 1
        else:
            x += speed
        frame = ground.copy()
        mask = _paste(frame, shape, look, x, height)
        frame[:, left:right] = wall[:, left:right]
        mask[:, left:right] = False
        frames.append(_seen(rng, frame))
        truth.append([mask])
    return Clip(np.stack(frames), np.array(truth))


def _seen(rng: np.random.Generator, frame: np.ndarray) -> np.ndarray:
    """A camera's view: a little blur and noise."""
    noise = rng.normal(0, 4, frame.shape).astype(np.float32)
    return (cv2.GaussianBlur(frame, (3, 3), 0.7) + noise).clip(0, 255).astype(np.uint8)


SCENES = {'cross': cross, 'hide': hide}


def fate_of(mask: np.ndarray, own: np.ndarray, others: np.ndarray) -> str:
    """``kept``, ``swapped`` or ``lost``.

    Args:
        mask, own: bool (H, W) as tracked, and the truth; others: bool (N, H, W), the truth of the other objects.
    """
    if mask_iou(mask, own) >= ENOUGH:
        return 'kept'
    return 'swapped' if any(mask_iou(mask, other) >= ENOUGH for other in others) else 'lost'


def masks_of(model: Sam2Model, config: TrackerConfig, clip: Clip) -> Iterator[np.ndarray]:
    """The mask of each object, bool (N, H, W), frame by frame."""
    tracker = VideoTracker(model, config)
    prompts = [Prompt(mask=mask) for mask in clip.truth[0]]
    for index, frame in enumerate(clip.frames):
        yield tracker.step(frame, index * 10**9 // RATE, prompts if index == 0 else ()).masks


def follow(model: Sam2Model, config: TrackerConfig, clip: Clip) -> list[str]:
    """What became of each object of a clip."""
    *_, masks = masks_of(model, config, clip)
    last = clip.truth[-1]
    return [fate_of(masks[row], last[row], np.delete(last, row, 0)) for row in range(len(last))]


def draw(model: Sam2Model, settings: Iterable[str], clip: Clip, path: Path, count: int = 6) -> None:
    """Some frames of a clip side by side, a row for each setting, with the objects outlined in two colours."""
    shown, rows = np.linspace(0, len(clip.frames) - 2, count).round(), []
    for setting in settings:
        tiles = []
        for index, masks in enumerate(masks_of(model, SETTINGS[setting], clip)):
            if index in shown:
                tile = clip.frames[index][..., ::-1].copy()
                for mask, colour in zip(masks, ((255, 255, 255), (0, 0, 0)), strict=False):
                    outline, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
                    cv2.drawContours(tile, outline, -1, colour, 2)
                tiles.append(tile)
        rows.append(np.hstack(tiles))
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.vstack(rows))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog='python -m benchmarks.identity', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--seeds', type=int, default=50)
    parser.add_argument('--settings', nargs='+', choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument('--model', default='compact')
    parser.add_argument('--checkpoint', default='')
    parser.add_argument('--adapter', default='')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    parser.add_argument('--out', type=Path, help='table of all results, .csv and .md')
    parser.add_argument('--draw', type=Path, help='only a picture of the look-alikes of seed SEEDS')
    args = parser.parse_args()
    model = load_model(
        ModelConfig(model=args.model, checkpoint=args.checkpoint, adapter=args.adapter, device=args.device)
    )
    if args.draw:
        draw(model, args.settings, cross(args.seeds), args.draw)
        return
    for name, value in describe_run().items():
        print(f'{name}: {value}')
    print(f'{args.seeds} seeds of each scene, {RATE} Hz, {WIDTH}x{HEIGHT}, {model.name} in {model.precision}')
    print(f'{"scene":>8} {"setting":>10} ' + ' '.join(f'{fate:>8}' for fate in FATES) + f' {"seconds":>8}', flush=True)
    rows = []
    for scene, render in SCENES.items():
        for setting in args.settings:
            start, fates = time.perf_counter(), Counter[str]()
            for seed in range(args.seeds):
                fates.update(follow(model, SETTINGS[setting], render(seed)))
            rows.append({'scene': scene, 'setting': setting, **{fate: str(fates[fate]) for fate in FATES}})
            cells = ' '.join(f'{fates[fate]:>8}' for fate in FATES)
            print(f'{scene:>8} {setting:>10} {cells} {time.perf_counter() - start:>8.0f}', flush=True)
    if args.out:
        write_table(rows, args.out)


if __name__ == '__main__':
    main()
