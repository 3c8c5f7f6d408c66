"""Adapters and their rivals under one recipe: learning-rate sweep, methods and the paper's ablations, over seeds.

    python -m benchmarks.ablations {sweep,methods,conditioning,gates,rank,temperature,length} --run runs/ablations \
        [--steps 400] [--seeds 0 1 2] [--workers 2] [--clips 16] [--out docs/robustness] [--train-only] [key=value ...]

Every variant is ``training/configs/moga_compact.yaml`` on smaller clips with a few other settings, on the same clips in
the same order for the same steps.  Trainings go on where they were stopped; then all are scored on the same held-out
rendered clips, clean and with each corruption at severity 3, by ``benchmarks.robustness``.  ``sweep`` scores learning
rates of every method with seed 100 alone; the other tables take the best of each method from ``sweep.csv``.
``key=value`` changes the recipe of all trainings of a folder, such as ``device=cuda stages.0.clips=8``; with
``--train-only`` their files may be carried to another machine and scored there with the same command without it.
``--by-loss`` takes the rates whose trainings in ``RUN`` had the lowest loss at their end, every clip being seen once
(``stages.0.passes=1``), and with ``--seconds`` as many steps as the slowest of them would take in that time.
"""

from __future__ import annotations

import argparse
import csv
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import robustness
from benchmarks.provenance import REPOSITORY
from benchmarks.tables import write_table
from training.export_adapter import export_adapter
from training.export_weights import export

RECIPE = Path('training', 'configs', 'moga_compact.yaml')
SCALE = ('stages.0.size=256', 'stages.0.frames=4', 'stages.0.clips=4')
"""Smaller than the recipe of the shipped adapter, so that dozens of trainings end in hours."""
SWEEP_SEED = 100
STEP = re.compile(r' step (\d+) .* loss ([\d.]+) .* seconds ([\d.]+)')
GATED = 'adaptation.moga.'
METHODS: dict[str, tuple[str, ...]] = {
    'moga': (),
    'lora': (f'{GATED}conditioning=none',),
    'frame-wise': (f'{GATED}conditioning=frame',),
    'fine-tuned': ('adaptation.trains=model',),
    'trained on': ('adaptation.trains=model', 'muon=2.0', 'losses.attention=0.1', 'losses.correspondence=0.1'),
}
"""``fine-tuned`` lets AdamW move all weights, ``trained on`` goes on as the base was trained."""
ABLATIONS: dict[str, dict[str, tuple[str, ...]]] = {
    'conditioning': {
        'none': (f'{GATED}conditioning=none',),
        'memory': (f'{GATED}conditioning=memory',),
        'memory + object': (),
    },
    'gates': {'as initialised': ('adaptation.gate_spread=0.0',), 'calibrated': ()},
    'rank': {str(rank): (f'{GATED}rank={rank}',) if rank != 128 else () for rank in (32, 64, 128, 256, 512)},
    'temperature': {str(tau): (f'{GATED}temperature={tau}', 'stages.0.anneal=false') for tau in (0.1, 0.3, 0.5, 0.7)},
    'length': {str(frames): (f'stages.0.frames={frames}',) if frames != 4 else () for frames in (2, 4, 8)},
}
RATES = {
    'moga': (6e-4, 2e-3, 6e-3),
    'lora': (6e-4, 2e-3, 6e-3),
    'frame-wise': (6e-4, 2e-3, 6e-3),
    'fine-tuned': (6e-5, 2e-4, 6e-4),
    'trained on': (6e-5, 2e-4, 6e-4),
}
LAST = 1 / 3
"""Of a training, over which its loss and pace are taken."""


@dataclass(frozen=True)
class Variant:
    """One training.

    Attributes:
        name: of the row; method: whose learning rate it takes; overrides: of the recipe; rate: learning rate.
    """

    name: str
    method: str
    overrides: tuple[str, ...]
    rate: float
    seed: int

    @property
    def key(self) -> str:
        """Name of the training's folder and of its scores; equal trainings of several tables share it."""
        settings = [override.rpartition('.')[2].replace('=', '_') for override in self.overrides]
        return '-'.join([self.method.replace(' ', '_'), *settings, f'{self.rate:g}', str(self.seed)])

    def command(self, run: Path, steps: int, changes: Sequence[str] = ()) -> list[str]:
        """The training, as a command line."""
        settings = [f'stages.0.steps={steps}', f'stages.0.lr={self.rate}', f'seed={self.seed}', 'device=cpu']
        command = [sys.executable, '-m', 'training.train', '--config', str(RECIPE), '--run', str(run / self.key)]
        return [*command, *settings, *SCALE, *changes, *self.overrides]

    def file(self, run: Path) -> Path:
        """What the training leaves."""
        return run / f'{self.key}.safetensors'

    def option(self, run: Path) -> str:
        """As ``--methods`` of ``benchmarks.robustness`` takes it."""
        own = 'weights:' if 'adaptation.trains=model' in self.overrides else ''
        return f'{self.key}={own}{self.file(run)}'


