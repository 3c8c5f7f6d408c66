"""A frozen base that looks at clean frames and shows a model that learns what it should see in corrupted ones.

A corruption costs what it does to the features after memory attention, and these are what an adapter changes.  The base
follows the same objects through the same clips before they are corrupted; how far the features are from its own is a
loss with a target in every cell, and where a clip is not corrupted it holds what learns to what the base does already.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from training.config import TrainConfig
from training.model import ClipModel, PromptMix, Supervised
from training.prompts import Rows
from training.start import build_clip_model, read_initial_weights


class Teacher:
    """The model that a run begins from, without an adapter.

    Args:
        config: of the run; its ``init`` names the weights.
        size: pixels of the frames.
        device: where it computes.
    """

    def __init__(self, config: TrainConfig, size: int, device: torch.device) -> None:
        self.model: ClipModel = build_clip_model(config, size)
        read_initial_weights(self.model, config)
        self.model = self.model.to(device).eval().requires_grad_(False)

    @torch.no_grad()
    def follow(self, images: Tensor, rows: Rows, mix: PromptMix, rng: np.random.Generator) -> list[Supervised]:
        """What :class:`ClipModel` gives for clean clips, uint8 (B, T, 3, S, S), with the prompts that ``rng`` draws."""
        outputs: list[Supervised] = self.model(images, rows, mix, rng)[0]
        return outputs


def sight_loss(outputs: Sequence[Supervised], shown: Sequence[Supervised]) -> Tensor:
    """Mean squared difference of the features after memory attention, over the variance of those of the teacher.

    Args:
        outputs: of the model that learns; shown: of the teacher for the same frames and objects.
    """
    losses = []
    for own, other in zip(outputs, shown, strict=True):
        if own.conditioned is None or other.conditioned is None:
            continue
        target = other.conditioned.float()
        losses.append((own.conditioned.float() - target).square().mean() / target.var().clamp(min=1e-6))
    return torch.stack(losses).mean() if losses else torch.zeros(())
