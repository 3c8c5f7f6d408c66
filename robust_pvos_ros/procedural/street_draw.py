"""Drawing tools shared by the street scene: the camera, noise, sprites and their compositing.

Colours are RGB.  World coordinates are metres: X to the right along the street, Y up from the road, Z away from the
camera.  Pixels are those of the rendered image, x to the right and y down.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import ceil, floor

import cv2
import numpy as np

Colour = tuple[float, float, float]
EYE_HEIGHT = 2.6  # metres: a camera on the roof of a car


@dataclass(frozen=True)
class StreetCamera:
    """A pinhole camera that looks straight across the street and rolls along it.

    Attributes:
        width, height: image size, pixels.
        x: position along the street, metres.
        sway: (du, dv) pixels added to every projection: the vehicle's small vibration.
        eye_height: metres above the road.
    """

    width: int
    height: int
    x: float = 0.0
    sway: tuple[float, float] = (0.0, 0.0)
    eye_height: float = EYE_HEIGHT

    @property
    def focal(self) -> float:
        """Focal length in pixels (56 degrees horizontally)."""
        return 0.9375 * self.width

    @property
    def horizon(self) -> float:
        """Image row of the horizon without sway, pixels."""
        return 0.5 * self.height - 0.075 * self.width

    def scale_at(self, depth: float) -> float:
        """Pixels per metre at ``depth`` metres."""
        return self.focal / depth

    def project(self, x: float, y: float, z: float) -> tuple[float, float]:
        """World point in metres -> image point in pixels."""
        scale = self.focal / z
        u = self.width / 2 + (x - self.x) * scale + self.sway[0]
        return u, self.horizon + (self.eye_height - y) * scale + self.sway[1]


@dataclass(frozen=True, eq=False)
class Sprite:
    """A pre-rendered picture that stands upright at one depth.

    Attributes:
        rgba: uint8 (h, w, 4), colour premultiplied by alpha.
        anchor: (x, y) pixel of the sprite that stands on the ground point.
        pixels_per_metre: resolution of the sprite.
    """

    rgba: np.ndarray
    anchor: tuple[float, float]
    pixels_per_metre: float

    def mirrored(self) -> Sprite:
        """The same sprite facing the other way."""
        flipped = np.ascontiguousarray(self.rgba[:, ::-1])
        return Sprite(flipped, (self.rgba.shape[1] - 1 - self.anchor[0], self.anchor[1]), self.pixels_per_metre)


def fractal_noise(
    rng: np.random.Generator, height: int, width: int, cell: float, octaves: int = 4, persistence: float = 0.55,
) -> np.ndarray:
    """Value noise with a 1/f-like spectrum: float32 (height, width), zero mean, unit deviation; ``cell`` in pixels."""
    total = np.zeros((height, width), np.float32)
    amplitude = 1.0
    for _ in range(octaves):
        rows, columns = (max(2, int(np.ceil(size / max(cell, 1.0))) + 1) for size in (height, width))
        grid = rng.standard_normal((rows, columns)).astype(np.float32)
        total += amplitude * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        amplitude *= persistence
        cell /= 2
    return (total - total.mean()) / (total.std() + 1e-6)


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Float image in [0, 255] -> uint8, rounded and clipped."""
    return np.clip(image + 0.5, 0, 255).astype(np.uint8)


def shrink(image: np.ndarray, factor: int) -> np.ndarray:
    """Anti-aliased reduction of a supersampled image by an integer factor."""
    height, width = image.shape[0] // factor, image.shape[1] // factor
    return cv2.resize(image[:height * factor, :width * factor], (width, height), interpolation=cv2.INTER_AREA)


