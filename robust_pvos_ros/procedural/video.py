"""Endless labelled video, rendered in torch on the training device.

Every clip is a textured background under a moving camera with articulated, deforming, multi-textured objects that
occlude one another, leave and return, and with look-alikes and unlabelled distractors among them.  Objects are painted
on small canvases once per frame (colour and a distance field) and placed by one ``grid_sample`` each, so that a frame
costs a few milliseconds on one core.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from robust_pvos_ros.procedural.motion import Motion, random_motion
from robust_pvos_ros.procedural.shapes import OUTLINE_ANGLES, Shapes, random_shapes
from robust_pvos_ros.procedural.textures import TextureBank

LAYERS = 5
_STILL_PIECES = 6


class Clips(NamedTuple):
    """B labelled clips of T frames of S x S pixels with L moving layers.

    Attributes:
        images: uint8 (B, T, 3, S, S) RGB.
        ids: uint8 (B, T, S, S), the ID of the visible object, stable within a clip, 0 where there is background or
            something unlabelled.
        layers: uint8 (B, T, S, S), what is visible: 0 the background, 1 .. L the moving layers.
        maps: float32 (B, T, L + 1, 2, 3), from image coordinates (x, y in [-1, 1]) to those of a layer, in which its
            content keeps its place.
    """

    images: Tensor
    ids: Tensor
    layers: Tensor
    maps: Tensor


def _tensor(values: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(device)


def _column(values: np.ndarray, rows: np.ndarray, part: int, device: torch.device) -> Tensor:
    """Entries ``[rows, part]`` of (M, P) values, to be broadcast over (m, T, side, side)."""
    return _tensor(values[rows, part], device)[:, None, None, None]


class _Materials:
    """Textures and colours of the parts of M objects: (M, P) entries each."""

    def __init__(self, rng: np.random.Generator, count: int, parts: int, textures: int) -> None:
        pair = (count, parts)
        shared = rng.uniform(size=(count, 1)) < 0.35  # one cloth for the whole object
        self.texture = np.where(shared, rng.integers(textures, size=(count, 1)), rng.integers(textures, size=pair))
        self.zoom = np.exp(rng.uniform(math.log(0.25), math.log(1.0), pair))
        self.turn = rng.uniform(0, 2 * math.pi, pair)
        self.shift = rng.uniform(-1, 1, (*pair, 2))
        self.gain = rng.uniform(0.6, 1.3, (*pair, 1)) * rng.uniform(0.8, 1.2, (*pair, 3))
        self.bias = rng.uniform(-0.15, 0.2, (*pair, 1)) + rng.normal(0, 0.06, (*pair, 3))
        self.split = rng.uniform(-0.6, 0.6, pair) + 9.0 * (rng.uniform(size=pair) < 0.6)
        self.split_angle = rng.choice([0, math.pi / 2, 1.0, 2.0], pair)
        self.tint = np.clip(rng.uniform(0.1, 0.9, (*pair, 1)) + rng.normal(0, 0.2, (*pair, 3)), 0, 1)
        self.light = rng.normal(0, 0.18, (count, 2))
        self.rim = rng.uniform(0, 0.5, (count, 1)) * (rng.uniform(size=(count, 1)) < 0.6)

    def copy_object(self, source: int, target: int) -> None:
        for values in vars(self).values():
            values[target] = values[source]


def _paint(
    shapes: Shapes, materials: _Materials, bank: TextureBank, clock: np.ndarray, swing_rate: np.ndarray, side: int
) -> Tensor:
    """Canvases of M objects over T frames.

    Args:
        clock: (M, T) time of each frame; swing_rate: (M,) radians per unit of time.

    Returns:
        float32 (M, T, 4, side, side): RGB, and the distance to the outline in object coordinates plus 0.5,
        which is above 0.5 inside.
    """
    device = bank.images.device
    count, frames = clock.shape
    axis = (torch.arange(side, device=device) + 0.5) * (2 / side) - 1
    y, x = torch.meshgrid(axis, axis, indexing='ij')
    phase = clock * swing_rate[:, None]
    bend = 0.05 * np.minimum(1.0, np.abs(swing_rate))[:, None] * np.stack([np.sin(phase), np.cos(0.7 * phase)])
    bend_x, bend_y = (_tensor(b, device)[:, :, None, None] for b in bend)
    x, y = x + bend_x * torch.sin(3.0 * y + 1.0), y + bend_y * torch.sin(3.0 * x)
    canvas = torch.zeros(count, frames, 3, side, side, device=device)
    distance = torch.full((count, frames, side, side), -0.5, device=device)
    for part in range(int(shapes.parts.max(initial=0))):
        rows = np.flatnonzero(shapes.parts > part)
        index = torch.from_numpy(rows).to(device)
        turn = shapes.angle[rows, part, None] + shapes.swing[rows, part, None] * np.sin(
            phase[rows] + shapes.phase[rows, part, None]
        )
        cos, sin = (_tensor(f(turn), device)[:, :, None, None] for f in (np.cos, np.sin))

        column = partial(_column, rows=rows, part=part, device=device)
        dx, dy = x[index] - column(shapes.joint[..., 0]), y[index] - column(shapes.joint[..., 1])
        u = (cos * dx + sin * dy - column(shapes.centre[..., 0])) / column(shapes.axes[..., 0])
        v = (cos * dy - sin * dx - column(shapes.centre[..., 1])) / column(shapes.axes[..., 1])
        radius = torch.hypot(u, v)
        sector = (torch.atan2(v, u) + math.pi) * (OUTLINE_ANGLES / (2 * math.pi))
        lower = sector.long().clamp_(0, OUTLINE_ANGLES - 1)
        table = _tensor(np.concatenate([shapes.outline, shapes.outline[..., :1]], -1)[rows, part], device)
        flat = lower.flatten(1)
        near, far = table.gather(1, flat).view_as(u), table.gather(1, flat + 1).view_as(u)
        reach = column(shapes.axes.min(-1))
        inside = (torch.lerp(near, far, sector - lower) - radius) * reach

        colour = _part_colour(materials, bank, rows, part, u, v)
        hole = torch.from_numpy(shapes.hole[rows, part]).to(device)[:, None, None, None]
        previous = distance[index]
        distance[index] = torch.where(hole, torch.minimum(previous, -inside), torch.maximum(previous, inside))
        cover = (inside * (side / 2) + 0.5).clamp_(0, 1).masked_fill_(hole, 0)[:, :, None]
        canvas[index] = torch.lerp(canvas[index], colour, cover)
    light = _tensor(materials.light, device)[:, :, None, None, None]
    rim = _tensor(materials.rim, device)[:, :, None, None]
    shade = 1 + light[:, 0] * x + light[:, 1] * y
    shade = shade * (1 - rim * torch.exp(-8 * distance.clamp(min=0)))
    canvas = canvas * shade[:, :, None]
    return torch.cat([canvas, distance.clamp(-0.5, 0.5)[:, :, None] + 0.5], 2)


def _part_colour(
    materials: _Materials, bank: TextureBank, rows: np.ndarray, part: int, u: Tensor, v: Tensor
) -> Tensor:
    """Texture of one part, (m, T, 3, side, side), at part coordinates ``u``, ``v`` of (m, T, side, side)."""
    device = u.device

    column = partial(_column, rows=rows, part=part, device=device)
    zoom, turn = materials.zoom, materials.turn
    grid = torch.stack(
        [
            column(zoom * np.cos(turn)) * u + column(zoom * np.sin(turn)) * v + column(materials.shift[..., 0]),
            column(zoom * np.cos(turn)) * v - column(zoom * np.sin(turn)) * u + column(materials.shift[..., 1]),
        ],
        -1,
    )
    images = bank.small[torch.from_numpy(materials.texture[rows, part]).to(device)]
    count, frames, side, _ = u.shape
    colour = F.grid_sample(
        images, grid.view(count, frames * side, side, 2), padding_mode='reflection', align_corners=False
    )
    colour = colour.view(count, 3, frames, side, side)
    gain, bias, tint = (
        _tensor(values[rows, part], device)[:, :, None, None, None]
        for values in (materials.gain, materials.bias, materials.tint)
    )
    along = column(np.cos(materials.split_angle)) * u + column(np.sin(materials.split_angle)) * v
    colour = colour * gain + bias
    colour = torch.where((along > column(materials.split))[:, None], 0.4 * colour + 0.6 * tint, colour)
    return colour.transpose(1, 2).clamp(0, 1)


def _backgrounds(rng: np.random.Generator, batch: int, bank: TextureBank, side: int) -> tuple[Tensor, np.ndarray]:
    """Still scenes (B, 3, side, side) of one or two large surfaces and some pieces, and their main textures (B,)."""
    device = bank.images.device
    textures = rng.integers(len(bank), size=batch)
    angle, zoom = rng.normal(0, 0.3, batch), rng.uniform(0.7, 1.6, batch)
    theta = np.zeros((batch, 2, 3))
    theta[:, 0, 0] = theta[:, 1, 1] = zoom * np.cos(angle)
    theta[:, 0, 1] = zoom * np.sin(angle)
    theta[:, 1, 0] = -theta[:, 0, 1]
    theta[..., 2] = rng.uniform(-1, 1, (batch, 2))
    grid = _affine_grid(theta, side, device)
    scene = F.grid_sample(
        bank.images[torch.from_numpy(textures).to(device)], grid, padding_mode='reflection', align_corners=False
    )
    pieces = batch * _STILL_PIECES
    shapes = random_shapes(rng, pieces)
    materials = _Materials(rng, pieces, shapes.angle.shape[1], len(bank))
    count = rng.integers(0, _STILL_PIECES + 1, batch)
    shapes.parts[(np.arange(_STILL_PIECES)[None] >= count[:, None]).ravel()] = 0
    still = np.zeros((pieces, 1))
    painted = _paint(shapes, materials, bank, still, np.zeros(pieces), side // 2)[:, 0]
    painted = painted.view(batch, _STILL_PIECES, 4, side // 2, side // 2)
    scale = rng.uniform(0.15, 0.7, (batch, _STILL_PIECES))
    scale[:, 0] *= 2.0  # the first piece is a second ground
    position = rng.uniform(-1, 1, (batch, _STILL_PIECES, 2))
    turn = rng.normal(0, 0.5, (batch, _STILL_PIECES))
    for piece in range(_STILL_PIECES):
        grid = _affine_grid(_placement(position[:, piece], scale[:, piece], turn[:, piece]), side, device)
        sample = F.grid_sample(painted[:, piece], grid, align_corners=False)
        cover = ((sample[:, 3:] - 0.5) * _tensor(scale[:, piece] * side / 2, device)[:, None, None, None] + 0.5)
        scene = torch.lerp(scene, sample[:, :3], cover.clamp(0, 1))
    return scene, textures


def _placement(position: np.ndarray, scale: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Maps (K, 2, 3) from image to canvas coordinates that put a canvas at ``position`` with half side ``scale``."""
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    theta = np.empty((len(scale), 2, 3))
    theta[:, 0, 0], theta[:, 0, 1], theta[:, 1, 0], theta[:, 1, 1] = cos, sin, -sin, cos
    theta[..., 2] = -np.einsum('kij,kj->ki', theta[..., :2], position)
    return theta


