"""Training of adapters: which weights learn, and clips that are corrupted on the way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor, nn

from robust_pvos_ros.corruption.corruption import KINDS, ClipCorruption, CorruptionSpec
from robust_pvos_ros.tracking.adapters import MogaAdapter, MogaConfig, inject, layer_norm_parameters


@dataclass
class Adaptation:
    """What of the model learns.

    Attributes:
        trains: ``model``, all of it and no adapter; or ``adapter``, only an adapter on top of the frozen model.
        layer_norms: let the model's LayerNorms learn with the adapter, as in the paper.
        norm_pace: their learning rate, as a share of that of all else.
        final_temperature: of the gates at the end of a stage with ``anneal``; they begin at ``moga.temperature``.
        gate_spread: standard deviation that the logits of every gate are given over what it sees, before the first
            step; 0 leaves the gates as they were initialised.  See :func:`calibrate_gates`.
        moga: the adapter; its ``conditioning: none`` makes it plain LoRA.
    """

    trains: str = 'model'
    layer_norms: bool = True
    norm_pace: float = 1.0
    final_temperature: float = 0.1
    gate_spread: float = 0.0
    moga: MogaConfig = field(default_factory=MogaConfig)

    def __post_init__(self) -> None:
        if self.trains not in ('model', 'adapter'):
            raise ValueError(f"adaptation.trains must be 'model' or 'adapter', got {self.trains!r}")
        if not 0 < self.norm_pace <= 1:
            raise ValueError(f'adaptation.norm_pace must be above 0 and at most 1, got {self.norm_pace}')
        if self.gate_spread < 0:
            raise ValueError(f'adaptation.gate_spread must be 0 or more, got {self.gate_spread}')


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


@contextmanager
def watched_gates(adapter: MogaAdapter) -> Iterator[list[Tensor]]:
    """Collects what the gates see, (N, C) of every pass of the memory attention."""
    seen: list[Tensor] = []
    condition = adapter.condition

    def watch(pointers: Tensor | None, frame: Tensor | None = None) -> None:
        if adapter.config.conditioning == 'frame' and frame is not None:
            seen.append(frame.detach().float())
        elif pointers is not None:
            mean = adapter.config.conditioning == 'memory'
            seen.append((pointers.mean(1) if mean else pointers.flatten(0, 1)).detach().float())
        condition(pointers, frame)

    adapter.condition = watch  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        del adapter.condition


@torch.no_grad()
def calibrate_gates(adapter: MogaAdapter, inputs: Tensor, spread: float) -> None:
    """Let gates that know nothing yet differ between what they see: the start of MoGA's gate MLPs, set by data.

    Object pointers share a large mean, and the logits of a fresh MLP differ between objects by far less than the Gumbel
    noise of equation 3, so its gates are noise until they have learnt to be anything else.  Its first layer is made to
    see standardised inputs, its last one to give logits of mean 0 and standard deviation ``spread`` over ``inputs``.

    Args:
        inputs: (N, C) what gates see, N of some hundred.
    """
    mean, deviation = inputs.mean(0), inputs.std(0).clamp(min=1e-4 * float(inputs.std()))
    for layer in adapter.layers.values():
        if layer.gate is None:
            continue
        linears = [module for module in layer.gate.modules() if isinstance(module, nn.Linear)]
        first, last = linears[0], linears[-1]
        first.weight.mul_(3**0.5 / deviation)  # rows of a fresh linear layer have a third of unit variance
        first.bias.sub_(first.weight @ mean)
        logits = layer.gate(inputs)
        scale = spread / logits.std(0).clamp(min=1e-6)
        last.weight.mul_(scale[:, None])
        last.bias.copy_((last.bias - logits.mean(0)) * scale)


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
