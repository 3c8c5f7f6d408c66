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


def loaded(load: Callable[[], Result], what: str) -> Result:
    """Result of ``load``.

    Args:
        load: puts something onto the GPU.
        what: that is, for the error.

    Raises:
        ModelError: if memory does not suffice.
    """
    try:
        return load()
    except OUT_OF_MEMORY as error:
        problem = _first_line(error)
    # here, and not in the handler, where the error still holds on to what the failed call had allocated
    raise ModelError(
        f'out of GPU memory ({problem}) while {what} was loaded: use a smaller model or image_size, precision bfloat16 '
        f'or device cpu, or end other programs that use the GPU'
    )


def _first_line(error: Exception) -> str:
    return str(error).split('\n')[0]


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
                problem = _first_line(error)
            # here for the reason given in `loaded`
            self._relieve(problem)

    def attempt(self, action: Callable[[], Result], without: str) -> Result | None:
        """Result of ``action``, or None where memory does not suffice; nothing but cached memory is given up for it.

        Unlike :meth:`run` this may be called on any thread.

        Args:
            action: that can be done without.
            without: what that means, as in ``given_up``; empty where it is not worth a word.
        """
        try:
            return action()
        except OUT_OF_MEMORY as error:
            problem = _first_line(error)
        self._empty_cache()
        if without:
            self._tell(problem, without)
        return None

    def _relieve(self, problem: str) -> None:
        # one that changes nothing may do so later: before there are trackers there are no past frames to forget
        for gain, step in self._steps:
            if self._taken(step):
                self._empty_cache()
                self._tell(problem, gain)
                return
        raise ModelError(
            f'out of GPU memory ({problem}) and nothing is left to give up: use a smaller model or image_size, or '
            f'fewer cameras or objects'
        )

    def _empty_cache(self) -> None:
        if self._model.device.type == 'cuda':
            torch.cuda.empty_cache()

    def _tell(self, problem: str, gain: str) -> None:
        self.given_up.append(gain)
        self._note(f'out of GPU memory ({problem}): {gain}')

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
