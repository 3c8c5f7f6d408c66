"""The memory benchmark on a short run with a small model."""

from __future__ import annotations

import json
import mmap
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from benchmarks import memory as benchmark
from robust_pvos_ros.tracking.compact import CompactConfig, build_compact
from robust_pvos_ros.tracking.model import load_model
from robust_pvos_ros.tracking.tracker import VideoTracker
from robust_pvos_ros.tracking.types import ModelConfig, TrackerConfig


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small compact model with random weights."""
    torch.manual_seed(0)
    config = CompactConfig(image_size=128, embed_dim=16, stages=(1, 1, 2, 1), global_blocks=(3,), dim=64, mem_dim=32)
    path = tmp_path_factory.mktemp('weights') / 'random.safetensors'
    tensors = {name: tensor.contiguous() for name, tensor in build_compact(config).state_dict().items()}
    save_file(tensors, str(path), {'format': 'robust_pvos_compact', 'config': json.dumps(asdict(config))})
    return path


def test_discs_leave_the_view_and_return():
    scene = benchmark.Scene()
    seen = np.array([[scene.mask(number, index).any() for number in range(4)] for index in range(0, 1000, 5)])
    assert 0.5 < seen.mean() < 0.95
    for column in seen.T:
        changes = np.flatnonzero(np.diff(column.astype(int)))
        assert len(changes) >= 4, 'out and in at least twice'
    assert not (scene.frame(0) == scene.frame(30)).all()


def test_schedule_adds_removes_and_refines(checkpoint):
    model = load_model(ModelConfig(checkpoint=str(checkpoint), device='cpu'))
    tracker = VideoTracker(model, TrackerConfig(max_objects=4))
    schedule = benchmark.Schedule(tracker, benchmark.Scene())
    counts = []
    for index in range(1, 136):
        schedule.step(index)
        counts.append(len(tracker.objects))
    assert counts[-1] == schedule.added - schedule.removed
    assert max(counts) == 4 and schedule.removed >= 1 and schedule.refined >= 3
    assert schedule.added > 4 and tracker.objects[-1].object_id == schedule.added


def test_growth_beyond_the_limit_fails(checkpoint, capsys):
    arguments = ['--checkpoint', str(checkpoint), '--device', 'cpu', '--frames', '30', '--warmup', '10']
    assert benchmark.main([*arguments, '--limit', '10000']) == 0
    printed = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r'growth -?\d+\.\d MB', printed[-1])
    assert [line.split()[0] for line in printed[1:-1]] == ['10', '30']
    assert benchmark.main([*arguments, '--limit', '-10000']) == 1
    assert benchmark.main(['--checkpoint', 'none.safetensors']) == 2
    with pytest.raises(SystemExit):
        benchmark.main(['--frames', '10', '--warmup', '10'])


def test_a_leak_shows(checkpoint, monkeypatch):
    """A tracker that keeps every frame it is given has grown by their size at the end of the run."""
    kept = []
    original = VideoTracker.step

    def step(self, rgb, stamp, prompts=()):
        block = mmap.mmap(-1, 8 * rgb.nbytes)  # from the system: the heap may have resident room
        block.write(8 * rgb.tobytes())
        kept.append(block)
        return original(self, rgb, stamp, prompts)

    monkeypatch.setattr(VideoTracker, 'step', step)
    model = load_model(ModelConfig(checkpoint=str(checkpoint), device='cpu'))
    tracker = VideoTracker(model, TrackerConfig(max_objects=4))
    leaked = 40 * kept_megabytes()
    assert benchmark.measure(tracker, frames=50, warmup=10) > 0.8 * leaked


def kept_megabytes() -> float:
    return 8 * benchmark.WIDTH * benchmark.HEIGHT * 3 / benchmark.MEGABYTE
