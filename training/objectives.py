"""What a training step minimises: the loss of a batch of clips, and the means that are logged with it."""

from __future__ import annotations

from copy import deepcopy
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from robust_pvos_ros.procedural.video import Clips
from training.correspondence import attention_loss, correspondence_loss
from training.datasets import LabelledClips
from training.losses import LossWeights, frame_loss, hard_iou, rough_loss
from training.model import ClipModel, PromptMix, Supervised, normalise
from training.prompts import NoObjectError, Rows, choose_objects
from training.teacher import Teacher, sight_loss

Objective = tuple[Tensor, dict[str, float]]


class Lesson(NamedTuple):
    """A teacher, and the clips before they were corrupted, uint8 (B, T, 3, S, S)."""

    teacher: Teacher
    images: Tensor


def matching_objective(model: ClipModel, clips: Clips, generator: torch.Generator) -> Objective:
    """The encoder alone: where every cell of a frame lies in another frame of the clip."""
    features = model.image_encoder(normalise(clips.images.flatten(0, 1)))['backbone_fpn']
    loss = _correspondence(features, clips, generator)
    return loss, {'correspondence': float(loss.detach())}


def mask_objective(
    model: ClipModel,
    auxiliary: torch.nn.Module,
    clips: Clips | LabelledClips,
    objects: int,
    mix: PromptMix,
    weights: LossWeights,
    rng: np.random.Generator,
    generator: torch.Generator,
    lesson: Lesson | None = None,
) -> Objective:
    """Objects followed through clips from all kinds of prompts.

    Args:
        auxiliary: reads 16 mask logits from each conditioned cell, (N, C, h, h) -> (N, 16, h, h).
        objects: most objects of a clip.
        rng: draws objects and prompts; generator: draws the cells that are matched.
        lesson: where a teacher has a say.

    Returns:
        the mean over all decoder outputs, and unweighted terms; ``J_<task>`` are mean IoUs where the object is visible,
        ``J_still`` what repeating the first mask would reach.  Zero and no terms where no clip begins with an object.
    """
    try:
        rows = choose_objects(clips.ids, objects, rng)
    except NoObjectError:
        return torch.zeros((), device=clips.ids.device, requires_grad=True), {}
    rendered = clips if isinstance(clips, Clips) else None
    shown = lesson.teacher.follow(lesson.images, rows, mix, deepcopy(rng)) if lesson is not None else []
    outputs, features = model(clips.images, rows, mix, rng, rendered is not None and weights.attention > 0)
    quarter = F.avg_pool2d(rows.masks, 4)
    losses, terms = [], []
    reached: dict[str, list[float]] = {}
    for output in outputs:
        target = quarter[output.rows, output.frame]
        loss, parts = _output_loss(output, target, auxiliary, weights, rendered, rows)
        losses.append(loss * getattr(weights, output.task, 1.0))
        terms.append(parts)
        for name, value in _reached(output, target, quarter[output.rows, 0]).items():
            reached.setdefault(name, []).append(value)
    total = torch.stack(losses).mean()
    means = {k: float(torch.stack([t[k] for t in terms if k in t]).mean()) for k in set().union(*terms)}
    means |= {k: float(np.mean(v)) for k, v in reached.items()}
    if rendered is not None and weights.correspondence > 0 and clips.images.shape[1] > 1:
        matching = _correspondence(features, rendered, generator)
        means['correspondence'] = float(matching.detach())
        total = total + weights.correspondence * matching
    if lesson is not None:
        missed = sight_loss(outputs, shown)
        means['teacher'] = float(missed.detach())
        total = total + weights.teacher * missed
    return total, means


def _output_loss(
    output: Supervised,
    target: Tensor,
    auxiliary: torch.nn.Module,
    weights: LossWeights,
    rendered: Clips | None,
    rows: Rows,
) -> tuple[Tensor, dict[str, Tensor]]:
    decoded = output.decoded
    loss, parts = frame_loss(decoded.logits, decoded.ious, decoded.score, target, weights)
    if output.conditioned is not None and weights.auxiliary > 0:
        rough = F.pixel_shuffle(auxiliary(output.conditioned), 4)
        loss = loss + weights.auxiliary * rough_loss(rough[:, 0], target)
    if rendered is not None and output.attention:
        missed = torch.stack([attention_loss(x, rendered, rows.clip, output.frame) for x in output.attention]).mean()
        loss = loss + weights.attention * missed
        parts['attention'] = missed.detach()
    return loss, parts


def _reached(output: Supervised, target: Tensor, first: Tensor) -> dict[str, float]:
    """Mean IoU of the visible objects of one decoder output."""
    visible = (target > 0.5).flatten(1).any(1)
    if not visible.any():
        return {}
    decoded = output.decoded
    best = decoded.logits.detach()[torch.arange(len(target)), decoded.ious.argmax(1)]
    found = {f'J_{output.task}': float(hard_iou(best, target)[visible].mean())}
    if output.task == 'track':
        found['J_still'] = float(hard_iou(first - 0.5, target)[visible].mean())
    return found


def _correspondence(features: list[Tensor], clips: Clips, generator: torch.Generator) -> Tensor:
    """Matching loss of the feature maps at strides 8 and 16, (B * T, C, h, h) each."""
    shape = clips.images.shape[:2]
    eighth, sixteenth = (correspondence_loss(x.unflatten(0, shape), clips, generator) for x in features[1:3])
    return sixteenth + 0.5 * eighth
