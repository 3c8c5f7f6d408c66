"""Where procedural objects and the camera go: poses over time, NumPy only.

Image coordinates run over [-1, 1] in x (right) and y (down), as in ``torch.nn.functional.grid_sample``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass
class Motion:
    """Poses of B clips of T frames with N objects each.

    Attributes:
        clock: float (B, T) time, 0 at the first frame; one unit is one frame at ordinary speed.
        position: float (B, N, T, 2) object centres in the image.
        scale: float (B, N, T) half side of the object canvas, image coordinates.
        stretch: float (B, N, T) width over height of the canvas, which changes as something turns away.
        angle: float (B, N, T) radians.
        camera: float (B, T, 2, 3) maps image coordinates to background coordinates.
    """

    clock: np.ndarray
    position: np.ndarray
    scale: np.ndarray
    stretch: np.ndarray
    angle: np.ndarray
    camera: np.ndarray


def _wander(rng: np.random.Generator, clock: np.ndarray, amplitude: np.ndarray) -> np.ndarray:
    """Smooth paths (B, ..., T) that start at 0; ``amplitude`` has shape (B, ..., 1), ``clock`` (B, T)."""
    lead = amplitude.shape[:-1]
    clock = clock.reshape(clock.shape[0], *([1] * (len(lead) - 1)), clock.shape[1])
    path = np.zeros((*lead, clock.shape[-1]))
    for slowest, fastest, share in ((0.05, 0.3, 1.0), (0.3, 1.2, 0.25)):
        rate, phase = rng.uniform(slowest, fastest, (*lead, 1)), rng.uniform(0, 2 * math.pi, (*lead, 1))
        path += share * (np.sin(rate * clock + phase) - np.sin(phase))
    return amplitude * path


def _some(rng: np.random.Generator, shape: tuple[int, ...], chance: float) -> np.ndarray:
    return (rng.uniform(0, 1, shape) < chance).astype(float)


def random_motion(rng: np.random.Generator, batch: int, count: int, frames: int, pace: float = 1.0) -> Motion:
    """Random poses; ``pace`` scales all speeds."""
    step = pace * np.exp(rng.uniform(math.log(0.3), math.log(2.0), (batch, 1))) * rng.choice([-1, 1], (batch, 1))
    clock = step * (np.arange(frames)[None] + rng.uniform(-0.2, 0.2, (batch, frames)))
    clock -= clock[:, :1]
    time = clock[:, None, None]
    shape = (batch, count)

    moves = 1 - _some(rng, (*shape, 1, 1), 0.2)
    start = rng.uniform(-0.75, 0.75, (*shape, 2, 1))
    velocity = rng.standard_normal((*shape, 2, 1)) * rng.uniform(0, 0.11, (*shape, 1, 1))
    path = moves * (velocity * time + _wander(rng, clock, 0.2 * np.abs(rng.standard_normal((*shape, 2, 1)))))
    # some leave the picture and come back within the clip
    heading, period = rng.uniform(0, 2 * math.pi, (*shape, 1)), rng.uniform(0.6, 1.3, (*shape, 1)) * frames
    away = min(1.0, pace) * _some(rng, (*shape, 1), 0.15) * rng.uniform(0.4, 1.1, (*shape, 1))
    away = away * (1 - np.cos(2 * math.pi * np.arange(frames) / period))
    path = path + np.stack([np.cos(heading) * away, np.sin(heading) * away], 2)

    scale = np.exp(rng.uniform(math.log(0.14), math.log(0.95), (*shape, 1)))
    scale = scale * np.exp(_wander(rng, clock, 0.12 * np.abs(rng.standard_normal((*shape, 1)))))
    stretch = np.exp(_wander(rng, clock, 0.1 * np.abs(rng.standard_normal((*shape, 1)))).clip(-0.7, 0.7))
    turns = np.abs(rng.standard_normal((*shape, 1))) * (0.05 + 0.5 * _some(rng, (*shape, 1), 0.25))
    angle = rng.standard_normal((*shape, 1)) * (0.15 + _some(rng, (*shape, 1), 0.3)) + _wander(rng, clock, turns)
    angle = angle + rng.standard_normal((*shape, 1)) * 0.15 * _some(rng, (*shape, 1), 0.2) * clock[:, None]

    drift = rng.standard_normal((batch, 2, 1)) * rng.uniform(0, 0.06, (batch, 1, 1)) * clock[:, None]
    pan = drift + _wander(rng, clock, 0.12 * np.abs(rng.standard_normal((batch, 2, 1))))
    pan = pan * (1 - _some(rng, (batch, 1, 1), 0.2))
    pan = pan + 0.015 * pace * _some(rng, (batch, 1, 1), 0.4) * rng.standard_normal(pan.shape) * (np.arange(frames) > 0)
    follows = _some(rng, (batch, 1, 1), 0.35) * rng.uniform(0.6, 1.0, (batch, 1, 1))
    pan = pan - follows * path[:, 0]
    zoom = np.exp(_wander(rng, clock, 0.07 * np.abs(rng.standard_normal((batch, 1)))))
    roll = _wander(rng, clock, 0.05 * np.abs(rng.standard_normal((batch, 1))))

    depth = rng.uniform(0.8, 1.3, (*shape, 1, 1))  # parallax: nearer things pass faster
    world = np.moveaxis(start + path + pan[:, None] * depth, 2, -1)
    cos, sin = np.cos(roll)[:, None, :], np.sin(roll)[:, None, :]
    x, y = world[..., 0], world[..., 1]
    position = zoom[:, None, :, None] * np.stack([cos * x - sin * y, sin * x + cos * y], -1)

    camera = np.zeros((batch, frames, 2, 3))
    cos, sin = np.cos(roll) / zoom, np.sin(roll) / zoom
    camera[..., 0, 0], camera[..., 0, 1], camera[..., 1, 0], camera[..., 1, 1] = cos, sin, -sin, cos
    camera[..., 2] = -np.moveaxis(pan, 1, -1)
    return Motion(clock, position, scale * zoom[:, None], stretch, angle + roll[:, None], camera)
