"""What a precision, an engine or a compiler does to masks, judged in the loop: every mask feeds the memory of the next.

    python -m benchmarks.precision [--frames 200] [--objects 4] [--variants bfloat16 compiled tensorrt] [--out FILE.csv]

Objects of the demo's street are followed from their true masks on the first frame, once by torch in float32 and once by
each variant.  `agreement` is the mean IoU of a variant's masks with those of float32, `truth` with the drawn ones; an
object is lost where float32 holds it to the end (mean IoU with the truth of 0.5 over the last tenth) and the variant
does not.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.provenance import describe_run
from robust_pvos_ros.export.choose import equip_with_encoder
from robust_pvos_ros.procedural.street import StreetScene
from robust_pvos_ros.tracking.compiled import warm_up
from robust_pvos_ros.tracking.model import load_model
from robust_pvos_ros.tracking.tracker import VideoTracker
from robust_pvos_ros.tracking.types import ModelConfig, Prompt, PvosError, TrackerConfig

VARIANTS = {
    'bfloat16': ('torch', 'bfloat16', False),
    'compiled': ('torch', 'bfloat16', True),
    'tensorrt': ('tensorrt', 'bfloat16', False),
    'tensorrt-compiled': ('tensorrt', 'bfloat16', True),
}
"""Name -> encoder, precision, and whether the rest is compiled."""
COLUMNS = ('variant', 'frames', 'objects', 'agreement', 'worst object', 'truth', 'lost')
BEGIN, RATE, HELD = 2.0, 15.0, 0.5


class Row(NamedTuple):
    """One line of the table; see the module."""

    variant: str
    frames: int
    objects: int
    agreement: float
    worst: float
    truth: float
    lost: int

    def cells(self) -> list[str]:
        """As they are printed and written."""
        ious = (f'{value:.4f}' for value in (self.agreement, self.worst, self.truth))
        return [self.variant, str(self.frames), str(self.objects), *ious, str(self.lost)]


def draw_clip(frames: int, objects: int) -> tuple[list[np.ndarray], np.ndarray]:
    """RGB frames of the street, and the truth of the objects that are largest on the first one, bool (T, N, H, W)."""
    scene = StreetScene(prepare=False)
    drawn = [scene.frame(BEGIN + index / RATE) for index in range(frames)]
    numbers, areas = np.unique(drawn[0][1][drawn[0][1] > 0], return_counts=True)
    chosen = sorted(numbers[np.argsort(-areas)][:objects])
    return [rgb for rgb, _ in drawn], np.stack([np.stack([ids == n for n in chosen]) for _, ids in drawn])


def follow(config: ModelConfig, clip: list[np.ndarray], first: np.ndarray) -> np.ndarray:
    """Masks, bool (T, N, H, W), of objects given by their masks on the first frame, bool (N, H, W).

    Raises:
        PvosError: if the model cannot run like that here.
    """
    model = load_model(config)
    equip_with_encoder(model, config, lambda text: print(f'  {text}', flush=True))
    if config.compile:
        warm_up(model, len(first), lambda text: print(f'  {text}', flush=True))
    tracker = VideoTracker(model, TrackerConfig(history_frames=0))
    prompts = [Prompt(mask=mask) for mask in first]
    found = [tracker.step(rgb, index, prompts if index == 0 else ()).masks for index, rgb in enumerate(clip)]
    if config.encoder != 'torch' and model.encoder.name != config.encoder:
        raise PvosError(f'the encoder {model.encoder.name} had to take over')
    return np.stack(found)


def ious(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """float (T, N) IoU of masks, bool (T, N, H, W); NaN where both are empty."""
    shared = (one & other).sum((2, 3))
    union = (one | other).sum((2, 3))
    return np.where(union > 0, shared / np.maximum(union, 1), np.nan)


def compare(variant: str, found: np.ndarray, reference: np.ndarray, truth: np.ndarray) -> Row:
    """The row of a variant; masks bool (T, N, H, W)."""
    agreement, last = ious(found, reference), max(1, len(found) // 10)

    def held(masks: np.ndarray) -> np.ndarray:
        return np.nan_to_num(_means(ious(masks, truth)[-last:])) >= HELD

    lost = int((held(reference) & ~held(found)).sum())
    each = _means(agreement)
    mean, right = float(np.nanmean(agreement)), float(np.nanmean(ious(found, truth)))
    return Row(variant, found.shape[0], found.shape[1], mean, float(np.nanmin(each)), right, lost)


def _means(values: np.ndarray) -> np.ndarray:
    """Mean over frames of (T, N), NaN for an object without any."""
    counted = (~np.isnan(values)).sum(0)
    return np.where(counted > 0, np.nansum(values, 0) / np.maximum(counted, 1), np.nan)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default='compact')
    parser.add_argument('--checkpoint', default='')
    parser.add_argument('--frames', type=int, default=200)
    parser.add_argument('--objects', type=int, default=4)
    parser.add_argument('--device', default='auto')
    parser.add_argument('--threads', type=int, default=0)
    parser.add_argument('--variants', nargs='+', default=['bfloat16'], choices=list(VARIANTS))
    parser.add_argument('--out', type=Path, help='CSV file')
    args = parser.parse_args(arguments)
    torch.backends.cudnn.allow_tf32 = False  # the reference is float32 throughout
    about = describe_run()
    print('\n'.join(f'{key}: {value}' for key, value in about.items()))
    base = ModelConfig(
        args.model, args.checkpoint, device=args.device, threads=args.threads, precision='float32', encoder='torch'
    )
    clip, truth = draw_clip(args.frames, args.objects)
    print(f'{len(clip)} frames, {truth.shape[1]} objects', flush=True)
    reference = follow(base, clip, truth[0])
    rows = [compare('float32', reference, reference, truth)]
    for variant in args.variants:
        encoder, precision, compiled = VARIANTS[variant]
        try:
            chosen = replace(base, encoder=encoder, precision=precision, compile=compiled)
            rows.append(compare(variant, follow(chosen, clip, truth[0]), reference, truth))
        except PvosError as error:
            print(f'{variant}: {error}', flush=True)
    for row in [COLUMNS, *(row.cells() for row in rows)]:
        print(''.join(f'{cell:>18}' for cell in row), flush=True)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        with args.out.open('w', newline='') as file:
            writer = csv.writer(file, lineterminator='\n')
            writer.writerow([*COLUMNS, 'machine', 'versions', 'commit'])
            writer.writerows([*row.cells(), about['machine'], about['versions'], about['commit']] for row in rows)


if __name__ == '__main__':
    main()
