"""Held-out procedural clips: region similarity J of a model that is given the first mask."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor

from robust_pvos_ros.procedural.textures import TextureBank, make_bank
from robust_pvos_ros.procedural.video import render_clips
from training.losses import hard_iou
from training.model import POINTER_FRAMES, normalise
from training.prompts import choose_objects

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
            num_frames=POINTER_FRAMES,
        )
        memory['cond_frame_outputs' if frame == 0 else 'non_cond_frame_outputs'][frame] = output
        masks.append(output['pred_masks'][:, 0].float())
    return torch.stack(masks, 1)


def validation_bank(device: str | torch.device = 'cpu') -> TextureBank:
    """The textures of the held-out clips."""
    return make_bank(64, 160, VALIDATION_SEED, device)


def region_similarity(model: SAM2Base, bank: TextureBank, clips: int = 12, frames: int = 8) -> float:
    """Mean J over the objects and frames of held-out clips, first frame excluded, at the model's image size."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    scores = []
    for start in range(0, clips, 4):
        images, ids = render_clips(4, frames, model.image_size, VALIDATION_SEED + start, bank)[:2]
        rows = choose_objects(ids, 2, np.random.default_rng(start), min_area=0.005)
        with torch.autocast(device.type, torch.bfloat16):
            logits = follow_masks(model, images, rows.clip, rows.masks[:, 0])
        full = torch.nn.functional.interpolate(
            logits.flatten(0, 1)[:, None], size=images.shape[-2:], mode='bilinear', align_corners=False
        ).view_as(rows.masks)
        scores.append(hard_iou(full[:, 1:], rows.masks[:, 1:]).mean(1))
    model.train(was_training)
    return float(torch.cat(scores).mean())
