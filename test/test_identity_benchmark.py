"""The benchmark of IDs judges rightly, and its scenes are what they claim to be."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from benchmarks import identity


def mask(x: int) -> np.ndarray:
    found = np.zeros((20, 60), bool)
    found[5:15, x : x + 10] = True
    return found


def test_fates() -> None:
    own, other = mask(5), mask(40)
    assert identity.fate_of(mask(6), own, other[None]) == 'kept'
    assert identity.fate_of(mask(41), own, other[None]) == 'swapped'
    assert identity.fate_of(mask(22), own, other[None]) == 'lost'
    assert identity.fate_of(np.zeros_like(own), own, np.zeros((0, 20, 60), bool)) == 'lost'
    assert identity.fate_of(own | other, own, other[None]) == 'kept', 'half of it is enough'


@pytest.mark.parametrize('seed', [0, 7])
def test_look_alikes_cross_and_one_is_covered_meanwhile(seed: int) -> None:
    clip = identity.cross(seed)
    assert len(clip.frames) == len(clip.truth) == 60
    area = clip.truth.sum((2, 3))
    assert area[[0, -1]].min() > 1000 and area[:, 0].min() < 0.4 * area[0, 0]
    assert not (clip.truth[:, 0] & clip.truth[:, 1]).any()
    columns = [[np.flatnonzero(m.any(0)).mean() for m in clip.truth[at]] for at in (0, -1)]
    assert columns[0][0] < columns[0][1] and columns[1][0] > columns[1][1]
    assert np.array_equal(identity.cross(seed).frames, clip.frames)


@pytest.mark.parametrize('seed', [0, 7])
def test_the_hidden_object_is_gone_for_two_seconds_and_comes_back(seed: int) -> None:
    clip = identity.hide(seed)
    visible = clip.truth[:, 0].any((1, 2))
    assert visible[0] and visible[-1]
    assert (~visible).sum() >= 2 * identity.RATE
    assert np.count_nonzero(np.diff(visible.astype(int))) == 2, 'hidden once'
    assert clip.truth[-1].sum() > 800


def test_a_tracker_of_the_truth_keeps_all(monkeypatch) -> None:
    clip = identity.cross(1, seconds=1.0)

    class Perfect:
        def __init__(self, *_: object) -> None:
            self.masks = np.zeros(0)

        def step(self, frame, stamp, prompts):
            self.masks = clip.truth[round(stamp * identity.RATE / 10**9)]
            return self

    monkeypatch.setattr(identity, 'VideoTracker', Perfect)
    assert identity.follow(None, identity.SETTINGS['stock'], clip) == ['kept', 'kept']


def test_a_picture_has_a_row_for_each_setting(monkeypatch, tmp_path) -> None:
    clip = identity.cross(1, seconds=1.0)
    monkeypatch.setattr(identity, 'masks_of', lambda *_: iter(clip.truth))
    identity.draw(None, ['stock', 'default'], clip, tmp_path / 'new' / 'sheet.png', count=3)
    sheet = cv2.imread(str(tmp_path / 'new' / 'sheet.png'))
    assert sheet.shape == (2 * identity.HEIGHT, 3 * identity.WIDTH, 3)
    assert (sheet == 255).all(2).any() and (sheet == 0).all(2).any(), 'both outlines'
