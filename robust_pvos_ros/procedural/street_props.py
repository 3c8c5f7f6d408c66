"""Things that stand still beside the road and hide what passes behind them: trees, lamp posts, bollards."""

from __future__ import annotations

import cv2
import numpy as np

from robust_pvos_ros.procedural.street_draw import Colour, Sprite, fractal_noise, premultiply, shrink

SUPERSAMPLE = 2


def _upright_canvas(width: float, height: float, scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Colour and alpha buffers, with the metric x and y of every pixel."""
    rows, columns = int(height * scale), int(width * scale)
    y = (rows - np.arange(rows, dtype=np.float32)[:, None] - 0.5) / scale + np.zeros((1, columns), np.float32)
    x = (np.arange(columns, dtype=np.float32)[None, :] + 0.5) / scale - width / 2 + np.zeros((rows, 1), np.float32)
    return np.zeros((rows, columns, 3), np.float32), np.zeros((rows, columns), np.float32), x, y


def _finish(rgb: np.ndarray, alpha: np.ndarray, pixels_per_metre: float) -> Sprite:
    small = shrink(alpha, SUPERSAMPLE)
    colour = shrink(rgb * alpha[..., None], SUPERSAMPLE) / np.maximum(small, 1e-3)[..., None]
    return Sprite(premultiply(colour, small), (small.shape[1] / 2 - 0.5, small.shape[0] - 1.0), pixels_per_metre)


def render_tree(
    rng: np.random.Generator, pixels_per_metre: float, height: float, crown: float, trunk: float,
    leaf: Colour = (84, 128, 52),
) -> Sprite:
    """A broad-leaved tree anchored at the foot of its trunk.

    Args:
        height, crown, trunk: overall height, radius of the crown and width of the trunk, metres.
        leaf: mean leaf colour.
    """
    scale = pixels_per_metre * SUPERSAMPLE
    rgb, alpha, x, y = _upright_canvas(2 * crown + 0.8, height + 0.1, scale)
    half = trunk / 2 * (1 + 0.9 * np.exp(-y / 0.18) - 0.08 * np.minimum(y, 3))
    bark = fractal_noise(rng, alpha.shape[0], alpha.shape[1], 0.07 * scale, octaves=3)
    bark = cv2.blur(bark, (1, max(1, int(0.25 * scale))))
    inside = (np.abs(x) < half) & (y < height - crown)
    round_light = 0.62 + 0.5 * np.sqrt(np.maximum(1 - (x / half) ** 2, 0)) - 0.28 * x / half
    rgb[inside] = ((round_light * (1 + 0.22 * bark))[..., None] * np.array((104, 84, 66), np.float32))[inside]
    alpha[inside] = 1.0
    centre = height - 0.95 * crown
    clusters = []
    for _ in range(70):
        angle, reach = rng.uniform(0, 2 * np.pi), np.sqrt(rng.random()) * crown * 0.8
        clusters.append((reach * np.cos(angle), centre + 0.8 * reach * np.sin(angle), rng.normal()))
    clusters.sort(key=lambda cluster: cluster[2])
    picture = np.dstack([rgb, alpha])
    for cx, cy, level in clusters:
        glow = 0.78 + 0.2 * (cy - centre) / crown - 0.16 * cx / crown + 0.1 * level
        offsets = np.clip(rng.normal(0, 0.16, (40, 2)), -0.3, 0.3) * crown
        tones = np.clip(glow + (offsets[:, 1] - offsets[:, 0]) / (1.5 * crown) + rng.normal(0, 0.09, 40), 0.3, 1.5)
        colours = np.clip(np.array(leaf) * tones[:, None] + rng.normal(0, 6, (40, 3)), 0, 255)
        columns = ((cx + offsets[:, 0] + crown + 0.4) * scale).astype(int).tolist()
        rows = ((height + 0.1 - cy - offsets[:, 1]) * scale).astype(int).tolist()
        axes = np.maximum(rng.uniform((0.037, 0.022), (0.088, 0.052), (40, 2)) * scale, 1).astype(int).tolist()
        for column, row, axis, tilt, colour in zip(columns, rows, axes, rng.uniform(0, 180, 40), colours.tolist()):
            cv2.ellipse(picture, (column, row), axis, float(tilt), 0, 360, (*colour, 1.0), -1)
    rgb, alpha = np.ascontiguousarray(picture[..., :3]), np.ascontiguousarray(picture[..., 3])
    return _finish(np.clip(rgb, 0, 255), alpha, pixels_per_metre)


def render_lamp_post(pixels_per_metre: float, height: float = 4.4) -> Sprite:
    """A cast-iron lamp post with a lantern, anchored at its foot."""
    scale = pixels_per_metre * SUPERSAMPLE
    rgb, alpha, x, y = _upright_canvas(0.9, height + 0.1, scale)
    half = 0.05 + 0.055 * (y < 0.75) + 0.05 * (y < 0.12) + 0.02 * (np.abs(y - 0.8) < 0.05)
    half = half + 0.03 * (np.abs(y - height + 0.75) < 0.04)
    pole = (np.abs(x) < half) & (y < height - 0.6)
    shine = 0.55 + 0.6 * np.exp(-(((x + 0.35 * half) / (0.4 * half)) ** 2))
    rgb[pole] = (shine[..., None] * np.array((52, 62, 60), np.float32))[pole]
    lantern_y = y - (height - 0.6)
    width = 0.13 + 0.1 * lantern_y / 0.42
    glass = (lantern_y > 0) & (lantern_y < 0.42) & (np.abs(x) < width)
    rgb[glass] = (226, 222, 200)
    frame = glass & ((np.abs(np.abs(x) - width) < 0.03) | (np.abs(x) < 0.012) | (lantern_y < 0.04))
    roof = (lantern_y >= 0.42) & (lantern_y < 0.62) & (np.abs(x) < 0.27 * (1 - (lantern_y - 0.42) / 0.22))
    rgb[frame | roof] = (40, 48, 47)
    alpha[pole | glass | roof] = 1.0
    return _finish(rgb, alpha, pixels_per_metre)


def render_bollard(pixels_per_metre: float) -> Sprite:
    """A dark bollard with a white ring, anchored at its foot."""
    scale = pixels_per_metre * SUPERSAMPLE
    rgb, alpha, x, y = _upright_canvas(0.4, 1.05, scale)
    half = 0.07 + 0.02 * (y < 0.1) + 0.015 * (np.abs(y - 0.86) < 0.03)
    cap = np.hypot(x, y - 0.9) < 0.075
    post = ((np.abs(x) < half) & (y < 0.9)) | cap
    tone = np.where(np.abs(y - 0.74) < 0.055, 225.0, 52.0) * (0.6 + 0.6 * np.exp(-(((x + 0.03) / 0.035) ** 2)))
    rgb[post] = np.minimum(tone, 255)[post][:, None]
    alpha[post] = 1.0
    return _finish(rgb, alpha, pixels_per_metre)


def render_sign(pixels_per_metre: float) -> Sprite:
    """A blue square pedestrian-crossing sign on a thin post, anchored at its foot."""
    scale = pixels_per_metre * SUPERSAMPLE
    rgb, alpha, x, y = _upright_canvas(0.9, 3.0, scale)
    post = (np.abs(x) < 0.035) & (y < 2.9)
    rgb[post] = ((150 - 1500 * x)[..., None] + np.zeros(3, np.float32))[post]
    board = (np.abs(x) < 0.34) & (np.abs(y - 2.5) < 0.34)
    rgb[board] = (30, 84, 168)
    rgb[board & ((np.abs(x) > 0.31) | (np.abs(y - 2.5) > 0.31))] = (236, 238, 240)
    triangle = (y > 2.26) & (np.abs(x) < 0.27 * (2.76 - y) / 0.5) & (y < 2.76)
    rgb[triangle] = (240, 240, 238)
    figure = (np.hypot(x - 0.01, y - 2.58) < 0.035)
    figure |= (np.abs(x - 0.3 * (y - 2.46)) < 0.03) & (np.abs(y - 2.47) < 0.09)
    for lean in (0.55, -0.55):
        figure |= (np.abs(x - lean * (y - 2.4)) < 0.022) & (y > 2.28) & (y < 2.4)
    rgb[figure] = (28, 28, 32)
    alpha[post | board] = 1.0
    return _finish(rgb, alpha, pixels_per_metre)
