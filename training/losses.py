"""Losses of SAM 2's video training: focal, dice, IoU and occlusion (Ravi et al. 2024, appendix D.2.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass
class LossWeights:
    """Weights of the four terms and the shape of the focal one; the defaults are SAM 2's.

    Terms SAM 2 lacks: ``correspondence`` weighs the matching of the image features and ``attention`` that of the
    memory attention (:mod:`training.correspondence`); ``auxiliary`` weighs the mask that a linear layer, dropped after
    training, reads from the features after memory attention.  ``mask`` and ``click`` weigh all terms of prompted
    frames; the decoder's answer to a mask prompt is not used at inference, but its object pointer is.  ``teacher``
    weighs how far the features are from those of the base on clean frames (:mod:`training.teacher`).
    """

    focal: float = 20.0
    dice: float = 1.0
    iou: float = 1.0
    occlusion: float = 1.0
    alpha: float = 0.25
    gamma: float = 2.0
    correspondence: float = 0.0
    auxiliary: float = 0.0
    attention: float = 0.0
    mask: float = 1.0
    click: float = 1.0
    teacher: float = 0.0


def focal_loss(logits: Tensor, target: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Sigmoid focal loss (Lin et al. 2017), mean over the last two dimensions.

    Args:
        logits: float (..., h, w); target: float (..., h, w) in [0, 1], soft at borders.
    """
    probability = logits.sigmoid()
    agreement = probability * target + (1 - probability) * (1 - target)
    weight = alpha * target + (1 - alpha) * (1 - target)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction='none')
    return (weight * (1 - agreement) ** gamma * cross_entropy).mean((-2, -1))


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """1 - Dice coefficient over the last two dimensions, smoothed by one pixel; same shapes as :func:`focal_loss`."""
    probability = logits.sigmoid()
    overlap = 2 * (probability * target).sum((-2, -1))
    return 1 - (overlap + 1) / (probability.sum((-2, -1)) + target.sum((-2, -1)) + 1)


def hard_iou(logits: Tensor, target: Tensor) -> Tensor:
    """Intersection over union of ``logits > 0`` and ``target > 0.5`` over the last two dimensions; 1 if both empty."""
    predicted, wanted = logits > 0, target > 0.5
    union = (predicted | wanted).sum((-2, -1))
    return torch.where(union > 0, (predicted & wanted).sum((-2, -1)) / union.clamp(min=1), 1.0)


def frame_loss(
    logits_nmhw: Tensor, ious_nm: Tensor, score_n1: Tensor, target_nhw: Tensor, weights: LossWeights | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of N objects on one frame with M candidate masks each; only the best candidate's mask is trained.

    Where the object is not visible (empty target) mask and IoU terms are left out and only occlusion is trained.

    Args:
        logits_nmhw: raw mask logits, not replaced where the object score is negative.
        ious_nm: predicted IoUs in [0, 1]; score_n1: object score logits; target_nhw: float masks in [0, 1].

    Returns:
        scalar loss and the unweighted terms by name.
    """
    weights = weights or LossWeights()
    logits = logits_nmhw.float()
    target = target_nhw[:, None].float().expand_as(logits)
    visible = (target_nhw > 0.5).flatten(1).any(1).float()
    focal = focal_loss(logits, target, weights.alpha, weights.gamma)
    dice = dice_loss(logits, target)
    best = (weights.focal * focal + weights.dice * dice).detach().argmin(1, keepdim=True)
    iou = (ious_nm.float() - hard_iou(logits.detach(), target)).abs().mean(1)
    terms = {
        'focal': (focal.gather(1, best)[:, 0] * visible).mean(),
        'dice': (dice.gather(1, best)[:, 0] * visible).mean(),
        'iou': (iou * visible).mean(),
        'occlusion': F.binary_cross_entropy_with_logits(score_n1[:, 0].float(), visible),
    }
    total = torch.stack([getattr(weights, name) * value for name, value in terms.items()]).sum()
    return total, {name: value.detach() for name, value in terms.items()}


def rough_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy and dice, scalar, of an auxiliary mask; logits and target float (N, h, w)."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits.float(), target)
    return cross_entropy + dice_loss(logits.float(), target).mean()
