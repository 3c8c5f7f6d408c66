"""Bodies of rounded cones, ray-cast into small pictures with depth, normals and colours.

Body coordinates: x forward, y up, z to the body's left, metres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from robust_pvos_ros.procedural.street_draw import Colour

Joint = tuple[float, float, float]


@dataclass(frozen=True)
class Part:
    """A rounded cone between two joints."""

    start: Joint
    end: Joint
    start_radius: float
    end_radius: float
    colour: Colour


def turn(point: Joint, yaw: float) -> np.ndarray:
    """Body point -> (screen x, y, towards the viewer); yaw 0 walks to the right, pi/2 towards the viewer."""
    x, y, z = point
    cosine, sine = np.cos(yaw), np.sin(yaw)
    return np.array([x * cosine + z * sine, y, x * sine - z * cosine])


class ConeCanvas:
    """Depth buffer with normals and colours.

    Args:
        width, height: pixels.
        left, top: metres at the left and the upper edge; scale: pixels per metre.

    Attributes:
        depth: float32 (H, W) towards the viewer, metres; -inf where nothing is.
        normal: float32 (H, W, 3) to the right, up and towards the viewer; colour: float32 (H, W, 3) RGB in [0, 255].
        place: float32 (H, W, 2) metres along a cone and radians around it: where a pattern on it keeps its place.
    """

    def __init__(self, width: int, height: int, left: float, top: float, scale: float) -> None:
        self.left, self.top, self.scale = left, top, scale
        self.depth = np.full((height, width), -np.inf, np.float32)
        self.normal = np.zeros((height, width, 3), np.float32)
        self.colour = np.zeros((height, width, 3), np.float32)
        self.place = np.zeros((height, width, 2), np.float32)

    def grid(self, low: np.ndarray, high: np.ndarray) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
        """Pixels whose centres lie in the metric box [low, high] and their x and y in metres."""
        height, width = self.depth.shape
        c0, c1 = ((np.array([low[0], high[0]]) - self.left) * self.scale).astype(int).tolist()
        r0, r1 = ((self.top - np.array([high[1], low[1]])) * self.scale).astype(int).tolist()
        rows, columns = slice(max(r0, 0), min(r1 + 2, height)), slice(max(c0, 0), min(c1 + 2, width))
        x = self.left + (np.arange(columns.start, columns.stop, dtype=np.float32) + 0.5) / self.scale
        y = self.top - (np.arange(rows.start, rows.stop, dtype=np.float32) + 0.5) / self.scale
        return (rows, columns), x[None, :], y[:, None]

    def store(
        self, where: tuple[slice, slice], depth: np.ndarray, normal: np.ndarray, colour: Colour,
        place: np.ndarray | None = None,
    ) -> None:
        """Keep what lies in front of the buffer."""
        nearer = depth > self.depth[where]
        self.depth[where][nearer] = depth[nearer]
        self.normal[where][nearer] = normal[nearer]
        self.colour[where][nearer] = colour
        self.place[where][nearer] = 0.0 if place is None else place[nearer]

    def cone(self, part: Part, yaw: float, zoom: float) -> None:
        """Draw a rounded cone as spheres' envelope: the radius varies linearly along the projected axis."""
        a, b = turn(part.start, yaw) * zoom, turn(part.end, yaw) * zoom
        ra, rb = part.start_radius * zoom, part.end_radius * zoom
        radius = max(ra, rb)
        where, x, y = self.grid(np.minimum(a, b) - radius, np.maximum(a, b) + radius)
        axis = (b - a)[:2]
        length = float(axis @ axis) + 1e-6
        along = np.clip(((x - a[0]) * axis[0] + (y - a[1]) * axis[1]) / length, 0, 1)
        if length < (0.3 * radius) ** 2:  # seen end on: the nearer sphere
            along = np.full_like(along, float(b[2] + rb > a[2] + ra))
        r = ra + (rb - ra) * along
        dx, dy = x - a[0] - axis[0] * along, y - a[1] - axis[1] * along
        inside = r * r - dx * dx - dy * dy
        dz = np.sqrt(np.maximum(inside, 0))
        depth = np.where(inside > 0, a[2] + (b[2] - a[2]) * along + dz, -np.inf)
        span = float(np.linalg.norm(b - a))
        across = np.clip((dy * axis[0] - dx * axis[1]) / (r * length**0.5), -1, 1)
        place = np.stack([span * along, np.arcsin(across)], -1)
        self.store(where, depth, np.stack([dx / r, dy / r, dz / r], -1), part.colour, place)
