"""Overlays of several methods beside one another, as a sheet and as a video."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks import side_by_side


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    frames = tmp_path / 'frames'
    frames.mkdir()
    for index in range(3):
        picture = np.full((64, 96, 3), 90, np.uint8)
        cv2.rectangle(picture, (20 + index, 20), (50 + index, 48), (200, 40, 30), -1)  # blue
        cv2.rectangle(picture, (0, 50), (95, 63), (20, 20, 220), -1)  # red, and never tracked
        cv2.imwrite(str(frames / f'{index:03d}.png'), picture)
    return frames


@pytest.mark.parametrize('name', ['sheet.png', 'video.mp4'])
def test_methods_are_shown_side_by_side(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    output = tmp_path / name
    prompt = ['--box', '19', '19', '51', '49', '--point', '80', '10', '--every', '2', '--corruption', 'iso_noise:1']
    monkeypatch.setattr(sys, 'argv', ['side_by_side', str(folder), str(output), *prompt, '--methods', 'base', 'again'])
    side_by_side.main()
    if name.endswith('.png'):
        sheet = cv2.imread(str(output))
        assert sheet.shape[0] > 2 * 64 and sheet.shape[1] >= 2 * 96
        blue, _, red = sheet.reshape(-1, 3).astype(int).T
        assert np.count_nonzero(red > blue + 60) > 1000 > np.count_nonzero(blue > red + 60) / 4
    else:
        video = cv2.VideoCapture(str(output))
        assert int(video.get(cv2.CAP_PROP_FRAME_COUNT)) == 3 and video.read()[1].shape == (64, 192, 3)


def test_without_a_prompt_nothing_runs(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, 'argv', ['side_by_side', str(folder), str(tmp_path / 'a.png')])
    with pytest.raises(SystemExit):
        side_by_side.main()
