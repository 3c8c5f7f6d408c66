"""The benchmark that mixes feature maps of clean and corrupted frames."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.reach import MIXES, mix, scores_of
from benchmarks.robustness import CLEAN, Case
from robust_pvos_ros.evaluation.davis import AnnotatedFrame
from robust_pvos_ros.tracking.checkpoints import shipped_weights
from robust_pvos_ros.tracking.encoder import EncoderOutput
from robust_pvos_ros.tracking.model import load_model
from robust_pvos_ros.tracking.types import ModelConfig


def test_mixed_maps_come_from_where_they_should() -> None:
    clean, corrupted = (EncoderOutput(*torch.full((3, 1), value)) for value in (1.0, 2.0))
    taken = {name: [float(x) for x in mix(clean, corrupted, fields)] for name, fields in MIXES.items()}
    assert taken == {
        'clean': [1, 1, 1], 'clean at stride 16': [2, 2, 1], 'clean at strides 4 and 8': [1, 1, 2],
        'corrupted': [2, 2, 2],
    }


@pytest.mark.skipif(not shipped_weights().is_file(), reason=f'{shipped_weights().name} is not there')
def test_a_corruption_costs_what_its_maps_cost() -> None:
    rng = np.random.default_rng(0)
    ground = rng.integers(60, 120, (64, 64, 3), np.uint8)
    clip = []
    for index in range(4):
        labels = np.zeros((64, 64), np.uint8)
        labels[20:44, 10 + 3 * index : 34 + 3 * index] = 1
        clip.append(AnnotatedFrame(index, np.where(labels[..., None] == 1, np.uint8(230), ground), labels))
    model = load_model(ModelConfig(threads=1))
    unharmed, noisy = (scores_of(model, {'clip': clip}, case) for case in (Case(CLEAN, 0, 0), Case('iso_noise', 5, 0)))
    assert len(set(unharmed.values())) == 1 and noisy['clean'] == unharmed['clean'] > 80
    assert noisy['corrupted'] < noisy['clean at stride 16'] - 10 and noisy['clean at stride 16'] != noisy['clean']
