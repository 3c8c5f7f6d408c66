"""What a camera does to a picture."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from robust_pvos_ros.procedural.motion import Motion
from robust_pvos_ros.procedural.placing import tensor


def camera_effects(rng: np.random.Generator, image: Tensor, motion: Motion) -> Tensor:
    """Grading, exposure and colour that drift, slight blur, grain and block compression; (B, T, 3, S, S) in [0, 1]."""
    batch, device = len(image), image.device
    clock = motion.clock[:, None]
    gain = rng.uniform(0.75, 1.2, (batch, 1, 1)) * rng.normal(1, 0.06, (batch, 3, 1))
    drift = rng.uniform(0, 0.15, (batch, 1, 1)) * (rng.uniform(size=(batch, 1, 1)) < 0.5)
    rate, phase = rng.uniform(0.1, 0.8, (batch, 1, 1)), rng.uniform(0, 6, (batch, 1, 1))
    gain = gain * (1 + drift * np.sin(rate * clock + phase))
    grey, middle = image.mean(2, keepdim=True), image.mean((1, 2, 3, 4), keepdim=True)
    muted = np.where(rng.uniform(size=batch) < 0.75, rng.uniform(0.2, 1.0, batch), 1.0)
    flat = rng.uniform(0.65, 1.1, batch)
    image = torch.lerp(grey, image, tensor(muted, device)[:, None, None, None, None])
    image = torch.lerp(middle, image, tensor(flat, device)[:, None, None, None, None])
    image = image * tensor(np.moveaxis(gain, 1, 2), device)[..., None, None]
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