def train(variant: Variant, run: Path, steps: int, changes: Sequence[str]) -> None:
    """Train to the end and export, unless that is done."""
    if variant.file(run).is_file():
        return
    run.mkdir(parents=True, exist_ok=True)
    with (run / f'{variant.key}.log').open('a') as log:
        subprocess.run(variant.command(run, steps, changes), cwd=REPOSITORY, stderr=log, stdout=log, check=True)
    write = export if 'adaptation.trains=model' in variant.overrides else export_adapter
    write(run / variant.key / 'last.pt', variant.file(run))


def score(key: str, method: str, run: Path, clips: int, prompt: str) -> list[robustness.Score]:
    """Rows on the held-out clips of one ``method``, as ``benchmarks.robustness`` takes it; ``key`` names its folder."""
    folder = run / 'scores' / key
    folder.mkdir(parents=True, exist_ok=True)
    options = ['--methods', method, '--held-out', str(clips), '--prompt', prompt, '--scored-frames', 'after_first']
    command = [sys.executable, '-m', 'benchmarks.robustness', *options, '--out', str(folder.resolve())]
    with (folder / 'log.txt').open('a') as log:
        subprocess.run(command, cwd=REPOSITORY, stderr=log, stdout=log, check=True)
    return robustness.read_scores(folder / 'scores.csv')


def best_rates(path: Path) -> dict[str, float]:
    """The learning rate of each method with the highest mean on corrupted clips in ``sweep.csv``."""
    if not path.is_file():
        raise SystemExit(f'{path} is missing: run the sweep first')
    best: dict[str, tuple[float, float]] = {}
    with path.open(newline='') as file:
        for row in csv.DictReader(file):
            if not row['learning rate']:
                continue  # the base
            found = float(row['corrupted']), float(row['learning rate'])
            best[row['method']] = max(best.get(row['method'], found), found)
    return {method: rate for method, (_, rate) in best.items()}


def logged(variant: Variant, run: Path) -> list[tuple[int, float, float]]:
    """Step, mean loss and mean seconds of a step, of every line in the log of a training.

    Raises:
        SystemExit: if it is missing or too short.
    """
    path = run / variant.key / 'log.txt'
    text = path.read_text(encoding='utf-8') if path.is_file() else ''
    found = [(int(step), float(loss), float(seconds)) for step, loss, seconds in STEP.findall(text)]
    if len(found) < 1 / LAST:
        raise SystemExit(f'{path} holds {len(found)} lines of losses: run the sweep first, longer or with log_steps=5')
    return found


def rates_by_loss(run: Path, methods: Sequence[str]) -> dict[str, float]:
    """The learning rate of each method with the lowest loss at the end of the sweep's trainings.

    Trainings that end by the clock differ in steps, and steps differ in their clips: losses are compared on the same
    steps, the last ones that all have.
    """
    losses = {variant: logged(variant, run) for variant in variants_of('sweep', {}, (), methods)}
    shared = min(lines[-1][0] for lines in losses.values())
    ends = {
        variant: float(np.mean([loss for step, loss, _ in lines if (1 - LAST) * shared < step <= shared]))
        for variant, lines in losses.items()
    }
    for variant, loss in ends.items():
        print(f'{variant.key}: loss {loss:.4f}')
    return {m: min((v for v in ends if v.method == m), key=lambda v: ends[v]).rate for m in methods}


def variants_of(
    table: str, rates: dict[str, float], seeds: Iterable[int], methods: Sequence[str] = tuple(METHODS)
) -> list[Variant]:
    """The trainings behind a table."""
    if table == 'sweep':
        return [Variant(m, m, METHODS[m], rate, SWEEP_SEED) for m in methods for rate in RATES[m]]
    if table == 'methods':
        return [Variant(m, m, METHODS[m], rates[m], seed) for m in methods for seed in seeds]
    found = []
    for name, overrides in ABLATIONS[table].items():
        method = 'lora' if METHODS['lora'][0] in overrides else 'moga'
        found += [Variant(name, method, overrides, rates[method], seed) for seed in seeds]
    return found


