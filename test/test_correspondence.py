"""Correspondence of rendered frames, the stream of clips, Muon, and training in several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from robust_pvos_ros.procedural.textures import TextureBank, make_bank
from robust_pvos_ros.procedural.video import Clips, render_clips
from training.correspondence import correspondence_loss, corresponding_points, matching_accuracy
from training.muon import Muon, orthogonalised, suits_muon
from training.stream import ClipRequest, ClipStream, flip

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope='module')
def bank() -> TextureBank:
    torch.set_num_threads(1)
    return make_bank(12, 64, seed=3)


@pytest.fixture(scope='module')
def clips(bank: TextureBank) -> Clips:
    return render_clips(12, 3, 96, 5, bank, scale=1.4)


def _colour_errors(clips: Clips) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Colour differences of cells to the place they come from and to their own place, and which cells are visible."""
    images = clips.images.float() / 255
    first = torch.zeros(len(images), dtype=torch.int64)
    places, visible = corresponding_points(clips, first, first + 2, 24)
    source = F.grid_sample(images[:, 0], places[:, None], align_corners=False)[:, :, 0]
    here, before = (F.adaptive_avg_pool2d(images[:, t], 24).flatten(2) for t in (2, 0))
    return (source - here).abs().mean(1), (before - here).abs().mean(1), visible


def test_points_come_from_where_their_colour_was(clips: Clips) -> None:
    warped, still, visible = _colour_errors(clips)
    assert 0.5 < visible.float().mean() < 1
    assert warped[visible].mean() < 0.5 * still[visible].mean()
    moving = visible & (clips.layers[:, 2, 2::4, 2::4].flatten(1) > 0)
    assert warped[moving].mean() < 0.5 * still[moving].mean()


@pytest.mark.parametrize(('mirror', 'reverse'), [(True, False), (False, True), (True, True)])
def test_flipped_clips_still_correspond(clips: Clips, mirror: bool, reverse: bool) -> None:
    warped, still, visible = _colour_errors(flip(clips, mirror, reverse))
    assert warped[visible].mean() < 0.5 * still[visible].mean()


def test_features_that_follow_the_content_match(clips: Clips) -> None:
    """Features made of layer coordinates are perfect; the same features of shuffled cells are not."""
    side, batch = 16, len(clips.images)
    cells = F.interpolate(clips.layers.float(), size=(side, side)).long()
    axis = (torch.arange(side) + 0.5) * (2 / side) - 1
    y, x = torch.meshgrid(axis, axis, indexing='ij')
    grid = torch.stack([x, y, torch.ones_like(x)], 0).flatten(1)
    maps = clips.maps.gather(2, cells.flatten(2)[..., None, None].expand(-1, -1, -1, 2, 3))
    content = torch.einsum('btnij,jn->btin', maps, grid)
    position = torch.cat([content, cells.flatten(2)[:, :, None].float()], 2).unflatten(-1, (side, side))
    frequency = torch.randn(3, 64, generator=torch.Generator().manual_seed(0)) * 6
    angle = torch.einsum('btchw,cd->btdhw', position, frequency)
    features = torch.cat([angle.cos(), angle.sin()], 2)
    assert matching_accuracy(features, clips) > 0.9
    shuffled = features.clone()
    shuffled[:, -1] = features[:, -1].flatten(2)[..., torch.randperm(side * side)].unflatten(-1, (side, side))
    assert matching_accuracy(shuffled, clips) < 0.2
    losses = [correspondence_loss(f, clips, torch.Generator().manual_seed(1)) for f in (features, shuffled)]
    assert batch == 12 and losses[0] < 0.5 * losses[1]


def test_the_stream_depends_on_seed_and_step_only() -> None:
    request = ClipRequest(2, 2, 32, 1.0, 1.0, 0.0, 0.0, 0.0, passes=2, window=3)
    streams = [ClipStream(seed, torch.device('cpu'), 4, 32, 2, False) for seed in (1, 1, 2)]
    steps = list(range(10, 18))
    first = [streams[0].batch(10, step, request).images for step in steps]
    for step in (17, 12):  # out of order, as after a resumption
        assert torch.equal(streams[1].batch(10, step, request).images, first[step - 10])
        assert not torch.equal(streams[2].batch(10, step, request).images, first[step - 10])
    distinct = {tuple(images.sort(-1).values.float().mean((-1, -2, -3)).flatten().tolist()) for images in first}
    assert len(distinct) > 4


def test_muon_updates_are_orthogonal() -> None:
    update = orthogonalised(torch.randn(48, 96, generator=torch.Generator().manual_seed(0)))
    values = torch.linalg.svdvals(update)
    assert values.min() > 0.5 and values.max() < 1.4
    tall = orthogonalised(torch.randn(96, 48, generator=torch.Generator().manual_seed(0)))
    assert tall.shape == (96, 48)


def test_muon_fits_a_convolution() -> None:
    torch.manual_seed(0)
    target, layer = (torch.nn.Conv2d(16, 32, 3, bias=False) for _ in range(2))
    optimiser = Muon(layer.parameters(), lr=2e-2, weight_decay=0.0)
    losses = []
    for _ in range(60):
        x = torch.randn(4, 16, 8, 8)
        loss = (layer(x) - target(x).detach()).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0]


def test_muon_takes_hidden_matrices_alone() -> None:
    def suits(name: str, *shape: int) -> bool:
        return suits_muon(name, torch.nn.Parameter(torch.zeros(shape)))

    assert suits('image_encoder.trunk.stages.0.0.conv1.weight', 48, 48, 3, 3)
    assert suits('memory_attention.layers.0.linear1.weight', 512, 128)
    assert not suits('image_encoder.trunk.stem.weight', 48, 3, 7, 7)
    assert not suits('memory_encoder.fuser.layers.0.dwconv.weight', 128, 1, 7, 7)
    assert not suits('memory_attention.layers.0.cross_attn_image.q_proj.weight', 128, 128)
    assert not suits('sam_mask_decoder.mask_tokens.weight', 4, 128)
    assert not suits('image_encoder.trunk.norms.0.weight', 48)


_TWO = """
import sys, torch
from training.config import TrainConfig
from training.parallel import average_gradients, make_fabric
torch.set_num_threads(1)
fabric = make_fabric(TrainConfig(device='cpu', devices=2, bfloat16=False))
fabric.launch()
layer = torch.nn.Linear(3, 2)
torch.nn.init.ones_(layer.weight)
unused = torch.nn.Parameter(torch.ones(2))
layer(torch.full((1, 3), float(fabric.global_rank + 1))).sum().backward()
if fabric.global_rank == 0:
    (2 * unused).sum().backward()
means = average_gradients(fabric, [*layer.parameters(), unused], 1.0 + fabric.global_rank, float(fabric.global_rank))
found = [average_gradients(fabric, (), 3.0), layer.weight.grad.tolist(), unused.grad.tolist(), means]
open(f'{sys.argv[1]}/{fabric.global_rank}', 'w').write(str(found))
from training.parallel import leave_processes
leave_processes()
"""


def test_two_processes_share_gradients(tmp_path: Path) -> None:
    script = tmp_path / 'two.py'
    script.write_text(_TWO)
    environment = os.environ | {'PYTHONPATH': str(ROOT)}
    ended = subprocess.run([sys.executable, script, tmp_path], env=environment, capture_output=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    for rank in '01':
        assert (tmp_path / rank).read_text() == '[[3.0], [[1.5, 1.5, 1.5], [1.5, 1.5, 1.5]], [1.0, 1.0], [1.5, 0.5]]'
