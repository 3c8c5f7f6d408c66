"""Which components of a MoGA adapter are open for which object, over time (figure 5 of the paper).

    python -m benchmarks.gates OUT.png --adapter moga.safetensors [--data DIR --sequence NAME] [--corruption rain:3]

By default objects of the demo's street are followed, with ``--data`` those of a clip in DAVIS layout, from their first
masks.  Black is an open gate (equation 5) of the pointer of that frame.  What is printed tells whether gates belong to
objects and hold over time: the share of gates that differ between two frames in succession of one object, and between
two objects on one frame.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations
from pathlib import Path

import numpy as np
import torch

from robust_pvos_ros.corruption.corruption import ClipCorruption, parse_corruptions
from robust_pvos_ros.evaluation.davis import AnnotatedFrame, find_sequences
from robust_pvos_ros.evaluation.sheet import draw_tile
from robust_pvos_ros.procedural.street import StreetScene
from robust_pvos_ros.tracking.model import Sam2Model, load_model
from robust_pvos_ros.tracking.tracker import VideoTracker
from robust_pvos_ros.tracking.types import ModelConfig, Prompt, TrackerConfig

SMALLEST = 400  # pixels of an object that is worth a row


def street_frames(begin: float, seconds: float, rate: float = 15.0) -> Iterator[AnnotatedFrame]:
    """The demo's street from ``begin`` on, at ``rate`` frames a second."""
    scene = StreetScene()
    for index in range(int(seconds * rate)):
        rgb, labels = scene.frame(begin + index / rate)
        yield AnnotatedFrame(index, rgb, labels.astype(np.uint8))


def follow(
    model: Sam2Model, frames: Iterable[AnnotatedFrame], most: int
) -> tuple[dict[int, np.ndarray], list[tuple[AnnotatedFrame, np.ndarray]]]:
    """Track the largest objects of the first frame from their masks.

    Returns:
        bool (T, L, R) gates by true object ID, and every frame with its labels as tracked.
    """
    if model.attention.gates is None:
        raise ValueError('the model has no adapter, so there are no gates to look at')
    tracker, numbers = VideoTracker(model, TrackerConfig(max_objects=64)), dict[int, int]()
    gates: dict[int, list[np.ndarray]] = {}
    seen = []
    for frame in frames:
        prompts = []
        if frame.index == 0:
            areas = np.bincount(frame.labels.ravel(), minlength=2)
            areas[0] = 0
            chosen = [int(i) for i in np.argsort(-areas)[:most] if areas[i] >= SMALLEST]
            prompts = [Prompt(mask=frame.labels == number) for number in chosen]
        result = tracker.step(frame.rgb, frame.index, prompts)
        if frame.index == 0:
            numbers = dict(zip(result.prompted, chosen, strict=True))
        for tracked, pointer in tracker.pointers().items():
            opened = model.attention.gates.open(pointer[None])[0].cpu().numpy()
            gates.setdefault(numbers[tracked], []).append(opened)
        table = np.zeros(256, np.uint8)
        table[list(numbers)] = list(numbers.values())
        seen.append((frame, table[result.label_image]))
    return {number: np.stack(rows) for number, rows in gates.items()}, seen


def statistics(gates: Mapping[int, np.ndarray]) -> dict[str, float]:
    """Shares of gates: open, changed from frame to frame, different between objects, never used and always open."""
    every = np.stack(list(gates.values()))
    pairs = [np.mean(a != b) for a, b in combinations(every, 2)]
    return {
        'open': float(every.mean()),
        'changed between frames': float((every[:, 1:] != every[:, :-1]).mean()),
        'different between objects': float(np.mean(pairs)) if pairs else 0.0,
        'never open': float((~every.any((0, 1))).mean()),
        'always open': float(every.all((0, 1)).mean()),
    }


def draw(
    gates: Mapping[int, np.ndarray], seen: list[tuple[AnnotatedFrame, np.ndarray]], layer: int, title: str, path: Path
) -> None:
    """Frames above, and below them the gates of one adapted projection for every object, components by how often
    they are open."""
    import matplotlib as mpl

    mpl.use('Agg')
    from matplotlib import pyplot as plt

    order = np.argsort(-np.stack([g[:, layer] for g in gates.values()]).mean((0, 1)), kind='stable')
    shown = np.linspace(0, len(seen) - 1, 5).astype(int)
    heights = [1.6, *([1.0] * len(gates))]
    figure = plt.figure(figsize=(10, 1.3 * sum(heights)), layout='constrained')
    grid = figure.add_gridspec(len(heights), 5, height_ratios=heights)
    for column, index in enumerate(shown):
        axes = figure.add_subplot(grid[0, column])
        frame, found = seen[index]
        axes.imshow(draw_tile(frame.rgb, frame.labels, found))
        axes.set_title(f'frame {index}', fontsize=8)
        axes.axis('off')
    for row, (number, opened) in enumerate(gates.items(), 1):
        axes = figure.add_subplot(grid[row, :])
        axes.imshow(opened[:, layer, order].T, cmap='gray_r', aspect='auto', interpolation='nearest', vmin=0, vmax=1)
        axes.set_ylabel(f'object {number}', fontsize=8)
        axes.tick_params(labelsize=7)
    axes.set_xlabel('frame', fontsize=8)
    figure.suptitle(title, fontsize=9)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('output', type=Path)
    parser.add_argument('--adapter', required=True)
    parser.add_argument('--model', default='compact')
    parser.add_argument('--checkpoint', default='')
    parser.add_argument('--data', type=Path, help='folder in DAVIS layout (default: the street)')
    parser.add_argument('--sequence', default='', help='of --data')
    parser.add_argument('--begin', type=float, default=10.0, help='second of the street at which to begin')
    parser.add_argument('--seconds', type=float, default=4.0, help='of the street')
    parser.add_argument('--corruption', default='', help='such as rain:3')
    parser.add_argument('--objects', type=int, default=3)
    parser.add_argument('--layer', default='', help='adapted projection (default: the last)')
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model(ModelConfig(options.model, options.checkpoint, adapter=options.adapter, threads=1))
    assert model.adapter is not None
    names = list(model.adapter.layers)
    if options.layer and options.layer not in names:
        parser.error(f'--layer must be one of {", ".join(names)}, got {options.layer!r}')
    layer = names.index(options.layer) if options.layer else len(names) - 1
    frames: Iterable[AnnotatedFrame] = street_frames(options.begin, options.seconds)
    if options.data:
        [frames] = find_sequences(options.data, [options.sequence])
    corrupt = ClipCorruption(parse_corruptions(options.corruption))
    corrupted = (AnnotatedFrame(f.index, corrupt.rgb(f.rgb, f.index), f.labels) for f in frames)
    gates, seen = follow(model, corrupted, options.objects)
    title = f'{names[layer]}: open gates (black) of {model.adapter.config.rank} components, by how often they are open'
    draw(gates, seen, layer, title, options.output)
    for name, value in statistics(gates).items():
        print(f'{name:<28}{100 * value:6.1f} %')
    print(f'wrote {options.output}')


if __name__ == '__main__':
    main()
