"""Endless labelled video, rendered in torch on the training device.

Every clip is a textured background under a moving camera with articulated, deforming, multi-textured objects that
occlude one another, leave and return, and with look-alikes and unlabelled distractors among them.  Objects are painted
on small canvases once per frame (colour and a distance field) and placed by one ``grid_sample`` each, so that a frame
costs a few milliseconds on one core.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from robust_pvos_ros.procedural.camera import camera_effects
from robust_pvos_ros.procedural.livery import choose_liveries, dress
from robust_pvos_ros.procedural.motion import random_motion
from robust_pvos_ros.procedural.paint import Materials, paint, pose_actors
from robust_pvos_ros.procedural.placing import affine_grid, placement, tensor
from robust_pvos_ros.procedural.scenery import backgrounds, cast_shadow, falling_light
from robust_pvos_ros.procedural.shapes import Shapes, random_shapes
from robust_pvos_ros.procedural.textures import TextureBank

LAYERS = 5


class Clips(NamedTuple):
    """B labelled clips of T frames of S x S pixels with L moving layers.

    Attributes:
        images: uint8 (B, T, 3, S, S) RGB.
        ids: uint8 (B, T, S, S), the ID of the visible object, stable within a clip, 0 where there is background or
            something unlabelled.
        layers: uint8 (B, T, S, S), what is visible: 0 the background, 1 .. L the moving layers.
        maps: float32 (B, T, L + 1, 2, 3), from image coordinates (x, y in [-1, 1]) to those of a layer, in which its
            content keeps its place.
    """

    images: Tensor
    ids: Tensor
    layers: Tensor
    maps: Tensor


def _cast(
    rng: np.random.Generator, batch: int, background: np.ndarray, bank: TextureBank, ease: float, liveries: np.ndarray
) -> tuple[Shapes, Materials, np.ndarray]:
    """Shapes and materials of B x LAYERS objects and their IDs (B, LAYERS); 0 is unlabelled, -1 not there."""
    shapes = random_shapes(rng, batch * LAYERS)
    materials = Materials(rng, batch * LAYERS, shapes.angle.shape[1], len(bank), len(bank.actors))
    materials.livery = liveries
    present = rng.integers(2, LAYERS + 1, batch)
    ids = np.tile(np.arange(1, LAYERS + 1), (batch, 1))
    ids[rng.uniform(size=ids.shape) < 0.2] = 0
    ids[:, 0] = 1
    for clip in range(batch):
        for layer in range(1, LAYERS):
            row, chance = clip * LAYERS + layer, rng.uniform() + 0.4 * ease
            if chance < 0.2:  # a look-alike of an object further back
                source = clip * LAYERS + int(rng.integers(layer))
                shapes.copy_object(source, row)
                materials.copy_object(source, row)
            elif chance < 0.3:  # camouflage
                materials.texture[row], materials.actor[row] = background[clip], -1
            elif chance < 0.4:  # same cloth, another cut
                materials.copy_object(clip * LAYERS + int(rng.integers(layer)), row)
                materials.actor[row] = -1
    if ease > 0:  # one dominant colour for the whole object
        plain = np.flatnonzero(rng.uniform(size=batch * LAYERS) < ease)
        materials.split[plain] = -9.0
        shift = rng.normal(0, 0.12, (len(plain), *materials.tint.shape[1:]))
        materials.tint[plain] = np.clip(rng.uniform(0, 1, (len(plain), 1, 3)) + shift, 0, 1)
    order = np.argsort(rng.uniform(size=(batch, LAYERS)), 1)
    ids = np.where(np.arange(LAYERS)[None] < present[:, None], ids, -1)
    flat = (np.arange(batch)[:, None] * LAYERS + order).ravel()
    for owner in (shapes, materials):
        for name, values in vars(owner).items():
            setattr(owner, name, values[flat])
    ids = np.take_along_axis(ids, order, 1)
    shapes.parts[ids.ravel() < 0] = 0
    return shapes, materials, ids


def render_clips(
    batch: int,
    frames: int,
    size: int,
    seed: int,
    bank: TextureBank,
    pace: float = 1.0,
    scale: float = 1.0,
    ease: float = 0.0,
    vanish: float = 0.0,
    livery: float = 0.0,
) -> Clips:
    """Render labelled clips on the device of ``bank``, deterministic from ``seed`` and the bank.

    Args:
        batch, frames, size: B clips of T frames of ``size`` x ``size`` pixels, a multiple of 8.
        pace: factor on all speeds; 1 moves objects by some percent of the image per frame.
        scale: factor on the size of all moving objects.
        ease: share of objects with one dominant colour, 0 to 1; it also makes look-alikes and camouflage rarer.
        vanish: share of objects that are gone for some frames, as behind a wall: nothing else of the scene changes.
        livery: share of objects with colours that change across their parts, see :mod:`.livery`.
    """
    rng = np.random.default_rng(seed)
    device = bank.images.device
    scene, textures = backgrounds(rng, batch, bank, int(size * 1.25))
    liveries = choose_liveries(np.random.default_rng([seed, 2]), batch * LAYERS, livery)
    shapes, materials, ids = _cast(rng, batch, textures, bank, ease, liveries)
    motion = random_motion(rng, batch, LAYERS, frames, pace)
    occluder = (ids == 0) & (rng.uniform(size=ids.shape) < 0.4)
    motion.scale = scale * motion.scale * np.where(occluder, 1.5, 1.0)[..., None]
    shown = _presence(np.random.default_rng([seed, 1]), (batch, LAYERS, frames), vanish)
    canvas_side = max(24, int(size * 0.4))
    clock = np.repeat(motion.clock, LAYERS, 0)
    rate = rng.uniform(0.1, 1.2, batch * LAYERS) * (rng.uniform(size=batch * LAYERS) < 0.8)
    actors = np.flatnonzero((materials.actor >= 0) & (shapes.parts > 0))
    shapes.parts[actors] = 0
    canvases = paint(shapes, materials, bank, clock, rate, canvas_side)
    if len(actors):
        cycles = clock[actors] * rng.uniform(0.02, 0.15, (len(actors), 1)) + rng.uniform(0, 1, (len(actors), 1))
        mirrored = rng.uniform(size=len(actors)) < 0.5
        canvases[actors] = pose_actors(bank, materials, actors, cycles, mirrored, canvas_side)
        motion.angle.reshape(-1, frames)[actors] *= 0.25  # they stand on something
    dress(canvases, np.where(ids.ravel() >= 0, materials.livery, -1), bank)
    canvases = canvases.view(batch, LAYERS, frames, 4, canvas_side, canvas_side)

    grid = affine_grid(motion.camera.reshape(-1, 2, 3) / 1.25, size, device)
    still = scene[:, None].expand(-1, frames, -1, -1, -1).flatten(0, 1)
    image = F.grid_sample(still, grid, padding_mode='reflection', align_corners=False)
    layers = torch.zeros(batch * frames, size, size, dtype=torch.uint8, device=device)
    maps = np.zeros((batch, frames, LAYERS + 1, 2, 3))
    maps[..., 0, 0] = maps[..., 1, 1] = 1.0
    maps[:, :, 0] = motion.camera
    softness = rng.choice([1.0, 0.6, 0.35], (batch, 1), p=[0.6, 0.25, 0.15]) * np.ones((1, frames))
    shadow = rng.uniform(0.15, 0.5, batch) * (rng.uniform(size=batch) < 0.5)
    offset = rng.integers(-size // 12, size // 12 + 1, (batch, 2))
    for layer in range(LAYERS):
        clips = np.flatnonzero(ids[:, layer] >= 0)
        if not len(clips):
            continue
        rows = torch.from_numpy((clips[:, None] * frames + np.arange(frames)).ravel()).to(device)
        half_side = motion.scale[clips, layer].ravel()
        position, angle, stretch = (x[clips, layer] for x in (motion.position, motion.angle, motion.stretch))
        theta = placement(position.reshape(-1, 2), half_side, angle.ravel(), stretch.ravel())
        maps[clips, :, layer + 1] = theta.reshape(len(clips), frames, 2, 3)
        grid = affine_grid(theta, size, device)
        sample = F.grid_sample(canvases[clips, layer].flatten(0, 1), grid, align_corners=False)
        sharp = tensor(half_side * softness[clips].ravel() * size / 2, device)[:, None, None, None]
        cover = ((sample[:, 3:] - 0.5) * sharp + 0.5).clamp_(0, 1)
        cover *= tensor(shown[clips, layer].ravel(), device)[:, None, None, None]
        under = cast_shadow(image[rows], cover, shadow[clips], offset[clips], frames)
        image[rows] = torch.lerp(under, sample[:, :3], cover)
        layers[rows] = torch.where(cover[:, 0] > 0.5, layer + 1, layers[rows]).to(torch.uint8)
    image *= falling_light(rng, motion, size, device)
    image = camera_effects(rng, image.view(batch, frames, 3, size, size), motion)
    layers = layers.view(batch, frames, size, size)
    owners = torch.from_numpy(np.pad(ids.clip(0), ((0, 0), (1, 0)))).to(device, torch.uint8)
    labels = owners.gather(1, layers.flatten(1).long()).view_as(layers)
    return Clips(image.mul(255).round_().to(torch.uint8), labels, layers, tensor(maps, device))


def _presence(rng: np.random.Generator, shape: tuple[int, int, int], vanish: float) -> np.ndarray:
    """bool (B, L, T): where each layer is shown; on the first frame all are."""
    frames = shape[2]
    begin = rng.integers(1, max(2, frames), shape[:2])
    end = begin + np.where(rng.uniform(size=shape[:2]) < 0.5, frames, rng.integers(1, max(2, frames), shape[:2]))
    gone = (rng.uniform(size=shape[:2]) < vanish)[..., None]
    time = np.arange(frames)
    return ~(gone & (time >= begin[..., None]) & (time < end[..., None]))
