"""The side-by-side benchmark measures all contenders in turns and keeps what it measured."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest
import torch
from bag_files import write_weights

from benchmarks.provenance import ORIGIN
from benchmarks.tracker import COLUMNS, Row, main
from benchmarks.turns import WARMUP, Held, side_by_side


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_table_and_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = write_weights(tmp_path / 'tiny.safetensors')
    settings = f'--objects 1 2 --image-sizes 128 --frames {WARMUP + 2} --rounds 1 --precisions float32'
    main(['--checkpoint', str(weights), *settings.split(), '--out', str(tmp_path / 'out')])
    with (tmp_path / 'out' / 'tracker.csv').open(newline='') as file:
        header, *rows = csv.reader(file)
    assert tuple(header) == (*COLUMNS, *ORIGIN)
    assert all(all(row[-len(ORIGIN) :]) for row in rows)
    assert [row[:3] for row in rows] == [
        ['128', objects, run]
        for objects in '12'
        for run in ('official float32', 'ours float32', 'ours float32 + MoGA')
    ]
    assert all(float(row[3]) > 0 for row in rows)
    assert [float(row[6]) for row in rows if row[2].startswith('official')] == [1.0, 1.0]
    assert all(float(row[7]) > 0 for row in rows)
    assert cv2.imread(str(tmp_path / 'out' / 'tracker.png')).shape[1] > 300
    assert 'x official' in capsys.readouterr().out


def test_contenders_take_turns() -> None:
    order: list[str] = []

    def run(name: str, seconds: float, frames: int) -> Iterator[Held]:
        for _ in range(frames):
            time.sleep(seconds)
            order.append(name)
            yield lambda: len(order)

    frames = WARMUP + 3
    found = side_by_side({'a': lambda: run('a', 0.001, frames), 'b': lambda: run('b', 0.004, frames)}, 2)
    assert order == ['a', 'b'] * frames * 2
    assert {name: len(measured.times) for name, measured in found.items()} == {'a': 6, 'b': 6}
    assert min(found['b'].times) >= 4.0 > sorted(found['a'].times)[0]
    assert found['b'].held == len(order) == found['a'].held + 1


def test_a_row_tells_frames_a_second() -> None:
    cells = Row(256, 1, 'ours', 20.0, 30.0, 1.5, 7).cells()
    assert cells == ['256', '1', 'ours', '20.0', '30.0', '50.0', '1.50', '7.0', '']
