"""Cars of the street scene: a lofted body seen in true perspective, shaded once for each viewing direction.

A car is a grid of points (stations along its length x points of half a cross-section, mirrored), painted by painter's
algorithm into a buffer of normals and a buffer of materials at twice the resolution.  Windows, lights and seams are
polygons on that surface.  Shading happens per pixel, with an analytic environment of sky, houses and road.

Car coordinates: x forward, y up from the road, z to the far side; metres; origin on the road under the car's centre.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from robust_pvos_ros.procedural.street_car_models import CarModel, Outline
from robust_pvos_ros.procedural.street_draw import EYE_HEIGHT, Colour, Sprite, premultiply, shrink

SUPERSAMPLE = 2
REFERENCE_DEPTH = 11.0  # metres to the car's axis for which the views are drawn
PAINT, GLASS, TRIM, HEADLIGHT, TAILLIGHT, CHROME, SEAM, PLATE, LINING, STRIPE = range(1, 11)
MATERIAL_COLOURS: dict[int, Colour] = {
    GLASS: (22, 28, 34), TRIM: (26, 27, 30), HEADLIGHT: (238, 240, 235), TAILLIGHT: (176, 18, 20),
    CHROME: (168, 174, 180), SEAM: (20, 18, 18), PLATE: (228, 226, 205), LINING: (9, 9, 11),
}
MATERIAL_GLOSS = {PAINT: 0.30, STRIPE: 0.28, GLASS: 0.62, TRIM: 0.06, HEADLIGHT: 0.35, TAILLIGHT: 0.3, CHROME: 0.75}
_ENVIRONMENT_STOPS = np.array([
    (-1.0, 58, 58, 62), (-0.25, 70, 70, 73), (-0.04, 96, 94, 92), (0.0, 66, 62, 58), (0.12, 88, 86, 86),
    (0.2, 236, 240, 246), (0.5, 176, 206, 240), (1.0, 120, 164, 216),
])  # (height of the direction, red, green, blue)
_ENVIRONMENT = np.stack([
    np.interp(np.linspace(-1, 1, 512), _ENVIRONMENT_STOPS[:, 0], _ENVIRONMENT_STOPS[:, channel])
    for channel in (1, 2, 3)
], 1).astype(np.float32)


def _densify(outline: np.ndarray, steps: int = 6) -> np.ndarray:
    """Closed polygon (N, D) with ``steps`` points on each edge, so that it follows a curved surface."""
    weights = np.arange(steps)[:, None] / steps
    following = np.roll(outline, -1, axis=0)
    return np.concatenate([a + (b - a) * weights for a, b in zip(outline, following)])


class _Painter:
    """Buffers of one view: normals and materials at the supersampled resolution."""

    def __init__(self, model: CarModel, tangent: float, pixels_per_metre: float) -> None:
        self.model = model
        self.depth = REFERENCE_DEPTH
        self.offset = tangent * self.depth
        near = self.depth - model.width / 2
        margin = 0.45 + abs(tangent) * model.width
        self.left = -model.length / 2 - margin
        self.above = model.height + 0.75
        size = (int(2 * -self.left * pixels_per_metre), int((self.above + 0.25) * pixels_per_metre))
        self.near = near
        self.scale = pixels_per_metre * SUPERSAMPLE
        shape = (size[1] * SUPERSAMPLE, size[0] * SUPERSAMPLE)
        self.normals = np.zeros((*shape, 3), np.float32)
        self.materials = np.zeros(shape, np.uint8)

    def project(self, points: np.ndarray) -> np.ndarray:
        """(N, 3) car coordinates -> (N, 2) pixels; the near side's bottom centre is the sprite's anchor."""
        depth = self.depth + points[:, 2]
        x = (points[:, 0] + self.offset) / depth * self.near - self.offset
        y = EYE_HEIGHT - (EYE_HEIGHT - points[:, 1]) / depth * self.near
        return np.stack([(x - self.left) * self.scale, (self.above - y) * self.scale], 1)

    def to_eye(self, points: np.ndarray) -> np.ndarray:
        """Unit vectors (N, 3) from points of the car to the camera."""
        ray = np.array([-self.offset, EYE_HEIGHT, -self.depth]) - points
        return ray / np.linalg.norm(ray, axis=1, keepdims=True)

    def polygon(self, points: np.ndarray, material: int, normal: np.ndarray | None = None) -> None:
        """Fill a polygon given in car coordinates; ``normal`` None keeps the normals below it."""
        corners = np.round(self.project(points) * 16).astype(np.int32)
        cv2.fillPoly(self.materials, [corners], material, shift=4)
        if normal is not None:
            cv2.fillPoly(self.normals, [corners], tuple(float(v) for v in normal), shift=4)

    def line(self, points: np.ndarray, material: int, width: float) -> None:
        """Draw a polyline given in car coordinates, ``width`` in metres."""
        corners = np.round(self.project(points)).astype(np.int32)
        cv2.polylines(self.materials, [corners], False, material, max(1, round(width * self.scale)))


def _body_grid(model: CarModel) -> np.ndarray:
    """Surface points (stations, around, 3): from the near sill over the roof to the far sill, closed at both ends."""
    ends = model.length / 2
    knots = np.concatenate([[x for x, _ in model.top], np.linspace(-ends, ends, 34)])
    stations = np.unique(np.round(np.clip(knots, -ends, ends), 3))
    rings = []
    for x in stations:
        half = model.cross_section(x)
        near = np.column_stack([np.full(len(half), x), half[:, 1], -half[:, 0]])
        far = near[-2::-1] * (1, 1, -1)
        rings.append(np.concatenate([near, far]))
    closing = [np.column_stack([ring[:, 0], np.full(len(ring), 0.36), ring[:, 2]]) for ring in (rings[0], rings[-1])]
    return np.array([closing[0], *rings, closing[1]])


@lru_cache(maxsize=8)
def _body_surface(model: CarModel) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Quads (Q, 4, 3), their smooth outward normals (Q, 3) and their flat outward normals (Q, 3)."""
    grid = _body_grid(model)
    normals = np.cross(np.gradient(grid, axis=0), np.gradient(grid, axis=1))
    normals /= np.linalg.norm(normals, axis=2, keepdims=True) + 1e-9

    def corners(values: np.ndarray) -> np.ndarray:
        return np.stack([values[:-1, :-1], values[1:, :-1], values[1:, 1:], values[:-1, 1:]], 2).reshape(-1, 4, 3)

    quads = corners(grid)
    outward = quads.mean(1) - (0, 0.6, 0)
    smooth = corners(normals).mean(1)
    smooth *= np.where((smooth * outward).sum(1, keepdims=True) < 0, -1.0, 1.0)
    flat = np.cross(quads[:, 2] - quads[:, 0], quads[:, 3] - quads[:, 1])
    flat *= np.where((flat * smooth).sum(1, keepdims=True) < 0, -1.0, 1.0)
    return quads, smooth, flat


