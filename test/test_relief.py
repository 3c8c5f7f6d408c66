"""Out of GPU memory: what is given up, in which order, and that it is enough or is said."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robust_pvos_ros.export.choose import GuardedEncoder
from robust_pvos_ros.relief import MemoryRelief, loaded
from robust_pvos_ros.tracking.compact import CompactConfig, build_compact
from robust_pvos_ros.tracking.model import Sam2Model
from robust_pvos_ros.tracking.tracker import VideoTracker
from robust_pvos_ros.tracking.types import ModelError, Prompt

FRAMES = np.random.default_rng(0).integers(0, 255, (12, 96, 160, 3), dtype=np.uint8)


class Engine:
    """An encoder other than torch's, as far as anybody can tell."""

    name, takes_batches = 'engine', False

    def __init__(self, plain) -> None:
        self._plain = plain

    def __call__(self, image):
        return self._plain(image)


class World:
    def __init__(self) -> None:
        torch.manual_seed(0)
        sam = build_compact(CompactConfig(image_size=128))
        sam.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.data.fill_(4.0)
        self.model = Sam2Model(sam.requires_grad_(False), 'compact')
        self.said: list[str] = []
        self.model.encoder = GuardedEncoder(Engine(self.model.encoder), self.model.encoder, self.said.append)
        self.trackers = [VideoTracker(self.model) for _ in range(2)]
        self.relief = MemoryRelief(self.model, lambda: self.trackers, self.said.append)

    def starve(self, failures: int):
        """An action that finds memory only after some attempts, and returns how many it took."""
        attempts = []

        def action() -> int:
            attempts.append(1)
            if len(attempts) <= failures:
                raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB.\nMore words.')
            return len(attempts)

        return action

    def state(self) -> tuple[int, str, str]:
        return self.trackers[0].config.history_frames, self.model.precision, self.model.encoder.name


@pytest.fixture
def world() -> World:
    return World()


def test_things_are_given_up_one_by_one(world: World) -> None:
    for index, frame in enumerate(FRAMES[:4]):
        world.trackers[1].step(frame, index)
    assert world.relief.run(world.starve(0)) == 1
    assert world.state() == (15, 'float32', 'engine') and not world.relief.given_up
    assert world.trackers[1].history_bytes() > 0

    assert world.relief.run(world.starve(1)) == 2
    assert world.state() == (0, 'float32', 'engine')
    assert world.trackers[1].history_bytes() == 0 and world.trackers[1].config.history_frames == 0
    assert world.relief.run(world.starve(1)) == 2
    assert world.state() == (0, 'bfloat16', 'engine')
    assert world.relief.run(world.starve(1)) == 2
    assert world.state() == (0, 'bfloat16', 'torch')
    assert len(world.relief.given_up) == 3
    assert any('Tried to allocate 2 GiB.): past frames are no longer kept' in text for text in world.said)

    with pytest.raises(ModelError, match='nothing is left to give up: use a smaller model'):
        world.relief.run(world.starve(1))
    assert world.relief.run(world.starve(0)) == 1, 'the node lives on'


def test_one_action_may_take_every_step(world: World) -> None:
    assert world.relief.run(world.starve(3)) == 4
    assert world.state() == (0, 'bfloat16', 'torch')


def test_what_is_not_there_is_skipped(world: World) -> None:
    world.model.round_to_bfloat16()
    for tracker in world.trackers:
        tracker.limit_history(0)
    assert world.relief.run(world.starve(1)) == 2
    assert world.relief.given_up == ['torch runs the image encoder']


def test_past_frames_can_be_given_up_though_there_were_none_at_first(world: World) -> None:
    trackers, world.trackers = world.trackers, []
    assert world.relief.run(world.starve(1)) == 2
    assert world.relief.given_up == ['the network goes on in bfloat16'], 'while the node is configured'
    world.trackers = trackers
    assert world.relief.run(world.starve(1)) == 2
    assert world.state() == (0, 'bfloat16', 'engine')


def test_what_can_be_done_without_costs_nothing(world: World) -> None:
    assert world.relief.attempt(world.starve(0), 'one by one') == 1 and not world.relief.given_up
    assert world.relief.attempt(world.starve(1), '') is None and not world.relief.given_up and not world.said
    assert world.relief.attempt(world.starve(1), 'frames are encoded one by one') is None
    assert world.relief.given_up == ['frames are encoded one by one']
    assert 'Tried to allocate 2 GiB.): frames are encoded one by one' in world.said[0]
    assert world.state() == (15, 'float32', 'engine')
    with pytest.raises(ZeroDivisionError):
        world.relief.attempt(lambda: 1 / 0, '')


def test_a_model_that_does_not_fit_is_refused_with_advice(world: World) -> None:
    assert loaded(world.starve(0), 'model large') == 1
    with pytest.raises(ModelError, match='while model large was loaded: use a smaller model') as refused:
        loaded(world.starve(1), 'model large')
    assert refused.value.__context__ is None, 'the error of torch would hold on to the memory'
    with pytest.raises(ZeroDivisionError):
        loaded(lambda: 1 / 0, 'model large')


def test_other_errors_pass(world: World) -> None:
    with pytest.raises(ZeroDivisionError):
        world.relief.run(lambda: 1 / 0)
    assert not world.relief.given_up


def test_a_step_that_finds_no_memory_itself_is_followed_by_the_next(world: World, monkeypatch) -> None:
    def starving() -> bool:
        raise torch.OutOfMemoryError('no')

    world.relief._steps[1] = ('never', starving)
    assert world.relief.run(world.starve(2)) == 3
    assert world.state() == (0, 'float32', 'torch')


def test_objects_are_followed_through_the_change_of_precision(world: World) -> None:
    tracker = world.trackers[0]
    exact = VideoTracker(World().model)
    prompts = [Prompt(box=[10, 10, 60, 60]), Prompt(box=[80, 30, 120, 80])]
    for index, frame in enumerate(FRAMES):
        if index == 6:
            assert world.model.round_to_bfloat16() and not world.model.round_to_bfloat16()
        result = tracker.step(frame, index, prompts if index == 0 else ())
        expected = exact.step(frame, index, prompts if index == 0 else ())
    difference = np.abs(result.mask_logits - expected.mask_logits)
    assert 0 < difference.max() < 0.1 * np.abs(expected.mask_logits).max()


def test_an_encoder_is_not_blamed_for_want_of_memory(world: World) -> None:
    def starving(image):
        raise torch.OutOfMemoryError('no')

    guarded = GuardedEncoder(starving, world.model.encoder, world.said.append)
    with pytest.raises(torch.OutOfMemoryError):
        guarded(torch.zeros(1, 3, 128, 128))
    assert not guarded.failure


def test_a_frame_that_found_no_memory_at_first_is_tracked_once(world: World, monkeypatch) -> None:
    tracker = world.trackers[0]
    tracker.step(FRAMES[0], 0, [Prompt(box=[10, 10, 60, 60])])
    condition, calls = world.model.condition, []

    def fails_once(*args):
        calls.append(1)
        if len(calls) == 1:
            raise torch.OutOfMemoryError('no')
        return condition(*args)

    monkeypatch.setattr(world.model, 'condition', fails_once)
    result = world.relief.run(lambda: tracker.step(FRAMES[1], 1))
    assert result.frame_index == 1 and len(calls) == 2
    assert [m.frame_index for m in tracker._table[1].memory.recent] == [1]
