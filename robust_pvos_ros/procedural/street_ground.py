"""The ground of the street scene: pavements, kerbs, parking lanes, carriageway and zebra crossing, dry and wet.

The ground is painted once for a camera in the middle of its travel.  A camera further along the street sees the same
picture sheared: a row at distance Z moves by focal / Z pixels for each metre, which is linear in the row.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from robust_pvos_ros.procedural.street_draw import StreetCamera, fractal_noise, shrink, to_uint8

SUPERSAMPLE = 2
NEAR_KERB, NEAR_LANE, CENTRE_LINE, FAR_LANE, FAR_KERB, FRONTS = 7.8, 9.7, 12.2, 14.7, 16.7, 19.0
ZEBRA = (0.2, 2.5)  # metres along the street
WORLD_RESOLUTION = 40.0  # noise samples per metre


@dataclass(frozen=True, eq=False)
class Ground:
    """Ground pictures for a camera at ``reference_x``; ``margin`` columns are added on both sides.

    Attributes:
        dry, wet: uint8 RGB (h, w, 3).
        gloss: uint8 (h, w), how much of the surroundings the wet ground mirrors.
        first_row: image row of the first row of the pictures.
    """

    dry: np.ndarray
    wet: np.ndarray
    gloss: np.ndarray
    first_row: int
    margin: int
    reference_x: float

    def matrix(self, camera: StreetCamera) -> np.ndarray:
        """2x3 affine matrix from the pictures to the image rows below ``first_row``."""
        shear = -(camera.x - self.reference_x) / camera.eye_height
        offset = shear * (self.first_row - camera.horizon) - self.margin + camera.sway[0]
        return np.array([[1.0, shear, offset], [0.0, 1.0, camera.sway[1]]])


def _between(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return (values >= low) & (values < high)


class _GroundPainter:
    """Per-pixel world coordinates of the ground and its colour under construction."""

    def __init__(self, camera: StreetCamera, margin: int, first_row: int, rng: np.random.Generator) -> None:
        rows = first_row + (np.arange((camera.height + 4 - first_row) * SUPERSAMPLE) + 0.5) / SUPERSAMPLE
        columns = (np.arange((camera.width + 2 * margin) * SUPERSAMPLE) + 0.5) / SUPERSAMPLE - margin
        depth = camera.focal * camera.eye_height / (rows - camera.horizon)
        self.z = np.broadcast_to(depth[:, None], (len(rows), len(columns))).astype(np.float32)
        self.x = ((columns[None, :] - camera.width / 2) * depth[:, None] / camera.focal + camera.x).astype(np.float32)
        self.rng = rng
        self.rgb = np.zeros((*self.z.shape, 3), np.float32)
        self.extent = (float(self.x.min()), float(self.x.max()))

    def world_noise(self, cell: float, octaves: int = 4) -> np.ndarray:
        """Noise fixed to the ground, ``cell`` in metres, at every pixel."""
        size = (int(18 * WORLD_RESOLUTION), int((self.extent[1] - self.extent[0] + 1) * WORLD_RESOLUTION))
        texture = fractal_noise(self.rng, *size, cell=cell * WORLD_RESOLUTION, octaves=octaves)
        columns = (self.x - self.extent[0]) * WORLD_RESOLUTION
        return cv2.remap(texture, columns, (self.z - 3.0) * WORLD_RESOLUTION, cv2.INTER_LINEAR,
                         borderMode=cv2.BORDER_REFLECT)

    def asphalt(self) -> None:
        """Carriageway and parking lanes with patches, wear and oil."""
        grain, stains = self.world_noise(0.06, 3), self.world_noise(1.6, 4)
        tone = 96 + 5.5 * grain + 4.5 * stains
        for lane in ((NEAR_LANE + CENTRE_LINE) / 2, (CENTRE_LINE + FAR_LANE) / 2):
            for track in (-0.75, 0.75):
                tone -= 5 * np.exp(-(((self.z - lane - track) / 0.22) ** 2))
        parking = _between(self.z, NEAR_KERB, NEAR_LANE) | _between(self.z, FAR_LANE, FAR_KERB)
        tone = np.where(parking, tone * 0.93, tone)
        for _ in range(5):
            x = self.rng.uniform(*self.extent)
            z = self.rng.uniform(NEAR_LANE, FAR_LANE - 1)
            patch = _between(self.x, x, x + self.rng.uniform(0.8, 3))
            patch &= _between(self.z, z, z + self.rng.uniform(0.5, 1))
            tone[patch] -= 13
        self.rgb[:] = tone[..., None] * np.array((1.0, 1.0, 1.03), np.float32)

    def paint_line(self, where: np.ndarray, wear: np.ndarray) -> None:
        """Road paint, worn off where the noise is high."""
        cover = np.clip(1.15 - 0.3 * np.maximum(wear, 0), 0, 1)[where][:, None] * 0.92
        self.rgb[where] = self.rgb[where] * (1 - cover) + np.array((232, 230, 222), np.float32) * cover

    def markings(self) -> None:
        """Centre line, parking bays and the zebra crossing."""
        wear = self.world_noise(0.25, 3)
        zebra = _between(self.x, *ZEBRA)
        beside = ~_between(self.x, ZEBRA[0] - 1.2, ZEBRA[1] + 1.2)
        self.paint_line(_between(self.z, CENTRE_LINE - 0.07, CENTRE_LINE + 0.07) & (np.mod(self.x, 3.0) < 1.6) & beside,
                        wear)
        for low, high, edge in ((NEAR_KERB + 0.15, NEAR_LANE, NEAR_LANE), (FAR_LANE, FAR_KERB - 0.3, FAR_LANE)):
            self.paint_line(_between(self.z, low, high) & (np.mod(self.x + 1.1, 5.6) < 0.1) & beside, wear)
            bar = np.mod(self.x + 1.6, 5.6) < 1.1
            self.paint_line(_between(self.z, edge - 0.05, edge + 0.05) & bar & beside, wear)
        stripes = np.mod(self.z - NEAR_LANE - 0.15, 1.0) < 0.52
        self.paint_line(zebra & stripes & _between(self.z, NEAR_LANE + 0.15, FAR_LANE - 0.1), wear)
        for stop, low, high in ((ZEBRA[0] - 0.7, NEAR_LANE + 0.1, CENTRE_LINE - 0.1),
                                (ZEBRA[1] + 0.5, CENTRE_LINE + 0.1, FAR_LANE - 0.1)):
            self.paint_line(_between(self.x, stop, stop + 0.22) & _between(self.z, low, high), wear)

    def pavement(self) -> None:
        """Slabs with joints on both pavements, and the kerb stones."""
        grain, stains = self.world_noise(0.05, 2), self.world_noise(1.2, 4)
        for where, size, colour in (
            (self.z < NEAR_KERB, 0.62, (166, 158, 146)), (self.z >= FAR_KERB, 0.8, (158, 152, 144)),
        ):
            row = np.floor(self.z / size)
            across = self.x / size + 0.5 * np.mod(row, 2)
            tone = np.sin(row * 12.9898 + np.floor(across) * 78.233) * 43758.5453
            tone = 1 + 0.09 * (tone - np.floor(tone) - 0.5) + 0.028 * grain + 0.035 * stains
            joint = (np.mod(self.z / size, 1) < 0.045) | (np.mod(across, 1) < 0.03)
            tone = np.where(joint, tone * 0.76, tone)
            self.rgb[where] = (tone[..., None] * np.array(colour, np.float32))[where]
        stones = np.where(np.mod(self.x, 1.0) < 0.02, 0.75, 1.0) * (1 + 0.03 * grain)
        for low, high, colour in (
            (NEAR_KERB - 0.16, NEAR_KERB, (190, 186, 178)), (NEAR_KERB, NEAR_KERB + 0.12, (58, 58, 60)),
            (FAR_KERB, FAR_KERB + 0.26, (188, 184, 178)), (FAR_KERB - 0.5, FAR_KERB, (112, 110, 108)),
            (FAR_KERB - 0.75, FAR_KERB - 0.5, (66, 66, 68)),
        ):
            where = _between(self.z, low, high)
            self.rgb[where] = (stones[..., None] * np.array(colour, np.float32))[where]

    def manhole(self, x: float, z: float) -> None:
        """A cast-iron cover."""
        distance = np.hypot(self.x - x, self.z - z)
        ring = distance < 0.36
        pattern = 66 + 14 * (np.sin(self.x * 60) * np.sin(self.z * 60) > 0)
        self.rgb[ring] = pattern[ring][:, None]
        self.rgb[_between(distance, 0.36, 0.41)] *= 0.6

    def tree_shadow(self, x: float, z: float, radius: float) -> None:
        """Dappled shade of a crown beside its trunk."""
        noise = self.world_noise(0.5, 4)
        inside = np.clip(1.25 - np.hypot((self.x - x - 1.1) / radius, (self.z - z + 0.5) / (0.7 * radius)), 0, 1)
        self.rgb *= (1 - 0.4 * np.clip(inside * (1.3 + 0.8 * noise), 0, 1) * (inside > 0))[..., None]


def paint_ground(
    camera: StreetCamera, travel: float, trees: list[tuple[float, float, float]], rng: np.random.Generator,
) -> Ground:
    """Paint the ground for a camera that moves up to ``travel`` metres to either side of ``camera.x``.

    Args:
        trees: (x, z, crown radius) in metres of the trees that throw shade.
    """
    first_row = int(camera.horizon + camera.focal * camera.eye_height / FRONTS) - 3
    margin = int(travel * (camera.height - camera.horizon) / camera.eye_height) + 8
    painter = _GroundPainter(camera, margin, first_row, rng)
    painter.asphalt()
    painter.markings()
    painter.manhole(-1.6, 11.3)
    painter.manhole(5.9, 12.9)
    painter.pavement()
    near_walls = np.clip((FRONTS - painter.z) / 1.1, 0, 1)
    painter.rgb *= (0.62 + 0.38 * near_walls)[..., None]
    puddles = painter.world_noise(1.9, 4)
    road = _between(painter.z, NEAR_KERB, FAR_KERB)
    damp = np.clip(puddles - 0.55, 0, 0.5) * 2 * road
    grazing = np.clip((painter.z - 4) / 14, 0, 1)
    gloss = (0.16 + 0.3 * grazing) * np.where(road, 1.0, 0.6) + 0.3 * damp
    wet = painter.rgb * (0.66 - 0.16 * damp)[..., None] * np.array((0.93, 0.97, 1.05), np.float32)
    for tree in trees:
        painter.tree_shadow(*tree)
    return Ground(
        to_uint8(shrink(painter.rgb, SUPERSAMPLE)), to_uint8(shrink(wet, SUPERSAMPLE)),
        to_uint8(shrink(gloss.astype(np.float32), SUPERSAMPLE) * 255), first_row, margin, camera.x,
    )
