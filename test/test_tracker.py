"""The object table, prompts, policies and bounds of the streaming tracker."""

from __future__ import annotations

import copy
import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from robust_pvos_ros.tracking.attention import _mix, softmax_without_subnormals
from robust_pvos_ros.tracking.compact import CompactConfig, build_compact
from robust_pvos_ros.tracking.inputs import model_points
from robust_pvos_ros.tracking.model import Sam2Model
from robust_pvos_ros.tracking.output import measure, render_masks
from robust_pvos_ros.tracking.tracker import VideoTracker
from robust_pvos_ros.tracking.types import FrameError, FrameResult, ObjectState, Prompt, PromptError, TrackerConfig

SIZE = 128


def build_model(seed: int = 0) -> Sam2Model:
    torch.manual_seed(seed)
    sam = build_compact(CompactConfig(image_size=SIZE))
    sam.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.data.fill_(4.0)  # objects count as visible
    return Sam2Model(sam.requires_grad_(False), 'compact')


@pytest.fixture(scope='module')
def model() -> Sam2Model:
    return build_model()


def noise(count: int, height: int = 96, width: int = 160, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 255, (count, height, width, 3), dtype=np.uint8))


def box(x: float, y: float, size: float = 30, **fields) -> Prompt:
    return Prompt(box=[x, y, x + size, y + size], **fields)


def run(model: Sam2Model, schedule: dict[int, list], frames: int = 24, config: TrackerConfig | None = None):
    """Step through noise; a schedule entry is a prompt, or an ID to remove before that frame."""
    tracker = VideoTracker(model, config)
    results = []
    for index, frame in enumerate(noise(frames)):
        todo = schedule.get(index, [])
        for object_id in (entry for entry in todo if isinstance(entry, int)):
            tracker.remove(object_id)
        results.append(tracker.step(frame, index * 1000, [entry for entry in todo if isinstance(entry, Prompt)]))
    return results


def logits_of(results: list[FrameResult], object_id: int) -> np.ndarray:
    return np.stack([r.mask_logits[r.index_of[object_id]] for r in results if object_id in r.index_of])


# ------------------------------------------------------------------------------------------------ objects and their IDs


def test_other_objects_coming_and_going_leave_a_mask_unchanged(model: Sam2Model) -> None:
    alone = run(model, {0: [box(10, 10)]})
    schedule = {0: [box(10, 10), box(60, 40)], 3: [box(100, 20)], 7: [2], 11: [box(30, 60)], 15: [3, box(5, 5)]}
    crowd = run(model, schedule)
    assert len(crowd[-1].objects) == 3
    np.testing.assert_allclose(logits_of(crowd, 1), logits_of(alone, 1), rtol=0, atol=1e-4)


def test_an_object_added_later_equals_itself_in_any_company(model: Sam2Model) -> None:
    late = run(model, {5: [box(60, 40)]})
    mixed = run(model, {0: [box(10, 10)], 5: [box(60, 40)]})
    np.testing.assert_allclose(logits_of(mixed, 2), logits_of(late, 1), rtol=0, atol=1e-4)


def test_ids_are_never_reused_or_shifted(model: Sam2Model) -> None:
    tracker = VideoTracker(model)
    frames = iter(noise(6))
    assert tracker.step(next(frames), 0, [box(10, 10), box(50, 50)]).prompted == (1, 2)
    tracker.remove(1)
    assert [o.object_id for o in tracker.step(next(frames), 1).objects] == [2]
    assert tracker.apply([box(20, 20)]).prompted == (3,)
    assert tracker.reset() == 2 and tracker.objects == ()
    assert tracker.step(next(frames), 2, [box(10, 10)]).prompted == (4,)


def test_trackers_that_share_an_id_source_never_collide(model: Sam2Model) -> None:
    ids = itertools.count(1)
    left, right = VideoTracker(model, ids=ids), VideoTracker(model, ids=ids)
    frame = noise(1)[0]
    assert left.step(frame, 0, [box(10, 10)]).prompted == (1,)
    assert right.step(frame, 0, [box(10, 10)]).prompted == (2,)