def _paint_body(painter: _Painter) -> None:
    quads, smooth, flat = _body_surface(painter.model)
    centre = quads.mean(1)
    visible = (flat * painter.to_eye(centre)).sum(1) > 0
    distance = np.linalg.norm(centre - (-painter.offset, EYE_HEIGHT, -painter.depth), axis=1)
    corners = np.round(painter.project(quads.reshape(-1, 3)) * 16).astype(np.int32).reshape(-1, 4, 2)
    for index in np.argsort(-distance):
        if visible[index]:
            cv2.fillConvexPoly(painter.normals, corners[index], smooth[index].tolist(), shift=4)
            cv2.fillConvexPoly(painter.materials, corners[index], PAINT, shift=4)


def _disc(x: float, y: float, z: float, radius: float, start: float = 0.0, stop: float = 2 * np.pi) -> np.ndarray:
    angles = np.linspace(start, stop, 40)
    return np.column_stack([x + radius * np.cos(angles), y + radius * np.sin(angles), np.full(40, z)])


def _paint_underside(painter: _Painter) -> None:
    """Far wheels and the inner faces of the near tyres: the body is painted over them."""
    model, radius = painter.model, painter.model.wheel_radius
    for axle in model.wheels:
        for depth in (model.width / 2 - 0.05, model.width / 2 - 0.25, -model.width / 2 + 0.24, -model.width / 2 + 0.1):
            painter.polygon(_disc(axle, radius, depth, radius * 0.98), LINING, np.array([0.0, 0.0, -1.0]))
    floor = model.floor + 0.05
    x = model.length / 2 * 0.9
    z = model.width / 2 * 0.8
    painter.polygon(np.array([[-x, floor, -z], [x, floor, -z], [x, floor, z], [-x, floor, z]]), LINING,
                    np.array([0.0, -1.0, 0.0]))


