"""Frames per second of the streaming tracker beside the official video predictor: same weights, same clip, one run.

    python -m benchmarks.tracker [--objects 1 2 4 8 16] [--image-sizes 256 384] [--encoders torch onnx] [--out DIR]

Both run frame by frame in turns; the figure that counts is the ratio of the medians in one row.  The image encoder is
included, reading and resizing images is not; the first frames, on which the memory is still filling, are left out.  On
a GPU the official predictor also runs compiled (``vos_optimized``; on a CPU with ``--compile-official``), and ours with
``--encoders compiled``.  With ``--camera 1280 720`` ours also takes images of that size, from the host's memory to
masks there.  ``--out`` gets ``tracker.csv`` and a plot.
"""

from __future__ import annotations

import argparse
import csv
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import torch
from sam2.modeling.sam2_base import SAM2Base
from sam2.sam2_video_predictor import SAM2VideoPredictor

from benchmarks.official import build_compiled_predictor, build_predictor
from benchmarks.provenance import ORIGIN, describe_run
from benchmarks.turns import WARMUP, Measured, Run, make_clip, official_frames, side_by_side, streaming_frames
from robust_pvos_ros.export.choose import equip_with_encoder
from robust_pvos_ros.tracking.adapters import MogaConfig, inject
from robust_pvos_ros.tracking.checkpoints import (
    build_official,
    build_sam,
    read_compact,
    resolve_device,
    shipped_weights,
)
from robust_pvos_ros.tracking.compact import CompactConfig, build_compact
from robust_pvos_ros.tracking.compiled import GROUPS, warm_up_group
from robust_pvos_ros.tracking.model import Sam2Model, set_threads
from robust_pvos_ros.tracking.types import ModelConfig, PvosError

COLUMNS = ('pixels', 'objects', 'run', 'p50 ms', 'p99 ms', 'fps', 'x official', 'held MB', 'x compiled')
ENCODERS = {
    'torch': ('torch', False), 'onnx': ('onnx', False), 'tensorrt': ('tensorrt', False), 'compiled': ('torch', True),
    'tensorrt-compiled': ('tensorrt', True),
}  # fmt: skip
"""Name -> encoder, and whether the rest is compiled."""
COMPILED = 'official bfloat16, compiled'
NAN = float('nan')


class Row(NamedTuple):
    """One line of the table; ``ratio`` is to the official predictor in the same precision, ``compiled`` to the compiled
    one, ``held`` what a run holds beside the network after the last frame, megabytes."""

    pixels: int
    objects: int
    run: str
    median: float
    slow: float
    ratio: float
    held: float
    compiled: float = NAN

    def cells(self) -> list[str]:
        """As they are printed and written."""
        ratio, compiled = ('' if np.isnan(x) else f'{x:.2f}' for x in (self.ratio, self.compiled))
        times = f'{self.median:.1f}', f'{self.slow:.1f}', f'{1e3 / self.median:.1f}'
        return [str(self.pixels), str(self.objects), self.run, *times, ratio, f'{self.held:.1f}', compiled]


def load_sam(args: argparse.Namespace, pixels: int) -> SAM2Base:
    """The network to measure; without weights at hand a random one, whose speed is the same."""
    torch.manual_seed(0)
    if args.checkpoint:
        return build_sam(args.model, args.checkpoint, pixels if args.model == 'compact' else 0)
    if args.model != 'compact':
        sam = build_official(args.model, pixels)
        # a network that says 'absent' would leave its masks empty, and those take no time to render
        sam.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.data.fill_(4.0)
        return sam
    if shipped_weights().is_file():
        return build_sam(args.model, image_size=pixels)
    return build_compact(CompactConfig(image_size=pixels or CompactConfig().image_size))


