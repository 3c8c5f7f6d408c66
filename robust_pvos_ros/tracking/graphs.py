"""CUDA graphs of functions of tensors, recorded on one thread and replayed on any.

The graphs that ``torch.compile`` records by itself belong to the thread that recorded them, and a node configures its
model on another thread than it tracks on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Run = Callable[..., tuple[Tensor, ...]]
REHEARSALS = 3
"""Runs before the recording: they compile, choose kernels and let libraries set up, none of which can be recorded."""


class Graph:
    """A recorded call of ``run(*inputs)``.

    Args:
        run: gives tensors on the device of its inputs, without waiting for it.
        inputs: what every replay reads; they are written to between replays.
        pool: of the memory of all graphs that are replayed in turns on one stream.

    Attributes:
        inputs: as given.
        outputs: what a replay writes; the next replay of any graph of ``pool`` may write there as well.
    """

    def __init__(self, run: Run, inputs: tuple[Tensor, ...], pool: Any) -> None:
        self.inputs = inputs
        device = inputs[0].device
        with torch.cuda.device(device):
            current, side = torch.cuda.current_stream(), torch.cuda.Stream()
            side.wait_stream(current)
            with torch.cuda.stream(side):
                for _ in range(REHEARSALS):
                    run(*inputs)
            current.wait_stream(side)
            _forget_workspaces()
            self._graph = torch.cuda.CUDAGraph()
            # thread_local: another thread may upload an image meanwhile
            with torch.cuda.graph(self._graph, pool=pool, stream=side, capture_error_mode='thread_local'):
                self.outputs = run(*inputs)
            _forget_workspaces()
            current.wait_stream(side)

    def replay(self) -> tuple[Tensor, ...]:
        """Run on what is in ``inputs`` now, on the current stream."""
        self._graph.replay()
        return self.outputs


def _forget_workspaces() -> None:
    """Let products take new working memory: that of the rehearsals may be freed, and a graph must own what it uses."""
    clear = getattr(torch._C, '_cuda_clearCublasWorkspaces', None)  # private; torch.compile's graphs rely on it too
    if clear is not None:
        clear()


def write(target: Tensor, source: Tensor) -> None:
    """Copy ``source`` to an input of a graph unless it lies there already."""
    if target.data_ptr() != source.data_ptr():
        target.copy_(source)
