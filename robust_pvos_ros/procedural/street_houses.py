"""The far side of the street: a row of house fronts and the sky behind them, painted once.

Both are painted at twice the resolution of their distance and reduced, so that edges are smooth.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from robust_pvos_ros.procedural.street_draw import Colour, fractal_noise, mix, premultiply, shrink, to_uint8

SUPERSAMPLE = 2
WALL_COLOURS: tuple[Colour, ...] = (
    (222, 205, 172), (150, 166, 178), (206, 160, 104), (196, 200, 190), (158, 92, 82), (188, 178, 166), (176, 186, 158),
)
TRIM_COLOURS: tuple[Colour, ...] = ((238, 234, 224), (226, 220, 208), (92, 84, 78))
AWNING_COLOURS: tuple[Colour, ...] = ((170, 52, 48), (40, 96, 88), (52, 76, 132), (196, 140, 52), (110, 60, 104))
DOOR_COLOURS: tuple[Colour, ...] = ((76, 46, 34), (34, 62, 58), (110, 30, 34), (40, 48, 74))


@dataclass(frozen=True)
class House:
    """One front: horizontal extent and eaves height in metres, and its style."""

    left: float
    right: float
    eaves: float
    brick: bool
    wall: Colour
    trim: Colour
    shop: bool
    roof: float


class _FrontPainter:
    """Paints rectangles given in metres (x to the right, y up from the pavement) into a colour and a light buffer."""

    def __init__(self, width: float, height: float, pixels_per_metre: float, rng: np.random.Generator) -> None:
        self.scale = pixels_per_metre * SUPERSAMPLE
        self.height = height
        self.rng = rng
        shape = (round(height * self.scale), round(width * self.scale))
        self.rgb = np.zeros((*shape, 3), np.float32)
        self.alpha = np.zeros(shape, np.float32)
        self.lit = np.zeros((*shape, 3), np.float32)

    def area(self, x0: float, x1: float, y0: float, y1: float) -> tuple[slice, slice]:
        """Pixels of a rectangle."""
        rows = slice(max(0, round((self.height - y1) * self.scale)), max(0, round((self.height - y0) * self.scale)))
        return rows, slice(max(0, round(x0 * self.scale)), max(0, round(x1 * self.scale)))

    def rectangle(self, x0: float, x1: float, y0: float, y1: float, colour: Colour, texture: float = 0.0) -> None:
        """Opaque rectangle with optional noise of ``texture`` grey levels."""
        where = self.area(x0, x1, y0, y1)
        self.rgb[where] = colour
        self.alpha[where] = 1.0
        height, width = self.rgb[where].shape[:2]
        if texture and height and width:
            self.rgb[where] += texture * fractal_noise(self.rng, height, width, 0.5 * self.scale)[..., None]

    def shade(self, x0: float, x1: float, y0: float, y1: float, top: float, bottom: float) -> None:
        """Multiply by a vertical ramp: soft shadows under eaves, awnings and sills."""
        where = self.area(x0, x1, y0, y1)
        self.rgb[where] *= np.linspace(top, bottom, self.rgb[where].shape[0], dtype=np.float32)[:, None, None]

    def polygon(self, points: list[tuple[float, float]], colour: Colour) -> np.ndarray:
        """Filled polygon in metres; returns its mask."""
        corners = np.array([(x * self.scale, (self.height - y) * self.scale) for x, y in points])
        mask = np.zeros(self.alpha.shape, np.uint8)
        cv2.fillPoly(mask, [np.round(corners).astype(np.int32)], 1)
        drawn = mask > 0
        self.rgb[drawn] = colour
        self.alpha[drawn] = 1.0
        return drawn

    def brick(self, x0: float, x1: float, y0: float, y1: float) -> None:
        """Courses of brick with mortar joints over the present colour."""
        where = self.area(x0, x1, y0, y1)
        rows, columns = np.mgrid[:self.rgb[where].shape[0], :self.rgb[where].shape[1]].astype(np.float32) / self.scale
        course = np.floor(rows / 0.1)
        column = np.floor(columns / 0.26 + 0.5 * (course % 2))
        tone = np.sin(course * 127.1 + column * 311.7) * 43758.5453
        tone = tone - np.floor(tone) - 0.5
        joint = ((rows / 0.1 - course) < 0.18) | ((columns / 0.26 + 0.5 * (course % 2) - column) < 0.07)
        self.rgb[where] += (34 * tone)[..., None]
        self.rgb[where] = np.where(joint[..., None], self.rgb[where] * 0.6 + 62, self.rgb[where])

    def glass(self, x0: float, x1: float, y0: float, y1: float, shop: bool = False) -> None:
        """A pane that mirrors the sky, with curtains or a display behind it; some are lit when it gets dark."""
        where = self.area(x0, x1, y0, y1)
        height, width = self.rgb[where].shape[:2]
        if not height or not width:
            return
        ramp = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
        self.rgb[where] = np.array((120, 142, 162)) * (1 - ramp) + np.array((48, 56, 66)) * ramp
        diagonal = (np.arange(width)[None, :] + 1.6 * np.arange(height)[:, None]) / (0.9 * self.scale)
        self.rgb[where] += (26 * (np.sin(diagonal + x0 * 3) > 0.72))[..., None]
        warm = np.array((255, 166, 70)) * self.rng.uniform(0.6, 1.0)
        if shop:
            for _ in range(int(3 * (x1 - x0))):
                x, y = self.rng.uniform(x0, x1 - 0.2), self.rng.uniform(0.1, 0.5) * (y1 - y0)
                spot = self.area(x, min(x1, x + self.rng.uniform(0.12, 0.4)), y0 + 0.05, y0 + y)
                self.rgb[spot] = 0.55 * self.rgb[spot] + 0.45 * self.rng.uniform(40, 230, 3)
            self.lit[where] = warm * 0.75
        else:
            if self.rng.random() < 0.6:
                drawn = self.rng.uniform(0.15, 0.42) * (x1 - x0)
                for side in ((x0, x0 + drawn), (x1 - drawn, x1)):
                    curtain = self.area(*side, y0, y1)
                    folds = 12 * np.sin(np.arange(self.rgb[curtain].shape[1]) / (0.02 * self.scale))
                    self.rgb[curtain] = 0.45 * self.rgb[curtain] + 0.5 * (np.array((214, 206, 196))) + folds[:, None]
            if self.rng.random() < 0.45:
                self.lit[where] = warm * 0.85

    def window(self, x: float, y: float, width: float, height: float, house: House) -> None:
        """A framed window with a sill, its lower left corner at (x, y)."""
        edge = 0.09
        self.rectangle(x - edge, x + width + edge, y - edge, y + height + edge, house.trim, 3)
        self.rectangle(x - 0.16, x + width + 0.16, y - 0.2, y - edge, mix(house.trim, (120, 116, 110), 0.2))
        self.shade(x - 0.12, x + width + 0.12, y - 0.34, y - 0.2, 0.68, 1.0)
        self.glass(x, x + width, y, y + height)
        frame = mix(house.trim, (255, 255, 255), 0.3)
        self.rectangle(x + width / 2 - 0.03, x + width / 2 + 0.03, y, y + height, frame)
        self.rectangle(x, x + width, y + 0.62 * height, y + 0.62 * height + 0.05, frame)
        self.shade(x, x + width, y + height - 0.22, y + height, 0.55, 1.0)

    def awning(self, x0: float, x1: float, y: float, colour: Colour) -> None:
        """A striped awning with a scalloped edge above a shop window, and its shadow."""
        stripes = int((x1 - x0) / 0.32)
        step = (x1 - x0) / stripes
        self.shade(x0, x1, y - 1.0, y - 0.06, 0.5, 1.0)
        for index in range(stripes):
            tone = colour if index % 2 else mix(colour, (246, 240, 228), 0.85)
            a, b = x0 + index * step, x0 + (index + 1) * step
            self.polygon([(a, y), (b, y), (b - (b - (x0 + x1) / 2) * 0.05, y + 0.62),
                          (a - (a - (x0 + x1) / 2) * 0.05, y + 0.62)], tone)
            edge = [(a, y), (b, y), (b, y - 0.12), ((a + b) / 2, y - 0.19), (a, y - 0.12)]
            self.polygon(edge, mix(tone, (0, 0, 0), 0.12))
        self.shade(x0, x1, y, y + 0.62, 1.08, 0.9)


def _paint_ground_floor(painter: _FrontPainter, house: House) -> None:
    rng, width = painter.rng, house.right - house.left
    painter.rectangle(house.left, house.right, 0, 0.45, mix(house.wall, (90, 88, 86), 0.6), 6)
    door = house.left + (0.4 if rng.random() < 0.5 else width - 1.5)
    if house.shop:
        x0, x1 = house.left + 0.35, house.right - 0.35
        door = x0 + 0.1 if door < house.left + width / 2 else x1 - 1.2
        panel = DOOR_COLOURS[rng.integers(len(DOOR_COLOURS))]
        painter.rectangle(x0, x1, 0, 2.75, panel, 3)
        left, right = (door + 1.2, x1 - 0.15) if door < house.left + width / 2 else (x0 + 0.15, door - 0.15)
        panes = max(1, round((right - left) / 1.5))
        step = (right - left) / panes
        for index in range(panes):
            painter.glass(left + index * step, left + (index + 1) * step - 0.07, 0.6, 2.45, shop=True)
        painter.rectangle(x0, x1, 2.75, 3.15, mix(panel, (255, 255, 255), 0.12), 3)
        painter.awning(left - 0.1, right + 0.1, 2.35, AWNING_COLOURS[rng.integers(len(AWNING_COLOURS))])
    else:
        x = house.left + 0.9
        while x < house.right - 1.4:
            if abs(x + 0.5 - (door + 0.55)) > 1.3:
                painter.window(x, 1.0, 1.0, 1.45, house)
            x += 1.75
    painter.rectangle(door - 0.1, door + 1.2, 0, 2.35, house.trim)
    painter.rectangle(door, door + 1.1, 0.05, 2.25, DOOR_COLOURS[rng.integers(len(DOOR_COLOURS))], 4)
    painter.glass(door + 0.2, door + 0.9, 1.35, 2.1)
    painter.rectangle(door + 0.88, door + 0.98, 1.0, 1.12, (212, 180, 96))
    painter.shade(door, door + 1.1, 1.8, 2.25, 0.6, 1.0)


def _paint_house(painter: _FrontPainter, house: House) -> None:
    rng, width = painter.rng, house.right - house.left
    if house.roof > 0:
        slope = 0.35 * house.roof
        tiles = mix((112, 74, 62), (86, 88, 96), float(rng.random()))
        mask = painter.polygon([(house.left - 0.15, house.eaves), (house.right + 0.15, house.eaves),
                                (house.right - slope, house.eaves + house.roof),
                                (house.left + slope, house.eaves + house.roof)], tiles)
        rows = np.nonzero(mask)[0] / painter.scale
        painter.rgb[mask] *= (0.84 + 0.26 * ((rows / 0.2) % 1.0))[:, None]
        chimney = house.left + width * rng.uniform(0.2, 0.75)
        painter.rectangle(chimney, chimney + 0.55, house.eaves + 0.4 * house.roof, house.eaves + house.roof + 0.55,
                          (136, 84, 70), 6)
        painter.rectangle(chimney - 0.06, chimney + 0.61, house.eaves + house.roof + 0.5,
                          house.eaves + house.roof + 0.62, (108, 68, 58))
    painter.rectangle(house.left, house.right, 0, house.eaves, house.wall, 5)
    if house.brick:
        painter.brick(house.left, house.right, 0, house.eaves)
    floor = 3.3
    count = max(2, int(width / 1.7))
    step = width / count
    while floor + 2.0 < house.eaves:
        for index in range(count):
            painter.window(house.left + (index + 0.5) * step - 0.5, floor + 0.55, 1.0, 1.5, house)
        floor += 2.75
    painter.rectangle(house.left, house.right, 3.0, 3.18, house.trim, 3)
    painter.shade(house.left, house.right, 2.8, 3.0, 0.7, 1.0)
    _paint_ground_floor(painter, house)
    painter.rectangle(house.left - 0.12, house.right + 0.12, house.eaves - 0.18, house.eaves + 0.12, house.trim, 3)
    painter.shade(house.left, house.right, house.eaves - 0.75, house.eaves - 0.18, 0.62, 1.0)
    painter.rectangle(house.left + 0.02, house.left + 0.1, 0, house.eaves - 0.2, mix(house.wall, (60, 60, 62), 0.6))
    painter.shade(house.left, house.right, 0, house.eaves, 1.04, 0.9)


def _row_of_houses(width: float, rng: np.random.Generator) -> list[House]:
    houses, left, index = [], -0.5, 0
    first = int(rng.integers(len(WALL_COLOURS)))
    while left < width:
        right = left + float(rng.uniform(5.2, 7.6))
        wall = WALL_COLOURS[(first + index) % len(WALL_COLOURS)]
        tall = float(rng.choice([5.9, 6.3, 6.9] if index % 2 else [6.2, 5.7]))
        roof = 0.0 if rng.random() < 0.3 else float(rng.uniform(0.9, 1.3))
        houses.append(House(left, right, tall, bool(wall[0] > wall[2] + 70 or rng.random() < 0.2), wall,
                            TRIM_COLOURS[rng.integers(2)], bool(index % 2), roof))
        left = right + (float(rng.uniform(1.6, 2.3)) if index % 3 == 1 else 0.0)
        index += 1
    return houses


def paint_fronts(
    width: float, height: float, pixels_per_metre: float, rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """House fronts ``width`` x ``height`` metres.

    Returns:
        (premultiplied uint8 RGBA (h, w, 4), uint8 RGB (h, w, 3) of what the lit windows add in the dark).
    """
    painter = _FrontPainter(width, height, pixels_per_metre, rng)
    for house in _row_of_houses(width, rng):
        _paint_house(painter, house)
    weather = fractal_noise(rng, painter.alpha.shape[0], painter.alpha.shape[1], 2.5 * painter.scale, octaves=5)
    painter.rgb *= (1 + 0.035 * weather)[..., None]
    alpha = shrink(painter.alpha, SUPERSAMPLE)
    colour = shrink(np.clip(painter.rgb, 0, 255) * painter.alpha[..., None], SUPERSAMPLE)
    glow = cv2.GaussianBlur(shrink(painter.lit, SUPERSAMPLE), (0, 0), 1.5)
    return premultiply(colour / np.maximum(alpha, 1e-3)[..., None], alpha), to_uint8(glow)


def paint_sky(width: int, height: int, horizon: float, rng: np.random.Generator, overcast: bool) -> np.ndarray:
    """Sky with clouds and the tree line behind the houses: uint8 RGB (height, width, 3); ``horizon`` in rows."""
    ramp = np.clip(np.arange(height, dtype=np.float32) / max(horizon, 1), 0, 1)[:, None, None]
    zenith, low = ((120, 128, 138), (176, 180, 184)) if overcast else ((84, 142, 214), (206, 226, 240))
    sky = np.array(zenith, np.float32) * (1 - ramp) + np.array(low, np.float32) * ramp
    sky = np.broadcast_to(sky, (height, width, 3)).copy()
    stretched = fractal_noise(rng, height * 2, width, 0.22 * width, octaves=6)
    clouds = cv2.resize(stretched, (width, height), interpolation=cv2.INTER_AREA)
    cover = np.clip((clouds + (0.9 if overcast else 0.0)) * 0.75, 0, 1)[..., None] * (0.6 if overcast else 0.85)
    lit = np.clip(clouds - np.pad(clouds, ((8, 0), (0, 0)), mode='edge')[:-8], -1, 1)[..., None]
    tone = np.array((150, 154, 160) if overcast else (252, 250, 248), np.float32) + (16 if overcast else 34) * lit
    sky = sky * (1 - cover) + tone * cover
    _paint_tree_line(sky, horizon, rng, overcast)
    return to_uint8(sky)


def _paint_tree_line(sky: np.ndarray, horizon: float, rng: np.random.Generator, overcast: bool) -> None:
    height, width = sky.shape[:2]
    rows = np.arange(height)[:, None]
    for distance, colour in ((1.0, (138, 158, 172)), (0.55, (96, 124, 96)), (0.25, (66, 96, 62))):
        crest = fractal_noise(rng, 2, width, 90 * distance + 12, octaves=5)[0]
        top = horizon - 0.07 * width * (1.25 - distance) - 0.018 * width * crest
        texture = 10 * fractal_noise(rng, height, width, 9, octaves=3)
        inside = np.clip(rows - top[None, :], 0, 1)[..., None]
        tone = np.array(mix(colour, (140, 146, 152), 0.45) if overcast else colour, np.float32) + texture[..., None]
        sky[:] = sky * (1 - inside) + tone * inside
