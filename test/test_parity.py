"""The streaming tracker gives the masks of the official ``SAM2VideoPredictor``, which sees the whole video at once.

Both store memories in bfloat16.  A difference in the last float32 bit sooner or later flips one such rounding, a step
of 1/256, which the recurrence may then amplify: two correct implementations drift apart.  So the tracker is compared
three times: around verbs that take the official steps one by one; with its own verbs and memories in float32 on both
sides; and with its own verbs as they are, where only the masks are held to be the same.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import cv2
import numpy as np
import pytest
import torch
from plain_model import PlainModel
from sam2.modeling.sam2_base import SAM2Base

from benchmarks.official import build_predictor
from robust_pvos_ros.tracking.checkpoints import build_official, build_sam, read_compact, shipped_weights
from robust_pvos_ros.tracking.model import Sam2Model
from robust_pvos_ros.tracking.tracker import VideoTracker
from robust_pvos_ros.tracking.types import FrameResult, Prompt, TrackerConfig

FRAMES = 64
SIZE = 256  # pixels: what both see, so that neither resizes
DISC, BOARD, EGG = 1, 2, 3


class Event(NamedTuple):
    frame: int
    object_id: int
    prompt: Prompt


class Case(NamedTuple):
    """A comparison: verbs, type of the stored memories, pixels that objects move per frame, worst logit difference."""

    verbs: Callable[[SAM2Base], Sam2Model]
    storage: torch.dtype
    pace: int
    limit: float


class Oracle(NamedTuple):
    """What the official predictor says of one object on one frame: logits (S / 4, S / 4) and object score logit."""

    logits: np.ndarray
    score: float


def place(frame: int, pace: int) -> int:
    """Pixels gone on a way of 63 pixels, to and fro."""
    return 63 - abs(63 - pace * frame % 126)


def render_clip(folder: Path, pace: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Three objects over a textured ground: JPEG files, the RGB arrays read back, and the egg's mask at frame 19."""
    rng = np.random.default_rng(0)
    ground = cv2.resize(rng.integers(100, 150, (10, 12, 3), dtype=np.uint8), (384, 320), interpolation=cv2.INTER_CUBIC)
    frames, egg = [], np.zeros((SIZE, SIZE), np.uint8)
    for index in range(FRAMES):
        i = place(index, pace)
        frame = ground[20 + i // 4 :, i // 2 :][:SIZE, :SIZE].copy()
        cv2.circle(frame, (70 + i, 70), 46, (235, 30, 30), -1, cv2.LINE_AA)
        cv2.rectangle(frame, (160 - i, 150), (215 - i, 205), (30, 200, 40), -1, cv2.LINE_AA)
        cv2.ellipse(frame, (110, 230 - i), (36, 22), 2.0 * index, 0, 360, (40, 60, 240), -1, cv2.LINE_AA)
        if index == 19:
            cv2.ellipse(egg, (110, 230 - i), (36, 22), 2.0 * index, 0, 360, 1, -1)
        path = str(folder / f'{index:05d}.jpg')
        cv2.imwrite(path, frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
        frames.append(cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB))
    return frames, egg.astype(bool)


def schedule(egg: np.ndarray, pace: int) -> list[Event]:
    """A point, a box and a mask on different frames, and a correction of the first object by two clicks."""
    correction = Prompt(object_id=DISC, points=[[70 + place(40, pace), 70], [200, 220]], point_labels=[1, 0])
    board = 160 - place(7, pace)
    return [
        Event(0, DISC, Prompt(points=[[70, 70]], point_labels=[1])),
        Event(7, BOARD, Prompt(box=[board - 1, 149, board + 56, 206])),
        Event(19, EGG, Prompt(mask=egg)),
        Event(40, DISC, correction),
    ]


class _StoringFloat32:
    """``torch`` as ``sam2_video_predictor`` sees it, with the type that it stores memories in replaced."""

    bfloat16 = torch.float32

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def run_oracle(predictor, folder: Path, events: list[Event], images: torch.Tensor) -> list[dict[int, Oracle]]:
    """Play the events to the official predictor; a correction is made on a frame that has been tracked already."""
    with mock.patch('sam2.utils.misc.tqdm', lambda frames, **_: frames):
        state = predictor.init_state(str(folder))
    torch.testing.assert_close(torch.stack(list(state['images'])), images, rtol=0, atol=2 / 255 / 0.22)
    state['images'] = images  # the same decoded pixels for both, whatever JPEG decoders do
    state['cached_features'] = {}
    found: list[dict[int, Oracle]] = [{} for _ in range(FRAMES)]
    seen: set[int] = set()
    for event, following in zip(events, [*events[1:], None], strict=True):
        _prompt_oracle(predictor, state, event)
        seen.add(event.object_id)
        last = FRAMES - 1
        if following is not None:
            last = following.frame - (following.object_id not in seen)
        with mock.patch('sam2.sam2_video_predictor.tqdm', lambda frames, **_: frames):
            for index, ids, _ in predictor.propagate_in_video(state, event.frame, last - event.frame):
                for position, object_id in enumerate(ids):
                    outputs = state['output_dict_per_obj'][position]
                    output = outputs['cond_frame_outputs'].get(index) or outputs['non_cond_frame_outputs'][index]
                    logits = output['pred_masks'][0, 0].numpy().copy()
                    found[index][object_id] = Oracle(logits, float(output['object_score_logits']))
    return found


def _prompt_oracle(predictor, state: dict, event: Event) -> None:
    prompt = event.prompt
    if prompt.mask is not None:
        predictor.add_new_mask(state, event.frame, event.object_id, prompt.mask)
        return
    points = {'points': prompt.points, 'labels': prompt.point_labels} if len(prompt.points) else {}
    predictor.add_new_points_or_box(state, event.frame, event.object_id, box=prompt.box, **points)


def run_stream(model: Sam2Model, frames: list[np.ndarray], events: list[Event]) -> list[FrameResult]:
    tracker = VideoTracker(model, TrackerConfig(memory_policy='stock', clear_memory_on_refine=False))
    prompts = {event.frame: [event.prompt] for event in events}
    return [tracker.step(frame, index, prompts.get(index, ())) for index, frame in enumerate(frames)]


CASES = {
    'official_steps': Case(PlainModel, torch.bfloat16, 3, 1e-3),
    'memories_in_float32': Case(partial(Sam2Model, name='compact', memory_dtype=torch.float32), torch.float32, 1, 1e-3),
    'as_it_is': Case(partial(Sam2Model, name='compact'), torch.bfloat16, 1, 0.1),
}


@pytest.fixture(scope='module', params=list(CASES))
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Case, list[dict[int, Oracle]], list[FrameResult]]:
    case = CASES[request.param]
    torch.set_num_threads(min(2, torch.get_num_threads()))
    folder = tmp_path_factory.mktemp('clip')
    frames, egg = render_clip(folder, case.pace)
    events = schedule(egg, case.pace)
    model = case.verbs(build_sam('compact', image_size=SIZE))
    images = torch.cat([model.preprocess(frame) for frame in frames])
    predictor = build_predictor('compact', build_sam('compact', image_size=SIZE), read_compact(shipped_weights())[0])
    storing: Any = nullcontext()
    if case.storage != torch.bfloat16:
        storing = mock.patch('sam2.sam2_video_predictor.torch', _StoringFloat32())
    with storing:
        oracle = run_oracle(predictor, folder, events, images)
    return case, oracle, run_stream(model, frames, events)


