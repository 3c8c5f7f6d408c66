"""From low-resolution mask logits to masks, label image and measurements at the camera's resolution."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from robust_pvos_ros.tracking.history import ObjectRow, StreamFrame
from robust_pvos_ros.tracking.staging import upload
from robust_pvos_ros.tracking.types import FrameResult, ObjectState, TrackedObject


class MaskMeasure(NamedTuple):
    """Half-open box (x0, y0, x1, y1), centroid (x, y) and area of a mask, in pixels; all 0 where it is empty."""

    box: tuple[int, int, int, int]
    centroid: tuple[float, float]
    area: int


EMPTY = MaskMeasure((0, 0, 0, 0), (0.0, 0.0), 0)
RENDERED_AT_ONCE = 8
"""Objects whose logits a GPU holds at the camera's resolution at the same time."""


@lru_cache(maxsize=16)
def _bilinear_matrix(source: int, target: int) -> Tensor:
    """float32 (target, source): ``F.interpolate(mode='bilinear', align_corners=False)`` along one axis."""
    position = np.maximum((np.arange(target, dtype=np.float64) + 0.5) * (source / target) - 0.5, 0)
    low = np.minimum(position.astype(np.int64), source - 1)
    weight = position - low
    matrix = np.zeros((target, source), np.float64)
    rows = np.arange(target)
    matrix[rows, low] += 1 - weight
    matrix[rows, np.minimum(low + 1, source - 1)] += weight
    return torch.from_numpy(matrix.astype(np.float32))


def _reach(positive: np.ndarray, target: int) -> slice:
    """Pixels of the target axis that an interpolation can turn positive, given which source cells are."""
    cells = np.flatnonzero(positive)
    scale = target / len(positive)
    return slice(max(0, int((cells[0] - 0.5) * scale)), min(target, int(np.ceil((cells[-1] + 1.5) * scale))))


