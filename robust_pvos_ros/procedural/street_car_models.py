"""The shapes of the street scene's cars, as data.

Car coordinates: x forward, y up from the road, z to the far side; metres; origin on the road under the car's centre.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Outline = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class CarModel:
    """Dimensions (metres) of a car body.

    Attributes:
        length, width: overall size.
        top: (x, y) of the centre line from rear to front: boot, rear window, roof, windscreen, bonnet.
        belt: (x, y) of the shoulder line below the side windows.
        roof_width: fraction of the half-width that remains at the roof.
        windows: outlines (x, y) of the side windows.
        windscreen, rear_window: (x at the base, x at the top).
        seams: door seams as polylines (x, y).
        wheels: x of the rear and the front axle.
        wheel_radius: metres.
        stripe: optional (y low, y high) of a coloured band along the side.
    """

    length: float
    width: float
    top: Outline
    belt: Outline
    roof_width: float
    windows: tuple[Outline, ...]
    windscreen: tuple[float, float]
    rear_window: tuple[float, float]
    seams: tuple[Outline, ...]
    wheels: tuple[float, float]
    wheel_radius: float = 0.32
    floor: float = 0.2
    stripe: tuple[float, float] | None = None

    @property
    def height(self) -> float:
        """Metres from the road to the roof."""
        return max(y for _, y in self.top)

    def top_at(self, x: np.ndarray | float) -> np.ndarray:
        """Height of the centre line at ``x``."""
        return np.interp(x, *np.array(self.top).T)

    def belt_at(self, x: np.ndarray | float) -> np.ndarray:
        """Height of the shoulder at ``x``; never above the centre line."""
        return np.minimum(np.interp(x, *np.array(self.belt).T), self.top_at(x) - 0.02)

    def half_width_at(self, x: np.ndarray | float) -> np.ndarray:
        """Half-width of the body in plan view: the corners are rounded."""
        return self.width / 2 * (1 - 0.13 * np.abs(2 * np.asarray(x) / self.length) ** 7)

    def side_depth(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """z of the near side's surface at (x, y)."""
        sections = [self.cross_section(value) for value in np.atleast_1d(x)]
        return np.array([-np.interp(height, section[:, 1], section[:, 0]) for section, height in zip(sections, y)])

    def cross_section(self, x: float) -> np.ndarray:
        """Half of the section at ``x``: (14, 2) array of (half-width, height), from the sill to the centre line."""
        half, top, belt = float(self.half_width_at(x)), float(self.top_at(x)), float(self.belt_at(x))
        low = min(self.floor, belt - 0.1)
        middle = low + 0.45 * (belt - low)
        points = [(0.93 * half, low), (0.975 * half, low + 0.18 * (belt - low)), (half, middle),
                  (0.995 * half, low + 0.72 * (belt - low)), (0.98 * half, low + 0.9 * (belt - low)),
                  (0.945 * half, belt)]
        glass = top - belt
        for rise in (0.15, 0.45, 0.75, 0.9):
            points.append((half * (0.93 + (self.roof_width - 0.93) * rise), belt + glass * rise))
        edge = half * self.roof_width
        points += [(edge * 0.95, belt + glass * 0.965), (edge * 0.82, belt + glass * 0.99),
                   (edge * 0.45, top + 0.012), (0.0, top + 0.02)]
        return np.array(points)


