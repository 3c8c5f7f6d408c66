"""The procedural renderer: deterministic, labelled, stable identities."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robust_pvos_ros.procedural import textures
from robust_pvos_ros.procedural.livery import dress
from robust_pvos_ros.procedural.shapes import MAX_PARTS, random_shapes
from robust_pvos_ros.procedural.textures import TextureBank, make_bank
from robust_pvos_ros.procedural.video import LAYERS, render_clips


@pytest.fixture(scope='module')
def bank() -> TextureBank:
    torch.set_num_threads(1)
    return make_bank(12, 64, seed=3)


def test_bank_is_deterministic_and_in_range(bank: TextureBank) -> None:
    again = make_bank(12, 64, seed=3)
    other = make_bank(12, 64, seed=4)
    assert torch.equal(bank.images, again.images)
    assert not torch.equal(bank.images, other.images)
    assert bank.images.min() >= 0 and bank.images.max() <= 1
    assert bank.images.flatten(2).std(-1).mean() > 0.05


def test_bank_needs_no_photographs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(textures, '_photographs', lambda: ())
    assert len(make_bank(4, 32, seed=0)) == 4


def test_rendering_is_deterministic_by_seed(bank: TextureBank) -> None:
    first, second, other = (render_clips(2, 3, 64, seed, bank) for seed in (5, 5, 6))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert not torch.equal(first[0], other[0])


def test_sizes_types_and_labels(bank: TextureBank) -> None:
    images, ids = render_clips(6, 4, 64, 11, bank)[:2]
    assert images.shape == (6, 4, 3, 64, 64) and images.dtype == torch.uint8
    assert ids.shape == (6, 4, 64, 64) and ids.dtype == torch.uint8
    assert int(ids.max()) <= LAYERS
    covered = (ids > 0).float().mean()
    assert 0.03 < covered < 0.7
    assert (ids[:, 0] > 0).flatten(1).any(1).sum() >= 4


def test_identity_follows_the_moving_object(bank: TextureBank) -> None:
    """At slow pace masks of one ID overlap from frame to frame far more than masks of different IDs."""
    _, ids = render_clips(8, 3, 64, 21, bank, pace=0.05)[:2]
    same: list[float] = []
    different: list[float] = []
    for clip in ids:
        for a in range(1, LAYERS + 1):
            for b in range(1, LAYERS + 1):
                first, last = clip[0] == a, clip[1] == b
                if first.sum() > 60 and last.sum() > 60:
                    iou = ((first & last).sum() / (first | last).sum()).item()
                    (same if a == b else different).append(iou)
    assert np.mean(same) > 0.7
    assert np.mean(different) < 0.1


def test_mask_separates_object_from_background(bank: TextureBank) -> None:
    """Pixels just inside a mask differ more from those just outside than from their inner neighbours."""
    images, ids = render_clips(8, 1, 64, 31, bank)[:2]
    image = images[:, 0].float().mean(1)
    step = (image[:, :, 1:] - image[:, :, :-1]).abs()
    label = ids[:, 0].int()
    border = label[:, :, 1:] != label[:, :, :-1]
    assert step[border].mean() > 1.5 * step[~border].mean()


def test_objects_move_with_pace(bank: TextureBank) -> None:
    slow, fast = (render_clips(6, 4, 64, 41, bank, pace)[1] for pace in (0.05, 2.0))
    changed = [(ids[:, 1:] != ids[:, :-1]).float().mean() for ids in (slow, fast)]
    assert changed[1] > 2 * changed[0]


def test_vanished_objects_leave_the_scene_as_it_is(bank: TextureBank) -> None:
    plain, gone = (render_clips(3, 4, 64, 5, bank, vanish=share) for share in (0.0, 1.0))
    assert torch.equal(plain.ids[:, 0], gone.ids[:, 0]), 'all are there at first'
    assert (gone.layers[:, -1] == 0).float().mean() > (plain.layers[:, -1] == 0).float().mean()
    hidden = (plain.ids > 0) & (gone.ids == 0) & (gone.layers == 0)
    assert hidden.any(1).flatten(1).any(1).all(), 'every clip loses an object for a while'
    assert torch.equal(plain.maps, gone.maps)


def test_shapes_are_well_formed() -> None:
    shapes = random_shapes(np.random.default_rng(0), 200)
    assert shapes.parts.min() >= 1 and shapes.parts.max() <= MAX_PARTS
    assert (shapes.axes > 0).all() and (shapes.outline > 0).all()
    assert shapes.hole.any() and (shapes.swing > 0).any()


def test_liveries_change_colours_only(bank: TextureBank) -> None:
    plain, dressed = (render_clips(3, 4, 64, 5, bank, livery=share) for share in (0.0, 1.0))
    assert torch.equal(plain.ids, dressed.ids) and torch.equal(plain.layers, dressed.layers)
    changed = (plain.images.int() - dressed.images.int()).abs().amax(2) > 3  # the camera's exposure and noise are less
    assert changed[plain.layers > 0].float().mean() > 0.4
    assert changed[plain.layers == 0].float().mean() < 0.05


def test_a_livery_covers_a_part_of_an_object(bank: TextureBank) -> None:
    canvases = torch.full((40, 1, 4, 48, 48), 0.5)
    before = canvases.clone()
    dress(canvases, np.where(np.arange(40) < 30, np.arange(40), -1), bank)
    assert torch.equal(canvases[:, :, 3], before[:, :, 3]) and torch.equal(canvases[30:], before[30:])
    assert canvases.min() >= 0 and canvases.max() <= 1
    colours = [len(np.unique((canvases[row, 0, :3] * 8).round().flatten(1).T.numpy(), axis=0)) for row in range(30)]
    assert sum(count > 1 for count in colours) >= 25
    again = before.clone()
    dress(again, np.where(np.arange(40) < 30, np.arange(40), -1), bank)
    assert torch.equal(again, canvases)