def render_masks(logits: np.ndarray, ids: list[int], height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Upsample logits bilinearly, as ``SAM2VideoPredictor`` does, and cut them at zero.

    Interpolated values are convex combinations, so only pixels next to positive cells are computed.

    Args:
        logits: float32 (N, h, w).
        ids: the N object IDs.
        height, width: of the camera image.

    Returns:
        masks bool (N, H, W), and the label image uint16 (H, W) in which the highest logit wins.
    """
    masks = np.zeros((len(logits), height, width), bool)
    labels = np.zeros((height, width), np.uint16)
    best: np.ndarray | None = None
    for mask, object_logits, object_id in zip(masks, logits, ids, strict=True):
        positive = object_logits > 0
        if not positive.any():
            continue
        rows = _reach(positive.any(1), height)
        columns = _reach(positive.any(0), width)
        # torch's product and not NumPy's, whose idle threads would spin on the cores that others need
        across = _bilinear_matrix(logits.shape[1], height)[rows] @ torch.from_numpy(object_logits)
        value = (across @ _bilinear_matrix(logits.shape[2], width)[columns].T).numpy()
        if best is None:
            best = np.zeros((height, width), np.float32)
        np.greater(value, 0, out=mask[rows, columns])
        region = best[rows, columns]
        wins = value > region
        np.copyto(region, value, where=wins)
        np.copyto(labels[rows, columns], object_id, where=wins, casting='unsafe')
    return masks, labels


def _fetch(*tensors: Tensor) -> list[np.ndarray]:
    """The tensors on the host; a GPU is waited for once."""
    if not tensors[0].is_cuda:
        return [x.numpy() for x in tensors]
    copies = [torch.empty(x.shape, dtype=x.dtype, pin_memory=True) for x in tensors]
    for copy, x in zip(copies, tensors, strict=True):
        copy.copy_(x, non_blocking=True)
    torch.cuda.current_stream(tensors[0].device).synchronize()
    return [copy.numpy() for copy in copies]


def render_on_gpu(logits: Tensor, ids: list[int], height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`render_masks` where the logits are, with what :func:`measure_profile` needs.

    Args:
        logits: float32 (N, h, w), N > 0; ids: the N object IDs; height, width: of the camera image.

    Returns:
        masks bool (N, H, W); label image int16 (H, W), the bits of uint16; number of mask pixels in each row and then
        each column, int64 (N, H + W).
    """
    masks = logits.new_empty(len(logits), height, width, dtype=torch.bool)
    labels = logits.new_zeros(height, width, dtype=torch.int32)
    best = logits.new_zeros(height, width)
    numbers = upload(torch.tensor(ids, dtype=torch.int32), logits.device)
    for start in range(0, len(logits), RENDERED_AT_ONCE):
        at = slice(start, start + RENDERED_AT_ONCE)
        values = F.interpolate(logits[None, at], size=(height, width), mode='bilinear', align_corners=False)[0]
        torch.gt(values, 0, out=masks[at])
        highest, place = values.max(0)
        labels = torch.where(highest > best, numbers[at][place], labels)
        best = torch.maximum(best, highest)
    return masks, labels.to(torch.int16), torch.cat([masks.sum(2), masks.sum(1)], dim=1)


def measure_profile(rows: np.ndarray, columns: np.ndarray) -> MaskMeasure:
    """:func:`measure` from the number of mask pixels in each row and in each column."""
    area = int(rows.sum())
    if area == 0:
        return EMPTY
    across, down = np.flatnonzero(columns), np.flatnonzero(rows)
    box = int(across[0]), int(down[0]), int(across[-1]) + 1, int(down[-1]) + 1
    centroid = (float((profile * np.arange(len(profile))).sum() / area) for profile in (columns, rows))
    return MaskMeasure(box, (next(centroid), next(centroid)), area)


def measure(mask: np.ndarray) -> MaskMeasure:
    """Box, centroid and area of a bool (H, W) mask."""
    moments = cv2.moments(mask.view(np.uint8), binaryImage=True)
    area = int(moments['m00'])
    if area == 0:
        return EMPTY
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    return MaskMeasure((x, y, x + width, y + height), (moments['m10'] / area, moments['m01'] / area), area)


def note_place(entry: ObjectRow, frame: StreamFrame) -> None:
    """Let a row learn where its mask lies on ``frame``, which the mask belongs to; nothing where it is not present."""
    if entry.present:
        logits = entry.decoded.logits[:, 0].cpu().numpy()
        masks, _ = render_masks(logits, [entry.object_id], frame.height, frame.width)
        _note_box(entry, measure(masks[0]), frame)


def _note_box(entry: ObjectRow, found: MaskMeasure, frame: StreamFrame) -> None:
    if found.area:
        x0, y0, x1, y1 = found.box
        entry.last_box = x0 / frame.width, y0 / frame.height, x1 / frame.width, y1 / frame.height


def describe(
    entry: ObjectRow, found: MaskMeasure, score: float, iou: float, frame: StreamFrame, lost_after: int
) -> TrackedObject:
    """One object as of ``frame``; its row learns where it was last seen.

    Args:
        found: measures of its mask; score: of the object's presence, 0 to 1; iou: as the decoder predicts it.
        lost_after: frames without being TRACKING after which OCCLUDED becomes LOST.
    """
    present = entry.present and found.area > 0
    unseen = 0 if present else max(0, frame.index - entry.last_seen_frame)
    state = ObjectState.TRACKING
    if present:
        _note_box(entry, found, frame)
    else:
        state = ObjectState.LOST if unseen >= lost_after else ObjectState.OCCLUDED
    return TrackedObject(
        object_id=entry.object_id,
        label=entry.label,
        state=state,
        object_score=score,
        predicted_iou=min(max(iou, 0.0), 1.0),
        box=found.box,
        centroid=found.centroid,
        area_px=found.area,
        frames_since_seen=unseen,
        mask_stamp=entry.mask_stamp,
    )


def build_result(
    entries: Sequence[ObjectRow], frame: StreamFrame, logits_side: int, lost_after: int, prompted: tuple[int, ...] = ()
) -> FrameResult:
    """Everything about a frame.

    Args:
        entries: the objects in ascending ID.
        logits_side: of the decoder's square logits, for a frame without objects.
        lost_after: see :func:`describe`; prompted: see ``FrameResult``.
    """
    logits = np.zeros((0, logits_side, logits_side), np.float32)
    scores = ious = np.zeros(0, np.float32)
    ids, size = [entry.object_id for entry in entries], (frame.height, frame.width)
    on_gpu = bool(entries) and entries[0].decoded.logits.is_cuda
    if entries:
        low = torch.cat([entry.decoded.logits[:, 0] for entry in entries])
        sure = torch.cat([entry.decoded.score[:, 0] for entry in entries]).sigmoid()
        good = torch.cat([entry.decoded.iou for entry in entries])
        rendered = render_on_gpu(low, ids, *size) if on_gpu else ()
        logits, scores, ious, *rest = _fetch(low, sure, good, *rendered)
    if on_gpu:
        masks, bits, profiles = rest
        labels = bits.view(np.uint16)
        measures = [measure_profile(one[: frame.height], one[frame.height :]) for one in profiles]
    else:
        masks, labels = render_masks(logits, ids, *size)
        measures = [measure(mask) for mask in masks]
    objects = tuple(
        describe(entry, found, float(score), float(iou), frame, lost_after)
        for entry, found, score, iou in zip(entries, measures, scores, ious, strict=True)
    )
    return FrameResult(frame.stamp, frame.index, frame.height, frame.width, objects, logits, masks, labels, prompted)
