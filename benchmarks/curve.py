"""Accuracy against training time: scores checkpoints of a run and draws the curve.

    python -m benchmarks.curve CHECKPOINT.pt ... --out docs/training_curve [--hours-before 1.6]

Each checkpoint gets a row in ``OUT.csv``: hours of computing, steps, J on held-out rendered clips (first mask, click,
box) and, where the default real clips are there, their J&F with the first mask given; such runs are logged like all
others on these clips.  ``OUT.png`` is drawn from all rows of the file.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from pathlib import Path

import torch

from benchmarks import davis
from robust_pvos_ros.tracking.checkpoints import build_sam
from training.export_weights import export
from training.validate import region_similarity, validation_bank

COLUMNS = ('hours', 'steps', 'pixels', 'J track', 'J point', 'J box', 'J&F DAVIS')


def score(checkpoint: Path, hours_before: float, clips: int, on_davis: bool) -> list[float | str]:
    """One row; the last cell is empty without DAVIS."""
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / f'{checkpoint.stem}.safetensors'
        training = json.loads(export(checkpoint, weights)['training'])
        sam = build_sam('compact', str(weights))
        found = region_similarity(sam, validation_bank(), clips)
        measured: float | str = ''
        if on_davis and davis.DEFAULT_DATA.is_dir():
            note = f'curve: {training["steps"]} steps'
            davis.main(['--checkpoint', str(weights), '--no-flow', '--out', folder, '--note', note])
            means = json.loads((Path(folder) / 'results.json').read_text())['mean']
            measured = round(100 * means['tracker']['mean'], 2)
    hours = round(hours_before + training['seconds'] / 3600, 3)
    return [hours, training['steps'], sam.image_size, *(round(value, 4) for value in found), measured]


def draw(rows: list[list[str]], path: Path) -> None:
    """J and J&F, percent, against hours."""
    import matplotlib as mpl

    mpl.use('Agg')
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout='constrained')
    for column, name in ((3, 'J, first mask'), (4, 'J after a click'), (5, 'J after a box')):
        held_out = [(float(row[0]), 100 * float(row[column])) for row in rows if row[column]]
        if held_out:
            axes.plot(*zip(*held_out, strict=True), '.-', label=f'{name}, rendered')
    if real := [(float(row[0]), float(row[6])) for row in rows if row[6]]:
        axes.plot(*zip(*real, strict=True), 'ks-', label='J&F, first mask, DAVIS')
    axes.set_xlabel('hours of computing')
    axes.set_ylim(0, 100)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoints', nargs='*', type=Path, help='none draws the file as it is')
    parser.add_argument('--out', type=Path, required=True, help='path without suffix')
    parser.add_argument('--hours-before', type=float, default=0.0, help='of computing in the runs that came before')
    parser.add_argument('--clips', type=int, default=24)
    parser.add_argument('--no-davis', action='store_true', help='keep what the file says of DAVIS')
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = options.out.with_suffix('.csv')
    rows: list[list[str]] = []
    if table.exists():
        with table.open(newline='', encoding='utf-8') as file:
            rows = list(csv.reader(file))[1:]
    for checkpoint in options.checkpoints:
        row = [str(value) for value in score(checkpoint, options.hours_before, options.clips, not options.no_davis)]
        known = next((old for old in rows if old[0] == row[0]), row)
        rows = [old for old in rows if old is not known]
        rows.append([*row[:-1], row[-1] or known[-1]])
        rows.sort(key=lambda row: float(row[0]))
        with table.open('w', newline='', encoding='utf-8') as file:
            csv.writer(file).writerows([COLUMNS, *rows])
        print(', '.join(f'{name} {value}' for name, value in zip(COLUMNS, rows[-1], strict=True)), flush=True)
    draw(rows, options.out.with_suffix('.png'))


if __name__ == '__main__':
    main()