def summary(variants: Sequence[Variant], scores: Sequence[robustness.Score]) -> list[dict[str, str]]:
    """A row for each name and rate: J&F on clean and corrupted clips, and the paired difference to the base."""
    base = robustness.corrupted_scores(scores, 'base')
    clean = {s.clip: s.mean for s in scores if s.method == 'base' and s.case.corruption == robustness.CLEAN}
    rows = [{'method': 'base', 'learning rate': '', 'clean': _mean(clean.values()), 'corrupted': _mean(base.values())}]
    for name, method, rate in dict.fromkeys((v.name, v.method, v.rate) for v in variants):
        keys = [v.key for v in variants if (v.name, v.method, v.rate) == (name, method, rate)]
        own = [robustness.corrupted_scores(scores, key) for key in keys]
        unharmed = [s.mean for s in scores if s.method in keys and s.case.corruption == robustness.CLEAN]
        by_seed = [float(np.mean(list(found.values()))) for found in own]
        pairs = np.mean([robustness.paired_differences(found, base) for found in own], 0)
        low, high = robustness.interval(pairs)
        rows.append(
            {
                'method': name,
                'learning rate': f'{rate:g}',
                'clean': _mean(unharmed),
                'corrupted': f'{np.mean(by_seed):.2f}',
                'seeds': f'{min(by_seed):.2f} to {max(by_seed):.2f}',
                'over base': f'{pairs.mean():+.2f}',
                '95 %': f'{low:+.2f} to {high:+.2f}',
            }
        )
    return rows


def draw(rows: Sequence[dict[str, str]], title: str, path: Path) -> None:
    """The paired differences to the base of :func:`summary`, with their 95 % intervals, as a PNG."""
    import matplotlib as mpl

    mpl.use('Agg')
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 0.6 + 0.45 * len(rows)), layout='constrained')
    compared = [row for row in rows if row.get('over base')]
    for place, row in enumerate(compared):
        low, high = (float(end) for end in row['95 %'].split(' to '))
        axes.plot([low, high], [place, place], color='tab:blue', linewidth=2)
        axes.plot(float(row['over base']), place, 'o', color='tab:blue')
    axes.axvline(0, color='black', linewidth=0.8)
    axes.set_yticks(range(len(compared)), [row['method'] for row in compared])
    axes.invert_yaxis()
    axes.set(title=title, xlabel='J&F over the base on corrupted rendered clips, 95 % interval')
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _mean(values: Iterable[float]) -> str:
    return f'{np.mean(list(values)):.2f}'


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('table', choices=['sweep', 'methods', *ABLATIONS])
    parser.add_argument('--run', type=Path, required=True, help='folder of the trainings')
    parser.add_argument('--steps', type=int, default=400)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--workers', type=int, default=2, help='trainings at a time')
    parser.add_argument('--clips', type=int, default=16)
    parser.add_argument('--prompt', choices=('mask', 'point', 'box'), default='mask')
    parser.add_argument('--out', type=Path, required=True, help='folder of the tables, and of sweep.csv')
    parser.add_argument('--methods', nargs='+', choices=list(METHODS), default=list(METHODS))
    parser.add_argument('--by-loss', action='store_true', help='choose rates by the losses of the sweep in --run')
    parser.add_argument('--seconds', type=float, default=0.0, help='of a training, in place of --steps')
    parser.add_argument('--train-only', action='store_true', help='train and export, score nothing')
    parser.add_argument('changes', nargs='*', metavar='key=value', help='of the recipe, for all trainings')
    options = parser.parse_intermixed_args()  # changes may follow options
    options.out.mkdir(parents=True, exist_ok=True)
    run = options.run.resolve()
    rates: dict[str, float] = {}
    if options.table != 'sweep':
        rates = rates_by_loss(run, options.methods) if options.by_loss else best_rates(options.out / 'sweep.csv')
    if options.seconds:
        sweep = variants_of('sweep', {}, (), options.methods)
        paces = [np.mean([seconds for _, _, seconds in logged(variant, run)]) for variant in sweep]
        options.steps = int(options.seconds / max(paces))
    variants = variants_of(options.table, rates, options.seeds, options.methods)
    print(f'{len(variants)} trainings' + (f' of {options.steps} steps' if options.steps else ''), flush=True)
    methods = {'base': 'base', **{variant.key: variant.option(run) for variant in variants}}
    with ThreadPoolExecutor(options.workers) as pool:
        for trained in [pool.submit(train, variant, run, options.steps, options.changes) for variant in variants]:
            trained.result()
        if options.train_only:
            return
        found = [pool.submit(score, key, m, run, options.clips, options.prompt) for key, m in methods.items()]
        scores = [row for rows in found for row in rows.result()]
    rows = summary(variants, scores)
    draw(rows, options.table, options.out / f'{options.table}.png')
    print(write_table(rows, options.out / options.table))


if __name__ == '__main__':
    main()
