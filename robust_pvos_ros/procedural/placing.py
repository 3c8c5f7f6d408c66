"""Affine maps that put pictures into pictures."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def tensor(values: np.ndarray, device: torch.device) -> Tensor:
    """``values`` as float32 on ``device``."""
    return torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(device)


def placement(
    position: np.ndarray, scale: np.ndarray, angle: np.ndarray, stretch: np.ndarray | float = 1.0
) -> np.ndarray:
    """Maps (K, 2, 3) from image to canvas coordinates that put a canvas at ``position``.

    Args:
        position: (K, 2); scale: (K,) half height of the canvas; angle: (K,) radians; stretch: (K,) width over height.
    """
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    theta = np.empty((len(scale), 2, 3))
    theta[:, 0, 0], theta[:, 0, 1], theta[:, 1, 0], theta[:, 1, 1] = cos, sin, -sin, cos
    theta[:, 0, :2] /= np.reshape(stretch, (-1, 1))
    theta[..., 2] = -np.einsum('kij,kj->ki', theta[..., :2], position)
    return theta


def affine_grid(theta: np.ndarray, side: int, device: torch.device) -> Tensor:
    """Sampling grid (K, side, side, 2) of K affine maps (K, 2, 3); several times faster than ``F.affine_grid``."""
    maps = tensor(theta, device)[:, :, :, None, None]
    axis = (torch.arange(side, device=device) + 0.5) * (2 / side) - 1
    return torch.stack(
        [maps[:, row, 0] * axis + (maps[:, row, 1] * axis[:, None] + maps[:, row, 2]) for row in range(2)], -1
    )