def _affine_grid(theta: np.ndarray, side: int, device: torch.device) -> Tensor:
    """Sampling grid (K, side, side, 2) of K affine maps (K, 2, 3); several times faster than ``F.affine_grid``."""
    maps = _tensor(theta, device)[:, :, :, None, None]
    axis = (torch.arange(side, device=device) + 0.5) * (2 / side) - 1
    return torch.stack(
        [maps[:, row, 0] * axis + (maps[:, row, 1] * axis[:, None] + maps[:, row, 2]) for row in range(2)], -1
    )


def _cast(
    rng: np.random.Generator, batch: int, background: np.ndarray, textures: int, ease: float
) -> tuple[Shapes, _Materials, np.ndarray]:
    """Shapes and materials of B x LAYERS objects and their IDs (B, LAYERS); 0 is unlabelled, -1 not there."""
    shapes = random_shapes(rng, batch * LAYERS)
    materials = _Materials(rng, batch * LAYERS, shapes.angle.shape[1], textures)
    present = rng.integers(2, LAYERS + 1, batch)
    ids = np.tile(np.arange(1, LAYERS + 1), (batch, 1))
    ids[rng.uniform(size=ids.shape) < 0.2] = 0
    ids[:, 0] = 1
    for clip in range(batch):
        for layer in range(1, LAYERS):
            row, chance = clip * LAYERS + layer, rng.uniform() + 0.4 * ease
            if chance < 0.2:  # a look-alike of an object further back
                source = clip * LAYERS + int(rng.integers(layer))
                shapes.copy_object(source, row)
                materials.copy_object(source, row)
            elif chance < 0.3:  # camouflage
                materials.texture[row] = background[clip]
            elif chance < 0.4:  # same cloth, another cut
                materials.copy_object(clip * LAYERS + int(rng.integers(layer)), row)
    if ease > 0:  # one dominant colour for the whole object
        plain = np.flatnonzero(rng.uniform(size=batch * LAYERS) < ease)
        materials.split[plain] = -9.0
        shift = rng.normal(0, 0.12, (len(plain), *materials.tint.shape[1:]))
        materials.tint[plain] = np.clip(rng.uniform(0, 1, (len(plain), 1, 3)) + shift, 0, 1)
    order = np.argsort(rng.uniform(size=(batch, LAYERS)), 1)
    ids = np.where(np.arange(LAYERS)[None] < present[:, None], ids, -1)
    flat = (np.arange(batch)[:, None] * LAYERS + order).ravel()
    for owner in (shapes, materials):
        for name, values in vars(owner).items():
            setattr(owner, name, values[flat])
    ids = np.take_along_axis(ids, order, 1)
    shapes.parts[ids.ravel() < 0] = 0
    return shapes, materials, ids


