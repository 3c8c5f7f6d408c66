"""Drawn actors: people, riders, animals, creatures and cars over a cycle of their motion."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from robust_pvos_ros.procedural import actors, creatures
from robust_pvos_ros.procedural.cones import ConeCanvas, Part
from robust_pvos_ros.procedural.paint import Materials, pose_actors
from robust_pvos_ros.procedural.textures import TextureBank, make_bank
from robust_pvos_ros.procedural.video import render_clips

TEXTURES = np.random.default_rng(0).uniform(size=(2, 3, 16, 16)).astype(np.float32)
BODIES = (creatures.pedestrian, creatures.rider, creatures.quadruped, creatures.oddity)


@pytest.fixture(scope='module')
def bank() -> TextureBank:
    torch.set_num_threads(1)
    return make_bank(6, 48, seed=3, actors=3)


def test_actors_are_deterministic_by_seed(bank: TextureBank) -> None:
    assert torch.equal(bank.actors, make_bank(6, 48, seed=3, actors=3).actors)
    assert not torch.equal(bank.actors, make_bank(6, 48, seed=4, actors=3).actors)


def test_textures_do_not_depend_on_the_number_of_actors(bank: TextureBank) -> None:
    assert torch.equal(bank.images, make_bank(6, 48, seed=3).images)


@pytest.mark.parametrize('make', BODIES)
@pytest.mark.parametrize('seed', range(3))
def test_bodies_move_in_a_cycle(make: creatures.Body, seed: int) -> None:
    body = make(np.random.default_rng(seed))  # type: ignore[arg-type]
    start, half, end = (np.array([p.start + p.end for p in body(phase)]) for phase in (0.0, math.pi / 2, 2 * math.pi))
    assert np.allclose(start, end, atol=1e-6)
    assert all(p.start_radius > 0 and p.end_radius > 0 for p in body(0.3))
    if make is not creatures.rider:  # a motorcyclist sits still
        assert not np.allclose(start, half, atol=1e-3)


@pytest.mark.parametrize('kind', range(len(actors._KINDS)))
def test_every_kind_fits_its_picture(kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    odds = np.eye(len(actors._KINDS))[kind]
    monkeypatch.setattr(actors, '_ODDS', odds)
    drawn = actors.draw_actors(np.random.default_rng(kind), 2, TEXTURES)
    assert drawn.shape == (2, actors.PHASES, 4, actors.SIDE, actors.SIDE)
    inside = drawn[:, :, 3] >= 128
    assert (inside.mean((2, 3)) > 0.01).all() and (inside.mean((2, 3)) < 0.8).all()
    edges = np.concatenate([inside[..., 0], inside[..., -1], inside[..., 0, :], inside[..., -1, :]], -1)
    assert not edges.any(), 'nothing is cut off'
    extent = np.maximum(inside.any(2).sum(-1), inside.any(3).sum(-1)).max(1)
    assert (extent > 0.6 * actors.SIDE).all(), 'and the picture is used'


def test_distance_is_measured_from_the_outline() -> None:
    canvas = ConeCanvas(2 * actors.SIDE, 2 * actors.SIDE, -1, 1, actors.SIDE)
    canvas.cone(Part((0, 0, 0), (0, 0, 0), 0.5, 0.5, (200, 100, 50)), 0.0, 1.0)
    colour, distance = np.split(actors._encode(canvas.colour, np.isfinite(canvas.depth)).astype(float), [3])
    axis = (np.arange(actors.SIDE) + 0.5) * 2 / actors.SIDE - 1
    truth = 0.5 - np.hypot(axis[None], axis[:, None])
    found = (distance[0] - 128) / 127 * actors.REACH
    near = np.abs(truth) < 0.9 * actors.REACH
    assert np.abs(found - truth)[near].max() < 1.5 * 2 / actors.SIDE
    assert (colour == np.array([200, 100, 50])[:, None, None]).all(), 'the colour goes on beyond the outline'


def test_posed_actors_keep_their_outline(bank: TextureBank) -> None:
    materials = Materials(np.random.default_rng(0), 4, 2, len(bank))
    materials.actor[:] = -1, 0, 2, 1
    rows = np.array([1, 2])
    phase = np.array([[0.0, 0.5], [0.25, 1.25]])
    canvas = pose_actors(bank, materials, rows, phase, np.array([False, True]), actors.SIDE)
    assert canvas.shape == (2, 2, 4, actors.SIDE, actors.SIDE)
    shown = bank.actors[[0, 0, 2, 2], [0, 6, 3, 3], 3].unflatten(0, (2, 2)) >= 128
    shown[1] = shown[1].flip(-1)
    assert torch.equal(canvas[:, :, 3] >= 0.5, shown)


def test_clips_show_actors(bank: TextureBank) -> None:
    plain = TextureBank(bank.images, bank.actors[:0])
    with_actors, without = (render_clips(4, 2, 64, 9, b) for b in (bank, plain))
    assert not torch.equal(with_actors.images, without.images)
    assert (with_actors.ids > 0).float().mean() > 0.01
