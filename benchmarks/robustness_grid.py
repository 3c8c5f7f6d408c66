"""J&F by corruption and severity: the scores of ``benchmarks.robustness`` as a table and as curves.

    python -m benchmarks.robustness_grid FOLDER [FOLDER ...] --out docs/robustness/grid [--seed 0] [--severities 3 5]

Every method has a row for each severity, with its paired difference to ``--references`` as in
``benchmarks.robustness_report``.  Seeds of a method are put together, or one of them is shown (``--seed``), where not
all of them were scored at every severity.  ``--out`` gets ``table.md``, ``table.csv``, ``plot.png`` and ``scores.csv``
with the rows that were read.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.robustness import CLEAN, Score, append_scores, read_scores
from benchmarks.robustness_report import family, gather, rows_of
from benchmarks.tables import write_table
from robust_pvos_ros.corruption.corruption import KINDS

MEAN = 'mean of all'


def of_seed(scores: Sequence[Score], seed: str) -> list[Score]:
    """Rows of one training seed, and of methods that have none; all rows where ``seed`` is empty."""
    return [score for score in scores if not seed or family(score.method)[1] in ('', seed)]


def severities_of(scores: Sequence[Score]) -> list[float]:
    """The severities that were scored, clean left out, ascending."""
    return sorted({score.case.severity for score in scores if score.case.corruption != CLEAN})


def grid_rows(scores: Sequence[Score], references: Sequence[str]) -> list[dict[str, str]]:
    """A row for each method and severity that it was scored at, with the columns of :func:`rows_of`."""
    rows = []
    for severity in severities_of(scores):
        for row in rows_of(gather(scores, severity), references):
            if row['corrupted']:
                about = {'method': row.pop('method'), 'severity': f'{severity:g}'}
                rows.append({**about, **{name: text for name, text in row.items() if not name.endswith(', clean')}})
    methods = list(dict.fromkeys(row['method'] for row in rows))
    return sorted(rows, key=lambda row: methods.index(row['method']))


def curves(scores: Sequence[Score], kind: str) -> dict[str, tuple[list[float], list[float]]]:
    """Method -> severities, from 0 for clean, and mean J&F at them, percent; ``MEAN`` for the mean of all corruptions.

    A severity counts where it was scored with this corruption, or with all that any severity has.
    """
    kinds = {s.case.corruption for s in scores} - {CLEAN} if kind == MEAN else {kind}
    found = {}
    for method in dict.fromkeys(family(s.method)[0] for s in scores):
        own = [s for s in scores if family(s.method)[0] == method]
        points = {0.0: [s.mean for s in own if s.case.corruption == CLEAN]}
        for severity in severities_of(own):
            rows = [s for s in own if s.case.severity == severity and s.case.corruption in kinds]
            if {s.case.corruption for s in rows} == kinds:
                points[severity] = [s.mean for s in rows]
        filled = {severity: float(np.mean(values)) for severity, values in points.items() if values}
        found[method] = (list(filled), list(filled.values()))
    return found


def plot(scores: Sequence[Score], path: Path) -> None:
    """A panel for each corruption and one for their mean."""
    import matplotlib as mpl

    mpl.use('Agg')
    from matplotlib import pyplot as plt

    kinds = [kind for kind in KINDS if any(s.case.corruption == kind for s in scores)]
    figure, axes = plt.subplots(3, 3, figsize=(10, 8), sharex=True, sharey=True, layout='constrained')
    for panel, kind in zip(axes.flat, [*kinds, MEAN], strict=False):
        for method, (severities, means) in curves(scores, kind).items():
            panel.plot(severities, means, marker='.', label=method)
        panel.set_title(kind.replace('_', ' '), fontsize=10)
        panel.grid(alpha=0.3)
    for panel in axes.flat[len(kinds) + 1 :]:
        panel.set_visible(False)
    for panel in axes[-1]:
        panel.set_xlabel('severity, 0 is clean')
    for panel in axes[:, 0]:
        panel.set_ylabel('J&F')
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside upper center', ncols=len(labels))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folders', nargs='+', type=Path, help='of benchmarks.robustness')
    parser.add_argument('--seed', default='', help='of the trainings; all of them put together by default')
    parser.add_argument('--severities', nargs='+', type=float, default=[], help='to show; all by default')
    parser.add_argument('--references', nargs='+', default=['base', 'lora'])
    parser.add_argument('--out', type=Path, required=True)
    options = parser.parse_args(argv)
    read = [score for folder in options.folders for score in read_scores(folder / 'scores.csv')]
    scores = [
        score
        for score in of_seed(read, options.seed)
        if not options.severities or score.case.corruption == CLEAN or score.case.severity in options.severities
    ]
    if not any(score.case.corruption != CLEAN for score in scores):
        parser.error(f'no scores of corrupted clips in {", ".join(map(str, options.folders))}')
    options.out.mkdir(parents=True, exist_ok=True)
    if options.out not in options.folders:
        (options.out / 'scores.csv').unlink(missing_ok=True)
        append_scores(options.out / 'scores.csv', scores)
    plot(scores, options.out / 'plot.png')
    print(write_table(grid_rows(scores, options.references), options.out / 'table'))


if __name__ == '__main__':
    main()
