"""Held-out procedural clips: region similarity J of a model that is given the first mask, a click or a box."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor

from robust_pvos_ros.procedural.textures import TextureBank, make_bank
from robust_pvos_ros.procedural.video import render_clips
from training.losses import hard_iou
from training.model import LONG_VIDEO, normalise
from training.prompts import Rows, boxes, choose_objects

VALIDATION_SEED = 900_000_000


@torch.no_grad()
def follow_masks(model: SAM2Base, images: Tensor, clip: Tensor, first_masks: Tensor) -> Tensor:
    """Track objects with stock ``track_step`` from their masks on the first frame.

    Args:
        images: uint8 (B, T, 3, S, S); clip: int64 (N,) clip of each object; first_masks: (N, S, S), 0 or 1.

    Returns:
        float32 (N, T, S/4, S/4) mask logits; the first frame holds the given masks.
    """
    batch, frames = images.shape[:2]
    _, levels, positions, sizes = model._prepare_backbone_features(
        model.forward_image(normalise(images.flatten(0, 1)))
    )
    levels = [x.unflatten(1, (batch, frames)) for x in levels]
    positions = [x.unflatten(1, (batch, frames)) for x in positions]
    memory: dict[str, dict[int, Any]] = {'cond_frame_outputs': {}, 'non_cond_frame_outputs': {}}
    masks = []
    for frame in range(frames):
        output = model.track_step(
            frame_idx=frame,
            is_init_cond_frame=frame == 0,
            current_vision_feats=[x[:, clip, frame] for x in levels],
            current_vision_pos_embeds=[x[:, clip, frame] for x in positions],
            feat_sizes=sizes,
            point_inputs=None,
            mask_inputs=first_masks[:, None] if frame == 0 else None,
            output_dict=memory,
            num_frames=LONG_VIDEO,
        )
        memory['cond_frame_outputs' if frame == 0 else 'non_cond_frame_outputs'][frame] = output
        masks.append(output['pred_masks'][:, 0].float())
    return torch.stack(masks, 1)


@lru_cache(maxsize=1)
def validation_bank(device: str | torch.device = 'cpu') -> TextureBank:
    """The textures and actors of the held-out clips."""
    return make_bank(64, 192, VALIDATION_SEED, device, actors=32)


@torch.no_grad()
def prompted_masks(model: SAM2Base, images: Tensor, prompt: dict[str, Tensor]) -> Tensor:
    """Masks of objects pointed at on single images, by stock ``track_step``.

    Args:
        images: uint8 (N, 3, S, S); prompt: ``point_coords`` (N, P, 2) in pixels and ``point_labels`` (N, P).

    Returns:
        float32 (N, S/4, S/4) mask logits.
    """
    _, levels, positions, sizes = model._prepare_backbone_features(model.forward_image(normalise(images)))
    output = model.track_step(
        frame_idx=0,
        is_init_cond_frame=True,
        current_vision_feats=levels,
        current_vision_pos_embeds=positions,
        feat_sizes=sizes,
        point_inputs=prompt,
        mask_inputs=None,
        output_dict={},
        num_frames=1,
        run_mem_encoder=False,
    )
    logits: Tensor = output['pred_masks'][:, 0].float()
    return logits


def innermost_points(masks: Tensor) -> dict[str, Tensor]:
    """One foreground click on the pixel of each mask (N, S, S) that is farthest from anything outside it."""
    places = []
    for mask in masks.cpu().numpy().astype(np.uint8):
        distance = cv2.distanceTransform(np.pad(mask, 1), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
        y, x = np.unravel_index(int(distance.argmax()), distance.shape)
        places.append([[float(x), float(y)]])
    labels = torch.ones(len(masks), 1, dtype=torch.int32, device=masks.device)
    return {'point_coords': torch.tensor(places, device=masks.device), 'point_labels': labels}


class HeldOutScore(NamedTuple):
    """Mean J over the objects of held-out clips at the model's image size.

    Attributes:
        track: over the frames after a given first mask; point, box: of the prompted frame, after one click on the
            object's innermost pixel or its tight box.
    """

    track: float
    point: float
    box: float


def region_similarity(model: SAM2Base, bank: TextureBank, clips: int = 12, frames: int = 8) -> HeldOutScore:
    """J of a model on held-out clips."""
    was_training = model.training
    model.eval()
    scores: list[list[Tensor]] = [[], [], []]
    for start in range(0, clips, 4):
        images, ids = render_clips(4, frames, model.image_size, VALIDATION_SEED + start, bank)[:2]
        rows = choose_objects(ids, 2, np.random.default_rng(start), min_area=0.005)
        for found, score in zip(scores, _scores(model, images, rows, np.random.default_rng(start)), strict=True):
            found.append(score)
    model.train(was_training)
    return HeldOutScore(*(float(torch.cat(found).mean()) for found in scores))


def _scores(model: SAM2Base, images: Tensor, rows: Rows, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    first, start = rows.masks[:, 0], images[rows.clip, 0]
    prompts = innermost_points(first), boxes(first, rng, jitter=0.0)
    with torch.autocast(images.device.type, torch.bfloat16):
        tracked = follow_masks(model, images, rows.clip, first)
        point, box = (prompted_masks(model, start, prompt) for prompt in prompts)
    return (
        hard_iou(_full(tracked, rows.masks)[:, 1:], rows.masks[:, 1:]).mean(1),
        hard_iou(_full(point, first), first),
        hard_iou(_full(box, first), first),
    )


def _full(logits: Tensor, masks: Tensor) -> Tensor:
    """Logits (..., h, w) at the size of the masks (..., S, S)."""
    small = logits.flatten(0, -3)[:, None]
    full = torch.nn.functional.interpolate(small, size=masks.shape[-2:], mode='bilinear', align_corners=False)
    return full.view_as(masks)
