"""Several processes that train one model: gradients are averaged after every step."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from lightning_fabric import Fabric
from torch import nn

from training.config import TrainConfig


def make_fabric(config: TrainConfig) -> Fabric:
    """Device, precision and processes of a run; call ``launch`` on it first.

    Without ``torchrun`` Fabric starts the other processes of this machine itself.
    """
    return Fabric(
        accelerator=config.device,
        devices=config.devices,
        num_nodes=config.nodes,
        strategy='ddp' if config.devices * config.nodes > 1 else 'auto',
        precision='bf16-mixed' if config.bfloat16 else '32-true',
    )


def average_gradients(fabric: Fabric, parameters: Iterable[nn.Parameter], *values: float) -> list[float]:
    """Replace every gradient by its mean over the processes; a missing one counts as zero.

    Returns:
        the means of ``values``, equal in all processes.
    """
    if fabric.world_size == 1:
        return list(values)
    owners = list(parameters)
    for parameter in owners:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in owners if parameter.grad is not None]
    extra = torch.tensor(values, device=fabric.device, dtype=torch.float32)
    flat = torch.cat([*(gradient.flatten() for gradient in gradients), extra])
    reduced = fabric.all_reduce(flat, reduce_op='mean')
    assert isinstance(reduced, torch.Tensor)
    parts = list(reduced.split([*(gradient.numel() for gradient in gradients), len(values)]))
    if gradients:
        torch._foreach_copy_(gradients, [part.view_as(g) for part, g in zip(parts[:-1], gradients)])
    return [float(value) for value in parts[-1]]
