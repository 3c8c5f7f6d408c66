"""What a node gives up, step by step, when the GPU's memory does not suffice.  No ROS."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch

from robust_pvos_ros.export.choose import OUT_OF_MEMORY, GuardedEncoder
from robust_pvos_ros.tracking.model import Sam2Model
from robust_pvos_ros.tracking.tracker import VideoTracker
from robust_pvos_ros.tracking.types import ModelError

Result = TypeVar('Result')


class MemoryRelief:
    """Runs what needs the GPU; where memory runs out, gives something up for good and tries again.

    In this order: the past frames that prompts may be given for, half of the precision (bfloat16), the engine of the
    image encoder.

    Args:
        model: shared by the trackers.
        trackers: all that use it.
        note: told what was given up.

    Attributes:
        given_up: one sentence for each step taken.
    """

    def __init__(
        self, model: Sam2Model, trackers: Callable[[], Iterable[VideoTracker]], note: Callable[[str], None]
    ) -> None:
        self.given_up: list[str] = []
        self._model = model
        self._trackers = trackers
        self._note = note
        self._steps = [
            ('past frames are no longer kept for prompts', self._drop_history),
            ('the network goes on in bfloat16', model.round_to_bfloat16),
            ('torch runs the image encoder', self._drop_engine),
        ]

    def run(self, action: Callable[[], Result]) -> Result:
        """Result of ``action``, which must be safe to repeat.

        Raises:
            ModelError: if memory does not suffice though everything has been given up.
        """
        while True:
            try:
                return action()
            except OUT_OF_MEMORY as error:
                problem = str(error).split('\n')[0]
            # here, and not in the handler, where the error still holds on to what the failed call had allocated
            self._relieve(problem)

    def _relieve(self, problem: str) -> None:
        while self._steps:
            gain, step = self._steps.pop(0)
            if not self._taken(step):
                continue
            if self._model.device.type == 'cuda':
                torch.cuda.empty_cache()
            self.given_up.append(gain)
            self._note(f'out of GPU memory ({problem}): {gain}')
            return
        raise ModelError(
            f'out of GPU memory ({problem}) and nothing is left to give up: use a smaller model or image_size, or '
            f'fewer cameras or objects'
        )

    @staticmethod
    def _taken(step: Callable[[], bool]) -> bool:
        """Whether a step changed anything; one that itself finds no memory did not."""
        try:
            return step()
        except OUT_OF_MEMORY:
            return False

    def _drop_history(self) -> bool:
        changed = [tracker.limit_history(0) for tracker in self._trackers()]
        return any(changed)

    def _drop_engine(self) -> bool:
        encoder = self._model.encoder
        return isinstance(encoder, GuardedEncoder) and encoder.give_up(
            f'the encoder {encoder.name} made room: out of GPU memory'
        )
