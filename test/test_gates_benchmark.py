"""The picture of gates over time, and what is counted in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.gates import draw, follow, statistics
from robust_pvos_ros.evaluation.davis import AnnotatedFrame
from robust_pvos_ros.tracking.adapters import MogaConfig, inject
from robust_pvos_ros.tracking.compact import CompactConfig, build_compact
from robust_pvos_ros.tracking.model import Sam2Model

TINY = CompactConfig(
    image_size=128, trunk='conv', widths=(8, 16, 16, 16), depths=(1, 1, 1, 1), dim=32, mem_dim=16, attention_layers=1,
    feedforward=32,
)  # fmt: skip


def _clip(frames: int = 3) -> list[AnnotatedFrame]:
    labels = np.zeros((96, 128), np.uint8)
    labels[10:60, 5:50], labels[20:80, 70:120], labels[:4, :4] = 3, 7, 9
    pictures = np.random.default_rng(0).integers(0, 256, (frames, 96, 128, 3)).astype(np.uint8)
    return [AnnotatedFrame(index, picture, labels) for index, picture in enumerate(pictures)]


def test_gates_of_the_largest_objects_are_drawn(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sam = build_compact(TINY).requires_grad_(False)
    model = Sam2Model(sam, 'compact', inject(sam, MogaConfig(rank=8)))
    gates, seen = follow(model, _clip(), most=2)
    assert set(gates) == {3, 7} and len(seen) == 3
    assert all(g.shape == (3, 4, 8) and g.dtype == bool for g in gates.values())
    draw(gates, seen, 3, 'gates', tmp_path / 'gates.png')
    assert (tmp_path / 'gates.png').stat().st_size > 5000


def test_a_model_without_adapter_has_none() -> None:
    with pytest.raises(ValueError, match='has no adapter'):
        follow(Sam2Model(build_compact(TINY).requires_grad_(False), 'compact'), _clip(1), 1)


def test_shares_are_counted() -> None:
    one = np.array([[1, 1, 0, 0], [1, 0, 0, 0]], bool)[:, None]
    two = np.array([[1, 1, 0, 1], [1, 1, 0, 1]], bool)[:, None]
    assert statistics({1: one, 2: two}) == {
        'open': 9 / 16,
        'changed between frames': 1 / 8,
        'different between objects': 3 / 8,
        'never open': 1 / 4,
        'always open': 1 / 4,
    }
    assert statistics({1: one})['different between objects'] == 0