class Contenders:
    """What is measured at one image size, by row name; each is built, and compiled, once for all numbers of objects.

    Args:
        args: of the command line; pixels: S.
    """

    def __init__(self, args: argparse.Namespace, pixels: int) -> None:
        self.official: dict[str, tuple[SAM2VideoPredictor, str]] = {}
        self.ours: dict[str, Sam2Model] = {}
        self._args, self._pixels = args, pixels
        self._device = resolve_device(args.device)
        sam = load_sam(args, pixels).to(self._device)
        self.size = sam.image_size
        file = Path(args.checkpoint) if args.checkpoint else shipped_weights()
        compact = read_compact(file)[0] if args.model == 'compact' and file.is_file() else None
        for precision in args.precisions:
            if (name := f'official {precision}') not in args.skip:
                self.official[name] = build_predictor(args.model, sam, compact), precision
            compiles = (self._device.type == 'cuda' or args.compile_official) and args.model != 'compact'
            if compiles and precision == 'bfloat16' and COMPILED not in args.skip:
                self.official[COMPILED] = build_compiled_predictor(args.model, sam), precision
            for encoder in args.encoders:
                self._add_ours(precision, encoder)

    def _add_ours(self, precision: str, encoder: str) -> None:
        plain = f'ours {precision}' + ('' if encoder == 'torch' else f', {encoder}')
        for name in (plain, f'{plain} + MoGA'):
            if name not in self._args.skip:
                model = self._streaming(precision, encoder, name != plain, self.ours.get(plain))
                if model is not None:
                    self.ours[name] = model

    def _streaming(self, precision: str, encoder: str, adapted: bool, beside: Sam2Model | None) -> Sam2Model | None:
        """The tracker's model; None where the encoder does not run here, with the reason printed."""
        args = self._args
        sam = load_sam(args, self._pixels).to(self._device)
        adapter = inject(sam, MogaConfig()) if adapted else None
        model = Sam2Model(sam.eval().requires_grad_(False), args.model, adapter, precision)
        if encoder == 'torch':
            return model
        name, compiled = ENCODERS[encoder]
        config = ModelConfig(
            args.model, args.checkpoint, self._pixels, device=args.device, precision=precision, encoder=name,
            compile=compiled,
        )  # fmt: skip
        if beside is not None:  # an adapter leaves the encoder as it is
            model.encoder, config = beside.encoder, replace(config, encoder='torch')
        try:
            equip_with_encoder(model, config, lambda text: print(text, flush=True))
        except PvosError as error:
            print(f'{encoder}, {precision}: {error}')
            return None
        return model

    def prepare(self, objects: int) -> None:
        """Compile what is not compiled yet for ``objects``."""
        for name, model in self.ours.items():
            group = next((group for group in GROUPS if group >= objects), 0)
            if model.compiled and group:
                start = time.perf_counter()
                warm_up_group(model, group)
                ways = model.attention.ways.get(group)
                print(f'{name}, {group} objects: compiled in {time.perf_counter() - start:.1f} s, attention: {ways}')


def _of(times: Measured) -> tuple[float, float]:
    median, slow = np.percentile(times.times, [50, 99])
    return float(median), float(slow)


def measure(args: argparse.Namespace, contenders: Contenders, objects: int) -> list[Row]:
    """The rows of one image size and number of objects."""
    contenders.prepare(objects)
    pixels = contenders.size
    clip, boxes = make_clip((pixels, pixels), args.frames, objects)
    runs: dict[str, Run] = {
        name: partial(official_frames, predictor, clip, boxes, precision)
        for name, (predictor, precision) in contenders.official.items()
    }
    runs.update({name: partial(streaming_frames, model, clip, boxes) for name, model in contenders.ours.items()})
    with mock.patch('sam2.sam2_video_predictor.tqdm', lambda frames, **_: frames):
        measured = side_by_side(runs, args.rounds)
    medians = {name: float(np.median(found.times)) for name, found in measured.items()}
    rows = []
    for name, found in measured.items():
        reference = medians.get(f'official {name.split()[1].strip(",")}', NAN)
        compiled = medians.get(COMPILED, NAN) / medians[name]
        rows.append(Row(pixels, objects, name, *_of(found), reference / medians[name], found.held / 1e6, compiled))
    if args.camera:
        clip, boxes = make_clip(tuple(args.camera), args.frames, objects)
        label = 'x'.join(map(str, args.camera))
        for name, model in contenders.ours.items():
            [found] = side_by_side({name: partial(streaming_frames, model, clip, boxes)}, args.rounds).values()
            rows.append(Row(pixels, objects, f'{name}, {label}', *_of(found), NAN, found.held / 1e6))
    return rows


