"""Several processes that train one model: gradients are averaged after every step (torch.distributed)."""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Workers:
    """The processes of a run, as ``torchrun`` describes them in the environment; without it there is one."""

    def __init__(self, device: torch.device) -> None:
        self.count = int(os.environ.get('WORLD_SIZE', '1'))
        self.rank = int(os.environ.get('RANK', '0'))
        self._device = device
        if self.count > 1 and not dist.is_initialized():
            dist.init_process_group('nccl' if device.type == 'cuda' else 'gloo')

    @property
    def leads(self) -> bool:
        """Whether this process writes checkpoints and logs."""
        return self.rank == 0

    def average(self, parameters: Iterable[nn.Parameter], *values: float) -> list[float]:
        """Replace every gradient by its mean over the processes; a missing one counts as zero.

        Returns:
            the means of ``values``, equal in all processes.
        """
        if self.count == 1:
            return list(values)
        owners = list(parameters)
        for parameter in owners:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in owners if parameter.grad is not None]
        extra = torch.tensor(values, device=self._device, dtype=torch.float32)
        flat = torch.cat([*(gradient.flatten() for gradient in gradients), extra])
        dist.all_reduce(flat)
        flat /= self.count
        parts: list[Tensor] = list(flat.split([*(gradient.numel() for gradient in gradients), len(values)]))
        if gradients:
            torch._foreach_copy_(gradients, [part.view_as(g) for part, g in zip(parts[:-1], gradients)])
        return [float(value) for value in parts[-1]]

    def close(self) -> None:
        """Leave the group of processes."""
        if self.count > 1 and dist.is_initialized():
            dist.destroy_process_group()
