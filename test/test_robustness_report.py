"""The report on seeds of methods: seeds are paired, and intervals hold clips and seeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.robustness import CLEAN, Case, Score, append_scores
from benchmarks.robustness_report import differences, family, gather, interval, main


def rows(method: str, corrupted: list[float], clean: float = 80.0) -> list[Score]:
    found = [Score(Case(CLEAN, 0.0, 0), f'clip{i}', method, clean, clean, clean) for i in range(len(corrupted))]
    for kind, lift in (('fog', 0.0), ('rain', 2.0)):
        found += [Score(Case(kind, 3.0, 0), f'clip{i}', method, v, v, v + lift) for i, v in enumerate(corrupted)]
    return found


def test_names_are_split_into_method_and_seed() -> None:
    assert family('moga-2') == ('moga', '2')
    assert family('frame-wise-0') == ('frame-wise', '0')
    assert family('frame-wise') == ('frame-wise', '') and family('base') == ('base', '')


def test_seeds_are_paired_where_both_have_them() -> None:
    scores = [*rows('base', [20.0, 50.0]), *rows('lora-0', [21.0, 51.0]), *rows('lora-1', [25.0, 55.0])]
    methods = gather([*scores, *rows('moga-0', [22.0, 53.0], 79.0), *rows('moga-1', [26.0, 57.0])], 3.0)
    np.testing.assert_allclose(differences(methods['moga'], methods['lora']), [[1, 1], [2, 2]])
    np.testing.assert_allclose(differences(methods['moga'], methods['base']), [[2, 6], [3, 7]])
    np.testing.assert_allclose(differences(methods['moga'], methods['base'], clean=True), [[-1, 0], [-1, 0]])


def test_seeds_that_differ_widen_the_interval() -> None:
    alike, unlike = np.full((10, 3), 1.0), np.array([[-1.0, 1.0, 3.0]] * 10)
    assert interval(alike) == pytest.approx((1.0, 1.0))
    low, high = interval(unlike)
    assert low < 0 and high > 2


def test_folders_become_one_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, scores in (('one', rows('base', [20.0, 50.0])), ('two', rows('moga-0', [21.0, 53.0], 79.9))):
        (tmp_path / name).mkdir()
        append_scores(tmp_path / name / 'scores.csv', scores)
    out = tmp_path / 'out'
    for _ in range(2):
        main([str(tmp_path / 'one'), str(tmp_path / 'two'), '--out', str(out)])
    text = (out / 'table.md').read_text()
    assert '| moga | 1 | 79.9 | 37.0 | 39.0 | 38.0 |  | +2.00 (+1.00 to +3.00) | -0.10 (-0.10 to -0.10) |' in text
    assert len((out / 'scores.csv').read_text().splitlines()) == 13 and (out / 'plot.png').stat().st_size > 1000
    with pytest.raises(SystemExit):
        main([str(tmp_path / 'none'), '--out', str(out)])
    assert 'no scores.csv with rows' in capsys.readouterr().err