@lru_cache(maxsize=512)
def _on_side(model: CarModel, outline: Outline, closed: bool = True) -> np.ndarray:
    """Outline (x, y) -> points on the near side's surface."""
    points = _densify(np.array(outline, float))
    if not closed:
        points = points[:(len(outline) - 1) * 6 + 1]
    return np.column_stack([points, model.side_depth(points[:, 0], points[:, 1])])


@lru_cache(maxsize=64)
def _wheel_arch(model: CarModel, axle: float) -> np.ndarray:
    """Dark opening of the body around a wheel, on the near side's surface."""
    arch = _disc(axle, model.wheel_radius, 0.0, model.wheel_radius + 0.065, -0.3, np.pi + 0.3)
    arch[:, 2] = model.side_depth(arch[:, 0], np.maximum(arch[:, 1], model.floor + 0.01))
    return arch


def _across(model: CarModel, base: float, top: float, inset: float) -> np.ndarray:
    """Polygon on the sloping front or rear glass, between two stations, from side to side."""
    corners = []
    for x, spread in ((base, 0.9 - inset), (top, model.roof_width - inset)):
        z = float(model.half_width_at(x)) * spread
        height = float(model.top_at(x)) + 0.005
        corners += [(x, height, -z), (x, height, z)]
    return np.array([corners[0], corners[1], corners[3], corners[2]])


def _paint_details(painter: _Painter) -> None:
    model = painter.model
    if model.stripe is not None:
        low, high = model.stripe
        painter.polygon(_on_side(model, ((-1.78, low), (1.7, low), (1.74, high), (-1.78, high))), STRIPE)
    for base, top in (model.windscreen, model.rear_window):
        pane = _across(model, base, top, 0.05)
        normal = np.cross(pane[1] - pane[0], pane[2] - pane[0])
        normal *= np.sign(normal[1]) / np.linalg.norm(normal)
        if painter.to_eye(pane.mean(0, keepdims=True))[0] @ normal > 0:
            painter.polygon(pane, GLASS, normal)
    for window in model.windows:
        shape = _on_side(model, window)
        painter.line(np.concatenate([shape, shape[:1]]), TRIM, 0.05)
        painter.polygon(shape, GLASS)
    for seam in model.seams:
        painter.line(_on_side(model, seam, closed=False), SEAM, 0.014)
    for axle in model.wheels:
        painter.polygon(_wheel_arch(model, axle), LINING)
    _paint_ends(painter)
    sill = _on_side(model, ((model.wheels[0] + 0.4, model.floor), (model.wheels[1] - 0.4, model.floor),
                            (model.wheels[1] - 0.4, model.floor + 0.07), (model.wheels[0] + 0.4, model.floor + 0.07)))
    painter.polygon(sill, TRIM)
    for x in (-0.72, 0.12) if len(model.windows) > 1 else (0.34,):
        y = float(model.belt_at(x)) - 0.1
        painter.line(_on_side(model, ((x, y), (x + 0.17, y)), closed=False), CHROME, 0.035)
    _paint_mirror(painter)


