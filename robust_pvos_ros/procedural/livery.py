"""Liveries: objects in two or more colours whose borders have nothing to do with their parts.

A painted hull under a white deck, the windows of a bus, a jersey with a number: colour changes inside many objects, and
a model that never saw it takes the part that has the colour of the clicked pixel.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from robust_pvos_ros.procedural.textures import TextureBank

_KINDS = ('halves', 'stripes', 'windows', 'patches')
_ODDS = (0.4, 0.2, 0.25, 0.15)


def choose_liveries(rng: np.random.Generator, count: int, share: float) -> np.ndarray:
    """Seeds for :func:`dress`, int (count,), -1 for about all but ``share`` of them."""
    return np.where(rng.uniform(size=count) < share, rng.integers(2**31, size=count), -1)


def dress(canvases: Tensor, liveries: np.ndarray, bank: TextureBank) -> None:
    """Recolour one to three regions of each canvas in place; its outline and its shading stay.

    Args:
        canvases: float32 (M, T, 4, side, side), RGB from 0 to 1 and the distance of ``paint``.
        liveries: int (M,) seeds, equal ones give equal liveries; negative: the object keeps its colours.
    """
    side = canvases.shape[-1]
    axis = ((torch.arange(side) + 0.5) * (2 / side) - 1).numpy()
    for row in np.flatnonzero(liveries >= 0):
        rng = np.random.default_rng([int(liveries[row]), 3])
        colours = canvases[row, :, :3]
        shading = (0.45 + 0.9 * colours.mean(1, keepdim=True)).clamp_(0.5, 1.25)
        for _ in range(int(rng.choice([1, 2, 3], p=[0.45, 0.35, 0.2]))):
            region = torch.from_numpy(_region(rng, axis)).to(canvases.device)
            colour = _cloth(rng, bank, side) * shading
            colours.copy_(torch.lerp(colours, colour.clamp_(0, 1), region * float(rng.uniform(0.75, 1.0))))


def _region(rng: np.random.Generator, axis: np.ndarray) -> np.ndarray:
    """Share of the new colour, float32 (side, side), with soft borders."""
    angle = float(rng.choice([0.0, math.pi / 2, rng.uniform(0, math.pi)], p=[0.25, 0.45, 0.3]))
    x, y = np.meshgrid(axis, axis)
    along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    along = along + rng.uniform(0, 0.15) * np.sin(rng.uniform(1, 5) * across + rng.uniform(0, 6))
    kind = str(rng.choice(_KINDS, p=_ODDS))
    place = rng.uniform(-0.45, 0.45)
    if kind == 'halves':
        inside = along - place
    elif kind == 'stripes':
        half, period = rng.uniform(0.04, 0.2), rng.choice([9.0, rng.uniform(0.3, 0.8)])
        inside = half * min(1.0, period) - np.abs((along - place + period / 2) % period - period / 2)
    elif kind == 'windows':
        period, gap = rng.uniform(0.2, 0.7), rng.uniform(0.03, 0.1)
        pane = period / 2 - gap - np.abs((across + place) % period - period / 2)
        inside = np.minimum(pane, rng.uniform(0.08, 0.3) - np.abs(along - 0.6 * place))
    else:
        waves = rng.uniform(1.5, 6, (4, 1, 1)), rng.uniform(0, 2 * math.pi, (4, 2, 1, 1))
        turned = np.cos(waves[1][:, 0]) * x + np.sin(waves[1][:, 0]) * y
        inside = np.sin(waves[0] * turned + waves[1][:, 1]).sum(0) / 8 + rng.uniform(-0.1, 0.1)
    return np.clip(inside * (len(axis) / 2) + 0.5, 0, 1).astype(np.float32)


def _cloth(rng: np.random.Generator, bank: TextureBank, side: int) -> Tensor:
    """One colour (3, 1, 1), or a texture (3, side, side) of the bank in it."""
    dark_or_light = rng.choice([rng.uniform(0.02, 0.25), rng.uniform(0.75, 1.0), rng.uniform(0, 1)])
    tint = np.clip(dark_or_light + rng.normal(0, 0.18 if rng.uniform() < 0.6 else 0.03, 3), 0, 1)
    colour = torch.tensor(tint, dtype=torch.float32, device=bank.images.device)[:, None, None]
    if rng.uniform() < 0.6:
        return colour
    texture = bank.images[int(rng.integers(len(bank)))][None]
    texture = F.interpolate(texture, size=(side, side), mode='bilinear', align_corners=False)[0]
    return torch.lerp(colour, texture, float(rng.uniform(0.2, 0.8)))