def test_labels_stay_until_changed(model: Sam2Model) -> None:
    tracker = VideoTracker(model)
    tracker.step(noise(1)[0], 0, [box(10, 10, label='car')])
    tracker.apply([box(12, 12, object_id=1)])
    assert tracker.objects[0].label == 'car'
    tracker.set_label(1, 'van')
    assert tracker.objects[0].label == 'van'
    with pytest.raises(PromptError, match='128 characters'):
        tracker.set_label(1, 'x' * 129)


def test_every_object_is_listed_on_every_frame_also_when_absent(model: Sam2Model) -> None:
    bias = model.sam.sam_mask_decoder.pred_obj_score_head.layers[-1].bias
    tracker = VideoTracker(model, TrackerConfig(lost_after=3))
    frames = noise(6)
    tracker.step(frames[0], 0, [box(10, 10)])
    try:
        bias.data.fill_(-4.0)
        found = [tracker.step(frame, 1 + i).objects[0] for i, frame in enumerate(frames[1:])]
    finally:
        bias.data.fill_(4.0)
    assert [o.state for o in found] == [ObjectState.OCCLUDED] * 2 + [ObjectState.LOST] * 3
    assert [o.frames_since_seen for o in found] == [1, 2, 3, 4, 5]
    assert found[-1].area_px == 0 and found[-1].object_score < 0.5 and found[-1].object_id == 1


# ------------------------------------------------------------------------------------------------------------- prompts


def test_prompt_on_the_cached_frame_equals_prompt_in_the_step(model: Sam2Model) -> None:
    frames = noise(8)
    together, apart = VideoTracker(model), VideoTracker(model)
    for index, frame in enumerate(frames):
        prompts = [box(10, 10)] if index == 2 else []
        a = together.step(frame, index, prompts)
        b = apart.step(frame, index)
        if prompts:
            b = apart.apply(prompts)
        np.testing.assert_array_equal(a.mask_logits, b.mask_logits)
        np.testing.assert_array_equal(a.label_image, b.label_image)


def test_clicks_on_the_same_frame_add_up(model: Sam2Model) -> None:
    frame = noise(1)[0]
    one_by_one = VideoTracker(model)
    one_by_one.step(frame, 0, [Prompt(points=[[30, 30]], point_labels=[1])])
    first = one_by_one.last_result
    second = one_by_one.apply([Prompt(object_id=1, points=[[90, 60]], point_labels=[0])])
    assert first is not None and np.abs(second.mask_logits - first.mask_logits).max() > 0
    entry = one_by_one._table[1]
    assert entry.point_labels.tolist() == [[1, 0]]
    assert len(entry.memory.conditioning) == 1


def test_a_mask_prompt_is_returned_as_the_mask(model: Sam2Model) -> None:
    mask = np.zeros((96, 160), bool)
    mask[24:72, 40:120] = True
    result = VideoTracker(model).step(noise(1)[0], 0, [Prompt(mask=mask)])
    intersection, union = (result.mask(1) & mask).sum(), (result.mask(1) | mask).sum()
    assert intersection / union > 0.93


def test_a_mask_thinner_than_a_model_pixel_is_kept(model: Sam2Model) -> None:
    mask = np.zeros((960, 1600), bool)
    mask[500, 700:703] = True
    tracker = VideoTracker(model)
    small = tracker.step(noise(1, 960, 1600)[0], 0, [Prompt(mask=mask)])
    assert small.objects[0].object_score > 0.5