def premultiply(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Float colours (h, w, 3) in [0, 255] and alpha (h, w) in [0, 1] -> premultiplied uint8 (h, w, 4)."""
    return to_uint8(np.dstack([rgb * alpha[..., None], alpha * 255]))


def mix(first: Colour, second: Colour, weight: float) -> Colour:
    """Linear blend of two colours."""
    red, green, blue = (a + (b - a) * weight for a, b in zip(first, second))
    return red, green, blue


def placement(
    sprite: Sprite, position: tuple[float, float], scale: float, shear: float = 0.0, rise: float = 1.0,
) -> np.ndarray:
    """2x3 affine matrix that puts a sprite's anchor on ``position``.

    Args:
        scale: image pixels per metre.
        shear: pixels to the right for each pixel of height above the anchor.
        rise: pixels upward for each pixel of height; negative values lay the sprite on its head (mirror, shadow).
    """
    factor = scale / sprite.pixels_per_metre
    x, y = sprite.anchor
    return np.array([[factor, -shear * factor, position[0] - factor * (x - shear * y)],
                     [0.0, rise * factor, position[1] - rise * factor * y]])


def morph_placements(
    first: Sprite, second: Sprite, weight: float, position: tuple[float, float], scale: float,
) -> list[np.ndarray]:
    """Matrices that stretch two pictures of one thing to the same left and right end, so that they blend sharply."""
    matrices = []
    before = [(sprite.anchor[0] / sprite.pixels_per_metre) for sprite in (first, second)]
    behind = [(s.rgba.shape[1] - s.anchor[0]) / s.pixels_per_metre for s in (first, second)]
    left, right = (ends[0] + (ends[1] - ends[0]) * weight for ends in (before, behind))
    for sprite in (first, second):
        matrix = placement(sprite, position, scale)
        matrix[0, 0] = (left + right) * scale / sprite.rgba.shape[1]
        matrix[0, 2] = position[0] - left * scale
        matrices.append(matrix)
    return matrices


Box = tuple[int, int, int, int]


def visible_box(matrix: np.ndarray, source: np.ndarray, image: np.ndarray, border: int = 1) -> Box | None:
    """Bounding box (x0, y0, x1, y1) of a warped picture, clipped to the image; None if it lies outside."""
    height, width = source.shape[:2]
    (a, b, c), (d, e, f) = matrix.tolist()
    left = c + min(a * width, 0.0) + min(b * height, 0.0)
    right = c + max(a * width, 0.0) + max(b * height, 0.0)
    top = f + min(d * width, 0.0) + min(e * height, 0.0)
    bottom = f + max(d * width, 0.0) + max(e * height, 0.0)
    x0, y0 = max(floor(left) - border, 0), max(floor(top) - border, 0)
    x1, y1 = min(ceil(right) + border, image.shape[1]), min(ceil(bottom) + border, image.shape[0])
    return None if x0 >= x1 or y0 >= y1 else (x0, y0, x1, y1)


def warp_into(source: np.ndarray, matrix: np.ndarray, box: Box) -> np.ndarray:
    """The part of a warped picture that lies in ``box``; zero outside the picture."""
    shifted = matrix - np.array([[0.0, 0.0, box[0]], [0.0, 0.0, box[1]]])
    return cv2.warpAffine(source, shifted, (box[2] - box[0], box[3] - box[1]), flags=cv2.INTER_LINEAR)


def part_of(image: np.ndarray, box: Box) -> np.ndarray:
    """View of the image in ``box``."""
    return image[box[1]:box[3], box[0]:box[2]]


def blend_patch(target: np.ndarray, patch: np.ndarray) -> None:
    """Composite a premultiplied uint8 RGBA patch over an RGB target of the same size, in place."""
    keep = cv2.bitwise_not(patch[..., 3])
    kept = cv2.multiply(target, cv2.cvtColor(keep, cv2.COLOR_GRAY2RGB), scale=1 / 255)
    cv2.add(kept, cv2.cvtColor(patch, cv2.COLOR_RGBA2RGB), dst=target)


def darken_patch(target: np.ndarray, shade: np.ndarray, strength: float) -> None:
    """Multiply an RGB target by ``1 - strength * shade / 255`` in place; ``shade`` uint8 (h, w)."""
    keep = cv2.convertScaleAbs(shade, alpha=-strength, beta=255.0)
    cv2.multiply(target, cv2.cvtColor(keep, cv2.COLOR_GRAY2RGB), dst=target, scale=1 / 255)


def draw_sprite(
    image: np.ndarray, sprite: Sprite, position: tuple[float, float], scale: float,
    labels: np.ndarray | None = None, object_id: int = 0, shear: float = 0.0,
) -> None:
    """Composite a sprite so that its anchor lies on ``position`` (pixels); ``scale`` in image pixels per metre.

    Opaque pixels of the sprite become ``object_id`` in ``labels`` (uint16 (H, W)); None leaves no trace.
    """
    matrix = placement(sprite, position, scale, shear)
    box = visible_box(matrix, sprite.rgba, image)
    if box is None:
        return
    patch = warp_into(sprite.rgba, matrix, box)
    blend_patch(part_of(image, box), patch)
    if labels is not None:
        part_of(labels, box)[patch[..., 3] > 127] = object_id


def draw_mirror_image(
    image: np.ndarray, sprite: Sprite, position: tuple[float, float], scale: float, strength: float,
) -> None:
    """Blurred reflection of a sprite in wet ground below its anchor; ``strength`` in [0, 1]."""
    matrix = placement(sprite, position, scale, rise=-1.0)
    box = visible_box(matrix, sprite.rgba, image)
    if box is None:
        return
    patch = cv2.blur(warp_into(sprite.rgba, matrix, box), (3, 11))
    blend_patch(part_of(image, box), cv2.convertScaleAbs(patch, alpha=strength))


def draw_cast_shadow(
    image: np.ndarray, sprite: Sprite, position: tuple[float, float], scale: float,
    lean: tuple[float, float], strength: float,
) -> None:
    """Soft shadow on the ground: a pixel of height h lies ``lean`` * h to the right of and below the anchor."""
    matrix = placement(sprite, position, scale, shear=lean[0], rise=-lean[1])
    box = visible_box(matrix, sprite.rgba, image, border=3)
    if box is None:
        return
    shade = cv2.blur(warp_into(cv2.extractChannel(sprite.rgba, 3), matrix, box), (5, 3))
    darken_patch(part_of(image, box), shade, strength)


def draw_ground_shade(image: np.ndarray, outline: np.ndarray, softness: int, strength: float) -> None:
    """Soft shade of a convex outline (N, 2), pixels."""
    low = np.maximum(np.floor(outline.min(0)).astype(int) - softness, 0)
    high = np.minimum(np.ceil(outline.max(0)).astype(int) + softness, (image.shape[1], image.shape[0]))
    if (low >= high).any():
        return
    box = (int(low[0]), int(low[1]), int(high[0]), int(high[1]))
    mask = np.zeros((box[3] - box[1], box[2] - box[0]), np.uint8)
    cv2.fillConvexPoly(mask, cv2.convexHull(np.round(outline - low).astype(np.int32)), 255)
    darken_patch(part_of(image, box), cv2.blur(mask, (2 * softness + 1, softness | 1)), strength)


def draw_glow(
    image: np.ndarray, glow: np.ndarray, position: tuple[float, float], radius: float, strength: float,
) -> None:
    """Add a light: ``glow`` uint8 (n, n, 3) stretched to ``radius`` pixels around ``position``."""
    factor = 2 * radius / len(glow)
    matrix = np.array([[factor, 0, position[0] - radius], [0, factor, position[1] - radius]])
    box = visible_box(matrix, glow, image)
    if box is None or strength <= 0:
        return
    part = part_of(image, box)
    cv2.add(part, cv2.convertScaleAbs(warp_into(glow, matrix, box), alpha=strength), dst=part)


def make_glow(colour: Colour, size: int = 64) -> np.ndarray:
    """Radial glow with a bright core: uint8 (size, size, 3)."""
    rows, columns = (np.mgrid[:size, :size] - (size - 1) / 2) / (size / 2)
    distance = np.minimum(np.hypot(rows, columns), 1)
    fall = (0.45 * np.exp(-((distance / 0.45) ** 2)) + 0.9 * np.exp(-((distance / 0.12) ** 2))) * (1 - distance)
    return to_uint8(np.minimum(fall, 1)[..., None] * np.array(colour))


@dataclass(frozen=True)
class Track:
    """A smooth path through (time, value) points that never overshoots: monotone cubic (Fritsch and Carlson, 1980)."""

    points: tuple[tuple[float, float], ...]

    @cached_property
    def _segments(self) -> list[tuple[float, float, float, float, float, float]]:
        """(start time, duration, start value, end value, start slope, end slope) of every segment."""
        times, values = np.array(self.points).T
        steps = np.diff(times)
        slopes = np.diff(values) / steps
        agree = slopes[:-1] * slopes[1:] > 0
        inner = np.where(agree, 2 * slopes[:-1] * slopes[1:] / np.where(agree, slopes[:-1] + slopes[1:], 1), 0)
        tangents = np.concatenate([slopes[:1], inner, slopes[-1:]])
        columns = (times[:-1], steps, values[:-1], values[1:], tangents[:-1], tangents[1:])
        return list(zip(*(column.tolist() for column in columns)))

    def __call__(self, time: float) -> float:
        """Value at ``time`` seconds; constant before the first and after the last point."""
        if time <= self.points[0][0]:
            return self.points[0][1]
        for begin, step, start, end, start_slope, end_slope in self._segments:
            s = (time - begin) / step
            if s <= 1:
                return ((1 + 2 * s) * (1 - s) ** 2 * start + s * (1 - s) ** 2 * step * start_slope
                        + s * s * (3 - 2 * s) * end + s * s * (s - 1) * step * end_slope)
        return self.points[-1][1]

    def speed(self, time: float) -> float:
        """Rate of change at ``time``, per second."""
        return (self(time + 0.02) - self(time - 0.02)) / 0.04