def rehearse(args: argparse.Namespace, contenders: Contenders) -> None:
    """Measure for nothing, so that all is compiled, and wait until the file ``--rehearse`` is there."""
    short = argparse.Namespace(**{**vars(args), 'frames': WARMUP + 2, 'rounds': 1})
    for objects in args.objects:
        measure(short, contenders, objects)
        print(f'{objects} objects: rehearsed', flush=True)
    while not args.rehearse.exists():
        time.sleep(0.2)


def draw(rows: list[Row], path: Path) -> None:
    """Frames per second against objects, a panel for each image size."""
    import matplotlib as mpl

    mpl.use('Agg')
    from matplotlib import pyplot as plt

    sizes = sorted({row.pixels for row in rows})
    names = sorted({row.run for row in rows}, key=lambda name: (not name.startswith('official'), name))
    figure, panels = plt.subplots(1, len(sizes), figsize=(5 * len(sizes), 5), layout='constrained', squeeze=False)
    for panel, pixels in zip(panels[0], sizes, strict=True):
        for place, name in enumerate(names):
            points = sorted((row.objects, 1e3 / row.median) for row in rows if (row.pixels, row.run) == (pixels, name))
            style = '.--' if name.startswith('official') else '.-'
            panel.plot(*(zip(*points, strict=True) if points else ([], [])), style, color=f'C{place}', label=name)
        ticks = sorted({row.objects for row in rows if row.pixels == pixels})
        panel.set(xlabel='objects', ylabel='frames a second', title=f'{pixels} pixels', ylim=(0, None), xticks=ticks)
        panel.grid(alpha=0.3)
    lines, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(lines, labels, loc='outside lower center', ncols=max(2, len(sizes)), fontsize='small')
    figure.savefig(path, dpi=120)
    plt.close(figure)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default='compact')
    parser.add_argument('--checkpoint', default='', help='weights; random ones for an official model without it')
    parser.add_argument('--objects', type=int, nargs='+', default=[1, 4, 8])
    parser.add_argument('--image-sizes', type=int, nargs='+', default=[0], help='pixels; 0 takes that of the weights')
    parser.add_argument('--frames', type=int, default=48)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--device', default='auto')
    parser.add_argument('--threads', type=int, default=0, help='of torch (default: as the node, all cores but one)')
    parser.add_argument('--precisions', nargs='+', default=['float32', 'bfloat16'])
    parser.add_argument('--encoders', nargs='+', default=['torch'], choices=list(ENCODERS))
    parser.add_argument('--skip', nargs='+', default=[], metavar='RUN', help='rows to leave out, by their full names')
    parser.add_argument('--compile-official', action='store_true', help='on a CPU, too: minutes for each image size')
    parser.add_argument('--camera', type=int, nargs=2, metavar=('W', 'H'), help='size of camera images, pixels')
    parser.add_argument('--rehearse', type=Path, metavar='FILE', help='compile all, then wait until FILE exists')
    parser.add_argument('--out', type=Path, help='folder for tracker.csv and tracker.png')
    args = parser.parse_args(arguments)
    if args.frames <= WARMUP:
        parser.error(f'--frames must be above {WARMUP}, the frames on which the memory is still filling')
    return args


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write and draw."""
    args = parse(arguments)
    set_threads(args.threads)
    about = describe_run()
    for key, value in about.items():
        print(f'{key}: {value}')
    origin = [about[name] for name in ORIGIN]
    print(f'{args.model} on {resolve_device(args.device)}, {torch.get_num_threads()} threads of torch')
    print(''.join(f'{name:>{38 if name == "run" else 11}}' for name in COLUMNS))
    rows: list[Row] = []
    for pixels in args.image_sizes or [0]:
        contenders = Contenders(args, pixels)
        if args.rehearse:
            rehearse(args, contenders)
        for objects in args.objects:
            fresh = measure(args, contenders, objects)
            for row in fresh:
                cells = zip(COLUMNS, row.cells(), strict=True)
                print(''.join(f'{cell:>{38 if name == "run" else 11}}' for name, cell in cells), flush=True)
            rows += fresh
            if args.out:
                args.out.mkdir(parents=True, exist_ok=True)
                with (args.out / 'tracker.csv').open('w', newline='') as file:
                    lines = [[*COLUMNS, *ORIGIN], *([*row.cells(), *origin] for row in rows)]
                    csv.writer(file, lineterminator='\n').writerows(lines)
    if args.out:
        draw(rows, args.out / 'tracker.png')


if __name__ == '__main__':
    main()
