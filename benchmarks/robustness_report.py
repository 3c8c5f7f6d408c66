"""One table and one plot of the scores of ``benchmarks.robustness``, the seeds of a method put together.

    python -m benchmarks.robustness_report FOLDER [FOLDER ...] --out docs/robustness/davis [--references base lora]

``moga-0``, ``moga-1`` and ``moga-2`` are seeds of the method ``moga``; a name without a number stands for itself.  A
method's difference to a reference is taken clip by clip and, where the reference has the same seeds, seed by seed; its
95 % interval is a bootstrap over clips and seeds at once.  ``--out`` gets ``table.md``, ``table.csv`` and ``plot.png``,
and ``scores.csv`` with all rows.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.robustness import CLEAN, Score, append_scores, plot, read_scores
from benchmarks.tables import write_table
from robust_pvos_ros.corruption.corruption import KINDS

ROUNDS = 10_000
Scores = Mapping[str, Mapping[tuple[str, str], float]]
"""Seed -> corruption and clip -> J&F, percent."""


def family(method: str) -> tuple[str, str]:
    """Method and seed of a name; the seed is empty where there is none."""
    name, dash, number = method.rpartition('-')
    return (name, number) if dash and number.isdigit() else (method, '')


def gather(scores: Sequence[Score], severity: float) -> dict[str, dict[str, dict[tuple[str, str], float]]]:
    """Method -> seed -> corruption and clip -> mean J&F; clean rows and those of one severity."""
    found: dict[str, dict[str, dict[tuple[str, str], list[float]]]] = {}
    for score in scores:
        if score.case.corruption == CLEAN or score.case.severity == severity:
            name, seed = family(score.method)
            cell = found.setdefault(name, {}).setdefault(seed, {})
            cell.setdefault((score.case.corruption, score.clip), []).append(score.mean)
    return {
        name: {seed: {key: float(np.mean(values)) for key, values in cells.items()} for seed, cells in seeds.items()}
        for name, seeds in found.items()
    }


def differences(own: Scores, reference: Scores, clean: bool = False) -> np.ndarray:
    """Differences of J&F, (clips, seeds): means over the corruptions that both have, or those on clean clips."""
    columns = []
    clips = sorted({clip for cells in own.values() for _, clip in cells})
    for seed, cells in own.items():
        other = reference.get(seed) or next(iter(reference.values()))
        column = []
        for clip in clips:
            pairs = [
                value - other[key]
                for key, value in cells.items()
                if key[1] == clip and (key[0] == CLEAN) == clean and key in other
            ]
            column.append(float(np.mean(pairs)) if pairs else np.nan)
        columns.append(column)
    found = np.array(columns).T
    return found[~np.isnan(found).any(1)]


def interval(pairs: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of (clips, seeds), both drawn anew."""
    rng = np.random.default_rng(0)
    clips = rng.integers(pairs.shape[0], size=(ROUNDS, pairs.shape[0]))
    seeds = rng.integers(pairs.shape[1], size=(ROUNDS, pairs.shape[1]))
    means = pairs[clips[:, :, None], seeds[:, None, :]].mean((1, 2))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def described(pairs: np.ndarray) -> str:
    """Mean and interval in words; empty where there are no pairs."""
    if not pairs.size:
        return ''
    low, high = interval(pairs)
    return f'{pairs.mean():+.2f} ({low:+.2f} to {high:+.2f})'


def rows_of(methods: Mapping[str, Scores], references: Sequence[str]) -> list[dict[str, str]]:
    """A row for each method."""
    present = {kind for seeds in methods.values() for cells in seeds.values() for kind, _ in cells}
    rows = []
    for name, seeds in methods.items():
        row = {'method': name, 'seeds': str(len(seeds))}
        by_kind: dict[str, float] = {}
        for kind in [kind for kind in (CLEAN, *KINDS) if kind in present]:
            values = [value for cells in seeds.values() for key, value in cells.items() if key[0] == kind]
            by_kind[kind] = float(np.mean(values)) if values else np.nan
            row[kind] = f'{by_kind[kind]:.1f}' if values else ''
        corrupted = [value for kind, value in by_kind.items() if kind != CLEAN and not np.isnan(value)]
        row['corrupted'] = f'{np.mean(corrupted):.1f}' if corrupted else ''
        each = [
            float(np.mean([value for key, value in cells.items() if key[0] != CLEAN] or [np.nan]))
            for cells in seeds.values()
        ]
        row['worst to best seed'] = f'{min(each):.1f} to {max(each):.1f}' if len(each) > 1 else ''
        earlier = references[: references.index(name)] if name in references else references
        for reference in earlier:
            if reference in methods:
                pairs = differences(seeds, methods[reference])
                row[f'over {reference}'] = described(pairs)
                row[f'over {reference}, clean'] = described(differences(seeds, methods[reference], clean=True))
        rows.append(row)
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folders', nargs='+', type=Path, help='of benchmarks.robustness')
    parser.add_argument('--severity', type=float, default=3.0)
    parser.add_argument('--references', nargs='+', default=['base', 'lora'])
    parser.add_argument('--out', type=Path, required=True)
    options = parser.parse_args(argv)
    scores = [score for folder in options.folders for score in read_scores(folder / 'scores.csv')]
    if not scores:
        parser.error(f'no scores.csv with rows in {", ".join(map(str, options.folders))}')
    options.out.mkdir(parents=True, exist_ok=True)
    kept = options.out / 'scores.csv'
    if options.out not in options.folders:
        kept.unlink(missing_ok=True)
        append_scores(kept, scores)
    shown = [s for s in scores if s.case.corruption == CLEAN or s.case.severity == options.severity]
    plot([replace(s, method=family(s.method)[0]) for s in shown], options.out / 'plot.png')
    print(write_table(rows_of(gather(scores, options.severity), options.references), options.out / 'table'))


if __name__ == '__main__':
    main()
