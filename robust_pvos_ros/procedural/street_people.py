"""Pedestrians of the street scene: a walking skeleton dressed in rounded cones, ray-cast into a small picture.

Body coordinates: x forward, y up, z to the person's left; metres for a person 1.75 m tall; origin between the feet.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from robust_pvos_ros.procedural.cones import ConeCanvas, Joint, Part, turn
from robust_pvos_ros.procedural.street_draw import Colour, Sprite, fractal_noise, mix, premultiply, shrink

SUPERSAMPLE = 2
STANDARD_HEIGHT = 1.75
CYCLE_LENGTH = 1.36  # metres walked in one gait cycle (two steps)
PHASES = 24
_UMBRELLA_TOP = (0.1, 2.15, 0.12)
_LIGHT = np.array([-0.5, 0.72, 0.48]) / np.linalg.norm([-0.5, 0.72, 0.48])


@dataclass(frozen=True)
class Look:
    """What a person wears; colours are RGB in [0, 255].

    Attributes:
        height: metres.
        skirt: a knee-long skirt in the colour of the trousers.
        umbrella: colour of an open umbrella, or None.
        backpack: colour of a backpack, or None.
    """

    shirt: Colour
    trousers: Colour
    hair: Colour = (52, 38, 28)
    skin: Colour = (214, 164, 134)
    shoes: Colour = (46, 42, 42)
    height: float = STANDARD_HEIGHT
    skirt: bool = False
    long_hair: bool = False
    umbrella: Colour | None = None
    backpack: Colour | None = None


def _swing(joint: Joint, length: float, angle: float) -> Joint:
    """End of a bone that hangs from ``joint`` and is turned forward by ``angle`` radians."""
    return joint[0] + length * float(np.sin(angle)), joint[1] - length * float(np.cos(angle)), joint[2]


def _leg(phase: float, side: float, look: Look) -> tuple[list[Part], float]:
    """Parts of one leg with the hip at height 0, and the height of its lowest point."""
    swing = 0.41 * np.cos(phase) + 0.04
    late = np.angle(np.exp(1j * (phase - 1.38 * np.pi)))
    bend = 0.1 + 0.85 * np.exp(-((late / 0.75) ** 2))
    hip = (0.0, 0.0, 0.085 * side)
    knee = _swing(hip, 0.44, swing)
    ankle = _swing(knee, 0.42, swing - bend)
    push = np.angle(np.exp(1j * (phase - 1.05 * np.pi)))
    pitch = 0.28 * max(0.0, np.cos(phase)) ** 4 - 0.75 * np.exp(-((push / 0.6) ** 2))
    toe = _swing(ankle, 0.19, np.pi / 2 + pitch - 0.25)
    lower = look.skin if look.skirt else look.trousers
    parts = [
        Part(hip, knee, 0.1, 0.07, look.trousers),
        Part(knee, ankle, 0.068, 0.05, lower),
        Part((ankle[0] - 0.03, ankle[1] - 0.015, ankle[2]), toe, 0.05, 0.036, look.shoes),
    ]
    return parts, min(ankle[1] - 0.066, toe[1] - 0.036)


def _arm(phase: float, side: float, shoulder_height: float, look: Look) -> list[Part]:
    shoulder = (0.0, shoulder_height, 0.185 * side)
    if look.umbrella is not None and side > 0:
        elbow = _swing(shoulder, 0.27, 0.15)
        hand = _swing(elbow, 0.25, 2.25)
    else:
        swing = -0.45 * np.cos(phase) + 0.05
        elbow = _swing(shoulder, 0.28, swing)
        hand = _swing(elbow, 0.25, swing + 0.38 + 0.22 * max(0.0, swing))
    wrist = tuple(a + 0.82 * (b - a) for a, b in zip(elbow, hand))
    return [
        Part(shoulder, elbow, 0.068, 0.052, look.shirt),
        Part(elbow, (wrist[0], wrist[1], wrist[2]), 0.051, 0.041, look.shirt),
        Part((wrist[0], wrist[1], wrist[2]), hand, 0.038, 0.042, look.skin),
    ]


def walking_body(look: Look, phase: float) -> list[Part]:
    """All parts of a person at a gait phase in [0, 2 pi), standing on y = 0."""
    legs, lowest = [], 0.0
    for side, offset in ((1.0, 0.0), (-1.0, np.pi)):
        parts, low = _leg((phase + offset) % (2 * np.pi), side, look)
        legs += parts
        lowest = min(lowest, low)
    hips = -lowest
    parts = [
        Part((p.start[0], p.start[1] + hips, p.start[2]), (p.end[0], p.end[1] + hips, p.end[2]), p.start_radius,
             p.end_radius, p.colour)
        for p in legs
    ]
    chest, lean = hips + 0.5, 0.03
    for side in (-1.0, -0.5, 0.0, 0.5, 1.0):
        parts.append(Part((0.0, hips + 0.0, 0.07 * side), (lean, hips + 0.16, 0.06 * side), 0.115, 0.11, look.trousers))
        waist, shoulder = (0.0, hips + 0.13, 0.065 * side), (lean, chest - 0.075, 0.105 * side)
        parts.append(Part(waist, shoulder, 0.122, 0.127, look.shirt))
    if look.skirt:
        for side in (-1.0, -0.5, 0.0, 0.5, 1.0):
            front = 0.11 * float(np.cos(phase)) * side
            parts.append(Part((0, hips + 0.08, 0.03 * side), (front, hips - 0.36, 0.07 * side), 0.125, 0.115,
                              look.trousers))
    arms = _arm(phase, 1.0, chest - 0.04, look) + _arm(phase + np.pi, -1.0, chest - 0.04, look)
    parts += arms
    head = (lean + 0.045, chest + 0.215, 0.0)
    parts += [
        Part((lean, chest, 0), (lean + 0.02, chest + 0.13, 0), 0.06, 0.055, look.skin),
        Part((head[0] + 0.015, head[1] - 0.045, 0), head, 0.078, 0.098, look.skin),
        Part((head[0] - 0.03, head[1] + 0.02, 0), (head[0] - 0.005, head[1] + 0.045, 0), 0.103, 0.096, look.hair),
    ]
    if look.long_hair:
        parts.append(Part((head[0] - 0.06, head[1], 0), (head[0] - 0.1, head[1] - 0.23, 0), 0.08, 0.05, look.hair))
    if look.backpack is not None:
        for side in (-0.07, 0.07):
            parts.append(Part((-0.16, hips + 0.2, side), (-0.13, chest - 0.1, side), 0.1, 0.095, look.backpack))
    if look.umbrella is not None:
        parts.append(Part(arms[2].end, _UMBRELLA_TOP, 0.012, 0.012, (60, 60, 64)))
    return parts


def _draw_canopy(canvas: ConeCanvas, centre: Joint, radius: float, colour: Colour, yaw: float, zoom: float) -> None:
    """Draw an open umbrella: the upper part of a flat ellipsoid with eight panels."""
    middle = turn(centre, yaw) * zoom
    radius *= zoom
    rise = 0.42 * radius
    where, x, y = canvas.grid(middle - np.array([radius, 0.02, 0]), middle + np.array([radius, rise, 0]))
    u, v = (x - middle[0]) / radius, (y - middle[1]) / rise
    scallop = 0.07 * np.abs(np.sin(4 * np.arcsin(np.clip(u, -1, 1))))
    inside = 1 - u * u - v * v
    w = np.sqrt(np.maximum(inside, 0))
    normal = np.stack([u + 0 * v, v / 0.6 + 0 * u, w], -1)
    normal /= np.linalg.norm(normal, axis=2, keepdims=True) + 1e-6
    rib = np.abs(np.sin(4 * np.arctan2(u + 0 * v, w + 1e-6)))
    depth = np.where((inside > 0) & (v > scallop), middle[2] + radius * w, -np.inf)
    canvas.store(where, depth, normal * (0.8 + 0.2 * np.minimum(rib * 4, 1))[..., None], colour)


def render_walker(look: Look, phase: float, yaw: float, pixels_per_metre: float, seed: int = 0) -> Sprite:
    """Picture of a walking person.

    Args:
        look: clothes and size.
        phase: gait phase, radians; one cycle moves the person by ``CYCLE_LENGTH`` (for 1.75 m).
        yaw: heading, radians: 0 to the right, pi/2 towards the camera, pi to the left.
        pixels_per_metre: resolution of the sprite.
        seed: of the cloth's folds.

    Returns:
        A sprite anchored on the ground between the feet.
    """
    zoom = look.height / STANDARD_HEIGHT
    reach = 0.95 if look.umbrella is not None else 0.62
    tall = (2.45 if look.umbrella is not None else 1.85) * zoom
    scale = pixels_per_metre * SUPERSAMPLE
    width, height = 2 * int(reach * pixels_per_metre), int((tall + 0.06) * pixels_per_metre)
    canvas = ConeCanvas(width * SUPERSAMPLE, height * SUPERSAMPLE, -width / 2 / pixels_per_metre, tall, scale)
    for part in walking_body(look, phase):
        canvas.cone(part, yaw, zoom)
    if look.umbrella is not None:
        handle = (_UMBRELLA_TOP[0], _UMBRELLA_TOP[1] - 0.2, _UMBRELLA_TOP[2])
        _draw_canopy(canvas, handle, 0.6, look.umbrella, yaw, zoom)
    drawn = np.isfinite(canvas.depth)
    folds = fractal_noise(np.random.default_rng(seed), drawn.shape[0], drawn.shape[1], 0.09 * scale, octaves=3)
    light = 0.46 + 0.66 * np.maximum(canvas.normal @ _LIGHT, 0) + 0.1 * canvas.normal[..., 1]
    light *= (1 + 0.045 * folds) * (0.72 + 0.28 * canvas.normal[..., 2])
    rgb = np.minimum(canvas.colour * light[..., None], 255) * drawn[..., None]
    alpha = shrink(drawn.astype(np.float32), SUPERSAMPLE)
    colour = shrink(rgb.astype(np.float32), SUPERSAMPLE) / np.maximum(alpha, 1e-3)[..., None]
    return Sprite(premultiply(colour, alpha), (width / 2 - 0.5, tall * pixels_per_metre), pixels_per_metre)


def walking_phase(distance: float, look: Look) -> float:
    """Gait phase in radians after walking ``distance`` metres."""
    return 2 * np.pi * (distance / (CYCLE_LENGTH * look.height / STANDARD_HEIGHT) % 1.0)


def palette(rng: np.random.Generator, colour: Colour, spread: float = 10.0) -> Colour:
    """A slightly different dye of the same colour."""
    red, green, blue = np.clip(np.array(colour) + rng.normal(0, spread, 3), 0, 255)
    return mix((float(red), float(green), float(blue)), colour, 0.3)