@pytest.mark.parametrize(
    ('prompt', 'expected'),
    [
        (box(150, 10), 'must have positive size and lie in'),
        (Prompt(points=[[160, 5]], point_labels=[1]), r'outside the image: x must be in \[0, 160\)'),
        (Prompt(points=[[np.nan, 5]], point_labels=[1]), 'outside the image'),
        (Prompt(mask=np.ones((5, 5), bool)), 'mask is 5x5 pixels, but the image is 160x96'),
        (Prompt(mask=np.zeros((96, 160), bool)), 'mask is empty'),
        (box(10, 10, object_id=7), 'there is no object 7; tracked IDs: 1'),
    ],
)
def test_a_bad_prompt_changes_nothing(model: Sam2Model, prompt: Prompt, expected: str) -> None:
    tracker = VideoTracker(model)
    frames = noise(3)
    before = tracker.step(frames[0], 0, [box(10, 10)])
    with pytest.raises(PromptError, match=expected):
        tracker.apply([box(30, 30), prompt])
    with pytest.raises(PromptError, match=expected):
        tracker.step(frames[1], 1, [prompt])
    assert tracker.last_result is before
    assert tracker.step(frames[1], 1, [box(50, 50)]).prompted == (2,)


@pytest.mark.parametrize(
    ('fields', 'expected'),
    [
        ({}, 'prompt is empty'),
        ({'points': [[1, 2, 3]], 'point_labels': [1]}, r'shape \(P, 2\)'),
        ({'points': [[1, 2]], 'point_labels': []}, 'one label for each point'),
        ({'points': [[1, 2]], 'point_labels': [2]}, 'labels must be 1'),
        ({'points': [[1, 2]], 'point_labels': [0]}, 'at least one foreground'),
        ({'points': np.ones((65, 2)), 'point_labels': np.ones(65)}, 'at most 64 points'),
        ({'box': [1, 2, 3]}, 'box must be'),
        ({'mask': np.ones(4)}, 'mask must have shape'),
        ({'mask': np.ones((4, 4)), 'box': [0, 0, 2, 2]}, 'stands alone'),
        ({'box': [0, 0, 2, 2], 'object_id': -1}, 'positive ID'),
        ({'box': [0, 0, 2, 2], 'label': 'x' * 129}, '128 characters'),
    ],
)
def test_malformed_prompts_are_refused(fields: dict, expected: str) -> None:
    with pytest.raises(PromptError, match=expected):
        Prompt(**fields)


def test_a_full_table_refuses_and_keeps_what_it_has(model: Sam2Model) -> None:
    tracker = VideoTracker(model, TrackerConfig(max_objects=2))
    tracker.step(noise(1)[0], 0, [box(10, 10)])
    with pytest.raises(PromptError, match='holds 1 of at most 2 objects'):
        tracker.apply([box(30, 30), box(50, 50)])
    assert [o.object_id for o in tracker.objects] == [1]
    assert tracker.apply([box(30, 30)]).prompted == (2,)


def test_a_prompt_before_any_frame_is_refused(model: Sam2Model) -> None:
    with pytest.raises(PromptError, match='no frame has been processed'):
        VideoTracker(model).apply([box(10, 10)])


@pytest.mark.parametrize(
    'image', [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8), None]
)
def test_malformed_images_are_refused_and_change_nothing(model: Sam2Model, image) -> None:
    tracker = VideoTracker(model)
    before = tracker.step(noise(1)[0], 0, [box(10, 10)])
    with pytest.raises(FrameError, match='an image must'):
        tracker.step(image, 1)
    assert tracker.last_result is before


@pytest.mark.parametrize('fields', [{'memory_policy': 'x'}, {'max_objects': 0}, {'lost_after': 0}])
def test_bad_configurations_are_refused(model: Sam2Model, fields: dict) -> None:
    with pytest.raises(ValueError):
        VideoTracker(model, TrackerConfig(**fields))


# ------------------------------------------------------------------------------------------------- memory and policies


@pytest.mark.parametrize('policy', ['stock', 'selective'])
def test_memory_of_an_object_is_bounded(model: Sam2Model, policy: str) -> None:
    config = TrackerConfig(memory_policy=policy, max_conditioning_frames=3, clear_memory_on_refine=False)
    tracker = VideoTracker(model, config)
    sizes = []
    for index, frame in enumerate(noise(60)):
        prompts = [box(10, 10)] if index == 0 else [box(12, 12, object_id=1)] if index % 9 == 0 else []
        tracker.step(frame, index, prompts)
        sizes.append(tracker.memory_bytes())
    memory = tracker._table[1].memory
    assert [m.frame_index for m in memory.conditioning] == [0, 45, 54]
    assert len(memory.recent) <= 16
    assert max(sizes[40:]) <= max(sizes[:40])


