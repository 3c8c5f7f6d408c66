"""Steps of the network after the image encoder, compiled for fixed numbers of objects.

``torch.compile`` with CUDA graphs takes the cost of launching hundreds of small kernels away, which is most of what a
few objects cost on a fast GPU.  A shape that was not compiled in time would stall a live stream for seconds, so only
groups of ``GROUPS`` objects whose memories are full run compiled, a smaller group being filled up; all else runs as it
is written.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from robust_pvos_ros.tracking.encoder import EncoderOutput, TorchEncoder
from robust_pvos_ros.tracking.model import Sam2Model, Step
from robust_pvos_ros.tracking.tracker import VideoTracker
from robust_pvos_ros.tracking.types import ModelError, Prompt, TrackerConfig

GROUPS = (1, 2, 4, 8, 16)
"""Numbers of objects that steps are compiled for."""


class CompiledStep:
    """A step of the tail at fixed group sizes.

    Args:
        step: what is compiled.
        admits: whether tensors of these shapes run compiled.
        backend: of ``torch.compile``; ``inductor`` records CUDA graphs.
    """

    def __init__(self, step: Step, admits: Callable[[tuple[Tensor, ...]], bool], backend: str) -> None:
        self._step = step
        self._admits = admits
        self._compiled = torch.compile(step, backend=backend, dynamic=False, mode=_mode(backend))
        self.calls = 0

    def __call__(self, shared: tuple[Tensor, ...], rows: tuple[Tensor, ...], *constants: bool) -> tuple[Tensor, ...]:
        """See :data:`robust_pvos_ros.tracking.model.Step`."""
        count = len(rows[0])
        size = next((group for group in GROUPS if group >= count), 0)
        if not size or not self._admits(rows):
            return self._step(shared, rows, *constants)
        self.calls += 1
        found = self._compiled(shared, tuple(_filled(x, size) for x in rows), *constants)
        # the next call writes to the same memory
        return tuple(x[:count].clone() for x in found)


def _mode(backend: str) -> str | None:
    return 'reduce-overhead' if backend == 'inductor' else None


def _filled(x: Tensor, size: int) -> Tensor:
    """``x`` with its first row again up to ``size`` rows."""
    return x if len(x) == size else torch.cat([x, x[:1].expand(size - len(x), *x.shape[1:])])


class CompiledEncoder:
    """Torch's image encoder, compiled for one image at a time."""

    name = 'torch, compiled'
    takes_batches = False

    def __init__(self, encoder: TorchEncoder, backend: str) -> None:
        self._run = torch.compile(encoder.run, backend=backend, dynamic=False, mode=_mode(backend))

    @torch.inference_mode()
    def __call__(self, image: Tensor) -> EncoderOutput:
        """See :class:`robust_pvos_ros.tracking.encoder.Encoder`."""
        return EncoderOutput(*(x.clone() for x in self._run(image)))


def compile_model(model: Sam2Model, backend: str = 'inductor') -> None:
    """Compile the steps of the tail, and the image encoder where torch runs it; the first use of each takes seconds.

    Args:
        model: on a GPU; its weights must not change afterwards.
        backend: of ``torch.compile``; another than ``inductor`` serves to try the steps on a CPU.

    Raises:
        ModelError: if the model is not on a GPU, where ``inductor`` is meant for.
    """
    if backend == 'inductor' and model.device.type != 'cuda':
        raise ModelError(f'compile needs a CUDA device, and the model is on {model.device}: set compile to false')
    full = model.sam.num_maskmem * (model.image_size // model.sam.backbone_stride) ** 2
    full += model.sam.max_obj_ptrs_in_encoder * (model.sam.hidden_dim // model.sam.mem_dim)
    attention = model.attention
    attention.compiled = CompiledStep(attention.layers_step, lambda rows: rows[0].shape[1] == full, backend)
    model.compiled = {
        'track': CompiledStep(model.track_step, lambda rows: True, backend),
        'remember': CompiledStep(model.remember_step, lambda rows: True, backend),
    }
    if isinstance(model.encoder, TorchEncoder):
        model.encoder = CompiledEncoder(model.encoder, backend)


def warm_up(model: Sam2Model, objects: int, note: Callable[[str], None]) -> None:
    """Follow groups of all sizes until their memories are full, so that nothing is left to compile in a live stream.

    Args:
        model: from :func:`compile_model`; objects: most that will be tracked; note: told about each group.
    """
    side = model.image_size
    picture = np.zeros((side, side, 3), np.uint8)
    for place, group in enumerate(GROUPS):
        if place and GROUPS[place - 1] >= objects:
            return
        note(f'compiling the network for {group} objects')
        tracker = VideoTracker(model, TrackerConfig(max_objects=group, history_frames=0))
        for index in range(model.sam.max_obj_ptrs_in_encoder + 2):
            prompt = Prompt(box=np.array([0, 0, side / 2, side / 2], np.float32))
            tracker.step(picture, index, [prompt] * group if index == 0 else ())
