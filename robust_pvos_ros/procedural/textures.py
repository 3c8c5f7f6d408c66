"""Texture bank of the procedural renderer: noise, dead leaves, gratings, cells, shader-like fields, photographs.

The photographs are the sample images inside the ``scikit-image`` and ``scikit-learn`` wheels; they are read only if
those packages are installed, and without them every texture is synthetic.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from robust_pvos_ros.procedural.actors import draw_actors

# Photographs only: scans of text, masks and microscopy have unnatural statistics.
_PHOTOGRAPHS = {
    'skimage': ('data', ('astronaut.png', 'brick.png', 'camera.png', 'chelsea.png', 'coffee.png', 'coins.png',
                         'grass.png', 'gravel.png', 'hubble_deep_field.jpg', 'ihc.png', 'moon.png',
                         'rocket.jpg')),
    'sklearn': ('datasets/images', ('china.jpg', 'flower.jpg')),
}  # fmt: skip


@dataclass(frozen=True)
class TextureBank:
    """Textures from which backgrounds and object parts are cut.

    Attributes:
        images: float32 (K, 3, R, R), RGB in [0, 1].
        actors: uint8 (A, P, 4, S, S), see :func:`robust_pvos_ros.procedural.actors.draw_actors`; A may be 0.
    """

    images: Tensor
    actors: Tensor

    @cached_property
    def small(self) -> Tensor:
        """The textures at half size, for object parts."""
        return F.avg_pool2d(self.images, 2)

    def __len__(self) -> int:
        return self.images.shape[0]


@lru_cache(maxsize=1)
def _photographs() -> tuple[np.ndarray, ...]:
    """uint8 (H, W, 3) photographs of the installed sample packages, the shorter side at most 400 pixels."""
    images = []
    for package, (folder, names) in _PHOTOGRAPHS.items():
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            continue
        from PIL import Image  # a training extra, like the packages that carry the photographs

        for name in names:
            path = Path(spec.submodule_search_locations[0]) / folder / name
            if path.is_file():
                image = Image.open(path).convert('RGB')
                scale = min(1.0, 400 / min(image.size))
                image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BOX)
                images.append(np.asarray(image))
    return tuple(images)


def _noise(rng: np.random.Generator, channels: int, size: int, slope: float) -> np.ndarray:
    """float (channels, size, size) Gaussian noise of unit variance, amplitude spectrum 1 / f**slope."""
    fy, fx = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]
    amplitude = 1.0 / np.maximum(np.hypot(fy, fx), 1.0 / size) ** slope
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((channels, size, size))) * amplitude, s=(size, size))
    field -= field.mean((1, 2), keepdims=True)
    return field / (field.std((1, 2), keepdims=True) + 1e-9)


def _colour(rng: np.random.Generator, count: int) -> np.ndarray:
    """float (count, 3) colours, mostly muted, some saturated."""
    luminance = rng.uniform(0.05, 0.95, (count, 1))
    chroma = rng.standard_normal((count, 3)) * rng.choice([0.05, 0.15, 0.35], p=[0.4, 0.4, 0.2])
    return np.clip(luminance + chroma - chroma.mean(1, keepdims=True), 0, 1)


def _palette(rng: np.random.Generator, field: np.ndarray, colours: int) -> np.ndarray:
    """Map a scalar field (R, R) in [0, 1] to RGB (3, R, R) through a random piecewise-linear palette."""
    knots = np.linspace(0, 1, colours)
    table = _colour(rng, colours)
    return np.stack([np.interp(field, knots, table[:, c]) for c in range(3)])


def _coloured_noise(rng: np.random.Generator, size: int) -> np.ndarray:
    slope = rng.uniform(0.6, 1.8)
    luminance, chroma = _noise(rng, 1, size, slope), _noise(rng, 3, size, slope + 0.2)
    colour = _colour(rng, 1)[0][:, None, None]
    return colour + rng.uniform(0.05, 0.3) * luminance + rng.uniform(0.0, 0.12) * chroma


def _dead_leaves(rng: np.random.Generator, size: int) -> np.ndarray:
    """Occluding ellipses and boxes with a power-law radius (Lee, Mumford and Huang 2001)."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    image = np.broadcast_to(_colour(rng, 1)[0][:, None, None], (3, size, size)).copy()
    count = int(rng.integers(40, 160))
    colours = np.clip(_colour(rng, 1) + rng.uniform(0.1, 0.8) * (_colour(rng, count) - 0.5), 0, 1)
    for radius, colour in zip(np.sort(0.3 * rng.uniform(0.03, 1, count) ** 1.5)[::-1], colours):
        cx, cy = rng.uniform(0, 1, 2)
        x0, x1 = (int(np.clip((cx + s * 2 * radius) * size, 0, size)) for s in (-1, 1))
        y0, y1 = (int(np.clip((cy + s * 2 * radius) * size, 0, size)) for s in (-1, 1))
        if x1 <= x0 or y1 <= y0:
            continue
        angle, aspect = rng.uniform(0, math.pi), rng.uniform(0.5, 2.0) ** 0.5
        dx, dy = x[y0:y1, x0:x1] - cx, y[y0:y1, x0:x1] - cy
        u = np.abs(dx * math.cos(angle) + dy * math.sin(angle)) * aspect
        v = np.abs(dy * math.cos(angle) - dx * math.sin(angle)) / aspect
        inside = (np.maximum(u, v) if rng.uniform() < 0.4 else np.hypot(u, v)) < radius
        image[:, y0:y1, x0:x1][:, inside] = colour[:, None]
    return image + rng.uniform(0.0, 0.08) * _noise(rng, 1, size, 1.0)


