"""A tiny model with random weights, for tests of what goes on around the network."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file

from robust_pvos_ros.tracking.compact import CompactConfig, build_compact

TINY = CompactConfig(
    image_size=128, trunk='conv', widths=(8, 16, 16, 16), depths=(1, 1, 1, 1), dim=32, mem_dim=16, attention_layers=1,
    feedforward=32,
)  # fmt: skip


def write_weights(path: Path, seed: int = 0) -> Path:
    """A tiny model with random weights that says 'visible' of everything, so that masks are not all empty."""
    torch.manual_seed(seed)
    model = build_compact(TINY)
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    for name, tensor in tensors.items():
        if 'pred_obj_score_head' in name and name.endswith('bias'):
            tensor += 4.0
    save_file(tensors, str(path), {'format': 'robust_pvos_compact', 'config': json.dumps(asdict(TINY))})
    return path
