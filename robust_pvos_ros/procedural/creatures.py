"""Bodies that move: people, riders, four-legged animals and creatures of no kind, as rounded cones over a cycle.

Body coordinates as in :mod:`robust_pvos_ros.procedural.cones`: x forward, y up, z to the left, metres.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from robust_pvos_ros.procedural.cones import Joint, Part
from robust_pvos_ros.procedural.street_draw import Colour, mix
from robust_pvos_ros.procedural.street_people import Look, walking_body

Body = Callable[[float], list[Part]]
"""Parts at a phase of the cycle, radians."""

_SKINS: tuple[Colour, ...] = ((236, 190, 160), (214, 164, 134), (176, 122, 92), (126, 84, 60), (84, 56, 42))
_FURS: tuple[Colour, ...] = (
    (58, 44, 34), (112, 78, 48), (164, 122, 78), (198, 168, 124), (228, 222, 210), (40, 40, 42), (128, 124, 120),
    (150, 92, 52), (92, 84, 66),
)  # fmt: skip


def cloth(rng: np.random.Generator) -> Colour:
    """A dye: mostly muted or dark, sometimes bright."""
    value = rng.uniform(20, 235)
    chroma = rng.standard_normal(3) * rng.choice([8.0, 28.0, 70.0], p=[0.4, 0.35, 0.25])
    red, green, blue = np.clip(value + chroma - chroma.mean(), 8, 248)
    return float(red), float(green), float(blue)


def _pick(rng: np.random.Generator, colours: tuple[Colour, ...]) -> Colour:
    red, green, blue = np.clip(np.array(colours[int(rng.integers(len(colours)))]) + rng.normal(0, 12, 3), 5, 250)
    return float(red), float(green), float(blue)


def _person_look(rng: np.random.Generator) -> Look:
    plain = cloth(rng)
    return Look(
        plain, plain if rng.uniform() < 0.15 else cloth(rng), hair=_pick(rng, _FURS), skin=_pick(rng, _SKINS),
        shoes=cloth(rng), skirt=rng.uniform() < 0.2, long_hair=rng.uniform() < 0.4,
        backpack=cloth(rng) if rng.uniform() < 0.25 else None,
    )  # fmt: skip


def pedestrian(rng: np.random.Generator) -> Body:
    """Someone who walks, or stands in the middle of a step; slim or broad."""
    look, girth = _person_look(rng), rng.uniform(0.85, 1.35)
    stands, pose = rng.uniform() < 0.25, rng.uniform(0, 2 * math.pi)

    def body(phase: float) -> list[Part]:
        parts = walking_body(look, pose + 0.25 * math.sin(phase) if stands else phase)
        return [replace(p, start_radius=p.start_radius * girth, end_radius=p.end_radius * girth) for p in parts]

    return body


def _bone(joint: Joint, length: float, angle: float, aside: float = 0.0) -> Joint:
    """End of a bone that hangs down from ``joint``, turned forward by ``angle`` and moved aside."""
    return joint[0] + length * math.sin(angle), joint[1] - length * math.cos(angle), joint[2] + aside


def _bend(start: Joint, end: Joint, upper: float, lower: float, forward: float) -> Joint:
    """The knee or elbow between ``start`` and ``end``, on the side of positive x if ``forward`` is 1, else behind."""
    gap = np.subtract(end, start)
    distance = min(float(np.linalg.norm(gap)), upper + lower - 1e-6)
    along = (upper**2 - lower**2 + distance**2) / (2 * distance)
    height = math.sqrt(max(upper**2 - along**2, 0.0))
    unit = gap / (np.linalg.norm(gap) + 1e-9)
    side = np.array([-unit[1], unit[0], 0.0]) * forward
    x, y, z = np.array(start) + unit * along + side * height
    return float(x), float(y), float(z)


def _wheel(hub: Joint, radius: float, tube: float, colour: Colour) -> list[Part]:
    ring = [
        (hub[0] + radius * math.cos(a), hub[1] + radius * math.sin(a), hub[2])
        for a in np.linspace(0, 2 * math.pi, 15)
    ]
    return [Part(a, b, tube, tube, colour) for a, b in itertools.pairwise(ring)]


def rider(rng: np.random.Generator) -> Body:
    """Someone on a bicycle or a motorcycle, pedalling on the former."""
    look, motor = _person_look(rng), rng.uniform() < 0.4
    frame, tyre = cloth(rng), mix((30, 30, 32), cloth(rng), 0.15)
    radius, half = (0.3, 0.68) if motor else (0.34, 0.52)
    tube, lean = (0.075 if motor else 0.025), rng.uniform(0.1, 0.9)
    helmet = cloth(rng) if rng.uniform() < 0.7 else look.hair

    def body(phase: float) -> list[Part]:
        parts = _wheel((-half, radius, 0), radius, tube, tyre) + _wheel((half, radius, 0), radius, tube, tyre)
        crank, seat, bar = (-0.05, radius, 0.0), (-0.2, radius + 0.52, 0.0), (half - 0.14, radius + 0.62, 0.0)
        thick = 0.09 if motor else 0.024
        for start, end in ((crank, seat), (crank, bar), (seat, bar), (crank, (-half, radius, 0)),
                           (bar, (half, radius, 0))):
            parts.append(Part(start, end, thick, thick, frame))
        if motor:
            parts += [Part((-0.15, radius + 0.1, 0), (0.2, radius + 0.15, 0), 0.19, 0.17, (70, 70, 74)),
                      Part((-0.45, radius + 0.45, 0), (0.25, radius + 0.5, 0), 0.11, 0.17, frame)]
        hip = (seat[0], seat[1] + 0.1, 0.0)
        chest = (hip[0] + 0.5 * math.sin(lean), hip[1] + 0.5 * math.cos(lean), 0.0)
        head = (chest[0] + 0.12 + 0.1 * lean, chest[1] + 0.24, 0.0)
        for side in (-1.0, 1.0):
            turned = 0.0 if motor else phase + (math.pi if side > 0 else 0.0)
            foot = (crank[0] + 0.16 * math.cos(turned), crank[1] - 0.05 + 0.16 * math.sin(turned), 0.11 * side)
            thigh = (hip[0], hip[1], 0.09 * side)
            knee = _bend(thigh, foot, 0.43, 0.43, 1.0)
            shoulder, hand = (chest[0], chest[1], 0.18 * side), (bar[0], bar[1] + 0.05, 0.22 * side)
            elbow = _bend(shoulder, hand, 0.3, 0.28, -1.0)
            parts += [Part(thigh, knee, 0.1, 0.07, look.trousers), Part(knee, foot, 0.068, 0.05, look.trousers),
                      Part(foot, (foot[0] + 0.16, foot[1], foot[2]), 0.05, 0.036, look.shoes),
                      Part(shoulder, elbow, 0.07, 0.05, look.shirt), Part(elbow, hand, 0.05, 0.04, look.shirt),
                      Part((hip[0], hip[1], 0.07 * side), (chest[0], chest[1] - 0.06, 0.1 * side), 0.13, 0.13,
                           look.shirt)]
        parts += [Part(chest, head, 0.06, 0.08, look.skin), Part(head, (head[0] + 0.02, head[1] + 0.04, 0), 0.1, 0.12,
                                                                 helmet)]
        return parts

    return body


def quadruped(rng: np.random.Generator) -> Body:
    """A four-legged animal that walks: anything between a dachshund and a giraffe."""
    fur = _pick(rng, _FURS)
    dark, belly = mix(fur, (20, 18, 16), rng.uniform(0, 0.7)), mix(fur, (235, 228, 215), rng.uniform(0, 0.5))
    length, girth = rng.uniform(0.4, 0.9), rng.uniform(0.14, 0.3)
    leg, thin = rng.uniform(0.25, 0.85), rng.uniform(0.025, 0.07)
    neck, raised = rng.uniform(0.1, 0.6), rng.uniform(0.2, 1.5)
    skull, snout = rng.uniform(0.09, 0.17), rng.uniform(0.08, 0.28)
    tail, hang, bushy = rng.uniform(0.1, 0.7), rng.uniform(-2.4, 0.4), rng.uniform(0.015, 0.07)
    ear, hump = rng.uniform(0.02, 0.2), rng.uniform(0, 0.25) * (rng.uniform() < 0.2)
    stride, gait = rng.uniform(0.15, 0.65), rng.choice([0.5, 0.25, 0.0]) * 2 * math.pi

    def body(phase: float) -> list[Part]:
        height = leg + 0.6 * girth + 0.02 * math.sin(2 * phase)
        front, back = (length / 2, height, 0.0), (-length / 2, height, 0.0)
        low = height - 0.25 * girth
        parts = [Part(back, front, girth * 0.95, girth, fur),
                 Part((back[0], low, 0), (front[0], low, 0), girth * 0.8, girth * 0.9, belly)]
        if hump:
            parts.append(Part((0, height + girth, 0), (0.05, height + girth + hump, 0), 0.6 * girth, 0.35 * girth, fur))
        for x, side, offset in ((0.5, 1, 0.0), (0.5, -1, math.pi), (-0.5, 1, gait), (-0.5, -1, gait + math.pi)):
            swing = stride * math.cos(phase + offset)
            fold = 0.9 * stride * max(0.0, math.sin(phase + offset))
            hip = (x * length, height - 0.3 * girth, 0.55 * girth * side)
            knee = _bone(hip, leg / 2, swing + (0.15 if x < 0 else 0.0))
            foot = _bone(knee, leg / 2, swing - fold if x > 0 else swing - 0.3 - fold)
            parts += [Part(hip, knee, 2.2 * thin, 1.2 * thin, fur), Part(knee, foot, 1.2 * thin, thin, dark)]
        nod = 0.06 * math.sin(phase)
        poll = (front[0] + neck * math.cos(raised + nod), front[1] + 0.3 * girth + neck * math.sin(raised + nod), 0.0)
        nose = (poll[0] + snout * 0.95, poll[1] - snout * 0.5, 0.0)
        parts += [Part((front[0], front[1] + 0.2 * girth, 0), poll, 0.75 * girth, 0.75 * skull, fur),
                  Part(poll, nose, skull, 0.5 * skull, fur), Part(nose, nose, 0.4 * skull, 0.4 * skull, dark)]
        for side in (-1, 1):
            root = (poll[0] - 0.3 * skull, poll[1] + 0.7 * skull, 0.5 * skull * side)
            parts.append(Part(root, (root[0] - 0.4 * ear, root[1] + ear, root[2] * 1.5), 0.35 * skull, 0.1 * skull,
                              dark))
        end = _bone((back[0] - 0.8 * girth, height + 0.2 * girth, 0), tail, hang, 0.2 * tail * math.sin(phase))
        parts.append(Part((back[0] - 0.8 * girth, height + 0.2 * girth, 0), end, bushy, bushy, dark))
        return parts

    return body


def oddity(rng: np.random.Generator) -> Body:
    """Limbs on limbs, in any number and direction, that bend in a cycle of their own."""
    count = int(rng.integers(2, 9))
    parent = [int(rng.integers(0, i)) if i else -1 for i in range(count)]
    lengths = rng.uniform(0.15, 0.8, count)
    radii = np.exp(rng.uniform(math.log(0.05), math.log(0.35), (count, 2)))
    thickness = [(float(first), float(last)) for first, last in radii]
    rest, sway = rng.uniform(-math.pi, math.pi, (count, 2)), rng.uniform(0, 0.6, (count, 2))
    start, at = rng.uniform(0, 2 * math.pi, (count, 2)), rng.uniform(0.2, 1.0, count)
    kin, base = rng.uniform() < 0.6, cloth(rng)
    colours = [mix(base, cloth(rng), 0.25 if kin else 1.0) for _ in range(count)]

    def body(phase: float) -> list[Part]:
        ends: list[tuple[np.ndarray, np.ndarray]] = []
        parts = []
        for i in range(count):
            turn, tilt = rest[i] + sway[i] * np.sin(phase + start[i])
            root = np.zeros(3) if parent[i] < 0 else ends[parent[i]][0] + at[i] * np.subtract(*ends[parent[i]][::-1])
            way = np.array([math.cos(turn) * math.cos(tilt), math.sin(turn) * math.cos(tilt), math.sin(tilt)])
            ends.append((root, root + lengths[i] * way))
            a, b = (tuple(float(v) for v in point) for point in ends[-1])
            parts.append(Part((a[0], a[1], a[2]), (b[0], b[1], b[2]), *thickness[i], colours[i]))
        return parts

    return body
