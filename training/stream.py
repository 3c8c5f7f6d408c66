"""The stream of rendered clips of a training run: every batch depends on the seed, the rank and the step only."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from robust_pvos_ros.procedural.textures import TextureBank, make_bank
from robust_pvos_ros.procedural.video import Clips, render_clips


@dataclass(frozen=True)
class ClipRequest:
    """What to render: see ``render_clips``; ``passes`` steps share one rendering, drawn from the ``window`` newest."""

    clips: int
    frames: int
    size: int
    pace: float
    scale: float
    ease: float
    vanish: float
    livery: float
    passes: int
    window: int


class ClipStream:
    """Renders clips when they are first needed and keeps the newest ones for further passes.

    Rendering costs more than a training step on the same frames, so every rendering is used ``passes`` times, spread
    over a window and varied by flips in space and time.

    Args:
        seed: of the run and the rank.
        bank, bank_size: textures of a bank and their side, pixels; bank_every: renderings between two banks.
        photographs, actors: see ``make_bank``.
    """

    def __init__(
        self,
        seed: int,
        device: torch.device,
        bank: int,
        bank_size: int,
        bank_every: int,
        photographs: bool,
        actors: int = 0,
    ) -> None:
        self._seed, self._bank_every = seed, bank_every
        self._make_bank = partial(make_bank, bank, bank_size, device=device, photographs=photographs, actors=actors)
        self._banks: OrderedDict[int, TextureBank] = OrderedDict()
        self._rendered: OrderedDict[tuple[int, ClipRequest], Clips] = OrderedDict()

    def bank(self, rendering: int) -> TextureBank:
        """Textures of a rendering."""
        index = rendering // self._bank_every
        if index not in self._banks:
            seed = self._seed * 100_003 + index
            self._banks[index] = self._make_bank(seed=seed)
            while len(self._banks) > 2:
                self._banks.popitem(last=False)
        return self._banks[index]

    def _render(self, rendering: int, request: ClipRequest) -> Clips:
        key = rendering, request
        if key not in self._rendered:
            seed = self._seed * 1_000_003 + rendering
            self._rendered[key] = render_clips(
                request.clips, request.frames, request.size, seed, self.bank(rendering), request.pace,
                request.scale, request.ease, request.vanish, request.livery,
            )  # fmt: skip
        self._rendered.move_to_end(key)
        while len(self._rendered) > request.window + 1:
            self._rendered.popitem(last=False)
        return self._rendered[key]

    def batch(self, begin: int, step: int, request: ClipRequest) -> Clips:
        """Clips of ``step`` of a stage that began at step ``begin``."""
        rng = np.random.default_rng([self._seed, step, 1])
        newest, turn = divmod(step - begin, request.passes)
        oldest = max(0, newest - request.window + 1)
        chosen = newest if turn == 0 else int(rng.integers(oldest, newest + 1))
        return flip(self._render(begin + chosen, request), rng.uniform() < 0.5, rng.uniform() < 0.5)


def flip(clips: Clips, mirror: bool, reverse: bool) -> Clips:
    """Clips mirrored left to right and played backwards."""
    images, ids, layers, maps = clips
    if mirror:
        images, ids, layers = images.flip(-1), ids.flip(-1), layers.flip(-1)
        maps = maps * torch.tensor([-1.0, 1.0, 1.0], device=maps.device)
    if reverse:
        images, ids, layers, maps = (x.flip(1) for x in (images, ids, layers, maps))
    return Clips(images, ids, layers, maps)
