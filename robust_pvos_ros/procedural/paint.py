"""Paints objects on small canvases, one per frame: colour and the distance to the outline."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from robust_pvos_ros.procedural.actors import REACH
from robust_pvos_ros.procedural.placing import tensor
from robust_pvos_ros.procedural.shapes import OUTLINE_ANGLES, Shapes
from robust_pvos_ros.procedural.textures import TextureBank

_ACTING = 0.5  # share of actors among the objects


def _column(values: np.ndarray, rows: np.ndarray, part: int, device: torch.device) -> Tensor:
    """Entries ``[rows, part]`` of (M, P) values, to be broadcast over (m, T, side, side)."""
    return tensor(values[rows, part], device)[:, None, None, None]


class Materials:
    """Textures and colours of the parts of M objects: (M, P) entries each.

    Objects whose ``actor`` (M,) is not negative look like that actor of the bank instead; ``livery`` (M,) is for
    :func:`robust_pvos_ros.procedural.livery.dress`.
    """

    def __init__(self, rng: np.random.Generator, count: int, parts: int, textures: int, actors: int = 0) -> None:
        pair = (count, parts)
        shared = rng.uniform(size=(count, 1)) < 0.35  # one cloth for the whole object
        self.texture = np.where(shared, rng.integers(textures, size=(count, 1)), rng.integers(textures, size=pair))
        self.zoom = np.exp(rng.uniform(math.log(0.25), math.log(1.0), pair))
        self.turn = rng.uniform(0, 2 * math.pi, pair)
        self.shift = rng.uniform(-1, 1, (*pair, 2))
        self.gain = rng.uniform(0.6, 1.3, (*pair, 1)) * rng.uniform(0.8, 1.2, (*pair, 3))
        self.bias = rng.uniform(-0.15, 0.2, (*pair, 1)) + rng.normal(0, 0.06, (*pair, 3))
        self.split = rng.uniform(-0.6, 0.6, pair) + 9.0 * (rng.uniform(size=pair) < 0.6)
        self.split_angle = rng.choice([0, math.pi / 2, 1.0, 2.0], pair)
        self.tint = np.clip(rng.uniform(0.1, 0.9, (*pair, 1)) + rng.normal(0, 0.2, (*pair, 3)), 0, 1)
        self.light = rng.normal(0, 0.18, (count, 2))
        self.lamp = rng.normal(0, 0.6, (count, 2))
        self.relief = rng.uniform(0.3, 1.5, (count, 1)) * (rng.uniform(size=(count, 1)) < 0.6)
        self.livery = np.full(count, -1)
        self.actor = np.full(count, -1)
        if actors:
            self.actor = np.where(rng.uniform(size=count) < _ACTING, rng.integers(actors, size=count), -1)
        self.rim = rng.uniform(0, 0.5, (count, 1)) * (rng.uniform(size=(count, 1)) < 0.6)

    def copy_object(self, source: int, target: int) -> None:
        """Make object ``target`` look like ``source``."""
        for values in vars(self).values():
            values[target] = values[source]


def paint(
    shapes: Shapes, materials: Materials, bank: TextureBank, clock: np.ndarray, swing_rate: np.ndarray, side: int
) -> Tensor:
    """Canvases of M objects over T frames.

    Args:
        clock: (M, T) time of each frame; swing_rate: (M,) radians per unit of time.

    Returns:
        float32 (M, T, 4, side, side): RGB, and the distance to the outline in object coordinates plus 0.5,
        which is above 0.5 inside.
    """
    device = bank.images.device
    count, frames = clock.shape
    axis = (torch.arange(side, device=device) + 0.5) * (2 / side) - 1
    y, x = torch.meshgrid(axis, axis, indexing='ij')
    phase = clock * swing_rate[:, None]
    bend = 0.05 * np.minimum(1.0, np.abs(swing_rate))[:, None] * np.stack([np.sin(phase), np.cos(0.7 * phase)])
    bend_x, bend_y = (tensor(b, device)[:, :, None, None] for b in bend)
    x, y = x + bend_x * torch.sin(3.0 * y + 1.0), y + bend_y * torch.sin(3.0 * x)
    canvas = torch.zeros(count, frames, 3, side, side, device=device)
    distance = torch.full((count, frames, side, side), -0.5, device=device)
    for part in range(int(shapes.parts.max(initial=0))):
        rows = np.flatnonzero(shapes.parts > part)
        index = torch.from_numpy(rows).to(device)
        turn = shapes.angle[rows, part, None] + shapes.swing[rows, part, None] * np.sin(
            phase[rows] + shapes.phase[rows, part, None]
        )
        cos, sin = (tensor(f(turn), device)[:, :, None, None] for f in (np.cos, np.sin))

        column = partial(_column, rows=rows, part=part, device=device)
        dx, dy = x[index] - column(shapes.joint[..., 0]), y[index] - column(shapes.joint[..., 1])
        u = (cos * dx + sin * dy - column(shapes.centre[..., 0])) / column(shapes.axes[..., 0])
        v = (cos * dy - sin * dx - column(shapes.centre[..., 1])) / column(shapes.axes[..., 1])
        radius = torch.hypot(u, v)
        sector = (torch.atan2(v, u) + math.pi) * (OUTLINE_ANGLES / (2 * math.pi))
        lower = sector.long().clamp_(0, OUTLINE_ANGLES - 1)
        table = tensor(np.concatenate([shapes.outline, shapes.outline[..., :1]], -1)[rows, part], device)
        flat = lower.flatten(1)
        near, far = table.gather(1, flat).view_as(u), table.gather(1, flat + 1).view_as(u)
        reach = column(shapes.axes.min(-1))
        inside = (torch.lerp(near, far, sector - lower) - radius) * reach

        colour = _part_colour(materials, bank, rows, part, u, v)
        hole = torch.from_numpy(shapes.hole[rows, part]).to(device)[:, None, None, None]
        previous = distance[index]
        distance[index] = torch.where(hole, torch.minimum(previous, -inside), torch.maximum(previous, inside))
        cover = (inside * (side / 2) + 0.5).clamp_(0, 1).masked_fill_(hole, 0)[:, :, None]
        canvas[index] = torch.lerp(canvas[index], colour, cover)
    light = tensor(materials.light, device)[:, :, None, None, None]
    rim = tensor(materials.rim, device)[:, :, None, None]
    shade = 1 + light[:, 0] * x + light[:, 1] * y
    shade = shade * (1 - rim * torch.exp(-8 * distance.clamp(min=0)))
    shade = shade * _relief(distance, materials)
    canvas = canvas * shade[:, :, None]
    return torch.cat([canvas, distance.clamp(-0.5, 0.5)[:, :, None] + 0.5], 2)


def _relief(distance: Tensor, materials: Materials) -> Tensor:
    """Light (M, T, side, side) on bodies that bulge towards the viewer, from their distance to the outline."""
    device, side = distance.device, distance.shape[-1]
    height = (distance.clamp(min=0) + 0.01).sqrt() * tensor(materials.relief, device)[:, :, None, None]
    slope_x = F.pad((height[..., 2:] - height[..., :-2]) * (side / 4), (1, 1))
    slope_y = F.pad((height[..., 2:, :] - height[..., :-2, :]) * (side / 4), (0, 0, 1, 1))
    lamp = tensor(materials.lamp, device)[:, :, None, None, None]
    facing = (1 - lamp[:, 0] * slope_x - lamp[:, 1] * slope_y) * torch.rsqrt(1 + slope_x**2 + slope_y**2)
    return 0.4 + 0.6 * facing.clamp(0, 2)


def pose_actors(
    bank: TextureBank, materials: Materials, rows: np.ndarray, phase: np.ndarray, mirrored: np.ndarray, side: int
) -> Tensor:
    """Canvases (m, T, 4, side, side) of the actors of ``rows``, as :func:`paint` makes them.

    Args:
        phase: (m, T) cycles; mirrored: bool (m,).
    """
    device = bank.actors.device
    pose = (phase * bank.actors.shape[1]).astype(np.int64) % bank.actors.shape[1]
    actor = torch.from_numpy(materials.actor[rows]).to(device)
    pictures = bank.actors[actor[:, None], torch.from_numpy(pose).to(device)].float() / 255
    canvas = F.interpolate(pictures.flatten(0, 1), size=(side, side), mode='bilinear', align_corners=False)
    canvas = canvas.view(*pose.shape, 4, side, side)
    canvas = torch.where(torch.from_numpy(mirrored).to(device)[:, None, None, None, None], canvas.flip(-1), canvas)
    gain = np.concatenate([materials.gain[rows, 0], np.ones((len(rows), 1))], -1)
    canvas = canvas * tensor(gain, device)[:, None, :, None, None]
    canvas[:, :, 3] = (canvas[:, :, 3] - 128 / 255) * (2 * REACH) + 0.5
    return canvas.clamp_(0, 1)


def _part_colour(
    materials: Materials, bank: TextureBank, rows: np.ndarray, part: int, u: Tensor, v: Tensor
) -> Tensor:
    """Texture of one part, (m, T, 3, side, side), at part coordinates ``u``, ``v`` of (m, T, side, side)."""
    device = u.device

    column = partial(_column, rows=rows, part=part, device=device)
    zoom, turn = materials.zoom, materials.turn
    grid = torch.stack(
        [
            column(zoom * np.cos(turn)) * u + column(zoom * np.sin(turn)) * v + column(materials.shift[..., 0]),
            column(zoom * np.cos(turn)) * v - column(zoom * np.sin(turn)) * u + column(materials.shift[..., 1]),
        ],
        -1,
    )
    images = bank.small[torch.from_numpy(materials.texture[rows, part]).to(device)]
    count, frames, side, _ = u.shape
    colour = F.grid_sample(
        images, grid.view(count, frames * side, side, 2), padding_mode='reflection', align_corners=False
    )
    colour = colour.view(count, 3, frames, side, side)
    gain, bias, tint = (
        tensor(values[rows, part], device)[:, :, None, None, None]
        for values in (materials.gain, materials.bias, materials.tint)
    )
    along = column(np.cos(materials.split_angle)) * u + column(np.sin(materials.split_angle)) * v
    colour = colour * gain + bias
    colour = torch.where((along > column(materials.split))[:, None], 0.4 * colour + 0.6 * tint, colour)
    return colour.transpose(1, 2).clamp(0, 1)
