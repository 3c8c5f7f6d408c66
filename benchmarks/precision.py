"""What a precision, an engine or a compiler does to masks, judged in the loop: every mask feeds the memory of the next.

    python -m benchmarks.precision [--frames 200] [--objects 4] [--variants bfloat16 tensorrt ...] [--out FILE.csv]

On several stretches of the demo's street, objects are followed from their true masks on the first frame, once by torch
in float32 and once by each variant.  `agreement` is the mean IoU of a variant's masks with those of float32, `held` the
same where float32 holds the object (IoU with the truth of 0.5), `truth` the mean IoU with the drawn masks.  An object
is lost where float32 holds it to the end (over the last tenth) and the variant does not, and won the other way round.

Where two things claim an object, whatever is not exactly equal decides, and the loop makes it large.  The variants
`noise-1` to `noise-3` show how much: float32 throughout, but one in a hundred values of every picture is off by one.
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

from benchmarks.float16 import encode_in_float16
from benchmarks.provenance import ORIGIN, describe_run
from robust_pvos_ros.export.choose import equip_with_encoder
from robust_pvos_ros.procedural.street import StreetScene
from robust_pvos_ros.tracking.compiled import warm_up
from robust_pvos_ros.tracking.model import Sam2Model, load_model
from robust_pvos_ros.tracking.tracker import VideoTracker
from robust_pvos_ros.tracking.types import ModelConfig, Prompt, PvosError, TrackerConfig


class Variant(NamedTuple):
    """How the network runs; encoder ``float16`` is torch's, rounded as an engine rounds.

    Attributes:
        noise: seed of the values of pictures that are off by one; 0 leaves them as they are.
    """

    encoder: str = 'torch'
    precision: str = 'bfloat16'
    compiled: bool = False
    noise: int = 0


VARIANTS = {
    'bfloat16': Variant(),
    'float16-encoder': Variant(encoder='float16'),
    'compiled': Variant(compiled=True),
    'tensorrt': Variant(encoder='tensorrt'),
    'tensorrt-compiled': Variant(encoder='tensorrt', compiled=True),
    **{f'noise-{seed}': Variant(precision='float32', noise=seed) for seed in (1, 2, 3)},
}
COLUMNS = ('variant', 'frames', 'objects', 'agreement', 'held', 'worst object', 'truth', 'lost', 'won')
BEGINS, RATE, HELD = (2.0, 11.0, 20.0, 29.0), 15.0, 0.5


class Row(NamedTuple):
    """One line of the table; see the module."""

    variant: str
    frames: int
    objects: int
    agreement: float
    held: float
    worst: float
    truth: float
    lost: int
    won: int

    def cells(self) -> list[str]:
        """As they are printed and written."""
        ious = (f'{value:.4f}' for value in (self.agreement, self.held, self.worst, self.truth))
        return [self.variant, str(self.frames), str(self.objects), *ious, str(self.lost), str(self.won)]


def draw_clip(begin: float, frames: int, objects: int) -> tuple[list[np.ndarray], np.ndarray]:
    """RGB frames of the street from a second on, and the truth of the objects that are largest on the first one, bool
    (T, N, H, W)."""
    scene = StreetScene(prepare=False)
    drawn = [scene.frame(begin + index / RATE) for index in range(frames)]
    numbers, areas = np.unique(drawn[0][1][drawn[0][1] > 0], return_counts=True)
    chosen = sorted(numbers[np.argsort(-areas)][:objects])
    return [rgb for rgb, _ in drawn], np.stack([np.stack([ids == n for n in chosen]) for _, ids in drawn])


def build(config: ModelConfig, objects: int) -> Sam2Model:
    """The network of a variant.

    Raises:
        PvosError: if it cannot run like that here.
    """
    model = load_model(config)
    if config.encoder == 'float16':
        encode_in_float16(model, config)
    else:
        equip_with_encoder(model, config, lambda text: print(f'  {text}', flush=True))
    if config.compile:
        warm_up(model, objects, lambda text: print(f'  {text}', flush=True))
    return model


def follow(model: Sam2Model, clip: list[np.ndarray], first: np.ndarray, noise: int = 0) -> np.ndarray:
    """Masks, bool (T, N, H, W), of objects given by their masks on the first frame, bool (N, H, W)."""
    tracker = VideoTracker(model, TrackerConfig(history_frames=0))
    prompts = [Prompt(mask=mask) for mask in first]
    random = np.random.default_rng(noise)
    found = []
    for index, rgb in enumerate(clip):
        picture = disturbed(rgb, random) if noise else rgb
        found.append(tracker.step(picture, round(index / RATE * 1e9), prompts if index == 0 else ()).masks)
    return np.stack(found)


def disturbed(rgb: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A picture, uint8, with one in a hundred of its values off by one."""
    off = random.choice(np.array([-1, 0, 1], np.int16), rgb.shape, p=[0.005, 0.99, 0.005])
    return np.clip(rgb + off, 0, 255).astype(np.uint8)