def _paint_mirror(painter: _Painter) -> None:
    model = painter.model
    x = model.windscreen[0] - 0.24
    y = float(model.belt_at(x)) + 0.06
    z = -model.width / 2 - 0.1
    shape = np.array([(x - 0.06, y, z), (x + 0.09, y, z), (x + 0.12, y + 0.07, z), (x + 0.03, y + 0.14, z),
                      (x - 0.07, y + 0.13, z)])
    painter.polygon(shape, PAINT, np.array([0.0, 0.35, -0.93]))


def _paint_ends(painter: _Painter) -> None:
    """Lights, grille, bumper trim and number plate; each only where it faces the camera."""
    _paint_end(painter, front=True)
    _paint_end(painter, front=False)


def _paint_end(painter: _Painter, front: bool) -> None:
    model = painter.model
    sign = 1.0 if front else -1.0
    end = sign * model.length / 2
    lamp_top = float(model.belt_at(end * 0.96)) + (0.02 if front else -0.02)
    lamp = ((end * 0.985, lamp_top - 0.13), (end * 0.88, lamp_top - 0.07), (end * 0.86, lamp_top + 0.02),
            (end * 0.965, lamp_top))
    painter.polygon(_on_side(model, lamp), HEADLIGHT if front else TAILLIGHT)
    eye = painter.to_eye(np.array([[end, 0.6, 0.0]]))[0]
    if eye[0] * sign <= 0:
        return
    normal = np.array([sign, 0.12, 0.0]) / np.hypot(1, 0.12)

    def face(low: float, high: float, z0: float, z1: float, material: int, shift: float = 0.0) -> None:
        x = (end + sign * 0.01 - sign * shift) * np.ones(4)
        corners = np.column_stack([x, [low, low, high, high], [z0, z1, z1, z0]])
        painter.polygon(corners, material, normal)

    half = model.width / 2 * 0.84
    for side in (-1, 1):
        inner, outer = sorted((side * half * 0.62, side * half))
        face(lamp_top - 0.14, lamp_top - 0.01, inner, outer, HEADLIGHT if front else TAILLIGHT, 0.05)
    face(0.29, 0.4, -half * 0.7, half * 0.7, TRIM)
    face(0.45, 0.56, -0.26, 0.26, PLATE)
    if front:
        face(lamp_top - 0.11, lamp_top - 0.03, -half * 0.56, half * 0.56, TRIM, 0.04)


def _environment(direction: np.ndarray) -> np.ndarray:
    """Colours (N, 3) seen along unit vectors (N, 3): road below, a band of houses, sky above."""
    index = np.clip((direction[:, 1] + 1) * 255.5, 0, 511).astype(np.int32)
    return _ENVIRONMENT[index]


