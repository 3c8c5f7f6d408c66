"""Attention of one head on a GPU, by whichever of torch's fused kernels is the fastest for a group of objects.

A kernel gives each block of 128 queries to one multiprocessor, and one object at 1024 pixels has 32 of these: three
quarters of a large GPU would idle.  Keys can be dealt out to several heads instead, whose results are put together by
the logarithms of their sums.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

QUERIES_AT_ONCE = 128
TOLERANCE = 2e-2
"""Of the largest value, between two kernels in bfloat16."""


class Way(NamedTuple):
    """How attention is computed.

    Attributes:
        kernel: ``torch`` (its own choice), ``flash`` or ``cudnn``.
        parts: into how many the keys are dealt out.
    """

    kernel: str
    parts: int


PLAIN = Way('torch', 1)


@torch.library.custom_op('robust_pvos::attend', mutates_args=())
def attend_as_one(query: Tensor, keys: Tensor, values: Tensor, kernel: str, parts: int) -> Tensor:
    """:func:`attend` as one operator, which ``torch.compile`` does not look into."""
    batch = len(keys)
    heads = query[:, None].expand(batch, parts, -1, -1).contiguous()
    keys, values = (x.unflatten(1, (parts, -1)) for x in (keys, values))
    if kernel == 'cudnn':
        found = torch.ops.aten._scaled_dot_product_cudnn_attention(heads, keys, values, None, parts > 1)
    else:
        found = torch.ops.aten._scaled_dot_product_flash_attention(heads, keys, values)
    if parts == 1:
        return found[0][:, 0].contiguous()
    weights = found[1].reshape(batch, parts, -1, 1).softmax(1)
    return (found[0] * weights).sum(1).to(query.dtype)


@attend_as_one.register_fake
def _(query: Tensor, keys: Tensor, values: Tensor, kernel: str, parts: int) -> Tensor:
    return query.new_empty(len(keys), query.shape[1], values.shape[-1])


def attend(query: Tensor, keys: Tensor, values: Tensor, way: Way = PLAIN) -> Tensor:
    """softmax(q k / sqrt(C)) v of one head.

    Args:
        query: (B, T, C); keys: (B, N, C); values: (B, N, V), all of one type.
        way: of :func:`fastest_way`; torch chooses where it does not fit the number of keys.

    Returns:
        (B, T, V).
    """
    if way.kernel == 'torch' or keys.shape[1] % way.parts:
        return F.scaled_dot_product_attention(query[:, None], keys[:, None], values[:, None])[:, 0]
    return attend_as_one(query, keys, values, *way)


def _ways(batch: int, queries: int, keys: int, processors: int) -> Iterator[Way]:
    yield Way('flash', 1)
    parts = 1
    while parts == 1 or (batch * parts * -(-queries // QUERIES_AT_ONCE) < 2 * processors and keys % parts == 0):
        yield Way('cudnn', parts)
        parts *= 2


@torch.inference_mode()
def fastest_way(batch: int, queries: int, keys: int, channels: int, layers: int, device: torch.device) -> Way:
    """The way of the least time in bfloat16, tried out on random numbers.

    Args:
        batch: number of objects; queries, keys: tokens of each; channels: of queries, keys and values.
        layers: number of layers whose keys lie beside each other.
        device: a GPU.
    """
    query = torch.randn(batch, queries, channels, device=device, dtype=torch.bfloat16)
    stored = torch.randn(2, batch, layers, keys, channels, device=device, dtype=torch.bfloat16)
    own, values = stored[0, :, 0], stored[1, :, 0]
    wanted = attend(query, own, values)
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    best, least = PLAIN, _milliseconds(query, own, values, PLAIN)
    for way in _ways(batch, queries, keys, processors):
        try:
            found = attend(query, own, values, way)
            if not float((found - wanted).abs().max()) <= TOLERANCE * float(wanted.abs().max()):
                continue
            taken = _milliseconds(query, own, values, way)
        except RuntimeError:  # a kernel that this GPU or these sizes do not have
            continue
        if taken < least:
            best, least = way, taken
    return best


def _milliseconds(query: Tensor, keys: Tensor, values: Tensor, way: Way, runs: int = 5) -> float:
    """Median time of one call."""
    events = [torch.cuda.Event(enable_timing=True) for _ in range(runs + 2)]
    for event in events:
        event.record()
        attend(query, keys, values, way)
    end = torch.cuda.Event(enable_timing=True)
    end.record()
    end.synchronize()
    times = [one.elapsed_time(other) for one, other in zip(events[1:], [*events[2:], end])]
    return sorted(times)[len(times) // 2]