HATCHBACK = CarModel(
    length=4.1, width=1.78, roof_width=0.72,
    top=((-2.05, 0.42), (-2.03, 0.7), (-1.97, 0.95), (-1.86, 1.06), (-1.5, 1.4), (-1.3, 1.475), (-0.8, 1.52),
         (-0.3, 1.53), (0.15, 1.49), (0.42, 1.42), (1.08, 1.02), (1.2, 0.98), (1.7, 0.88), (1.9, 0.79), (2.0, 0.66),
         (2.05, 0.42)),
    belt=((-2.05, 0.9), (-1.6, 0.97), (0.2, 0.93), (1.1, 0.9), (1.8, 0.75), (2.05, 0.6)),
    windows=(((-1.56, 1.0), (-1.0, 0.99), (-1.02, 1.4), (-1.28, 1.38)),
             ((-0.94, 0.99), (-0.12, 0.975), (-0.16, 1.43), (-0.96, 1.41)),
             ((-0.04, 0.975), (0.92, 0.965), (0.34, 1.35), (0.05, 1.42), (-0.08, 1.43))),
    windscreen=(1.06, 0.44), rear_window=(-1.86, -1.48),
    seams=(((-0.98, 0.95), (-1.0, 0.55), (-0.8, 0.3)), ((-0.08, 0.95), (-0.06, 0.3)),
           ((0.98, 0.92), (0.92, 0.55), (0.86, 0.3)), ((-0.8, 0.29), (0.86, 0.29)), ((-0.9, 0.76), (1.5, 0.72))),
    wheels=(-1.28, 1.27),
)
SALOON = CarModel(
    length=4.5, width=1.8, roof_width=0.7,
    top=((-2.25, 0.42), (-2.23, 0.7), (-2.17, 0.93), (-2.0, 0.99), (-1.6, 1.03), (-1.45, 1.06), (-0.9, 1.38),
         (-0.6, 1.43), (-0.1, 1.45), (0.3, 1.41), (0.5, 1.35), (1.18, 0.98), (1.3, 0.95), (1.9, 0.84), (2.1, 0.76),
         (2.2, 0.63), (2.25, 0.42)),
    belt=((-2.25, 0.86), (-1.6, 0.95), (0.2, 0.9), (1.2, 0.86), (2.0, 0.72), (2.25, 0.58)),
    windows=(((-1.34, 1.0), (-0.98, 0.98), (-0.98, 1.29)), ((-0.91, 0.98), (-0.12, 0.96), (-0.15, 1.36), (-0.8, 1.34)),
             ((-0.04, 0.96), (0.98, 0.93), (0.4, 1.28), (0.1, 1.35), (-0.08, 1.36))),
    windscreen=(1.15, 0.5), rear_window=(-1.47, -0.92),
    seams=(((-1.0, 0.93), (-1.06, 0.55), (-0.9, 0.3)), ((-0.08, 0.93), (-0.06, 0.3)),
           ((1.06, 0.9), (1.0, 0.5), (0.9, 0.3)), ((-0.9, 0.29), (0.9, 0.29)), ((-1.7, 0.76), (1.7, 0.7))),
    wheels=(-1.36, 1.38),
)
VAN = CarModel(
    length=3.7, width=1.74, roof_width=0.86,
    top=((-1.85, 0.5), (-1.84, 1.0), (-1.81, 1.75), (-1.72, 1.88), (-1.2, 1.93), (0.2, 1.94), (0.8, 1.9), (1.0, 1.83),
         (1.5, 1.16), (1.58, 1.08), (1.74, 0.98), (1.81, 0.8), (1.85, 0.5)),
    belt=((-1.85, 1.1), (0.3, 1.1), (1.3, 1.06), (1.7, 0.86), (1.85, 0.7)),
    windows=(((0.26, 1.14), (1.26, 1.1), (0.9, 1.72), (0.3, 1.76)),),
    windscreen=(1.48, 1.02), rear_window=(-1.84, -1.81),
    seams=(((0.18, 1.82), (0.18, 0.32)), ((1.3, 1.05), (1.2, 0.5), (1.12, 0.34)), ((-1.2, 1.8), (-1.2, 0.34)),
           ((-1.2, 0.33), (1.12, 0.33)), ((-1.6, 1.06), (0.18, 1.06))),
    wheels=(-1.15, 1.2), wheel_radius=0.3, floor=0.24, stripe=(0.62, 0.86),
)