def _shade(painter: _Painter, paint: Colour, accent: Colour) -> np.ndarray:
    """Per-pixel shading of the buffers: float32 RGB (h, w, 3) at the supersampled size, black outside the car."""
    drawn = painter.materials > 0
    material = painter.materials[drawn]
    normals = cv2.blur(cv2.blur(painter.normals, (5, 5)), (3, 3))[drawn]
    normals = (normals / (np.linalg.norm(normals, axis=1, keepdims=True) + 1e-6)).astype(np.float32)
    palette = np.zeros((11, 3), np.float32)
    palette[[PAINT, STRIPE]] = paint, accent
    palette[list(MATERIAL_COLOURS)] = list(MATERIAL_COLOURS.values())
    gloss = np.zeros(11, np.float32)
    gloss[list(MATERIAL_GLOSS)] = list(MATERIAL_GLOSS.values())
    sun = np.array([0.0, 0.83, -0.56], np.float32)
    light = 0.42 + 0.22 * normals[:, 1] + 0.62 * np.maximum(normals @ sun, 0)
    emitting = (material == HEADLIGHT) | (material == PLATE)
    light[emitting] = np.maximum(light[emitting], 0.85)
    view = np.array([-painter.offset, 1.6, -painter.depth], np.float32)
    view /= np.linalg.norm(view)
    facing = np.clip(normals @ view, 0, 1)
    reflected = 2 * facing[:, None] * normals - view
    fresnel = gloss[material] * (0.28 + 0.72 * (1 - facing) ** 3)
    colour = palette[material] * (light * (1 - fresnel))[:, None] + _environment(reflected) * fresnel[:, None]
    colour += (np.clip(reflected @ sun, 0, 1) ** 60 * gloss[material] * 260)[:, None]
    height = painter.above - np.nonzero(drawn)[0].astype(np.float32) / painter.scale
    colour *= np.clip(0.55 + 0.6 * height, 0.5, 1.0)[:, None]  # the road takes away half of the sky low on the body
    image = np.zeros((*drawn.shape, 3), np.float32)
    image[drawn] = colour
    return image


def render_view(
    model: CarModel, paint: Colour, tangent: float, pixels_per_metre: float, accent: Colour = (60, 90, 150),
) -> Sprite:
    """Picture of a car that drives to the right, without its near wheels.

    Args:
        paint: body colour, RGB in [0, 255].
        tangent: (x of the car - x of the camera) / distance of the car's axis.
        pixels_per_metre: resolution on the plane of the near side.
        accent: colour of the band along a van.

    Returns:
        A sprite anchored on the road under the centre of the near side.
    """
    painter = _Painter(model, tangent, pixels_per_metre)
    _paint_underside(painter)
    _paint_body(painter)
    _paint_details(painter)
    alpha = shrink((painter.materials > 0).astype(np.float32), SUPERSAMPLE)
    colour = shrink(_shade(painter, paint, accent), SUPERSAMPLE) / np.maximum(alpha, 1e-3)[..., None]
    rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
    crop = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    anchor = (-painter.left * pixels_per_metre - columns[0], painter.above * pixels_per_metre - rows[0])
    return Sprite(np.ascontiguousarray(premultiply(colour, alpha)[crop]), anchor, pixels_per_metre)


def render_wheel(radius: float, pixels_per_metre: float, spokes: int = 5) -> Sprite:
    """Face of a wheel with alloy spokes, anchored at its hub."""
    size = 2 * int(np.ceil(radius * pixels_per_metre * SUPERSAMPLE * 1.06 / 2)) + 2
    rows, columns = np.mgrid[:2 * size, :2 * size].astype(np.float32) - (size - 0.5)
    distance = np.hypot(rows, columns) / (radius * pixels_per_metre * SUPERSAMPLE)
    angle = np.arctan2(rows, columns)
    rgb = np.empty((2 * size, 2 * size, 3), np.float32)
    rgb[:] = 30
    rgb[(distance > 0.74) & (distance < 0.78)] = 18
    rgb[distance < 0.72] = (152, 156, 162)
    holes = (np.cos(spokes * angle) < 0.25 - 0.5 * (distance - 0.4)) & (distance > 0.24) & (distance < 0.62)
    rgb[holes] = 38
    rgb[distance < 0.1] = (90, 92, 96)
    rgb[(distance >= 0.68) & (distance < 0.72)] = (196, 199, 204)
    alpha = np.clip((1.0 - distance) * radius * pixels_per_metre * SUPERSAMPLE, 0, 1)
    half = (2 * size // SUPERSAMPLE - 1) / 2
    return Sprite(premultiply(shrink(rgb, SUPERSAMPLE), shrink(alpha, SUPERSAMPLE)), (half, half), pixels_per_metre)
