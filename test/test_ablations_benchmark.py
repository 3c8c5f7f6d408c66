"""The tables of adapters and rivals: which trainings they take, and what they say of the scores."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from benchmarks import ablations
from benchmarks.robustness import CLEAN, Case, Score
from benchmarks.tables import write_table
from training.config import load_config

RATES = {'moga': 5e-4, 'lora': 1e-3, 'frame-wise': 5e-4, 'fine-tuned': 3e-5, 'trained on': 1e-4}


@pytest.mark.parametrize('table', ['sweep', 'methods', *ablations.ABLATIONS])
def test_every_variant_is_the_recipe_with_other_settings(table: str) -> None:
    variants = ablations.variants_of(table, RATES, [0, 1])
    assert len({v.key for v in variants}) == len(variants)
    recipe = load_config(ablations.REPOSITORY / ablations.RECIPE)
    for variant in variants:
        command = variant.command(Path('runs'), 40)
        config = load_config(ablations.REPOSITORY / ablations.RECIPE, command[command.index('--run') + 2 :])
        assert config.stages[0].steps == 40 and config.stages[0].lr == variant.rate > 0
        assert config.stages[0].corrupted == recipe.stages[0].corrupted and config.init == recipe.init
        assert config.seed == variant.seed


def test_tables_share_equal_trainings() -> None:
    methods = {variant.key for variant in ablations.variants_of('methods', RATES, [0])}
    tables = {table: ablations.variants_of(table, RATES, [0]) for table in ablations.ABLATIONS}
    shared = {table: [variant.key in methods for variant in variants] for table, variants in tables.items()}
    assert shared == {
        'conditioning': [True, False, True],
        'gates': [False, True],
        'rank': [False, False, True, False, False],
        'temperature': [False] * 4,
        'length': [False, True, False],
    }


def test_conditionings_and_ranks_reach_the_adapter() -> None:
    found = {}
    for variant in ablations.variants_of('conditioning', RATES, [0]) + ablations.variants_of('rank', RATES, [0]):
        config = load_config(ablations.REPOSITORY / ablations.RECIPE, list(variant.overrides))
        found[variant.name] = config.adaptation.moga.conditioning, config.adaptation.moga.rank, variant.rate
    assert found['none'] == ('none', 128, 1e-3) and found['memory'] == ('memory', 128, 5e-4)
    assert found['memory + object'] == ('object', 128, 5e-4) and found['512'] == ('object', 512, 5e-4)


def test_the_best_rate_is_that_of_the_highest_corrupted_score(tmp_path: Path) -> None:
    rows = [('base', '', '40'), ('moga', '0.001', '41.5'), ('moga', '0.002', '41.7'), ('lora', '0.001', '41.2')]
    with (tmp_path / 'sweep.csv').open('w', newline='') as file:
        csv.writer(file).writerows([('method', 'learning rate', 'corrupted'), *rows])
    assert ablations.best_rates(tmp_path / 'sweep.csv') == {'moga': 0.002, 'lora': 0.001}
    with pytest.raises(SystemExit, match='run the sweep first'):
        ablations.best_rates(tmp_path / 'none.csv')


def _rows(key: str, corrupted: list[float]) -> list[Score]:
    clean = [Score(Case(CLEAN, 0.0, 0), f'clip{i}', key, 80.0, 80.0, 80.0) for i in range(len(corrupted))]
    return clean + [Score(Case('fog', 3.0, 0), f'clip{i}', key, v, v, v) for i, v in enumerate(corrupted)]


def test_seeds_are_averaged_and_paired_by_clip(tmp_path: Path) -> None:
    variants = ablations.variants_of('methods', RATES, [0, 1])[:2]
    scores = _rows('base', [20.0, 60.0])
    scores += _rows(variants[0].key, [22.0, 62.0]) + _rows(variants[1].key, [20.0, 64.0])
    base, moga = ablations.summary(variants, scores)
    assert base == {'method': 'base', 'learning rate': '', 'clean': '80.00', 'corrupted': '40.00'}
    assert moga == {
        'method': 'moga', 'learning rate': '0.0005', 'clean': '80.00', 'corrupted': '42.00',
        'seeds': '42.00 to 42.00', 'over base': '+2.00', '95 %': '+1.00 to +3.00',
    }  # fmt: skip
    write_table([base, moga], tmp_path / 'methods')
    assert '| moga | 0.0005 | 80.00 | 42.00 | 42.00 to 42.00 | +2.00 | +1.00 to +3.00 |' in (
        tmp_path / 'methods.md').read_text()  # fmt: skip
    assert (tmp_path / 'methods.csv').read_text().splitlines()[1].startswith('base,,80.00,40.00')
    ablations.draw([base, moga], 'methods', tmp_path / 'methods.png')
    assert (tmp_path / 'methods.png').read_bytes().startswith(b'\x89PNG')


def test_rates_are_chosen_by_the_loss_on_the_same_steps(tmp_path: Path) -> None:
    for variant in ablations.variants_of('sweep', {}, (), ['moga', 'lora']):
        end = 0.3 + abs(variant.rate - 2e-3) if variant.method == 'moga' else 0.5 - variant.rate
        losses = [0.01] * 4 + [end, end]  # a low loss at first counts for nothing
        if variant.rate == 2e-3:
            losses.append(9.0)  # a further step, on harder clips
        lines = [f'12:00 step {5 * i} stage a: loss {v:.4f} norm 0.1 seconds 0.50' for i, v in enumerate(losses)]
        (tmp_path / variant.key).mkdir()
        (tmp_path / variant.key / 'log.txt').write_text('\n'.join(lines))
    assert ablations.rates_by_loss(tmp_path, ['moga', 'lora']) == {'moga': 2e-3, 'lora': 6e-3}
    assert ablations.logged(ablations.variants_of('sweep', {}, (), ['moga'])[0], tmp_path)[-1] == (25, 0.3014, 0.5)
    with pytest.raises(SystemExit, match='run the sweep first'):
        ablations.rates_by_loss(tmp_path, ['fine-tuned'])
