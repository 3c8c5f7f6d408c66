"""The robustness table on users' datasets, of any layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dataset_folders import draw, write_davis, write_mose

from benchmarks.robustness import read_scores
from training.datasets import find_videos
from training.evaluate import AnnotatedClip, main


def test_clips_hold_images_and_ids(tmp_path: Path) -> None:
    write_mose(tmp_path, ('0a1b',), every=4)
    [entry] = find_videos(tmp_path)
    frames = list(AnnotatedClip(entry.load()))
    assert [frame.index for frame in frames] == [0, 1, 2, 3]
    for frame in frames:
        rgb, ids = draw(4 * frame.index)
        assert np.array_equal(frame.labels, ids) and frame.labels.dtype == np.uint8
        assert np.abs(frame.rgb.astype(int) - rgb).mean() < 5  # JPEG


@pytest.mark.parametrize(('write', 'more'), [(write_davis, []), (write_mose, ['--split', 'train'])])
def test_methods_are_scored_on_any_layout(tmp_path: Path, write: object, more: list[str]) -> None:
    write(tmp_path / 'data')  # type: ignore[operator]
    name = 'bear' if write is write_davis else '0a1b'
    options = ['--data', str(tmp_path / 'data'), '--out', str(tmp_path / 'out'), '--corruptions', 'fog']
    assert main([*options, *more, '--sequences', name, '--methods', 'base']) == 0
    scores = read_scores(tmp_path / 'out' / 'scores.csv')
    assert {(s.case.corruption, s.clip) for s in scores} == {('clean', name), ('fog', name)}
    assert '| base |' in (tmp_path / 'out' / 'table.md').read_text()


def test_unknown_videos_and_folders_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_davis(tmp_path / 'data')
    common = ['--out', str(tmp_path / 'out'), '--methods', 'base']
    assert main(['--data', str(tmp_path / 'data'), '--sequences', 'dog', *common]) == 2
    assert 'has no videos dog: it has bear, cow' in capsys.readouterr().err
    assert main(['--data', str(tmp_path / 'none'), *common]) == 2
    assert 'is not a folder' in capsys.readouterr().err