def render_clips(
    batch: int,
    frames: int,
    size: int,
    seed: int,
    bank: TextureBank,
    pace: float = 1.0,
    scale: float = 1.0,
    ease: float = 0.0,
    vanish: float = 0.0,
) -> Clips:
    """Render labelled clips on the device of ``bank``, deterministic from ``seed`` and the bank.

    Args:
        batch, frames, size: B clips of T frames of ``size`` x ``size`` pixels, a multiple of 8.
        pace: factor on all speeds; 1 moves objects by some percent of the image per frame.
        scale: factor on the size of all moving objects.
        ease: share of objects with one dominant colour, 0 to 1; it also makes look-alikes and camouflage rarer.
        vanish: share of objects that are gone for some frames, as behind a wall: nothing else of the scene changes.
    """
    rng = np.random.default_rng(seed)
    device = bank.images.device
    scene, textures = _backgrounds(rng, batch, bank, int(size * 1.25))
    shapes, materials, ids = _cast(rng, batch, textures, len(bank), ease)
    motion = random_motion(rng, batch, LAYERS, frames, pace)
    occluder = (ids == 0) & (rng.uniform(size=ids.shape) < 0.4)
    motion.scale = scale * motion.scale * np.where(occluder, 1.5, 1.0)[..., None]
    shown = _presence(np.random.default_rng([seed, 1]), (batch, LAYERS, frames), vanish)
    canvas_side = max(24, int(size * 0.4))
    clock = np.repeat(motion.clock, LAYERS, 0)
    rate = rng.uniform(0.1, 1.2, batch * LAYERS) * (rng.uniform(size=batch * LAYERS) < 0.8)
    canvases = _paint(shapes, materials, bank, clock, rate, canvas_side)
    canvases = canvases.view(batch, LAYERS, frames, 4, canvas_side, canvas_side)

    grid = _affine_grid(motion.camera.reshape(-1, 2, 3) / 1.25, size, device)
    still = scene[:, None].expand(-1, frames, -1, -1, -1).flatten(0, 1)
    image = F.grid_sample(still, grid, padding_mode='reflection', align_corners=False)
    layers = torch.zeros(batch * frames, size, size, dtype=torch.uint8, device=device)
    maps = np.zeros((batch, frames, LAYERS + 1, 2, 3))
    maps[..., 0, 0] = maps[..., 1, 1] = 1.0
    maps[:, :, 0] = motion.camera
    softness = rng.choice([1.0, 0.6, 0.35], (batch, 1), p=[0.6, 0.25, 0.15]) * np.ones((1, frames))
    shadow = rng.uniform(0.15, 0.5, batch) * (rng.uniform(size=batch) < 0.5)
    offset = rng.integers(-size // 12, size // 12 + 1, (batch, 2))
    for layer in range(LAYERS):
        clips = np.flatnonzero(ids[:, layer] >= 0)
        if not len(clips):
            continue
        rows = torch.from_numpy((clips[:, None] * frames + np.arange(frames)).ravel()).to(device)
        half_side = motion.scale[clips, layer].ravel()
        theta = _placement(motion.position[clips, layer].reshape(-1, 2), half_side, motion.angle[clips, layer].ravel())
        maps[clips, :, layer + 1] = theta.reshape(len(clips), frames, 2, 3)
        grid = _affine_grid(theta, size, device)
        sample = F.grid_sample(canvases[clips, layer].flatten(0, 1), grid, align_corners=False)
        sharp = _tensor(half_side * softness[clips].ravel() * size / 2, device)[:, None, None, None]
        cover = ((sample[:, 3:] - 0.5) * sharp + 0.5).clamp_(0, 1)
        cover *= _tensor(shown[clips, layer].ravel(), device)[:, None, None, None]
        under = _cast_shadow(image[rows], cover, shadow[clips], offset[clips], frames)
        image[rows] = torch.lerp(under, sample[:, :3], cover)
        layers[rows] = torch.where(cover[:, 0] > 0.5, layer + 1, layers[rows]).to(torch.uint8)
    image = _camera_effects(rng, image.view(batch, frames, 3, size, size), motion)
    layers = layers.view(batch, frames, size, size)
    owners = torch.from_numpy(np.pad(ids.clip(0), ((0, 0), (1, 0)))).to(device, torch.uint8)
    labels = owners.gather(1, layers.flatten(1).long()).view_as(layers)
    return Clips(image.mul(255).round_().to(torch.uint8), labels, layers, _tensor(maps, device))


def _presence(rng: np.random.Generator, shape: tuple[int, int, int], vanish: float) -> np.ndarray:
    """bool (B, L, T): where each layer is shown; on the first frame all are."""
    frames = shape[2]
    begin = rng.integers(1, max(2, frames), shape[:2])
    end = begin + np.where(rng.uniform(size=shape[:2]) < 0.5, frames, rng.integers(1, max(2, frames), shape[:2]))
    gone = (rng.uniform(size=shape[:2]) < vanish)[..., None]
    time = np.arange(frames)
    return ~(gone & (time >= begin[..., None]) & (time < end[..., None]))


def _cast_shadow(image: Tensor, cover: Tensor, strength: np.ndarray, offset: np.ndarray, frames: int) -> Tensor:
    """Darken ``image`` (K, 3, S, S) by the shifted, blurred ``cover`` (K, 1, S, S) of the next object."""
    for clip in np.flatnonzero(strength > 0):
        rows = slice(clip * frames, (clip + 1) * frames)
        small = F.avg_pool2d(cover[rows], 4)
        dx, dy = (int(v) // 4 for v in offset[clip])
        side = small.shape[-1]
        moved = F.pad(small, (max(dx, 0), max(-dx, 0), max(dy, 0), max(-dy, 0)))
        moved = moved[..., max(-dy, 0) : max(-dy, 0) + side, max(-dx, 0) : max(-dx, 0) + side]
        soft = F.interpolate(moved, size=image.shape[-2:], mode='bilinear', align_corners=False)
        image[rows] *= 1 - float(strength[clip]) * soft
    return image


def _camera_effects(rng: np.random.Generator, image: Tensor, motion: Motion) -> Tensor:
    """Exposure and colour that drift, slight blur, sensor grain and block compression; (B, T, 3, S, S) in [0, 1]."""
    batch, device = len(image), image.device
    clock = motion.clock[:, None]
    gain = rng.uniform(0.75, 1.2, (batch, 1, 1)) * rng.normal(1, 0.06, (batch, 3, 1))
    drift = rng.uniform(0, 0.15, (batch, 1, 1)) * (rng.uniform(size=(batch, 1, 1)) < 0.5)
    rate, phase = rng.uniform(0.1, 0.8, (batch, 1, 1)), rng.uniform(0, 6, (batch, 1, 1))
    gain = gain * (1 + drift * np.sin(rate * clock + phase))
    image = image * _tensor(np.moveaxis(gain, 1, 2), device)[..., None, None]
    generator = torch.Generator(device).manual_seed(int(rng.integers(2**62)))
    for clip in range(batch):
        chance, grain = rng.uniform(), rng.uniform(0.003, 0.02)
        if chance < 0.35:
            image[clip] = _blur(rng, image[clip])
        elif chance < 0.5:
            image[clip] = _block_compression(image[clip], float(rng.uniform(0.02, 0.12)))
        if rng.uniform() < 0.4:
            image[clip] += grain * torch.randn(image[clip].shape, generator=generator, device=device)
    return image.clamp_(0, 1)


def _blur(rng: np.random.Generator, image: Tensor) -> Tensor:
    """Three-tap blur of (T, 3, S, S), in one random direction (motion) or in two crossed ones (defocus)."""
    side = image.shape[-1]
    reach = int(rng.integers(1, max(2, side // 100) + 1))
    x, y = ((1, 0), (0, 1), (1, 1), (1, -1))[int(rng.integers(4))]
    weight = float(rng.uniform(0.3, 0.7))
    for dx, dy in ((x, y), (-y, x))[: int(rng.integers(1, 3))]:
        padded = F.pad(image, (reach,) * 4, mode='replicate')
        ahead, behind = (
            padded[..., reach + s * dy * reach :, reach + s * dx * reach :][..., :side, :side] for s in (1, -1)
        )
        image = torch.lerp(image, 0.5 * (ahead + behind), weight)
    return image


def _block_compression(image: Tensor, step: float) -> Tensor:
    """Quantise the 8 x 8 cosine transform of (T, 3, S, S), coarser at high frequencies, as JPEG does."""
    index = torch.arange(8, device=image.device, dtype=torch.float32)
    basis = torch.cos(math.pi / 8 * (index[None] + 0.5) * index[:, None]) * 0.5
    basis[0] *= math.sqrt(0.5)
    frames, channels, height, width = image.shape
    blocks = image.reshape(frames, channels, height // 8, 8, width // 8, 8).transpose(3, 4)
    spectrum = basis @ blocks @ basis.T
    quantum = step * (1 + index[None] + index[:, None])
    blocks = basis.T @ (torch.round(spectrum / quantum) * quantum) @ basis
    return blocks.transpose(3, 4).reshape(frames, channels, height, width)
