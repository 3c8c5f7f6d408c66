"""Pictures of people, riders, animals, creatures and cars over one cycle of their motion, for clips to place.

They are drawn once for a texture bank, in NumPy; a frame of a clip only picks one and samples it.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from robust_pvos_ros.procedural import creatures
from robust_pvos_ros.procedural.cones import ConeCanvas, Part
from robust_pvos_ros.procedural.street_car_models import HATCHBACK, SALOON, VAN
from robust_pvos_ros.procedural.street_cars import render_view, render_wheel
from robust_pvos_ros.procedural.street_draw import shrink, warp_into

SIDE = 128
PHASES = 12
REACH = 0.25  # object coordinates: distances to the outline are kept up to here
_FILL = 0.92  # of the picture that the largest extent takes
_DETAIL = 2
_KINDS = (creatures.pedestrian, creatures.rider, creatures.quadruped, creatures.oddity, None)
_ODDS = (0.3, 0.13, 0.24, 0.2, 0.13)


def draw_actors(rng: np.random.Generator, count: int, textures: np.ndarray) -> np.ndarray:
    """Draw ``count`` actors.

    Args:
        textures: float32 (K, 3, R, R) RGB in [0, 1], for patterns.

    Returns:
        uint8 (count, PHASES, 4, SIDE, SIDE): RGB, spread beyond the outline, and the distance to the outline, 128 on it
        and 255 where it is ``REACH`` or more inside.
    """
    actors = np.empty((count, PHASES, 4, SIDE, SIDE), np.uint8)
    for index, kind in enumerate(rng.choice(len(_KINDS), size=count, p=_ODDS)):
        make = _KINDS[int(kind)]
        actors[index] = _draw_car(rng) if make is None else _draw_body(rng, make(rng), textures)
    return actors


def _encode(colour: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """One picture from RGB (2S, 2S, 3) in [0, 255] and bool (2S, 2S); a body that is nowhere gives an empty one."""
    mask = inside.astype(np.uint8)
    depth = cv2.distanceTransform(mask, cv2.DIST_L2, 3) - cv2.distanceTransform(1 - mask, cv2.DIST_L2, 3)
    reach = shrink(depth, _DETAIL) / (SIDE * _DETAIL / 2 * REACH)
    weight = shrink(mask.astype(np.float32), _DETAIL)
    rgb = shrink(colour * mask[..., None], _DETAIL) / np.maximum(weight, 1e-3)[..., None]
    covered = (weight > 0.2).astype(np.uint8)
    if covered.any():
        _, nearest = cv2.distanceTransformWithLabels(1 - covered, cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL)
        rgb = rgb[covered > 0][_rank(nearest, covered)]
    picture = np.concatenate([rgb, 128 + 127 * np.clip(reach, -1, 1)[..., None]], -1)
    return np.moveaxis(np.clip(picture + 0.5, 0, 255).astype(np.uint8), -1, 0)


def _rank(nearest: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """Labels of the nearest covered pixel -> its index among the covered pixels."""
    table = np.zeros(int(nearest.max()) + 1, np.int64)
    table[nearest[covered > 0]] = np.arange(int(covered.sum()))
    ranks: np.ndarray = table[nearest]
    return ranks


def _turned(parts: list[Part], yaw: float, pitch: float) -> list[Part]:
    """Parts as seen by a viewer: x to the right, y up, z away."""
    c, s, cp, sp = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)
    turn = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]]) @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    ends = np.array([(p.start, p.end) for p in parts]) @ turn.T
    return [
        Part((*a.tolist(),), (*b.tolist(),), p.start_radius, p.end_radius, p.colour) for p, (a, b) in zip(parts, ends)
    ]


def _draw_body(rng: np.random.Generator, body: creatures.Body, textures: np.ndarray) -> np.ndarray:
    facing, sweep = rng.uniform(0, 2 * math.pi), float(rng.choice([0.0, 0.35, 1.0], p=[0.4, 0.35, 0.25]))
    pitch = rng.uniform(-0.1, 0.35)
    phases = 2 * math.pi * np.arange(PHASES) / PHASES
    poses = [_turned(body(float(p)), facing + sweep * math.sin(p), pitch) for p in phases]
    low = np.min([np.minimum(p.start, p.end)[:2] - max(p.start_radius, p.end_radius) for q in poses for p in q], 0)
    high = np.max([np.maximum(p.start, p.end)[:2] + max(p.start_radius, p.end_radius) for q in poses for p in q], 0)
    half = float((high - low).max()) / 2 / _FILL
    left, top = (low[0] + high[0]) / 2 - half, (low[1] + high[1]) / 2 + half
    side = SIDE * _DETAIL
    light = _Light(rng, textures, half)
    pictures = []
    for parts in poses:
        canvas = ConeCanvas(side, side, left, top, side / 2 / half)
        for part in parts:
            canvas.cone(part, 0.0, 1.0)
        pictures.append(_encode(light.shade(canvas), np.isfinite(canvas.depth)))
    return np.stack(pictures)


class _Light:
    """How one body is lit and what pattern it wears."""

    def __init__(self, rng: np.random.Generator, textures: np.ndarray, size: float) -> None:
        sun = np.array([rng.normal(0, 0.7), rng.uniform(0.2, 1.0), rng.uniform(0.2, 1.0)])
        self._sun = sun / np.linalg.norm(sun)
        self._ambient, self._diffuse = rng.uniform(0.35, 0.7), rng.uniform(0.2, 0.75)
        self._gloss = rng.uniform(20, 120) if rng.uniform() < 0.25 else 0.0
        self._texture = textures[int(rng.integers(len(textures)))]
        self._share = float(rng.choice([0.0, 0.25, 0.7], p=[0.35, 0.35, 0.3]))
        self._zoom = self._texture.shape[-1] * rng.uniform(0.4, 1.2) / size

    def shade(self, canvas: ConeCanvas) -> np.ndarray:
        """float32 (H, W, 3) RGB in [0, 255]."""
        where = np.isfinite(canvas.depth)
        normal, colour = canvas.normal[where], canvas.colour[where]
        if self._share:
            size = self._texture.shape[-1]
            u, v = (canvas.place[where] * (self._zoom, 0.15 * size)).astype(int).T % size
            pattern = self._texture[:, u, v].T
            colour = colour * (1 - self._share) + self._share * (0.35 * colour + 165.0 * pattern)
        toward = np.maximum(normal @ self._sun, 0)
        lit = (self._ambient + 0.12 * normal[:, 1] + self._diffuse * toward) * (0.75 + 0.25 * normal[:, 2])
        shaded = colour * lit[:, None] + (self._gloss * toward**20)[:, None]
        image = np.zeros((*where.shape, 3), np.float32)
        image[where] = np.minimum(shaded, 255)
        return image


def _draw_car(rng: np.random.Generator) -> np.ndarray:
    """A car that passes: seen from changing directions, its near wheels turning."""
    model = (HATCHBACK, SALOON, VAN)[int(rng.choice(3, p=[0.4, 0.4, 0.2]))]
    paint, accent = creatures.cloth(rng), creatures.cloth(rng)
    first, last = rng.uniform(-0.6, 0.6, 2)
    stretch, mirrored = rng.uniform(0.85, 1.1), rng.uniform() < 0.5
    longest = stretch * (model.length + model.width * max(abs(first), abs(last)))
    scale = _FILL * SIDE * _DETAIL / longest
    views = [render_view(model, paint, float(t), scale, accent) for t in np.linspace(first, last, PHASES // 2)]
    wheel, side = render_wheel(model.wheel_radius, scale, int(rng.integers(4, 8))), SIDE * _DETAIL
    pictures = []
    for phase in range(PHASES):
        view = views[min(phase, PHASES - 1 - phase)]
        foot = (side / 2, side * 0.5 + 0.5 * model.height * scale)
        place = np.array([[stretch, 0, foot[0] - stretch * view.anchor[0]], [0, 1.0, foot[1] - view.anchor[1]]])
        picture = warp_into(view.rgba, place, (0, 0, side, side)) / np.float32(255)
        for axle in model.wheels:
            turn = 2 * math.pi * phase / PHASES
            c, s, (ax, ay) = math.cos(turn), math.sin(turn), wheel.anchor
            x, y = foot[0] + stretch * axle * scale, foot[1] - model.wheel_radius * scale
            place = np.array([[c, -s, x - c * ax + s * ay], [s, c, y - s * ax - c * ay]])
            patch = warp_into(wheel.rgba, place, (0, 0, side, side)) / np.float32(255)
            picture = patch + picture * (1 - patch[..., 3:])
        picture = picture[:, ::-1] if mirrored else picture
        colour = 255 * picture[..., :3] / np.maximum(picture[..., 3:], 1e-2)
        pictures.append(_encode(np.minimum(colour, 255), picture[..., 3] > 0.5))
    return np.stack(pictures)
