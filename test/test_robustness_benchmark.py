"""The robustness benchmark: every method sees the same frames, runs go on, and the table says what the rows say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dataset_folders import write_davis

from benchmarks.robustness import CLEAN, Case, Score, interval, main, read_scores, table
from robust_pvos_ros.evaluation.davis import AnnotatedFrame
from robust_pvos_ros.tracking.checkpoints import shipped_adapter, shipped_weights
from robust_pvos_ros.tracking.encoder import EncoderOutput
from robust_pvos_ros.tracking.model import Sam2Model


def rows(method: str, corrupted: list[float], clean: float = 80.0) -> list[Score]:
    found = [Score(Case(CLEAN, 0.0, 0), f'clip{i}', method, clean, clean, clean) for i in range(len(corrupted))]
    return found + [
        Score(Case('fog', 3.0, seed), f'clip{i}', method, value, value, value)
        for i, value in enumerate(corrupted)
        for seed in (0, 1)
    ]


def test_the_table_pairs_clips() -> None:
    better = [value + gain for value, gain in zip((20.0, 50.0, 80.0), (1.0, 2.0, 3.0), strict=True)]
    text = table(rows('base', [20.0, 50.0, 80.0]) + rows('moga', better, 79.0))
    assert text.splitlines()[0] == '| method | clean | fog | mean corrupted | difference, 95 % |'
    assert '| base | 80.0 | 50.0 | 50.0 |  |' in text
    assert '| moga | 79.0 | 52.0 | 52.0 | +2.00 (+1.00 to +3.00) |' in text


def test_only_cases_that_both_have_are_compared() -> None:
    base = [*rows('base', [20.0, 50.0]), Score(Case('rain', 3.0, 0), 'clip0', 'base', 99.0, 99.0, 99.0)]
    assert '+1.00 (+1.00 to +1.00)' in table(base + rows('moga', [21.0, 51.0]))


def test_the_interval_shrinks_with_clips_and_holds_the_mean() -> None:
    rng = np.random.default_rng(1)
    few, many = rng.normal(1, 1, 8), rng.normal(1, 1, 200)
    low, high = interval(few)
    assert low < few.mean() < high
    assert np.ptp(interval(many)) < 0.5 * (high - low)
    assert interval(np.full(5, 0.7)) == pytest.approx((0.7, 0.7))


def test_frames_of_a_case_keep_their_truth() -> None:
    frame = AnnotatedFrame(4, np.full((20, 30, 3), 90, np.uint8), np.ones((20, 30), np.uint8))
    [clean] = Case(CLEAN, 0.0, 0).frames('a', [frame])
    [snow], [again] = (list(Case('snow', 4.0, 1).frames('a', [frame])) for _ in range(2))
    assert np.array_equal(clean.rgb, frame.rgb) and not np.array_equal(snow.rgb, frame.rgb)
    assert np.array_equal(snow.rgb, again.rgb) and np.array_equal(snow.labels, frame.labels) and snow.index == 4


def test_a_run_goes_on_where_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_davis(tmp_path / 'data', ('bear',))
    options = ['--data', str(tmp_path / 'data'), '--out', str(tmp_path / 'out'), '--corruptions', 'fog', 'rain']
    assert main([*options, '--methods', 'base']) == 0
    first = read_scores(tmp_path / 'out' / 'scores.csv')
    assert {(s.case.corruption, s.method) for s in first} == {(CLEAN, 'base'), ('fog', 'base'), ('rain', 'base')}
    assert main([*options, '--methods', 'base', 'same']) == 0
    second = read_scores(tmp_path / 'out' / 'scores.csv')
    assert second[: len(first)] == first and len(second) == 2 * len(first)
    assert {s.method for s in second[len(first) :]} == {'same'}
    assert [s.mean for s in second[len(first) :]] == [s.mean for s in first]
    assert (tmp_path / 'out' / 'plot.png').stat().st_size > 1000
    assert '| same |' in (tmp_path / 'out' / 'table.md').read_text()
    for more, said in (
        (['--methods', 'moga=nothing.safetensors'], 'cannot read adapter file'),
        (['--methods', 'base', 'base'], 'given twice'),
        (['--prompt', 'box'], 'scores of other settings'),
        (['--methods', f'base={tmp_path}/data/ImageSets/2017/val.txt'], 'cannot read adapter file'),
    ):
        assert main([*options, *more]) == 2
        assert said in capsys.readouterr().err
    assert read_scores(tmp_path / 'out' / 'scores.csv') == second


def test_processes_give_the_same_scores(tmp_path: Path) -> None:
    write_davis(tmp_path / 'data', ('bear', 'camel'))
    options = ['--data', str(tmp_path / 'data'), '--corruptions', 'gaussian_noise', '--methods', 'base', 'same']
    assert main([*options, '--out', str(tmp_path / 'one')]) == 0
    assert main([*options, '--out', str(tmp_path / 'two'), '--workers', '2']) == 0
    one, two = (read_scores(tmp_path / name / 'scores.csv') for name in ('one', 'two'))
    assert len(one) == 8 and sorted(map(repr, one)) == sorted(map(repr, two))


def test_methods_with_equal_encoders_encode_once_and_score_as_each_does_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_davis(tmp_path / 'data', ('bear',))
    options = ['--data', str(tmp_path / 'data'), '--corruptions', 'iso_noise', '--severities', '5']
    methods = ['base', f'moga={shipped_adapter()}', f'own=weights:{shipped_weights()}']
    encoded: list[Sam2Model] = []
    encode = Sam2Model.encode

    def counted(model: Sam2Model, rgb: np.ndarray) -> EncoderOutput:
        encoded.append(model)
        return encode(model, rgb)

    monkeypatch.setattr(Sam2Model, 'encode', counted)
    assert main([*options, '--out', str(tmp_path / 'together'), '--methods', *methods]) == 0
    together = read_scores(tmp_path / 'together' / 'scores.csv')
    base, moga = (encoded.count(model) for model in dict.fromkeys(encoded))  # that of own is equal to that of base
    alone = []
    for number, method in enumerate(methods):
        encoded.clear()
        assert main([*options, '--out', str(tmp_path / str(number)), '--methods', method]) == 0
        assert len(encoded) == base == moga
        alone += read_scores(tmp_path / str(number) / 'scores.csv')
    assert sorted(map(repr, together)) == sorted(map(repr, alone))
    scores = {score.method: score.mean for score in together if score.case.corruption == 'iso_noise'}
    assert scores['own'] == scores['base'] != scores['moga']
