"""What a tracker is given, checked and in the form that the model takes."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from robust_pvos_ros.tracking.history import ObjectRow, StreamFrame
from robust_pvos_ros.tracking.model import BOX_LABELS
from robust_pvos_ros.tracking.types import MAX_POINTS, FrameError, Prompt


def check_rgb(rgb: np.ndarray) -> None:
    """Raises ``FrameError`` unless ``rgb`` is uint8 (H, W, 3) with at least one pixel."""
    if not isinstance(rgb, np.ndarray) or rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        got = f'{rgb.dtype} {rgb.shape}' if isinstance(rgb, np.ndarray) else type(rgb).__name__
        raise FrameError(f'an image must be a uint8 array of shape (H, W, 3), got {got}')
    if 0 in rgb.shape:
        raise FrameError(f'an image must have at least one pixel, got {rgb.shape[1]}x{rgb.shape[0]}')


def model_mask(mask: np.ndarray, side: int, device: torch.device) -> Tensor:
    """bool (H, W) -> float32 (1, 1, S, S) of 0 and 1, as ``SAM2VideoPredictor.add_new_mask``; ``side`` is S, pixels."""
    size = (side, side)
    full = torch.from_numpy(np.ascontiguousarray(mask)).to(device).float()[None, None]
    if mask.shape == size:
        return full
    small = F.interpolate(full, size=size, mode='bilinear', align_corners=False, antialias=True) >= 0.5
    if not bool(small.any()):
        # An object thinner than a model pixel would vanish; its densest pixel stands for it.
        small = F.adaptive_max_pool2d(full, size) > 0
    return small.float()


def model_points(entry: ObjectRow, prompt: Prompt, frame: StreamFrame, side: int) -> tuple[Tensor, Tensor]:
    """Points and box of a prompt; clicks on the same frame add up until a box starts anew.

    Args:
        entry: the prompted object; prompt: in pixels of ``frame``; side: of the model image, pixels.

    Returns:
        float32 (1, P, 2) in pixels of the model image, and labels int32 (1, P), on the device of ``entry``.
    """
    device = entry.points.device
    coordinates, labels = prompt.points, prompt.point_labels
    if prompt.box is not None:
        coordinates = np.concatenate([prompt.box.reshape(2, 2), coordinates])
        labels = np.concatenate([np.array(BOX_LABELS, np.int32), labels])
    scale = np.array([side / frame.width, side / frame.height], np.float32)
    points = torch.from_numpy(coordinates * scale)[None].to(device)
    point_labels = torch.from_numpy(labels)[None].to(device)
    if prompt.box is None and entry.prompt_frame == frame.index:
        points = torch.cat([entry.points, points], dim=1)
        point_labels = torch.cat([entry.point_labels, point_labels], dim=1)
    corners = 2 if bool((point_labels[:, :1] == BOX_LABELS[0]).any()) else 0  # a box stays when old clicks go
    kept = [*range(corners), *range(max(corners, points.shape[1] - MAX_POINTS), points.shape[1])]
    return points[:, kept], point_labels[:, kept]