def test_the_box_of_a_prompt_outlives_old_clicks(model: Sam2Model) -> None:
    tracker = VideoTracker(model)
    tracker.step(noise(1)[0], 0)
    clicks = np.column_stack([np.arange(64), np.arange(64)])
    frame = tracker._current()
    entry = tracker._steps.new_object(1, '', frame, tracker.config)
    full = Prompt(box=[10, 10, 60, 60], points=clicks, point_labels=np.ones(64, np.int32))
    entry.points, entry.point_labels = model_points(entry, full, frame, SIZE)
    assert entry.point_labels[0].tolist() == [2, 3] + [1] * 64
    entry.prompt_frame = frame.index
    more = Prompt(object_id=1, points=[[99, 99]], point_labels=[0])
    points, labels = model_points(entry, more, frame, SIZE)
    assert labels[0].tolist() == [2, 3] + [1] * 63 + [0]
    assert torch.equal(points[0, 2], entry.points[0, 3]), 'the oldest click went'


def test_one_conditioning_frame_is_too_few(model: Sam2Model) -> None:
    with pytest.raises(ValueError, match='at least 2'):
        VideoTracker(model, TrackerConfig(max_conditioning_frames=1))


def test_refinement_sticks_when_it_clears_the_recent_memory(model: Sam2Model) -> None:
    tracker = VideoTracker(model)
    for index, frame in enumerate(noise(10)):
        tracker.step(frame, index, [box(10, 10)] if index == 0 else ())
    tracker.apply([box(90, 40, object_id=1)])
    memory = tracker._table[1].memory
    assert [m.frame_index for m in memory.conditioning] == [0, 9] and memory.recent == []


def test_selective_policy_keeps_absent_frames_out_of_the_memory(model: Sam2Model) -> None:
    bias = model.sam.sam_mask_decoder.pred_obj_score_head.layers[-1].bias
    tracker = VideoTracker(model, TrackerConfig(memory_policy='selective'))
    try:
        for index, frame in enumerate(noise(12)):
            bias.data.fill_(-4.0 if 4 <= index < 8 else 4.0)
            tracker.step(frame, index, [box(10, 10)] if index == 0 else ())
    finally:
        bias.data.fill_(4.0)
    memory = tracker._table[1].memory
    assert [m.frame_index for m in memory.recent] == [1, 2, 3, 8, 9, 10, 11]
    assert [slot.temporal for slot in memory.spatial(12)] == [6, 5, 4, 3, 2, 1, 0]


def test_resolution_may_change_in_mid_stream(model: Sam2Model) -> None:
    tracker = VideoTracker(model)
    tracker.step(noise(1)[0], 0, [box(10, 10)])
    result = tracker.step(noise(1, 200, 120)[0], 1)
    assert result.masks.shape == (1, 200, 120) and result.label_image.shape == (200, 120)


@pytest.mark.parametrize('spread', [0.1, 30.0])
@pytest.mark.parametrize(('tokens', 'count'), [(8, 3), (256, 1824), (200, 9000)])
def test_attention_in_blocks_equals_the_fused_kernel(tokens: int, count: int, spread: float) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, tokens, 16, generator=generator) * spread
    keys, values = (torch.randn(2, count, 16, generator=generator) for _ in range(2))
    expected = F.scaled_dot_product_attention(query[:, None], keys[:, None], values[:, None])[:, 0]
    torch.testing.assert_close(_mix(query, keys, values), expected, rtol=0, atol=2e-5)


def test_no_attention_weight_is_subnormal() -> None:
    scores = torch.linspace(-150, 30, 4000)[None].repeat(2, 1)
    weights, expected = torch.empty_like(scores), scores.softmax(-1)
    smallest = torch.finfo(torch.float32).tiny
    assert ((expected > 0) & (expected < smallest)).any()
    softmax_without_subnormals(scores, weights)
    assert (weights >= smallest).all()
    torch.testing.assert_close(weights, expected, rtol=1e-6, atol=1e-25)