def ious(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """float (T, N) IoU of masks, bool (T, N, H, W); NaN where both are empty."""
    shared = (one & other).sum((2, 3))
    union = (one | other).sum((2, 3))
    return np.where(union > 0, shared / np.maximum(union, 1), np.nan)


class Compared(NamedTuple):
    """IoUs of one stretch, float (T, N): of a variant with float32, and of both with the truth."""

    agreement: np.ndarray
    found: np.ndarray
    reference: np.ndarray


def compare(found: np.ndarray, reference: np.ndarray, truth: np.ndarray) -> Compared:
    """Of masks bool (T, N, H, W)."""
    return Compared(ious(found, reference), ious(found, truth), ious(reference, truth))


def summarise(variant: str, stretches: Sequence[Compared]) -> Row:
    """The row of a variant from all its stretches, which are of equal length."""
    agreement, found, reference = (np.concatenate(parts, axis=1) for parts in zip(*stretches, strict=True))
    last = max(1, len(agreement) // 10)
    kept, right = (np.nan_to_num(_means(x[-last:])) >= HELD for x in (found, reference))
    held = agreement[(reference >= HELD) & ~np.isnan(agreement)]
    return Row(
        variant,
        frames=len(agreement),
        objects=agreement.shape[1],
        agreement=float(np.nanmean(agreement)),
        held=float(held.mean()) if held.size else float('nan'),
        worst=float(np.nanmin(_means(agreement))),
        truth=float(np.nanmean(found)),
        lost=int((right & ~kept).sum()),
        won=int((kept & ~right).sum()),
    )


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
    parser.add_argument('--objects', type=int, default=4, help='of each stretch')
    parser.add_argument('--begins', type=float, nargs='+', default=BEGINS, help='of the stretches, seconds')
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
    clips = [draw_clip(begin, args.frames, args.objects) for begin in args.begins]
    print(f'{len(clips)} stretches of {args.frames} frames', flush=True)
    reference = build(base, args.objects)
    references = [follow(reference, clip, truth[0]) for clip, truth in clips]
    stretches = {'float32': [compare(masks, masks, truth) for masks, (_, truth) in zip(references, clips, strict=True)]}
    for name in args.variants:
        encoder, precision, compiled, noise = VARIANTS[name]
        try:
            model = build(replace(base, encoder=encoder, precision=precision, compile=compiled), args.objects)
            compared = [
                compare(follow(model, clip, truth[0], noise), masks, truth)
                for masks, (clip, truth) in zip(references, clips, strict=True)
            ]
            # one that failed while the network was compiled, too, is not what ran
            if encoder not in ('torch', model.encoder.name):
                raise PvosError(f'the encoder {model.encoder.name} had to take over')
            stretches[name] = compared
        except PvosError as error:
            print(f'{name}: {error}', flush=True)
    rows = [summarise(name, parts) for name, parts in stretches.items()]
    for row in [COLUMNS, *(row.cells() for row in rows)]:
        print(''.join(f'{cell:>16}' for cell in row), flush=True)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        with args.out.open('w', newline='') as file:
            writer = csv.writer(file, lineterminator='\n')
            writer.writerow([*COLUMNS, *ORIGIN])
            writer.writerows([*row.cells(), *(about[name] for name in ORIGIN)] for row in rows)


if __name__ == '__main__':
    main()
