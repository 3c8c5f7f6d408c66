"""Training of adapters: which weights learn, and clips that are corrupted on the way."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor

from robust_pvos_ros.corruption.corruption import KINDS, ClipCorruption, CorruptionSpec
from robust_pvos_ros.tracking.adapters import MogaAdapter, MogaConfig, inject, layer_norm_parameters


@dataclass
class Adaptation:
    """What of the model learns.

    Attributes:
        trains: ``model``, all of it and no adapter; or ``adapter``, only an adapter on top of the frozen model.
        layer_norms: let the model's LayerNorms learn with the adapter, as in the paper.
        final_temperature: of the gates at the end of a stage with ``anneal``; they begin at ``moga.temperature``.
        moga: the adapter; its ``conditioning: none`` makes it plain LoRA.
    """

    trains: str = 'model'
    layer_norms: bool = True
    final_temperature: float = 0.1
    moga: MogaConfig = field(default_factory=MogaConfig)

    def __post_init__(self) -> None:
        if self.trains not in ('model', 'adapter'):
            raise ValueError(f"adaptation.trains must be 'model' or 'adapter', got {self.trains!r}")


def equip(sam: SAM2Base, adaptation: Adaptation) -> MogaAdapter | None:
    """Put the adapter into ``sam``, in place, and freeze what does not learn; None where the whole model does."""
    if adaptation.trains == 'model':
        return None
    adapter = inject(sam, adaptation.moga)
    sam.requires_grad_(False)
    for layer in adapter.layers.values():
        layer.requires_grad_(True)
        layer.base.requires_grad_(False)
    if adaptation.layer_norms:
        for parameter in layer_norm_parameters(sam).values():
            parameter.requires_grad_(True)
    return adapter


def corrupt_clips(
    images: Tensor, share: float, severities: tuple[float, float], rng: np.random.Generator
) -> Tensor:
    """Corrupt some clips of a batch, each in one random way.

    Args:
        images: uint8 (B, T, 3, S, S), left as it is.
        share: of the clips that are corrupted.
        severities: bounds of the mean severity, drawn evenly.

    Returns:
        uint8 (B, T, 3, S, S).
    """
    clips = []
    for clip in images:
        kind, severity = str(rng.choice(list(KINDS))), float(rng.uniform(*severities))
        seed, begin = int(rng.integers(2**31)), int(rng.integers(1000))
        if rng.uniform() < share:
            corruption = ClipCorruption([CorruptionSpec(kind, severity)], seed)
            clip = torch.stack([corruption(frame, begin + index) for index, frame in enumerate(clip)])
        clips.append(clip)
    return torch.stack(clips)
