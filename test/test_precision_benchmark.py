"""What a precision does to masks is judged in the loop, and an object that it loses is counted."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from bag_files import write_weights

from benchmarks.float16 import Float16Encoder
from benchmarks.precision import Row, compare, disturbed, main, summarise
from robust_pvos_ros.tracking.model import load_model
from robust_pvos_ros.tracking.types import ModelConfig


def boxes(*columns: int) -> np.ndarray:
    """bool (T, 1, 8, 8): a square of 4 x 4 pixels on each frame, at these columns."""
    masks = np.zeros((len(columns), 1, 8, 8), bool)
    for frame, column in enumerate(columns):
        masks[frame, 0, :4, column : column + 4] = True
    return masks


def row(found: np.ndarray, reference: np.ndarray, truth: np.ndarray) -> Row:
    return summarise('a', [compare(found, reference, truth)])


def test_agreement_and_losses_are_counted() -> None:
    truth = boxes(*[0] * 10)
    same = row(truth, truth, truth)
    assert (same.agreement, same.held, same.truth, same.lost, same.won) == (1.0, 1.0, 1.0, 0, 0)
    half = row(boxes(*[2] * 10), truth, truth)
    assert (half.agreement, half.lost) == (pytest.approx(1 / 3), 1)
    at_the_end = row(boxes(*[0] * 9, 4), truth, truth)
    assert (at_the_end.agreement, at_the_end.lost) == (pytest.approx(0.9), 1)
    # what float32 has lost as well is not held against a variant
    away = boxes(*[4] * 10)
    assert row(away, away, truth)[-2:] == (0, 0)
    assert row(truth, away, truth)[-2:] == (0, 1)
    # held leaves the frames out on which float32 is wrong
    astray = boxes(*[0] * 5, *[4] * 5)
    assert (row(truth, astray, truth).held, row(truth, astray, truth).agreement) == (1.0, 0.5)


def test_stretches_are_put_together() -> None:
    truth = boxes(*[0] * 10)
    found = summarise('a', [compare(truth, truth, truth), compare(boxes(*[4] * 10), truth, truth)])
    assert (found.frames, found.objects, found.agreement, found.worst, found.lost) == (10, 2, 0.5, 0.0, 1)


def test_noise_is_one_in_a_hundred_values_off_by_one() -> None:
    rgb = np.full((200, 200, 3), 255, np.uint8)
    rgb[100:] = 0
    seen = disturbed(rgb, np.random.default_rng(1))
    assert seen.dtype == np.uint8
    assert set(np.unique(seen)) == {0, 1, 254, 255}
    assert (seen != rgb).mean() == pytest.approx(0.005, rel=0.2)  # the other half would leave the range


@pytest.mark.parametrize('runs', [True, False])
def test_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: bool) -> None:
    """A variant whose encoder gave up before its first frame is left out."""
    if not runs:
        monkeypatch.setattr('benchmarks.precision.encode_in_float16', lambda model, config: None)
    before = torch.get_num_threads()
    weights = write_weights(tmp_path / 'tiny.safetensors')
    settings = f'--checkpoint {weights} --device cpu --frames 3 --objects 2 --begins 2 20'
    settings += ' --variants bfloat16 float16-encoder noise-1'
    try:
        main([*settings.split(), '--out', str(tmp_path / 'precision.csv')])
    finally:
        torch.set_num_threads(before)
    with (tmp_path / 'precision.csv').open(newline='') as file:
        rows = list(csv.DictReader(file))
    assert [(row['variant'], row['frames'], row['objects']) for row in rows] == [
        (name, '3', '4') for name in ('float32', 'bfloat16', *['float16-encoder'] * runs, 'noise-1')
    ]


def test_maps_in_float16_are_those_of_float32_but_for_rounding() -> None:
    config = ModelConfig(device='cpu', precision='bfloat16', threads=torch.get_num_threads())
    rgb = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    exact = load_model(ModelConfig(device='cpu', precision='float32', threads=config.threads)).encode(rgb)
    model = load_model(config)
    model.encoder = Float16Encoder(config, model.device)
    for rounded, wanted in zip(model.encode(rgb), exact, strict=True):
        error = float((rounded - wanted).abs().max() / wanted.abs().max())
        assert 1e-5 < error < 5e-3  # bfloat16 would be off by 1e-2
