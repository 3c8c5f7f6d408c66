"""What moves the weights: AdamW, and Muon for hidden layers where the configuration asks for it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from robust_pvos_ros.tracking.adapters import layer_norm_parameters
from training.config import Stage, TrainConfig
from training.muon import Muon, is_matching, suits_muon


def build_optimisers(model: nn.Module, auxiliary: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Optimisers of all parameters that learn; :func:`set_rates` gives them their rates before every step."""
    hidden: list[nn.Parameter] = []
    groups: dict[tuple[bool, bool, bool], list[nn.Parameter]] = {}
    apart = layer_norm_parameters(model) if config.adaptation.norm_pace != 1 else {}
    for name, parameter in [*model.named_parameters(), *auxiliary.named_parameters()]:
        if not parameter.requires_grad:
            continue
        matching = is_matching(name)
        if config.muon > 0 and suits_muon(name, parameter):
            hidden.append(parameter)
        else:
            key = matching, parameter.ndim >= 2 and not matching, name in apart
            groups.setdefault(key, []).append(parameter)
    decay = config.weight_decay
    adam = torch.optim.AdamW(
        [
            {'params': parameters, 'weight_decay': decay if decayed else 0.0, 'matching': matching, 'norms': norms}
            for (matching, decayed, norms), parameters in groups.items()
        ],
        lr=1e-3,
        betas=(0.9, 0.99),
        foreach=True,
    )
    return [adam, Muon(hidden, weight_decay=decay)] if hidden else [adam]


def set_rates(optimisers: Sequence[torch.optim.Optimizer], rate: float, stage: Stage, config: TrainConfig) -> None:
    """Give every group of parameters its learning rate; ``rate`` is that of a stage at this step."""
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            pace = stage.matching_pace if group.get('matching') else 1.0
            pace *= config.adaptation.norm_pace if group.get('norms') else 1.0
            group['lr'] = rate * (config.muon if isinstance(optimiser, Muon) else pace)
