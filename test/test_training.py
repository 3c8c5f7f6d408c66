"""Training: losses on hand-made cases, prompts, a step that learns, exact resumption, export."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from dataset_folders import write_davis
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors import safe_open
from safetensors.torch import load_file
from sam2.modeling.position_encoding import apply_rotary_enc

from robust_pvos_ros.procedural.textures import TextureBank, make_bank
from robust_pvos_ros.procedural.video import render_clips
from robust_pvos_ros.tracking.compact import CompactConfig, build_compact
from training.config import Dataset, Stage, TrainConfig, load_config
from training.export_weights import export
from training.losses import LossWeights, dice_loss, focal_loss, frame_loss, hard_iou
from training.matching import attention_inputs, calibrate_matching, canonical_projections
from training.model import ClipModel, PromptMix
from training.prompts import Rows, boxes, choose_objects, correction, points, spoil
from training.start import CompactClipModel
from training.train import Trainer
from training.validate import VALIDATION_SEED, follow_masks, innermost_points, region_similarity

ROOT = Path(__file__).parents[1]
TINY = CompactConfig(
    image_size=128, embed_dim=8, stages=(1, 1, 2, 1), global_blocks=(3,), dim=32, mem_dim=16, attention_layers=1,
    feedforward=32,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def _square(side: int = 32, low: int = 8, high: int = 24) -> torch.Tensor:
    mask = torch.zeros(1, side, side)
    mask[:, low:high, low:high] = 1
    return mask


def test_losses_of_a_perfect_and_an_inverted_mask() -> None:
    mask = _square()
    perfect, inverted = mask * 40 - 20, 20 - mask * 40
    assert focal_loss(perfect, mask) < 1e-6 and dice_loss(perfect, mask) < 1e-3
    assert dice_loss(inverted, mask) > 0.99
    # one quarter of the pixels is foreground, every pixel costs its class weight times 20
    assert torch.isclose(focal_loss(inverted, mask)[0], torch.tensor(20 * (0.25 * 0.25 + 0.75 * 0.75)), rtol=1e-3)


def test_hard_iou_by_hand() -> None:
    a, b = _square(), _square(low=8, high=16)
    assert hard_iou(a * 2 - 1, b)[0] == pytest.approx(64 / 256)
    assert hard_iou(torch.full((1, 4, 4), -1.0), torch.zeros(1, 4, 4))[0] == 1


def test_only_the_best_candidate_is_trained() -> None:
    mask = _square()
    logits = torch.stack([mask[0] * 2 - 1, 1 - mask[0] * 2, torch.zeros(32, 32)])[None].requires_grad_()
    loss, terms = frame_loss(logits, torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[3.0]]), mask)
    loss.backward()
    gradient = logits.grad.abs().sum((-2, -1))[0]
    assert gradient[0] > 0 and gradient[1] == 0 and gradient[2] == 0
    assert terms['iou'] == pytest.approx(0.0)


def test_an_absent_object_trains_occlusion_alone() -> None:
    logits = torch.randn(1, 1, 32, 32, requires_grad=True)
    score = torch.tensor([[4.0]], requires_grad=True)
    loss, terms = frame_loss(logits, torch.tensor([[0.5]]), score, torch.zeros(1, 32, 32))
    loss.backward()
    assert logits.grad is None or not logits.grad.any()
    assert score.grad.item() > 0 and terms['occlusion'] == pytest.approx(4.018, abs=1e-3)


def test_loss_weights_follow_the_config() -> None:
    arguments = torch.zeros(1, 1, 32, 32), torch.tensor([[0.5]]), torch.zeros(1, 1), _square()
    full, terms = frame_loss(*arguments)
    no_dice, _ = frame_loss(*arguments, LossWeights(dice=0.0))
    assert torch.isclose(full - no_dice, terms['dice'])


def test_choose_objects_takes_visible_ones() -> None:
    ids = torch.zeros(2, 2, 32, 32, dtype=torch.uint8)
    ids[0, :, 4:20, 4:20] = 3
    ids[0, :, 30, 30] = 4
    ids[1, 1, 4:20, 4:20] = 1
    rows = choose_objects(ids, 2, np.random.default_rng(0))
    assert rows.clip.tolist() == [0] and rows.masks.sum() == 2 * 256
    with pytest.raises(ValueError, match='first frame'):
        choose_objects(ids[1:], 2, np.random.default_rng(0))


def test_prompts_point_at_the_mask() -> None:
    rng, mask = np.random.default_rng(0), _square(64, 16, 40)
    exact = boxes(mask, rng, jitter=0.0)
    assert exact['point_coords'].tolist() == [[[16, 16], [40, 40]]] and exact['point_labels'].tolist() == [[2, 3]]
    clicks = points(mask, 3, rng)
    x, y = clicks['point_coords'][0].long().T
    assert mask[0, y, x].all() and (clicks['point_labels'] == 1).all()
    fixed = correction(clicks, torch.ones(1, 64, 64), mask, rng)
    x, y = fixed['point_coords'][0, -1].long()
    assert fixed['point_labels'][0, -1] == 0 and not mask[0, y, x]
    spoilt = spoil(mask.repeat(20, 1, 1), rng)
    ious = hard_iou(spoilt * 2 - 1, mask.expand(20, -1, -1))
    assert (ious > 0.5).all() and (ious < 1).any()


def _trainer(run: Path, steps: int = 4, **options: object) -> Trainer:
    stages = [
        Stage(name='a', frames=2, clips=2, objects=1, steps=steps, lr=2e-3, passes=2, window=2),
        Stage(name='b', frames=3, clips=1, objects=1, steps=steps, decay=True, calibrate=True, matching_pace=0.1),
    ]
    options.setdefault('losses', LossWeights(auxiliary=0.5, correspondence=0.1))
    config = TrainConfig(
        threads=1, bfloat16=False, warmup=1, bank=6, bank_size=48, actors=2, bank_every=3, model=TINY, stages=stages,
        **options,
    )
    return Trainer(config, run)


def test_a_run_cut_in_two_equals_an_uncut_one(tmp_path: Path) -> None:
    whole = _trainer(tmp_path / 'whole')
    while whole.advance():
        whole.train_step()
    part = _trainer(tmp_path / 'cut')
    for _ in range(3):
        assert part.advance()
        part.train_step()
    part.save()
    resumed = _trainer(tmp_path / 'cut')
    assert resumed.progress.step == 3
    while resumed.advance():
        resumed.train_step()
    assert resumed.progress.step == whole.progress.step == 8
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    for name, value in whole.average.items():
        assert torch.equal(value, resumed.average[name]), name


@pytest.mark.slow
def test_the_command_trains_in_two_processes_stops_and_goes_on(tmp_path: Path) -> None:
    config = {
        'device': 'cpu', 'devices': 2, 'threads': 1, 'bfloat16': False, 'log_steps': 2, 'validate_clips': 4,
        'bank': 6, 'bank_size': 48, 'actors': 2, 'model': asdict(TINY),
        'stages': [{'name': 'a', 'frames': 2, 'clips': 1, 'objects': 1, 'steps': 60}],
    }  # fmt: skip
    file, run = tmp_path / 'config.yaml', tmp_path / 'run'
    OmegaConf.save(OmegaConf.create(config), file)
    command = [sys.executable, '-m', 'training.train', '--config', str(file), '--run', str(run)]
    first = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert first.stderr is not None
    for line in first.stderr:
        if 'stage a' in line:
            break
    first.send_signal(signal.SIGTERM)
    assert first.wait(60) == 0
    begun = torch.load(run / 'last.pt', weights_only=True)['progress']['step']
    assert 2 <= begun < 60
    again = subprocess.run([*command, f'stages.0.steps={begun + 4}'], cwd=ROOT, capture_output=True, timeout=120)
    assert again.returncode == 0, again.stderr
    assert torch.load(run / 'last.pt', weights_only=True)['progress']['step'] == begun + 4
    text = (run / 'log.txt').read_text()
    assert f'resumed from {run / "last.pt"} at step {begun}' in text and text.count('validation at') == 1
    assert list((run / 'tensorboard').iterdir())


def test_twenty_steps_lower_the_loss(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path, steps=20)
    trainer.config.stages[0].passes = 20
    losses = [trainer.train_step()[0]['loss'] for _ in range(20)]
    assert np.isfinite(losses).all()
    assert np.mean(losses[-4:]) < 0.8 * np.mean(losses[:4])


def test_recorded_clips_take_their_share(tmp_path: Path) -> None:
    root = write_davis(tmp_path / 'davis')
    trainer = _trainer(tmp_path / 'run', steps=6, data=[Dataset(str(root))], max_stride=1)
    trainer.config.stages[0].recorded = 0.5
    kinds = []
    for _ in range(6):
        clips = trainer._batch()
        kinds.append(type(clips).__name__)
        assert clips.images.shape == (2, 2, 3, 128, 128) and clips.ids.shape == (2, 2, 128, 128)
        terms, _ = trainer.train_step()
        assert np.isfinite(terms['loss']) and ('correspondence' in terms) == (kinds[-1] == 'Clips')
    assert set(kinds) == {'Clips', 'LabelledClips'}


@pytest.mark.parametrize(
    'wrong',
    [
        'stages.0.task=clip', 'stages.0.recorded=0.5', 'stages.0.recorded=2', 'stages.0.frames=0',
        'stages.0.corrupted=1.5', 'stages.0.minutes=0', 'validate_clips=-1',
    ],
)
def test_wrong_stages_are_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong.split('.')[-1].split('=')[0]):
        load_config(overrides=[wrong])


def test_a_run_without_validation_ends(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path, steps=1, validate_clips=0)
    trainer.fit()
    assert trainer.progress.step == 2 and not trainer.progress.validation and (tmp_path / 'last.pt').is_file()


def test_a_batch_without_objects_changes_nothing(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path)
    clips = trainer._batch()
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    with mock.patch.object(trainer, '_batch', return_value=clips._replace(ids=torch.zeros_like(clips.ids))):
        terms, _ = trainer.train_step()
    assert terms['loss'] == 0 and trainer.progress.step == 1
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())


def test_a_stage_of_still_images_trains(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path)
    trainer.config.stages[0].frames = 1
    terms, _ = trainer.train_step()
    assert np.isfinite(terms['loss']) and 'J_track' not in terms and 'correspondence' not in terms


def test_every_parameter_is_trained(tmp_path: Path) -> None:
    """Over all kinds of prompts each weight gets a gradient, except those that only other settings use."""
    trainer = _trainer(tmp_path)
    model = trainer.model
    images, ids = trainer._batch()[:2]
    rows = choose_objects(ids, 2, np.random.default_rng(0), min_area=0.0005)
    rows.masks[:, -1] = 0
    for mask, kind in ((1.0, 'box'), (0.0, 'box'), (0.0, 'one_point'), (0.0, 'corrected')):
        odds = {name: float(name == kind) for name in ('box', 'one_point', 'points', 'corrected')}
        outputs, _ = model(images, rows, PromptMix(mask=mask, **odds), np.random.default_rng(1))
        total = sum(o.decoded.logits.square().mean() + o.decoded.ious.mean() + o.decoded.score.mean() for o in outputs)
        total.backward()
    missing = {name for name, p in model.named_parameters() if p.grad is None}
    assert missing <= {'no_mem_pos_enc', 'no_obj_ptr', 'no_obj_embed_spatial'}, missing


def test_training_forward_equals_stock_tracking() -> None:
    """With a mask prompt and no spoiling the training forward gives what ``track_step`` gives at inference."""
    torch.manual_seed(0)
    model = CompactClipModel(TINY).eval()
    images = torch.randint(0, 255, (1, 3, 3, 128, 128), dtype=torch.uint8)
    masks = _square(128, 32, 80)[:, None].repeat(1, 3, 1, 1)
    rows = Rows(torch.tensor([0]), masks)
    seed = next(s for s in range(50) if _plain_draws(s))
    with torch.no_grad():
        outputs, _ = model(images, rows, PromptMix(mask=1.0, imperfect=0.0), np.random.default_rng(seed))
        stock = follow_masks(model, images, rows.clip, rows.masks[:, 0])
    tracked = torch.stack([o.decoded.logits[:, 0] for o in outputs if o.frame > 0], 1)
    assert outputs[-1].decoded.score.min() > 0
    assert torch.allclose(tracked, stock[:, 1:], atol=1e-4)


def test_practised_clicks_are_not_remembered() -> None:
    torch.manual_seed(0)
    model = CompactClipModel(TINY).eval()
    images = torch.randint(0, 255, (1, 2, 3, 128, 128), dtype=torch.uint8)
    rows = Rows(torch.tensor([0]), _square(128, 32, 80)[:, None].repeat(1, 2, 1, 1))
    with torch.no_grad():
        plain, _ = model(images, rows, PromptMix(mask=1.0), np.random.default_rng(3))
        more, _ = model(images, rows, PromptMix(mask=1.0, extra=2), np.random.default_rng(3))
    assert [o.task for o in plain] == ['mask', 'track']
    assert [o.task for o in more] == ['mask', 'click', 'click', 'track']
    assert torch.equal(plain[-1].decoded.logits, more[-1].decoded.logits)


def test_a_revisited_frame_is_corrected_and_remembered_as_prompted() -> None:
    torch.manual_seed(0)
    model = CompactClipModel(TINY).eval()
    images = torch.randint(0, 255, (1, 3, 3, 128, 128), dtype=torch.uint8)
    masks = _square(128, 32, 80)[:, None].repeat(1, 3, 1, 1)
    mix, seen = PromptMix(mask=1.0, revisited=1.0), []
    with torch.no_grad():
        for seed in range(6):
            outputs, _ = model(images, Rows(torch.tensor([0]), masks), mix, np.random.default_rng(seed))
            [at] = [o.frame for o in outputs if o.task == 'click']
            seen.append(at)
            assert [o.frame for o in outputs if o.task == 'track'] == [1, 2]
        masks[:, 1:] = 0  # nothing to click on
        outputs, _ = model(images, Rows(torch.tensor([0]), masks), mix, np.random.default_rng(0))
    assert set(seen) == {1, 2}
    assert 'click' not in [o.task for o in outputs]


def _plain_draws(seed: int) -> bool:
    """Whether the forward draws no time gap and remembers the full-size mask with this seed."""
    rng = np.random.default_rng(seed)
    return bool(rng.uniform() >= 0.4 and rng.uniform(size=1) < 1 and rng.uniform() >= 0 and rng.uniform() >= 0.7)


def test_held_out_scores_see_better_prompts_and_masks(tmp_path: Path) -> None:
    bank = make_bank(6, 48, seed=1)
    model = CompactClipModel(TINY)
    score = region_similarity(model, bank, clips=4, frames=2)
    assert model.training and all(0 <= value <= 1 for value in score)
    everything = torch.full((1, 32, 32), 5.0)
    with mock.patch('training.validate.prompted_masks', side_effect=lambda _, i, __: everything.expand(len(i), -1, -1)):
        covered = region_similarity(model, bank, clips=4, frames=2)
    ids = render_clips(4, 2, 128, VALIDATION_SEED, bank).ids
    rows = choose_objects(ids, 2, np.random.default_rng(0), min_area=0.005)
    assert covered.box == covered.point == pytest.approx(float(rows.masks[:, 0].mean()), abs=1e-6)
    assert covered.track == pytest.approx(score.track)
    assert innermost_points(_square(64, 20, 41))['point_coords'].tolist() == [[[30, 30]]]


def test_export_round_trip(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path)
    trainer.train_step()
    trainer.progress.validation.append([1, 2, trainer.stage.size, 0.5, 0.25, 0.75])
    trainer.save()
    target = tmp_path / 'weights' / 'compact.safetensors'
    export(tmp_path / 'last.pt', target)
    with safe_open(target, 'pt') as file:
        metadata = file.metadata()
    assert metadata['format'] == 'robust_pvos_compact'
    fields = json.loads(metadata['config'])
    config = CompactConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})
    assert config.image_size == trainer.stage.size and config.dim == TINY.dim
    assert json.loads(metadata['training']) == {
        'steps': 1, 'seconds': round(trainer.progress.seconds), 'seeds': [0], 'stage': 'a',
        'validation_j': {'track': 0.5, 'point': 0.25, 'box': 0.75},
    }  # fmt: skip
    tensors = load_file(target)
    assert all(t.dtype == torch.float16 for t in tensors.values() if t.is_floating_point())
    model = build_compact(config)
    model.load_state_dict(tensors)
    worst = max((model.state_dict()[k] - v).abs().max() for k, v in trainer.average.items())
    assert worst < 2e-2  # point embeddings of size 4 are rounded to float16


def test_config_file_and_unknown_keys(tmp_path: Path) -> None:
    recipe = load_config(Path(__file__).parents[1] / 'training' / 'configs' / 'compact.yaml')
    assert recipe.stages[0].task == 'correspondence' and recipe.stages[-1].decay and recipe.model.trunk == 'conv'
    changed = load_config(overrides=['seed=7', 'stages.0.steps=3', 'model.depths=[1,1,1,1]'])
    assert (changed.seed, changed.stages[0].steps, tuple(changed.model.depths)) == (7, 3, (1, 1, 1, 1))
    for wrong in ('sed=7', 'stages.0.stpes=3', 'model.dpeth=1'):
        with pytest.raises(OmegaConfBaseException, match=wrong.split('=')[0].split('.')[-1]):
            load_config(overrides=[wrong])


def test_canonical_projections_find_the_shared_signal() -> None:
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(4000, 2, generator=generator)
    first = torch.cat([shared * 3, torch.randn(4000, 4, generator=generator)], 1)
    second = torch.cat([torch.randn(4000, 2, generator=generator) * 5, shared.flip(1)], 1)
    to_first, to_second, correlation = canonical_projections(first, second, ridge=1e-4)
    assert (correlation[:2] > 0.99).all() and (correlation[2:] < 0.1).all()
    a, b = (first - first.mean(0)) @ to_first.T, (second - second.mean(0)) @ to_second.T
    assert torch.allclose((a * b).mean(0), correlation, atol=1e-2)


def test_calibrated_attention_finds_the_moved_object() -> None:
    """Pixels of a moved object read more of its remembered mask after calibration than before, others hardly any."""
    torch.manual_seed(1)
    model, bank = CompactClipModel(CompactConfig(image_size=128)), make_bank(12, 64, seed=0)
    before = _mask_read(model, bank)
    calibrate_matching(model, bank, seed=0)
    inside, outside = _mask_read(model, bank)
    assert inside - outside > before[0] - before[1] + 0.1
    assert inside > 3 * outside


@torch.no_grad()
def _mask_read(model: ClipModel, bank: TextureBank) -> tuple[float, float]:
    """Attention of the first layer to masked memory from pixels on and off the object, which moves by 2 cells."""
    images, ids = render_clips(12, 1, 128, 3, bank, 1.0, 1.5, 1.0)[:2]
    rows = choose_objects(ids, 1, np.random.default_rng(0))
    frames, masks = images[rows.clip, 0], rows.masks[:, 0]
    attention: Any = model.memory_attention.layers[0].cross_attn_image
    query, key = attention_inputs(model, attention, frames, frames.roll((32, -32), (-2, -1)), masks)
    q, k = (attention._separate_heads(f(x), 1) for f, x in ((attention.q_proj, query), (attention.k_proj, key)))
    q, k = apply_rotary_enc(q, k, attention.freqs_cis, repeat_freqs_k=False)
    weight = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)[:, 0]
    cells = torch.nn.functional.avg_pool2d(masks[:, None], 16)[:, 0]
    read = (weight @ cells.flatten(1)[..., None])[..., 0]
    moved = cells.roll((2, -2), (1, 2)).flatten(1)
    return float(read[moved > 0.6].mean()), float(read[moved < 0.05].mean())
