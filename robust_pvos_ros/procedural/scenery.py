"""Still scenes behind the objects, and the light that falls on everything."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from robust_pvos_ros.procedural.motion import Motion
from robust_pvos_ros.procedural.paint import Materials, paint
from robust_pvos_ros.procedural.placing import affine_grid, placement, tensor
from robust_pvos_ros.procedural.shapes import random_shapes
from robust_pvos_ros.procedural.textures import TextureBank

_STILL_PIECES = 10


def backgrounds(rng: np.random.Generator, batch: int, bank: TextureBank, side: int) -> tuple[Tensor, np.ndarray]:
    """Still scenes (B, 3, side, side) of a wall, perhaps a ground, and some pieces; their main textures (B,)."""
    device = bank.images.device
    textures = rng.integers(len(bank), size=batch)
    scene = _wall(rng, textures, bank, side)
    grain = _wall(rng, rng.integers(len(bank), size=batch), bank, side, 1.5).mean(1, keepdim=True)
    strength = tensor(rng.uniform(0, 0.6, batch), device)[:, None, None, None]
    scene = scene * (1 + strength * (grain - grain.mean((2, 3), keepdim=True)))
    ground, below = _ground(rng, bank, batch, side)
    scene = torch.where(below, ground, scene)
    pieces = batch * _STILL_PIECES
    shapes = random_shapes(rng, pieces)
    materials = Materials(rng, pieces, shapes.angle.shape[1], len(bank))
    count = rng.integers(0, _STILL_PIECES + 1, batch)
    shapes.parts[(np.arange(_STILL_PIECES)[None] >= count[:, None]).ravel()] = 0
    still = np.zeros((pieces, 1))
    painted = paint(shapes, materials, bank, still, np.zeros(pieces), side // 2)[:, 0]
    painted = painted.view(batch, _STILL_PIECES, 4, side // 2, side // 2)
    scale = rng.uniform(0.15, 0.7, (batch, _STILL_PIECES))
    scale[:, 0] *= 2.0  # the first piece is a second ground
    position = rng.uniform(-1, 1, (batch, _STILL_PIECES, 2))
    turn = rng.normal(0, 0.5, (batch, _STILL_PIECES))
    for piece in range(_STILL_PIECES):
        grid = affine_grid(placement(position[:, piece], scale[:, piece], turn[:, piece]), side, device)
        sample = F.grid_sample(painted[:, piece], grid, align_corners=False)
        cover = ((sample[:, 3:] - 0.5) * tensor(scale[:, piece] * side / 2, device)[:, None, None, None] + 0.5)
        scene = torch.lerp(scene, sample[:, :3], cover.clamp(0, 1))
    for clip in np.flatnonzero(rng.uniform(size=batch) < 0.25):  # out of focus
        width = 2 * int(rng.integers(1, max(2, side // 70) + 1)) + 1
        for _ in range(2):
            soft = F.avg_pool2d(F.pad(scene[clip, None], (width // 2,) * 4, mode='replicate'), width, stride=1)
            scene[clip] = soft[0]
    return scene, textures


def _wall(rng: np.random.Generator, textures: np.ndarray, bank: TextureBank, side: int, finer: float = 1.0) -> Tensor:
    """Turned and zoomed textures (B, 3, side, side)."""
    device, batch = bank.images.device, len(textures)
    angle, zoom = rng.normal(0, 0.3, batch), finer * np.exp(rng.uniform(np.log(0.8), np.log(2.2), batch))
    theta = np.zeros((batch, 2, 3))
    theta[:, 0, 0] = theta[:, 1, 1] = zoom * np.cos(angle)
    theta[:, 0, 1] = zoom * np.sin(angle)
    theta[:, 1, 0] = -theta[:, 0, 1]
    theta[..., 2] = rng.uniform(-1, 1, (batch, 2))
    images = bank.images[torch.from_numpy(textures).to(device)]
    return F.grid_sample(images, affine_grid(theta, side, device), padding_mode='reflection', align_corners=False)


def _ground(rng: np.random.Generator, bank: TextureBank, batch: int, side: int) -> tuple[Tensor, Tensor]:
    """Level grounds in perspective, (B, 3, side, side), and where they are seen, bool (B, 1, side, 1)."""
    device = bank.images.device
    horizon = np.where(rng.uniform(size=batch) < 0.55, rng.uniform(-0.5, 0.4, batch), 9.0)
    axis = ((torch.arange(side, device=device) + 0.5) * (2 / side) - 1)[None]
    height = axis - tensor(horizon, device)[:, None]
    far = 0.16
    away = 1 / height.clamp(min=far)
    tile = tensor(rng.uniform(0.25, 0.8, (batch, 1)), device)
    u = axis[:, None] * (away * tile)[:, :, None] + tensor(rng.uniform(-1, 1, batch), device)[:, None, None]
    v = (away * tile)[:, :, None].expand_as(u)
    images = bank.images[torch.from_numpy(rng.integers(len(bank), size=batch)).to(device)]
    ground = F.grid_sample(images, torch.stack([u, v], -1), padding_mode='reflection', align_corners=False)
    haze = ((away * far)[:, None, :, None]) ** 2  # far texture is finer than a pixel: its mean
    return torch.lerp(ground, images.mean((2, 3), keepdim=True), haze), (height > 0)[:, None, :, None]


def falling_light(rng: np.random.Generator, motion: Motion, size: int, device: torch.device) -> Tensor:
    """Light and shade that lie over a scene and all that moves through it, (B * T, 1, S, S); 1 on the mean."""
    batch, frames = motion.clock.shape
    coarse = int(rng.integers(4, 16))
    knots = tensor(rng.standard_normal((batch, 1, coarse, coarse)), device)
    field = F.interpolate(knots, size=(64, 64), mode='bicubic', align_corners=False)
    edge = tensor(rng.choice([0.5, 3.0], batch), device)[:, None, None, None]
    strength = np.where(rng.uniform(size=batch) < 0.5, rng.uniform(0.1, 0.45, batch), 0.0)
    light = torch.exp(torch.tanh(field * edge) * tensor(strength, device)[:, None, None, None])
    grid = affine_grid(motion.camera.reshape(-1, 2, 3) / 1.25, size // 4, device)
    rows = light[:, None].expand(-1, frames, -1, -1, -1).flatten(0, 1)
    small = F.grid_sample(rows, grid, padding_mode='reflection', align_corners=False)
    return F.interpolate(small, size=(size, size), mode='bilinear', align_corners=False)


def cast_shadow(image: Tensor, cover: Tensor, strength: np.ndarray, offset: np.ndarray, frames: int) -> Tensor:
    """Darken ``image`` (K, 3, S, S) by the shifted, blurred ``cover`` (K, 1, S, S) of the next object."""
    for clip in np.flatnonzero(strength > 0):
        rows = slice(clip * frames, (clip + 1) * frames)
        small = F.avg_pool2d(cover[rows], 4)
        dx, dy = (int(v) // 4 for v in offset[clip])
        side = small.shape[-1]
        moved = F.pad(small, (max(dx, 0), max(-dx, 0), max(dy, 0), max(-dy, 0)))
        moved = moved[..., max(-dy, 0) : max(-dy, 0) + side, max(-dx, 0) : max(-dx, 0) + side]
        soft = F.interpolate(moved, size=image.shape[-2:], mode='bilinear', align_corners=False)
        image[rows] *= 1 - float(strength[clip]) * soft
    return image
