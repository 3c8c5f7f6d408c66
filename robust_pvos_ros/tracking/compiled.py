"""Steps of the network after the image encoder, compiled for fixed numbers of objects.

``torch.compile`` fuses what lies between the large products, and a CUDA graph takes the cost of launching hundreds of
small kernels away, which is most of what a few objects cost on a fast GPU.  A shape that was not compiled in time would
stall a live stream for seconds, so only groups of ``GROUPS`` objects whose memories are full run compiled, a smaller
group being filled up; all else runs as it is written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from robust_pvos_ros.tracking.encoder import EncoderOutput, TorchEncoder
from robust_pvos_ros.tracking.graphs import Graph, Run, write
from robust_pvos_ros.tracking.kernels import fastest_way
from robust_pvos_ros.tracking.model import Sam2Model, Step
from robust_pvos_ros.tracking.tracker import VideoTracker
from robust_pvos_ros.tracking.types import ModelError, Prompt, TrackerConfig

GROUPS = (1, 2, 4, 8, 16)
"""Numbers of objects that steps are compiled for."""
VERSIONS = 64
"""Most compiled versions of one function: those of all groups, in every model of a process."""
OUT_OF_MEMORY: type[RuntimeError] = getattr(torch, 'OutOfMemoryError', torch.cuda.OutOfMemoryError)
"""What torch raises when a GPU is full; before 2.5 it had another name."""
Note = Callable[[str], None]


class Recorder:
    """Records graphs of compiled functions, and of plain ones where these cannot be compiled.

    Args:
        name: of what is recorded, for messages; device: where it runs; note: told what went wrong.

    Attributes:
        failure: what went wrong last; empty as long as nothing did.
    """

    def __init__(self, name: str, device: torch.device, note: Note) -> None:
        self._name, self._note = name, note
        self._pool = torch.cuda.graph_pool_handle() if device.type == 'cuda' else (0, 0)
        self.failure = ''

    def record(self, compiled: Run, plain: Run, inputs: tuple[Tensor, ...]) -> Graph | None:
        """A graph of ``compiled``, else of ``plain``; None where neither can be recorded."""
        for run, left in ((compiled, 'it runs in a graph, but not compiled'), (plain, 'it runs as without compile')):
            try:
                with torch._dynamo.config.patch(cache_size_limit=VERSIONS):
                    return Graph(run, inputs, self._pool)
            except OUT_OF_MEMORY:
                raise
            except Exception as error:  # the compiler raises all kinds
                what = f'{type(error).__name__}: {error}'.strip().split('\n')[0]
                self.failure = f'compiling {self._name} failed, {left}: {what}'
            self._note(self.failure)
        return None


class CompiledStep:
    """A step of the tail at fixed group sizes.  Any thread may call it, but only one at a time.

    Args:
        step: what is compiled.
        admits: whether tensors of these shapes run compiled.
        backend: of ``torch.compile``.
        recorder: of the graphs on a GPU, which steps that are called in turns may share.

    Attributes:
        calls: number of calls that ran compiled.
    """

    def __init__(
        self, step: Step, admits: Callable[[tuple[Tensor, ...]], bool], backend: str, recorder: Recorder
    ) -> None:
        self._step = step
        self._admits = admits
        self._compiled = torch.compile(step, backend=backend, dynamic=False)
        self._recorder = recorder
        self._graphs: dict[tuple[int, ...], Graph | None] = {}
        self._rows: tuple[Tensor, ...] = ()
        self._shared: tuple[Tensor, ...] = ()
        self.calls = 0

    def __call__(self, shared: tuple[Tensor, ...], rows: tuple[Tensor, ...], *constants: bool) -> tuple[Tensor, ...]:
        """See :data:`robust_pvos_ros.tracking.model.Step`."""
        count = len(rows[0])
        size = next((group for group in GROUPS if group >= count), 0)
        if not size or not self._admits(rows):
            return self._step(shared, rows, *constants)
        if rows[0].is_cuda:
            graph = self._graph(size, shared, rows, constants)
            if graph is None:
                return self._step(shared, rows, *constants)
            for target, source in zip(graph.inputs, shared):
                write(target, source)
            for target, source in zip(graph.inputs[len(shared) :], rows, strict=True):
                write(target[:count], source)
            found = graph.replay()
        else:
            found = self._compiled(shared, tuple(_filled(x, size) for x in rows), *constants)
        self.calls += 1
        # the next call writes to the same memory
        return tuple(x[:count].clone() for x in found)

    def room(self, count: int, *shapes: Sequence[int]) -> tuple[Tensor, ...] | None:
        """Where a graph reads the rows of ``count`` objects from, so that they can be written there at once.

        Args:
            count: number of objects; shapes: of one row of each of the first tensors.

        Returns:
            these tensors with ``count`` rows; None where no graph reads such rows.
        """
        fits = self._rows and count <= len(self._rows[0])
        if not fits or any(own.shape[1:] != torch.Size(shape) for own, shape in zip(self._rows, shapes)):
            return None
        return tuple(x[:count] for x in self._rows[: len(shapes)])

    def _graph(
        self, size: int, shared: tuple[Tensor, ...], rows: tuple[Tensor, ...], constants: tuple[bool, ...]
    ) -> Graph | None:
        key = size, *constants
        if key not in self._graphs:
            if not self._rows or len(self._rows[0]) < size:
                self._rows = tuple(_filled(x, size).clone() for x in rows)
            if not self._shared:
                self._shared = tuple(x.clone() for x in shared)
            inputs = self._shared + tuple(x[:size] for x in self._rows)
            split = len(shared)
            compiled, plain = (
                lambda *given, run=run: run(given[:split], given[split:], *constants)
                for run in (self._compiled, self._step)
            )
            self._graphs[key] = self._recorder.record(compiled, plain, inputs)
        return self._graphs[key]


def _filled(x: Tensor, size: int) -> Tensor:
    """``x`` with its first row again up to ``size`` rows."""
    return x if len(x) == size else torch.cat([x, x[:1].expand(size - len(x), *x.shape[1:])])


class CompiledEncoder:
    """Torch's image encoder, compiled for one image at a time.

    Attributes:
        plain: the encoder as it was.
    """

    name = 'torch, compiled'
    takes_batches = False

    def __init__(self, encoder: TorchEncoder, backend: str, recorder: Recorder) -> None:
        self.plain = encoder
        self._compiled = torch.compile(encoder.run, backend=backend, dynamic=False)
        self._recorder = recorder
        self._graph: Graph | None = None
        self._recorded = False

    @property
    def failure(self) -> str:
        """What kept it from being compiled; empty where nothing did."""
        return self._recorder.failure

    @torch.inference_mode()
    def __call__(self, image: Tensor) -> EncoderOutput:
        """See :class:`robust_pvos_ros.tracking.encoder.Encoder`."""
        if not image.is_cuda:
            return EncoderOutput(*(x.clone() for x in self._compiled(image)))
        if not self._recorded:
            self._graph = self._recorder.record(self._compiled, self.plain.run, (image.clone(),))
            self._recorded = True
        if self._graph is None:
            return self.plain(image)
        write(self._graph.inputs[0], image)
        return EncoderOutput(*(x.clone() for x in self._graph.replay()))


def compile_model(model: Sam2Model, backend: str = 'inductor', note: Note = lambda text: None) -> None:
    """Compile the steps of the tail, and the image encoder where torch runs it; the first use of each takes seconds.

    What cannot be compiled runs as without it.

    Args:
        model: on a GPU; its weights must not change afterwards.
        backend: of ``torch.compile``; another than ``inductor`` serves to try the steps on a CPU.
        note: told what could not be compiled, and why.

    Raises:
        ModelError: if the model is not on a GPU, where ``inductor`` is meant for.
    """
    if backend == 'inductor' and model.device.type != 'cuda':
        raise ModelError(f'compile needs a CUDA device, and the model is on {model.device}: set compile to false')
    full = model.sam.num_maskmem * (model.image_size // model.sam.backbone_stride) ** 2
    full += model.sam.max_obj_ptrs_in_encoder * (model.sam.hidden_dim // model.sam.mem_dim)
    attention = model.attention
    tail = Recorder('the tracking network', model.device, note)
    step = CompiledStep(attention.layers_step, lambda rows: rows[0].shape[2] == full, backend, tail)
    attention.compiled, attention.room = step, step.room
    model.compiled = {
        'track': CompiledStep(model.track_step, lambda rows: True, backend, tail),
        'remember': CompiledStep(model.remember_step, lambda rows: True, backend, tail),
    }
    if isinstance(model.encoder, TorchEncoder):
        # frames are encoded ahead on another thread, so the memory of this graph is its own
        encoder = Recorder('the image encoder', model.device, note)
        model.encoder = CompiledEncoder(model.encoder, backend, encoder)


def warm_up(model: Sam2Model, objects: int, note: Note) -> None:
    """Follow groups of all sizes until their memories are full, so that nothing is left to compile in a live stream.

    The largest comes first: the smaller ones fit into its memory.

    Args:
        model: from :func:`compile_model`; objects: most that will be tracked; note: told about each group.
    """
    groups = [group for place, group in enumerate(GROUPS) if not place or GROUPS[place - 1] < objects]
    for group in reversed(groups):
        note(f'compiling the network for {group} object{"s" * (group > 1)}')
        warm_up_group(model, group)


def warm_up_group(model: Sam2Model, group: int) -> None:
    """:func:`warm_up` for groups of one size, one of ``GROUPS``."""
    _choose_kernel(model, group)
    side = model.image_size
    picture = np.zeros((side, side, 3), np.uint8)
    prompt = Prompt(box=np.array([0, 0, side / 2, side / 2], np.float32))
    tracker = VideoTracker(model, TrackerConfig(max_objects=group, history_frames=0))
    for index in range(model.sam.max_obj_ptrs_in_encoder + 2):
        tracker.step(picture, index, [prompt] * group if index == 0 else ())


def _choose_kernel(model: Sam2Model, group: int) -> None:
    """Let the memory attention of ``group`` objects use the kernel that is the fastest with full memories."""
    if model.device.type != 'cuda' or model.precision != 'bfloat16':
        return
    sam = model.sam
    tokens = (model.image_size // sam.backbone_stride) ** 2
    keys = sam.num_maskmem * tokens + sam.max_obj_ptrs_in_encoder * (sam.hidden_dim // sam.mem_dim)
    layers = len(sam.memory_attention.layers)
    model.attention.ways[group] = fastest_way(group, tokens, keys, sam.hidden_dim, layers, model.device)