def _grating(rng: np.random.Generator, size: int) -> np.ndarray:
    y, x = np.mgrid[0:size, 0:size] / size
    angle, cycles = rng.uniform(0, math.pi), rng.uniform(2, 16)
    warp = rng.uniform(0, 0.5) * _noise(rng, 1, size, 2.0)[0]
    wave = np.sin(2 * math.pi * cycles * (x * math.cos(angle) + y * math.sin(angle)) + warp * 4)
    if rng.uniform() < 0.4:
        wave = wave * np.sin(2 * math.pi * cycles * (y * math.cos(angle) - x * math.sin(angle)) + warp * 4)
    wave = np.tanh(wave * rng.choice([0.8, 6.0]))
    return _palette(rng, wave * 0.5 + 0.5, int(rng.integers(2, 4))) + rng.uniform(0, 0.1) * _noise(rng, 1, size, 1.0)


def _shader(rng: np.random.Generator, size: int) -> np.ndarray:
    """Domain-warped noise through a palette: marble, smoke, wood, camouflage."""
    first, second = _noise(rng, 2, size, rng.uniform(1.3, 2.2))
    field = np.sin(rng.uniform(0.5, 4) * first + rng.uniform(0, 3) * np.sin(rng.uniform(1, 4) * second))
    field = np.tanh(field * rng.choice([1.0, 5.0]))
    return _palette(rng, field * 0.5 + 0.5, int(rng.integers(3, 6))) + rng.uniform(0, 0.06) * _noise(rng, 1, size, 0.8)


def _cells(rng: np.random.Generator, size: int) -> np.ndarray:
    """Voronoi cells, flat or shaded, with borders: stones, bricks, foliage."""
    y, x = np.mgrid[0:size, 0:size] / size
    count = int(rng.integers(8, 60))
    centres, stretch = rng.uniform(0, 1, (count, 2)), rng.uniform(0.5, 2.0)
    distance = np.hypot((x[None] - centres[:, 0, None, None]) * stretch, y[None] - centres[:, 1, None, None])
    nearest = np.partition(distance, 1, axis=0)[:2]
    colours = np.clip(_colour(rng, 1) + rng.uniform(0.1, 0.6) * (_colour(rng, count) - 0.5), 0, 1)
    image = np.moveaxis(colours[distance.argmin(0)], -1, 0)
    border = np.clip((nearest[1] - nearest[0]) * rng.uniform(15, 80), 0, 1)
    return image * (1 - rng.uniform(0, 1) * (1 - border)) + rng.uniform(0, 0.08) * _noise(rng, 1, size, 1.0)


def _plain(rng: np.random.Generator, size: int) -> np.ndarray:
    """Nearly uniform paint under slow shading."""
    return _colour(rng, 1)[0][:, None, None] + rng.uniform(0.01, 0.1) * _noise(rng, 1, size, rng.uniform(1.5, 2.5))


def _photograph(rng: np.random.Generator, size: int) -> np.ndarray:
    photos = _photographs()
    photo = photos[int(rng.integers(len(photos)))]
    side = int(rng.uniform(0.3, 1.0) * min(photo.shape[:2]))
    top, left = (int(rng.integers(0, extent - side + 1)) for extent in photo.shape[:2])
    crop = np.rot90(photo[top : top + side, left : left + side], int(rng.choice([0, 0, 0, 1, 2, 3])))
    crop = crop[:, ::-1] if rng.uniform() < 0.5 else crop
    crop = crop[..., rng.permutation(3)] if rng.uniform() < 0.25 else crop
    tensor = torch.from_numpy(np.ascontiguousarray(crop)).permute(2, 0, 1)[None].float() / 255
    resized = F.interpolate(tensor, size=(size, size), mode='bilinear', antialias=True, align_corners=False)
    return resized[0].numpy() * rng.uniform(0.7, 1.3) + rng.uniform(-0.1, 0.1)


_SYNTHETIC = (_coloured_noise, _dead_leaves, _grating, _shader, _cells, _plain)
_WEIGHTS = np.array([0.22, 0.26, 0.1, 0.16, 0.14, 0.12])


def make_bank(
    count: int,
    size: int = 160,
    seed: int = 0,
    device: str | torch.device = 'cpu',
    photographs: bool = True,
    actors: int = 0,
) -> TextureBank:
    """``count`` textures of ``size`` x ``size`` pixels and so many ``actors``, deterministic from ``seed``.

    About four in ten are crops of photographs where the sample packages are installed and ``photographs`` is true.
    """
    rng = np.random.default_rng(seed)
    images = np.empty((count, 3, size, size), np.float32)
    use_photographs = photographs and bool(_photographs())
    for index in range(count):
        if use_photographs and rng.uniform() < 0.4:
            images[index] = _photograph(rng, size)
        else:
            images[index] = _SYNTHETIC[int(rng.choice(len(_SYNTHETIC), p=_WEIGHTS))](rng, size)
    images.clip(0, 1, out=images)
    drawn = draw_actors(np.random.default_rng([seed, 1]), actors, images)
    return TextureBank(torch.from_numpy(images).to(device), torch.from_numpy(drawn).to(device))
