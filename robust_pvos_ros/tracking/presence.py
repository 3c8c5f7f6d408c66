"""Whether an object is there, and whether two objects claim the same pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from robust_pvos_ros.tracking.model import Decoded
from robust_pvos_ros.tracking.types import TrackerConfig


class Evidence(NamedTuple):
    """What a frame says of one object: score and predicted IoU in [0, 1], and whether its mask has any pixel."""

    score: float
    iou: float
    has_mask: bool


def evidence_of(decoded: Decoded) -> list[Evidence]:
    """Evidence for each of B objects, fetched from the device at once."""
    has_mask = (decoded.logits > 0).flatten(1).any(1)
    rows = torch.stack([decoded.score[:, 0].sigmoid(), decoded.iou, has_mask.float()], dim=1).tolist()
    return [Evidence(score, iou, bool(mask)) for score, iou, mask in rows]


def is_present(was_present: bool, evidence: Evidence, config: TrackerConfig) -> bool:
    """Whether an object is TRACKING on a frame; one that was not has to be surer by ``presence_margin``."""
    margin = 0.0 if was_present else config.presence_margin
    # a margin above what is left to 1 would keep an object out for ever
    score = min(config.presence_score + margin, (config.presence_score + 1) / 2)
    iou = min(config.presence_iou + margin, (config.presence_iou + 1) / 2)
    return evidence.has_mask and evidence.score >= score and evidence.iou >= iou


def contested(decoded: Sequence[Decoded], threshold: float) -> list[bool]:
    """Which objects must not learn from a frame because a surer object claims the same pixels.

    Args:
        decoded: of N objects on one frame, batch 1 each.
        threshold: IoU of two masks above which they claim the same pixels; 1 or more is never.

    Returns:
        N flags.  Of two equally sure objects the later one in the list waits.
    """
    if threshold >= 1 or len(decoded) < 2:
        return [False] * len(decoded)
    masks = (torch.cat([entry.logits for entry in decoded]) > 0).flatten(1).float()
    scores = torch.cat([entry.score[:, 0] for entry in decoded])
    shared = masks @ masks.T
    area = masks.sum(1)
    union = (area[:, None] + area[None] - shared).clamp_min(1)
    order = torch.arange(len(decoded), device=scores.device)
    surer = (scores[None] > scores[:, None]) | ((scores[None] == scores[:, None]) & (order[None] < order[:, None]))
    flags: list[bool] = ((shared / union > threshold) & surer).any(1).tolist()
    return flags
