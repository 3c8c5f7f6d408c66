"""Muon: momentum made orthogonal by Newton-Schulz iteration (Jordan et al. 2024), for weights that are matrices.

``torch.optim.Muon`` takes matrices only; here convolutions count as matrices of output channels by all the rest.
Updates are scaled to the root mean square of AdamW's (Liu et al. 2025), so that both share learning rates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalised(matrix: Tensor, steps: int = 5) -> Tensor:
    """float32 (m, n) with the singular vectors of ``matrix`` and singular values near 1, computed in bfloat16."""
    a, b, c = _COEFFICIENTS
    wide = matrix.shape[0] <= matrix.shape[1]
    x = (matrix if wide else matrix.T).bfloat16()
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x if wide else x.T).float()


class Muon(torch.optim.Optimizer):
    """Args:
    params: weights (m, ...) with at least two dimensions; lr, momentum, weight_decay: as in ``torch.optim.Muon``.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float = 1e-3, momentum: float = 0.95, weight_decay: float = 0.1
    ) -> None:
        super().__init__(params, {'lr': lr, 'momentum': momentum, 'weight_decay': weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update with Nesterov momentum."""
        for group in self.param_groups:
            for parameter in group['params']:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def _update(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        assert parameter.grad is not None
        state = self.state[parameter]
        if 'momentum' not in state:
            state['momentum'] = torch.zeros_like(parameter)
        state['momentum'].lerp_(parameter.grad, 1 - group['momentum'])
        ahead = parameter.grad.lerp(state['momentum'], group['momentum']).flatten(1)
        update = orthogonalised(ahead) * (0.2 * max(ahead.shape) ** 0.5)
        parameter.mul_(1 - group['lr'] * group['weight_decay'])
        parameter.add_(update.view_as(parameter), alpha=-group['lr'])


def is_matching(name: str) -> bool:
    """Query and key projections of the memory attention, which a stage may train more slowly; not adapters on them."""
    parts = name.split('.')
    return parts[0] == 'memory_attention' and parts[-2] in ('q_proj', 'k_proj')


def suits_muon(name: str, parameter: nn.Parameter) -> bool:
    """Hidden layers, as opposed to embeddings, first and last layers, depthwise kernels and small projections."""
    if parameter.ndim < 2 or not name.endswith('weight') or min(parameter.shape[0], parameter[0].numel()) < 32:
        return False
    if parameter.ndim == 4 and parameter.shape[1] < 16:
        return False
    heads = ('embed', 'token', 'hypernetworks', 'prediction_head', 'pred_obj_score', 'upscaling', 'stem')
    return not is_matching(name) and not any(part in name for part in heads)