def pairs(both) -> list[tuple[Oracle, np.ndarray, float]]:
    _, oracle, stream = both
    return [
        (oracle[result.frame_index][tracked.object_id], result.mask_logits[row], tracked.object_score)
        for result in stream
        for row, tracked in enumerate(result.objects)
    ]


def test_the_clip_is_no_empty_exercise(both) -> None:
    """Each object covers 0.5-60 % of the image on at least 80 % of its frames."""
    _, oracle, stream = both
    assert [len(stream[i].objects) for i in (0, 6, 7, 18, 19, FRAMES - 1)] == [1, 1, 2, 2, 3, 3]
    for object_id in (DISC, BOARD, EGG):
        areas = [(frame[object_id].logits > 0).mean() for frame in oracle if object_id in frame]
        fitting = np.mean([0.005 <= area <= 0.6 for area in areas])
        assert fitting >= 0.8, f'object {object_id}: {np.round(areas, 3)}'


def test_mask_logits_agree(both) -> None:
    worst = max(float(np.abs(oracle.logits - logits).max()) for oracle, logits, _ in pairs(both))
    assert worst <= both[0].limit


def test_binary_masks_agree_at_image_resolution(both) -> None:
    _, oracle, stream = both
    for result in stream:
        for tracked in result.objects:
            logits = torch.from_numpy(oracle[result.frame_index][tracked.object_id].logits)[None, None]
            full = torch.nn.functional.interpolate(logits, size=(SIZE, SIZE), mode='bilinear', align_corners=False)
            same = (full[0, 0].numpy() > 0) == result.mask(tracked.object_id)
            assert same.mean() >= 0.999, (result.frame_index, tracked.object_id)


def test_object_scores_have_the_same_sign(both) -> None:
    for oracle, _, probability in pairs(both):
        assert (oracle.score > 0) == (probability > 0.5)


def test_an_official_architecture_agrees_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hiera-T with random weights, made to see every object.

    Temporal positions of memories in reversed order, or of pointers left out, differ by 1e-4 and more here.
    """
    monkeypatch.setattr('test_parity.FRAMES', 20)  # past the 16 pointers that are attended to
    torch.manual_seed(0)
    sam = build_official('sam2.1_tiny', SIZE).eval().requires_grad_(False)
    sam.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.data.fill_(4.0)
    predictor = build_predictor('sam2.1_tiny', sam)
    assert predictor.image_size == SIZE
    model = Sam2Model(sam, 'sam2.1_tiny', memory_dtype=torch.float32)
    frames, egg = render_clip(tmp_path, 1)
    events = [event for event in schedule(egg, 1) if event.frame < FRAMES]
    images = torch.cat([model.preprocess(frame) for frame in frames])
    with mock.patch('sam2.sam2_video_predictor.torch', _StoringFloat32()):
        oracle = run_oracle(predictor, tmp_path, events, images)
    found = pairs((None, oracle, run_stream(model, frames, events)))
    assert len(found) == 20 + 13 + 1
    assert all(known.score > 0 and known.logits.std() > 0.05 for known, *_ in found)
    assert max(float(np.abs(known.logits - logits).max()) for known, logits, _ in found) <= 1e-5