def test_bfloat16_follows_float32(model: Sam2Model) -> None:
    half = Sam2Model(copy.deepcopy(model.sam), 'compact', precision='bfloat16')
    schedule = {0: [box(10, 10), box(60, 40)]}
    full, rough = run(model, schedule, 12), run(half, schedule, 12)
    difference = np.abs(full[-1].mask_logits - rough[-1].mask_logits)
    assert 0 < difference.max() < 0.1 * np.abs(full[-1].mask_logits).max()


# -------------------------------------------------------------------------------------------------------------- output


def test_masks_equal_the_official_upsampling() -> None:
    rng = np.random.default_rng(0)
    logits = F.interpolate(torch.from_numpy(rng.normal(size=(3, 1, 6, 6)).astype(np.float32)), size=64, mode='bicubic')
    for height, width in [(96, 160), (480, 640), (33, 47), (64, 64)]:
        full = F.interpolate(logits, size=(height, width), mode='bilinear', align_corners=False)[:, 0].numpy()
        masks, labels = render_masks(logits[:, 0].numpy(), [4, 7, 9], height, width)
        certain = np.abs(full) > 1e-5
        np.testing.assert_array_equal(masks[certain], (full > 0)[certain])
        gap = np.diff(np.sort(full, axis=0), axis=0)[-1] > 1e-5
        expected = np.where(full.max(0) > 0, np.array([4, 7, 9])[full.argmax(0)], 0)
        certain = gap & (np.abs(full.max(0)) > 1e-5)
        np.testing.assert_array_equal(labels[certain], expected[certain])


def test_measurements_of_a_mask() -> None:
    mask = np.zeros((20, 30), bool)
    mask[5:9, 10:20] = True
    assert measure(mask) == ((10, 5, 20, 9), (14.5, 6.5), 40)
    assert measure(np.zeros((20, 30), bool)) == ((0, 0, 0, 0), (0.0, 0.0), 0)


def test_results_describe_their_frame(model: Sam2Model) -> None:
    result = VideoTracker(model).step(noise(1)[0], 123456789, [box(10, 10)])
    tracked = result.objects[0]
    assert result.stamp == tracked.mask_stamp == 123456789 and result.frame_index == 0
    assert tracked.area_px == result.mask(1).sum() == (result.label_image == 1).sum()
    assert result.label_image.dtype == np.uint16 and result.masks.dtype == bool
    with pytest.raises(KeyError):
        result.mask(2)


@pytest.mark.slow
def test_official_tiny_tracks_through_the_same_code() -> None:
    from robust_pvos_ros.tracking.checkpoints import build_official

    torch.manual_seed(0)
    tracker = VideoTracker(Sam2Model(build_official('sam2.1_tiny').requires_grad_(False), 'sam2.1_tiny'))
    frames = noise(3, 270, 480)
    results = [tracker.step(frame, i, [box(50, 50), box(200, 90)] if i == 0 else ()) for i, frame in enumerate(frames)]
    assert [len(r.objects) for r in results] == [2, 2, 2]
    assert results[-1].mask_logits.shape == (2, 256, 256) and np.isfinite(results[-1].mask_logits).all()


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason='one core cannot show what another thread takes')
def test_one_thread_of_torch_keeps_the_other_cores_free() -> None:
    program = """
import time
import numpy as np, torch
from robust_pvos_ros.tracking.model import load_model
from robust_pvos_ros.tracking.tracker import VideoTracker
from robust_pvos_ros.tracking.types import ModelConfig, Prompt
tracker = VideoTracker(load_model(ModelConfig(threads=1, precision='float32')))
picture = np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)
tracker.step(picture, 0, [Prompt(mask=np.ones((480, 640), bool))])
everything, this = time.process_time(), time.thread_time()
for stamp in range(1, 11):
    tracker.step(picture, stamp)
print((time.process_time() - everything) / (time.thread_time() - this))
"""
    told = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True)
    assert float(told.stdout) < 1.2, 'some library keeps threads of its own busy'
