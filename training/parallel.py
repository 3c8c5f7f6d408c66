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
    """Replace every gradient by its mean over the processes.

    A missing one counts as zero, unless it is missing in all of them: then it stays missing, and no optimiser touches
    the parameter.

    Returns:
        the means of ``values``, equal in all processes.
    """
    if fabric.world_size == 1:
        return list(values)
    owners = list(parameters)
    gradients = [torch.zeros_like(x) if x.grad is None else x.grad for x in owners]
    extra = [*(float(x.grad is not None) for x in owners), *values]
    flat = torch.cat([*(g.flatten() for g in gradients), torch.tensor(extra, device=fabric.device)])
    reduced = fabric.all_reduce(flat, reduce_op='mean')
    assert isinstance(reduced, torch.Tensor)
    parts = list(reduced.split([*(g.numel() for g in gradients), len(owners), len(values)]))
    held = parts[-2].tolist()
    for parameter, gradient, part, share in zip(owners, gradients, parts[:-2], held, strict=True):
        parameter.grad = gradient.copy_(part.view_as(gradient)) if share > 0 else None
    return [float(value) for value in parts[-1]]


def leave_processes() -> None:
    """End the communication of :func:`make_fabric`; at the end of the interpreter its threads may abort a process."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
