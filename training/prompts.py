"""Prompts for training: which objects of a clip are followed, and how they are pointed at on the first frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


class NoObjectError(ValueError):
    """No clip of a batch shows an object on its first frame."""


@dataclass
class Rows:
    """N objects followed through their clips.

    Attributes:
        clip: int64 (N,) index of the clip of each object.
        masks: float32 (N, T, S, S) ground truth, 0 or 1.
    """

    clip: Tensor
    masks: Tensor


def choose_objects(ids: Tensor, per_clip: int, rng: np.random.Generator, min_area: float = 0.003) -> Rows:
    """Pick up to ``per_clip`` objects of every clip that cover at least ``min_area`` of the first frame.

    Args:
        ids: uint8 (B, T, S, S) object IDs, 0 background.

    Raises:
        NoObjectError: if no clip of the batch shows such an object on its first frame.
    """
    clips, chosen = [], []
    pixels = ids.shape[-1] * ids.shape[-2]
    for clip in range(ids.shape[0]):
        area = torch.bincount(ids[clip, 0].flatten().long(), minlength=2).tolist()
        candidates = [i for i in range(1, len(area)) if area[i] >= min_area * pixels]
        for index in rng.permutation(len(candidates))[:per_clip]:
            clips.append(clip)
            chosen.append(candidates[index])
    if not clips:
        raise NoObjectError('no object of the batch is visible on the first frame')
    clip_index = torch.tensor(clips, device=ids.device)
    wanted = torch.tensor(chosen, device=ids.device, dtype=ids.dtype)[:, None, None, None]
    return Rows(clip_index, (ids[clip_index] == wanted).float())


def boxes(masks: Tensor, rng: np.random.Generator, jitter: float = 0.08) -> dict[str, Tensor]:
    """Jittered bounding boxes of masks (N, S, S) as SAM 2's pair of corner points with labels 2 and 3."""
    side = masks.shape[-1]
    corners = []
    for mask in masks:
        rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
        low = np.array([columns[0].item(), rows[0].item()], float)
        high = np.array([columns[-1].item(), rows[-1].item()], float) + 1
        noise = jitter * (high - low) * rng.uniform(-1, 1, (2, 2))
        corners.append(np.clip(np.stack([low, high]) + noise, 0, side))
    coords = torch.from_numpy(np.stack(corners)).float().to(masks.device)
    labels = torch.tensor([[2, 3]], dtype=torch.int32, device=masks.device).expand(len(masks), -1)
    return {'point_coords': coords, 'point_labels': labels}


def points(masks: Tensor, count: int, rng: np.random.Generator, inner: float = 0.5) -> dict[str, Tensor]:
    """``count`` foreground points in each mask (N, S, S), label 1; with chance ``inner`` away from the border."""
    blurred = F.avg_pool2d(masks[:, None], 9, 1, 4)[:, 0]
    coords = np.zeros((len(masks), count, 2))
    for row, mask in enumerate(masks):
        pixels = mask.nonzero()
        for column in range(count):
            tries = pixels[torch.from_numpy(rng.integers(len(pixels), size=8 if rng.uniform() < inner else 1))]
            y, x = tries[blurred[row][tries[:, 0], tries[:, 1]].argmax()].tolist()
            coords[row, column] = x, y
    labels = torch.ones(len(masks), count, dtype=torch.int32, device=masks.device)
    return {'point_coords': torch.from_numpy(coords).float().to(masks.device), 'point_labels': labels}


def correction(
    prompt: dict[str, Tensor], predicted: Tensor, masks: Tensor, rng: np.random.Generator
) -> dict[str, Tensor]:
    """Add a point where ``predicted`` (N, S, S) logits disagree with ``masks``: label 1 if missed, 0 if too much."""
    wrong = (predicted > 0) != (masks > 0.5)
    coords, labels = np.zeros((len(masks), 1, 2)), np.ones((len(masks), 1), np.int32)
    for row in range(len(masks)):
        pixels = (wrong[row] if wrong[row].any() else masks[row] > 0.5).nonzero()
        y, x = pixels[int(rng.integers(len(pixels)))].tolist()
        coords[row, 0], labels[row, 0] = (x, y), int(masks[row, y, x] > 0.5)
    device = masks.device
    return {
        'point_coords': torch.cat([prompt['point_coords'], torch.from_numpy(coords).float().to(device)], 1),
        'point_labels': torch.cat([prompt['point_labels'], torch.from_numpy(labels).to(device)], 1),
    }


def spoil(masks: Tensor, rng: np.random.Generator) -> Tensor:
    """Imperfect masks (N, S, S): grown, shrunk, shifted or with rough borders; a mask that would vanish stays."""
    side = masks.shape[-1]
    spoilt = masks.clone()
    for row in range(len(masks)):
        mask, kind = masks[row : row + 1, None], int(rng.integers(4))
        reach = int(rng.integers(1, max(2, side // 42) + 1))
        if kind == 0:
            mask = F.max_pool2d(mask, 2 * reach + 1, 1, reach)
        elif kind == 1:
            mask = 1 - F.max_pool2d(1 - mask, 2 * reach + 1, 1, reach)
        elif kind == 2:
            dy, dx = (int(v) for v in rng.integers(-reach, reach + 1, 2))
            padded = F.pad(mask, (reach,) * 4)
            mask = padded[..., reach + dy : reach + dy + side, reach + dx : reach + dx + side]
        else:
            noise = torch.from_numpy(rng.standard_normal((1, 1, side // 8, side // 8)).astype(np.float32))
            noise = F.interpolate(noise.to(mask.device), size=(side, side), mode='bicubic', align_corners=False)
            mask = (F.avg_pool2d(mask, 2 * reach + 1, 1, reach) + 0.25 * noise > 0.5).float()
        if mask.sum() > 8:
            spoilt[row] = mask[0, 0]
    return spoilt
