"""The grid of severities: rows and curves say what the scores say."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.robustness import CLEAN, Case, Score, append_scores
from benchmarks.robustness_grid import MEAN, curves, main, of_seed, severities_of


def rows(method: str, lift: float, severities: tuple[float, ...] = (1.0, 5.0)) -> list[Score]:
    found = []
    for clip, level in (('a', 40.0), ('b', 80.0)):
        cases = [(Case(CLEAN, 0.0, 0), level)]
        cases += [(Case('fog', s, 0), level - s + lift) for s in severities]
        cases += [(Case('rain', s, 0), level - 3 * s + lift) for s in severities]
        found += [Score(case, clip, method, value, value, value) for case, value in cases]
    return found


def test_curves_begin_at_the_clean_score() -> None:
    scores = [*rows('base', 0.0), *rows('moga-0', 1.0), *rows('moga-1', 3.0)]
    assert curves(scores, 'fog') == {'base': ([0, 1, 5], [60, 59, 55]), 'moga': ([0, 1, 5], [60, 61, 57])}
    assert curves(scores, MEAN)['base'] == ([0, 1, 5], [60, 58, 50])


def test_a_severity_that_lacks_a_corruption_is_not_in_the_mean() -> None:
    scores = [*rows('base', 0.0), Score(Case('fog', 3.0, 0), 'a', 'base', 50, 50, 50)]
    assert curves(scores, MEAN)['base'][0] == [0, 1, 5] and curves(scores, 'fog')['base'][0] == [0, 1, 3, 5]
    assert severities_of(scores) == [1, 3, 5]


def test_one_seed_is_shown_where_it_is_asked_for() -> None:
    scores = [*rows('base', 0.0), *rows('moga-0', 1.0), *rows('moga-1', 3.0)]
    assert {s.method for s in of_seed(scores, '1')} == {'base', 'moga-1'}
    assert of_seed(scores, '') == scores


def test_folders_become_one_grid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, scores in (('one', rows('base', 0.0)), ('two', [*rows('moga-0', 1.0), *rows('moga-1', 3.0)])):
        (tmp_path / name).mkdir()
        append_scores(tmp_path / name / 'scores.csv', scores)
    folders, out = [str(tmp_path / 'one'), str(tmp_path / 'two')], tmp_path / 'out'
    main([*folders, '--out', str(out)])
    lines = (out / 'table.md').read_text().splitlines()
    assert lines[0] == '| method | severity | seeds | clean | fog | rain | corrupted | worst to best seed | over base |'
    assert lines[2:6] == [
        '| base | 1 | 1 | 60.0 | 59.0 | 57.0 | 58.0 |  |  |',
        '| base | 5 | 1 | 60.0 | 55.0 | 45.0 | 50.0 |  |  |',
        '| moga | 1 | 2 | 60.0 | 61.0 | 59.0 | 60.0 | 59.0 to 61.0 | +2.00 (+1.00 to +3.00) |',
        '| moga | 5 | 2 | 60.0 | 57.0 | 47.0 | 52.0 | 51.0 to 53.0 | +2.00 (+1.00 to +3.00) |',
    ]
    main([*folders, '--out', str(out), '--seed', '0'])
    assert '| moga | 5 | 1 | 60.0 | 56.0 | 46.0 | 51.0 |  | +1.00 (+1.00 to +1.00) |' in (out / 'table.md').read_text()
    main([*folders, '--out', str(out), '--severities', '5'])
    lines = (out / 'table.md').read_text().splitlines()
    assert [line[:12] for line in lines[2:5]] == ['| base | 5 |', '| moga | 5 |', '']
    assert (out / 'plot.png').stat().st_size > 10_000
    with pytest.raises(SystemExit):
        main([str(tmp_path / 'none'), '--out', str(out)])
    assert 'no scores of corrupted clips' in capsys.readouterr().err
