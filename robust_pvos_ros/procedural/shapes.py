"""Shapes of procedural objects: parts with a radial outline, put together into blobs, figures, animals and vehicles.

Object coordinates run over [-1, 1] in x (right) and y (down).  A part is an outline ``r(angle)`` stretched by two half
axes, turned about a joint; the parts of an object are painted in order, later ones on top.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

MAX_PARTS = 7
OUTLINE_ANGLES = 64


@dataclass
class Shapes:
    """Geometry of M objects; a part beyond ``parts`` of its object is unused.

    Attributes:
        parts: int (M,) number of parts.
        joint: float (M, P, 2) point about which the part turns, object coordinates.
        centre: float (M, P, 2) centre of the outline seen from the joint, in the part's own turned frame.
        axes: float (M, P, 2) half axes.
        angle: float (M, P) resting angle, radians.
        swing: float (M, P) amplitude of the periodic turn, radians.
        phase: float (M, P) phase of the periodic turn, radians.
        outline: float (M, P, A) radius at equally spaced angles from -pi, about 1.
        hole: bool (M, P) the part is cut out instead of painted.
    """

    parts: np.ndarray
    joint: np.ndarray
    centre: np.ndarray
    axes: np.ndarray
    angle: np.ndarray
    swing: np.ndarray
    phase: np.ndarray
    outline: np.ndarray
    hole: np.ndarray

    def copy_object(self, source: int, target: int) -> None:
        """Make object ``target`` look like ``source``; its motion phase stays its own."""
        for name in ('parts', 'joint', 'centre', 'axes', 'angle', 'swing', 'outline', 'hole'):
            values = getattr(self, name)
            values[target] = values[source]


@dataclass
class _Part:
    x: float
    y: float
    width: float
    height: float
    angle: float = 0.0
    swing: float = 0.0
    hangs: bool = False
    outline: str = 'ellipse'
    hole: bool = False


@dataclass
class _Plan:
    parts: list[_Part] = field(default_factory=list)


def _outline(rng: np.random.Generator, kind: str) -> np.ndarray:
    """Radius (A,) over the angle; every kind is star-shaped about its centre."""
    angle = np.linspace(-math.pi, math.pi, OUTLINE_ANGLES, endpoint=False)
    if kind == 'blob':
        order = np.arange(1, 8)[:, None]
        weight = rng.standard_normal((7, 1)) * rng.uniform(0.05, 0.3) / order**0.7
        radius = 1 + (weight * np.cos(order * angle + rng.uniform(0, 2 * math.pi, (7, 1)))).sum(0)
    elif kind == 'polygon':
        sides = int(rng.integers(3, 7))
        sector = 2 * math.pi / sides
        radius = math.cos(sector / 2) / np.cos((angle + rng.uniform(0, sector)) % sector - sector / 2)
    elif kind == 'box':
        power = rng.uniform(3, 8)
        radius = (np.abs(np.cos(angle)) ** power + np.abs(np.sin(angle)) ** power) ** (-1 / power)
        radius = radius / 1.15
    elif kind == 'star':
        radius = 1 + rng.uniform(0.15, 0.4) * np.cos(int(rng.integers(3, 8)) * angle)
    else:
        radius = np.ones_like(angle) * (1 + 0.04 * np.cos(2 * angle + rng.uniform(0, math.pi)))
    return np.clip(radius, 0.25, 1.6)


def _blob(rng: np.random.Generator) -> _Plan:
    kind = str(rng.choice(['blob', 'polygon', 'box', 'star', 'ellipse'], p=[0.5, 0.14, 0.14, 0.07, 0.15]))
    plan = _Plan([_Part(0, 0, rng.uniform(0.35, 0.75), rng.uniform(0.35, 0.75), outline=kind)])
    for _ in range(int(rng.choice([0, 1, 2, 3], p=[0.4, 0.3, 0.2, 0.1]))):  # markings inside the body
        x, y = rng.uniform(-0.3, 0.3, 2)
        width, height = rng.uniform(0.1, 0.35, 2)
        plan.parts.append(_Part(x, y, width, height, angle=rng.uniform(0, 3), outline='blob'))
    if rng.uniform() < 0.15:
        x, y = rng.uniform(-0.15, 0.15, 2)
        width, height = rng.uniform(0.1, 0.25, 2)
        plan.parts.append(_Part(x, y, width, height, outline='ellipse', hole=True))
    return plan


def _figure(rng: np.random.Generator) -> _Plan:
    """Upright: legs, torso, arm, head."""
    wide, swing, lean = rng.uniform(0.8, 1.5), rng.uniform(0.1, 0.8), rng.uniform(-0.3, 0.3)
    leg = rng.uniform(0.45, 0.6)
    parts = [
        _Part(side * 0.1 * wide, 0.2, 0.11 * wide, leg / 2, angle=0.5 * lean, swing=side * swing, hangs=True)
        for side in (-1, 1)
    ]
    parts.append(_Part(0, -0.12, 0.22 * wide, 0.42, angle=lean, outline=str(rng.choice(['ellipse', 'box', 'blob']))))
    parts.append(_Part(0, -0.4, 0.075 * wide, 0.24, angle=lean, swing=1.4 * swing, hangs=True))
    parts.append(_Part(0.2 * lean, -0.68, 0.15 * wide**0.5, 0.19))
    return _Plan(parts)


def _animal(rng: np.random.Generator) -> _Plan:
    """Four legs under a long body, a head in front, a tail."""
    side, swing, leg = float(rng.choice([-1, 1])), rng.uniform(0.1, 0.7), rng.uniform(0.2, 0.4)
    parts = [
        _Part(side * x, 0.05, rng.uniform(0.05, 0.1), leg, swing=swing * turn, hangs=True)
        for x, turn in ((0.42, 1.0), (-0.42, -1.0), (0.3, -1.0))
    ]
    parts.append(_Part(-side * 0.55, -0.15, 0.05, 0.22, angle=side * rng.uniform(-2.5, 0.5), swing=0.4, hangs=True))
    parts.append(_Part(0, -0.1, 0.6, rng.uniform(0.2, 0.32), outline=str(rng.choice(['ellipse', 'blob']))))
    parts.append(_Part(side * 0.62, -rng.uniform(0.15, 0.5), rng.uniform(0.16, 0.26), 0.17, swing=0.2))
    return _Plan(parts)


def _vehicle(rng: np.random.Generator) -> _Plan:
    """A cabin on a body with wheels."""
    wheel, low = rng.uniform(0.12, 0.22), rng.uniform(0.18, 0.32)
    parts = [
        _Part(rng.uniform(-0.2, 0.2), -low - 0.05, rng.uniform(0.3, 0.55), rng.uniform(0.18, 0.35), outline='box'),
        _Part(0, 0, 0.8, low, outline='box'),
    ]
    parts += [_Part(x, low, wheel, wheel, swing=3.0, outline='ellipse') for x in (-0.45, 0.45)]
    if rng.uniform() < 0.6:
        parts.append(_Part(rng.uniform(-0.2, 0.2), -low - 0.1, 0.25, 0.12, outline='box'))
    return _Plan(parts)


def _cluster(rng: np.random.Generator) -> _Plan:
    """Overlapping parts that move against one another."""
    parts, x, y = [], rng.uniform(-0.3, 0.3), rng.uniform(-0.3, 0.3)
    for _ in range(int(rng.integers(2, 6))):
        kind = str(rng.choice(['blob', 'ellipse', 'polygon', 'box'], p=[0.4, 0.3, 0.15, 0.15]))
        width, height = rng.uniform(0.12, 0.5, 2)
        parts.append(_Part(x, y, width, height, rng.uniform(0, 3), rng.uniform(0, 0.5), rng.uniform() < 0.4, kind))
        x, y = np.clip([x + rng.uniform(-0.45, 0.45), y + rng.uniform(-0.45, 0.45)], -0.5, 0.5)
    return _Plan(parts)


def _bar(rng: np.random.Generator) -> _Plan:
    """A long thin thing: pole, trunk, board."""
    return _Plan([_Part(0, 0, rng.uniform(0.08, 0.25), 0.95, outline='box')])


_PLANS = {'blob': _blob, 'figure': _figure, 'animal': _animal, 'vehicle': _vehicle, 'cluster': _cluster, 'bar': _bar}
_ODDS = np.array([0.26, 0.22, 0.16, 0.12, 0.2, 0.04])


def random_shapes(rng: np.random.Generator, count: int) -> Shapes:
    """``count`` random objects."""
    pair = (count, MAX_PARTS, 2)
    shapes = Shapes(
        parts=np.zeros(count, np.int64),
        joint=np.zeros(pair),
        centre=np.zeros(pair),
        axes=np.full(pair, 0.1),
        angle=np.zeros(pair[:2]),
        swing=np.zeros(pair[:2]),
        phase=np.tile(rng.uniform(0, 2 * math.pi, (count, 1)), (1, MAX_PARTS)),
        outline=np.ones((count, MAX_PARTS, OUTLINE_ANGLES)),
        hole=np.zeros(pair[:2], bool),
    )
    names = rng.choice(list(_PLANS), size=count, p=_ODDS)
    for row, name in enumerate(names):
        parts = _PLANS[str(name)](rng).parts[:MAX_PARTS]
        shapes.parts[row] = len(parts)
        for column, part in enumerate(parts):
            shapes.joint[row, column] = part.x, part.y
            shapes.centre[row, column] = 0.0, 0.9 * part.height if part.hangs else 0.0
            shapes.axes[row, column] = part.width, part.height
            shapes.angle[row, column] = part.angle
            shapes.swing[row, column] = part.swing
            shapes.outline[row, column] = _outline(rng, part.outline)
            shapes.hole[row, column] = part.hole
    return shapes
