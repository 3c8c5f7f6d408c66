"""Rain of the street scene: falling streaks, splashes on the ground and the dull light that comes with them."""

from __future__ import annotations

import cv2
import numpy as np

GOLDEN = 0.618034


class Rain:
    """Drops at fixed random phases, so that the picture depends on the time alone and moves smoothly with it.

    Args:
        width, height: image size, pixels.
        ground_row: first image row on which drops splash.
        rng: source of the drops' phases.
    """

    # From far to near: number, speed in image heights per second, length in image heights, brightness, thickness.
    LAYERS = ((430, 1.25, 0.03, 52, 1), (190, 1.9, 0.055, 74, 1), (30, 2.9, 0.1, 72, 2))
    SPLASHES = 80
    SPLASH_TIME = 0.22  # seconds

    def __init__(self, width: int, height: int, ground_row: int, rng: np.random.Generator) -> None:
        self.width, self.height, self.ground_row = width, height, ground_row
        self.drops = [rng.random((count, 2)) for count, *_ in self.LAYERS]
        self.splashes = rng.random((self.SPLASHES, 3))

    def draw(self, image: np.ndarray, time: float, amount: float) -> None:
        """Add the rain at ``time`` seconds to an RGB image in place; ``amount`` in [0, 1]."""
        if amount <= 0.01:
            return
        layer = np.zeros((self.height, self.width), np.uint8)
        self._draw_splashes(layer, time, amount)
        for drops, (count, speed, length, brightness, thickness) in zip(self.drops, self.LAYERS):
            used = drops[:int(count * min(1.0, amount * 1.2))]
            if not len(used):
                continue
            fall = used[:, 1] * 7 + time * speed / (1 + length)
            lap = np.floor(fall)
            y = (fall - lap) * (1 + length) - length
            x = np.mod(used[:, 0] + lap * GOLDEN, 1.0) * 1.15 - 0.1 * y
            slant = -0.1 * length * self.height
            start = np.stack([x * self.width, y * self.height], 1)
            end = start + np.array([slant, length * self.height])
            lines = np.round(np.stack([start, end], 1) * 16).astype(np.int32)
            cv2.polylines(layer, list(lines), False, int(brightness * (0.5 + 0.5 * amount)), thickness, cv2.LINE_AA, 4)
        soft = cv2.blur(layer, (1, 3))
        cv2.add(image, cv2.cvtColor(soft, cv2.COLOR_GRAY2RGB), dst=image)

    def _draw_splashes(self, layer: np.ndarray, time: float, amount: float) -> None:
        for x, y, phase in self.splashes[:int(self.SPLASHES * amount)]:
            beat = time / self.SPLASH_TIME + phase
            lap = int(beat)
            age = beat - lap
            depth = (y + lap * GOLDEN) % 1.0
            row = self.ground_row + depth * (self.height - self.ground_row)
            column = (x + lap * GOLDEN * GOLDEN * 7.3) % 1.0 * self.width
            radius = (1.0 + 3.6 * age) * (0.6 + 1.1 * depth) * self.width / 640
            axes = (int(radius * 16), int(radius * 5.5))
            cv2.ellipse(layer, (int(column * 16), int(row * 16)), axes, 0, 180, 360, int(120 * (1 - age)), 1,
                        cv2.LINE_AA, 4)


def grade(image: np.ndarray, amount: float) -> np.ndarray:
    """Dull light: less contrast, less colour, darker and bluer; ``amount`` in [0, 1] of rain.  Returns a new image."""
    if amount <= 0.005:
        return image
    saturation = 1 - 0.3 * amount
    gain = np.array((0.60, 0.63, 0.68)) * amount + 1 - amount
    luma = np.array((0.299, 0.587, 0.114))
    mixing = saturation * np.eye(3) + (1 - saturation) * luma[None, :]
    offset = np.array((13.0, 15.0, 19.0)) * amount
    return cv2.transform(image, np.column_stack([mixing * gain[:, None], offset]))
