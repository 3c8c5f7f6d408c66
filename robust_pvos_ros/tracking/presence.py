"""Whether an object is there, and whether several objects claim the same pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from robust_pvos_ros.tracking.model import Decoded
from robust_pvos_ros.tracking.motion import Cells
from robust_pvos_ros.tracking.types import TrackerConfig


class Evidence(NamedTuple):
    """What a frame says of one object.

    Attributes:
        score, iou: object score and predicted IoU, in [0, 1]; cells: of its mask.
        spread: RMS distance of these cells from their centroid, cells.
    """

    score: float
    iou: float
    cells: Cells
    spread: float = 0.0

    @property
    def has_mask(self) -> bool:
        """Whether its mask has any pixel."""
        return self.cells.area > 0


def evidence_of(decoded: Sequence[Decoded]) -> tuple[list[Evidence], np.ndarray]:
    """Evidence for each object on a frame, batch 1 each, fetched from the device at once.

    Returns:
        evidence of N objects, and float32 (N, N): cells that two masks share.
    """
    if not decoded:
        return [], np.zeros((0, 0), np.float32)
    masks = (torch.cat([entry.logits[:, 0] for entry in decoded]) > 0).float()
    across, down = masks.sum(1), masks.sum(2)
    area = across.sum(1)
    count = area.clamp_min(1)
    column, row = (torch.arange(part.shape[1], device=part.device) for part in (across, down))
    x, y = (across * column).sum(1) / count, (down * row).sum(1) / count
    squares = ((across * column**2).sum(1) + (down * row**2).sum(1)) / count
    spread = (squares - x**2 - y**2).clamp_min(0).sqrt()
    score = torch.cat([entry.score[:, 0] for entry in decoded]).sigmoid()
    iou = torch.cat([entry.iou for entry in decoded])
    flat = masks.flatten(1)
    fetched = torch.cat([torch.stack([score, iou, area, x, y, spread], dim=1), flat @ flat.T], dim=1).cpu().numpy()
    rows = [Evidence(s, i, Cells(cells, (cx, cy)), wide) for s, i, cells, cx, cy, wide in fetched[:, :6].tolist()]
    return rows, fetched[:, 6:]


def is_present(was_present: bool, evidence: Evidence, config: TrackerConfig) -> bool:
    """Whether an object is TRACKING on a frame; one that was not has to be surer by ``presence_margin``."""
    margin = 0.0 if was_present else config.presence_margin
    # a margin above what is left to 1 would keep an object out for ever
    score = min(config.presence_score + margin, (config.presence_score + 1) / 2)
    iou = min(config.presence_iou + margin, (config.presence_iou + 1) / 2)
    return evidence.has_mask and evidence.score >= score and evidence.iou >= iou


def contested(evidence: Sequence[Evidence], shared: np.ndarray, threshold: float) -> list[bool]:
    """Which objects must not learn from a frame because a surer object claims the same pixels.

    Args:
        evidence, shared: of N objects on one frame, see :func:`evidence_of`.
        threshold: IoU of two masks above which they claim the same pixels; 1 or more is never.

    Returns:
        N flags.  Of two equally sure objects the later one in the list waits.
    """
    if threshold >= 1 or len(evidence) < 2:
        return [False] * len(evidence)
    area = np.array([one.cells.area for one in evidence])
    score = np.array([one.score for one in evidence])
    order = np.arange(len(evidence))
    surer = (score[None] > score[:, None]) | ((score[None] == score[:, None]) & (order[None] < order[:, None]))
    union = np.maximum(area[:, None] + area[None] - shared, 1)
    flags: list[bool] = ((shared / union > threshold) & surer).any(1).tolist()
    return flags
