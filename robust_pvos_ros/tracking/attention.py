"""Memory attention with the work left out that need not be done on every frame.

``sam2.modeling.memory_attention`` projects and rotates every remembered token again on every frame.  A remembered frame
changes from one frame to the next only by its temporal position t, and the projection is linear:

    RoPE(Wk (memory + pos + tpos[t]) + bk) = RoPE(Wk (memory + pos) + bk) + RoPE(Wk tpos[t])

The first term is computed once when the frame is remembered, the second once per model; values do not depend on t.  Up
to the first cross-attention all objects share the same queries, so without an adapter they are computed once for all.
MoGA's gates are equal for all tokens of an object, so its components are merged into the weights, object by object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from sam2.modeling.position_encoding import compute_axial_cis
from sam2.modeling.sam2_base import SAM2Base
from sam2.modeling.sam2_utils import get_1d_sine_pe
from torch import Tensor, nn

from robust_pvos_ros.tracking.adapters import GateBank, MogaAdapter, MogaLinear
from robust_pvos_ros.tracking.kernels import PLAIN, Way, attend

OBJECTS_AT_ONCE = 4
"""Objects of a group that a CPU takes through the attention together.  More make no product faster, but so large
temporaries that the allocator hands them back after every frame and has to map them anew."""
SCORE_BYTES = 1 << 20
"""Size of the block of attention scores that stays in a core's cache between the products before and after it."""

_SUBNORMAL = torch.tensor(1e-40)
Step = Callable[..., tuple[Tensor, ...]]
"""Part of the network as a function of tensors that all objects share, of tensors with a row for each object, and of
constants; gives tensors with a row for each object."""


@dataclass(frozen=True)
class MemoryBatch:
    """The memories of a group of B objects, each with S remembered frames and P object pointers.

    Attributes:
        frames: for each object S triples: keys (layers, hw, C) without temporal position, values (layers or 1, hw, V)
            and the row of ``maskmem_tpos_enc``; V = C_mem on a CPU, else C.
        pointer_keys: (B, layers, P * C / C_mem, C); pointers take no RoPE.
        pointer_values: (B, layers or 1, P * C / C_mem, V).
        gates: float32 (B, L, R), the mean gates of the pointers for each adapted projection; None without MoGA.
    """

    frames: list[list[tuple[Tensor, Tensor, int]]]
    pointer_keys: Tensor
    pointer_values: Tensor
    gates: Tensor | None


class _Projections:
    """Linear layers of one input, evaluated as one.  Those that carry MoGA get weights of their own for each object.

    Args:
        layers: linear layers of equal input width; their outputs lie beside each other.
        gates: whose numbering of the adapted layers holds; None to leave the adapters out.
        dtype: type in which the products are taken.
    """

    def __init__(
        self, layers: Sequence[nn.Linear | MogaLinear], gates: GateBank | None, dtype: torch.dtype
    ) -> None:
        bases = [layer.base if isinstance(layer, MogaLinear) else layer for layer in layers]
        self._weight = torch.cat([base.weight for base in bases]).detach()
        self._bias = torch.cat([base.bias for base in bases]).detach()
        self.adapted: list[tuple[slice, int, Tensor, Tensor]] = []
        self._rounded = self._weight.to(dtype), self._bias.to(dtype)
        row = 0
        for layer, base in zip(layers, bases, strict=True):
            rows = slice(row, row + len(base.weight))
            row = rows.stop
            if gates is not None and isinstance(layer, MogaLinear):
                place = gates.layers.index(layer)
                self.adapted.append((rows, place, layer.up.weight.detach(), layer.down.weight.detach()))

    def __call__(self, x: Tensor, gates: Tensor | None) -> Tensor:
        """(1 or B, T, in) -> (1 or B, T, out), with W0 x + B (g . A x) = (W0 + B diag(g) A) x of equation 6.

        Args:
            x: tokens; batch 1 stands for B equal inputs.
            gates: (B, L, R) of ``MemoryBatch``.
        """
        if gates is None or not self.adapted:
            return F.linear(x, *self._rounded)
        weight = self._weight.repeat(len(gates), 1, 1)
        for rows, place, up, down in self.adapted:
            weight[:, rows] += torch.matmul(up * gates[:, place, None], down)
        return torch.baddbmm(self._bias, x.expand(len(gates), -1, -1), weight.transpose(1, 2))


class CachedMemoryAttention:
    """``SAM2Base.memory_attention`` over cached keys and values; same weights, same result up to rounding.

    A CPU attends to the raw memory (C_mem channels) and projects the mixture afterwards, which is the same sum in
    another order because attention weights sum to one: P (M Wv' + b) = (P M) Wv' + b.  Plain products beat the fused
    kernel there, and the shorter values halve the second product.

    Args:
        sam: the model; its weights must not change afterwards.
        adapter: MoGA layers inside it, or None; its weights must not change either.
        dtype: type in which the products are taken; a lower one than float32 needs autocast around the calls.
    """

    def __init__(self, sam: SAM2Base, adapter: MogaAdapter | None, dtype: torch.dtype = torch.float32) -> None:
        self._sam = sam
        self.compiled: Step | None = None
        self.room: Callable[..., tuple[Tensor, ...] | None] = lambda count, *shapes: None
        self.ways: dict[int, Way] = {}
        self.gates = None if adapter is None else GateBank(adapter)
        self._layers = list(sam.memory_attention.layers)
        for layer in self._layers:
            if layer.cross_attn_image.num_heads != 1 or layer.self_attn.num_heads != 1:
                raise NotImplementedError('memory attention with several heads is not supported')
        side = sam.image_size // sam.backbone_stride
        weight = self._layers[0].cross_attn_image.k_proj.weight
        self.fold_values = weight.device.type == 'cpu'
        self._rotation = compute_axial_cis(dim=weight.shape[0], end_x=side, end_y=side).to(weight.device)
        self._rotation_parts = self._rotation.real.contiguous(), self._rotation.imag.contiguous()
        cross = [layer.cross_attn_image for layer in self._layers]
        self._key_weight = torch.cat([x.k_proj.weight for x in cross]).detach()
        self._key_bias = torch.cat([x.k_proj.bias for x in cross]).detach()
        self._value_weight = torch.cat([x.v_proj.weight for x in cross]).detach()
        self._value_bias = torch.cat([x.v_proj.bias for x in cross]).detach()
        # Of the mixture to the output at once: Wo (Wv x + bv) + bo.
        self._mixture_weight = [(x.out_proj.weight @ x.v_proj.weight).detach() for x in cross]
        self._mixture_bias = [(x.out_proj.weight @ x.v_proj.bias + x.out_proj.bias).detach() for x in cross]
        own = [layer.self_attn for layer in self._layers]
        self._self_projections = [_Projections([x.q_proj, x.k_proj, x.v_proj], self.gates, dtype) for x in own]
        self._cross_queries = [_Projections([x.q_proj], self.gates, dtype) for x in cross]
        position = sam.memory_encoder.position_encoding(weight.new_zeros(1, sam.mem_dim, side, side))
        self._spatial_position = position.flatten(2).transpose(1, 2)
        query = sam.image_encoder.neck.position_encoding(weight.new_zeros(1, sam.hidden_dim, side, side))
        self._query_position = query.flatten(2).transpose(1, 2)
        self.temporal_keys = self._temporal_keys().to(dtype)  # mixed types would be added by way of copies
        self._key_weight, self._key_bias = self._key_weight.to(dtype), self._key_bias.to(dtype)
        self._value_weight, self._value_bias = self._value_weight.to(dtype), self._value_bias.to(dtype)
        self._mixture_weight = [x.to(dtype) for x in self._mixture_weight]
        self._mixture_bias = [x.to(dtype) for x in self._mixture_bias]

    def _temporal_keys(self) -> Tensor:
        """(num_maskmem, layers, hw, C): the rotated projection of every temporal position encoding."""
        projected = F.linear(self._sam.maskmem_tpos_enc[:, 0, 0].detach(), self._key_weight)
        tokens = self._rotation.shape[0]
        projected = projected.unflatten(-1, (len(self._layers), -1))[:, :, None].expand(-1, -1, tokens, -1)
        return self._rotate(projected)

    def _rotate(self, x: Tensor) -> Tensor:
        """Axial RoPE over (..., hw, C), as ``apply_rotary_enc``."""
        pairs = x.float().unflatten(-1, (-1, 2))
        if torch.compiler.is_compiling():  # compilers fuse real products with their neighbours, and complex ones not
            even, odd = pairs.unbind(-1)
            cos, sin = self._rotation_parts
            return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2).to(x.dtype)
        return torch.view_as_real(torch.view_as_complex(pairs.contiguous()) * self._rotation).flatten(-2).to(x.dtype)

    def project(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Memories (B, hw, C_mem) -> keys without temporal position (B, layers, hw, C), values (B, layers|1, hw, V)."""
        keys = F.linear(memory + self._spatial_position, self._key_weight, self._key_bias)
        keys = self._rotate(keys.unflatten(-1, (len(self._layers), -1)).transpose(1, 2))
        return keys, self._values(memory, keys.dtype)

    def _values(self, memory: Tensor, dtype: torch.dtype) -> Tensor:
        if self.fold_values:
            return memory[:, None].to(dtype)
        values = F.linear(memory, self._value_weight, self._value_bias)
        return values.unflatten(-1, (len(self._layers), -1)).transpose(1, 2).contiguous()

    def project_pointers(self, pointers: Tensor, distances: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of object pointers, as in ``SAM2Base._prepare_memory_conditioned_features``.

        Args:
            pointers: (B, P, C).
            distances: float32 (B, P), frames from the pointer's frame to the current one.

        Returns:
            keys (B, layers, P * C / C_mem, C) and values (B, layers or 1, P * C / C_mem, V).
        """
        sam = self._sam
        batch, count, dim = pointers.shape
        split = dim // sam.mem_dim
        # A stream has no last frame, so the normaliser is that of a long video: max_obj_ptrs_in_encoder - 1.
        sine = get_1d_sine_pe(distances.flatten() / (sam.max_obj_ptrs_in_encoder - 1), dim=dim)
        position = sam.obj_ptr_tpos_proj(sine).view(batch, count, sam.mem_dim).repeat_interleave(split, dim=1)
        tokens = pointers.reshape(batch, count * split, sam.mem_dim)
        keys = F.linear(tokens + position, self._key_weight, self._key_bias)
        return keys.unflatten(-1, (len(self._layers), -1)).transpose(1, 2), self._values(tokens, keys.dtype)

    def _gather(self, memory: MemoryBatch, rows: slice) -> tuple[Tensor, Tensor]:
        """Keys (b, layers, N, C) and values (b, layers or 1, N, V) of b objects: frames first, then pointers."""
        frames, pointer_keys = memory.frames[rows], memory.pointer_keys[rows]
        pointer_values = memory.pointer_values[rows]
        tokens = self.temporal_keys.shape[2]
        spatial = len(frames[0]) * tokens
        parts = pointer_keys, pointer_values
        shapes = [(x.shape[1], spatial + x.shape[2], x.shape[3]) for x in parts]
        room = self.room(len(frames), *shapes)
        if room is None:
            room = tuple(x.new_empty(len(frames), *shape) for x, shape in zip(parts, shapes, strict=True))
        keys, values = room
        keys[:, :, spatial:] = pointer_keys
        values[:, :, spatial:] = pointer_values
        for row, remembered in enumerate(frames):
            for place, (frame_keys, frame_values, temporal) in enumerate(remembered):
                at = slice(place * tokens, (place + 1) * tokens)
                torch.add(frame_keys, self.temporal_keys[temporal], out=keys[row, :, at])
                values[row, :, at] = frame_values
        return keys, values

    def _attend(self, layer: int, x: Tensor, keys: Tensor, values: Tensor, gates: Tensor | None) -> Tensor:
        """Cross-attention of one layer: normed tokens (1 or b, hw, C) -> (b, hw, C)."""
        query = self._rotate(self._cross_queries[layer](x, gates)).expand(len(keys), -1, -1)
        if self.fold_values:
            return F.linear(_mix(query, keys, values), self._mixture_weight[layer], self._mixture_bias[layer])
        mixed = attend(query, keys, values, self.ways.get(len(keys), PLAIN))
        return self._layers[layer].cross_attn_image.out_proj(mixed)

    def _self_attend(self, layer: int, x: Tensor, gates: Tensor | None) -> Tensor:
        """Self-attention of one layer: tokens (1 or b, hw, C) -> (1 or b, hw, C)."""
        projected = self._self_projections[layer](self._layers[layer].norm1(x), gates)
        projected = projected.unflatten(-1, (3, -1)).transpose(1, 2)
        query, key = self._rotate(projected[:, :2]).unbind(1)
        value = projected[:, 2]
        if self.fold_values:
            mixed = _mix(query, key, value)
        else:
            mixed = attend(query, key, value)
        return self._layers[layer].self_attn.out_proj(mixed)

    def _run(self, x: Tensor, memory: MemoryBatch, rows: slice, begun: bool) -> Tensor:
        """All layers for some objects, from tokens (1, hw, C) to (b, hw, C).

        Args:
            x: input of the first layer, equal for all objects.
            memory: of all objects.
            rows: the objects.
            begun: ``x`` has gone through the first self-attention.
        """
        keys, values = self._gather(memory, rows)
        gates = () if memory.gates is None else (memory.gates[rows],)
        step = self.compiled or self.layers_step
        [fused] = step((x,), (keys, values, *gates), begun)
        return fused

    def layers_step(self, shared: tuple[Tensor, ...], rows: tuple[Tensor, ...], begun: bool) -> tuple[Tensor, ...]:
        """All layers for b objects whose keys and values are gathered.

        Args:
            shared: tokens (1, hw, C).
            rows: keys (b, layers, N, C), values (b, layers or 1, N, V), and gates (b, L, R) where there are any.
            begun: the tokens have gone through the first self-attention.

        Returns:
            conditioned tokens (b, hw, C).
        """
        [x] = shared
        keys, values = rows[0].unbind(1), rows[1].expand(-1, len(self._layers), -1, -1).unbind(1)
        gates = rows[2] if len(rows) > 2 else None
        for index, layer in enumerate(self._layers):
            if index or not begun:
                x = x + self._self_attend(index, x, gates)
            x = x + self._attend(index, layer.norm2(x), keys[index], values[index], gates)
            x = x + layer.linear2(layer.activation(layer.linear1(layer.norm3(x))))
        return (self._sam.memory_attention.norm(x),)

    def __call__(self, tokens: Tensor, memory: MemoryBatch) -> Tensor:
        """Condition the current frame on each object's memory: ``MemoryAttention.forward``, batch first.

        Args:
            tokens: (1, hw, C) stride-16 features of the current frame.
            memory: of B objects.

        Returns:
            (B, hw, C).
        """
        x = tokens + 0.1 * self._query_position if self._sam.memory_attention.pos_enc_at_input else tokens
        # Without gates in it the first self-attention cannot tell the objects apart.
        begun = memory.gates is None or not self._self_projections[0].adapted
        if begun:
            x = x + self._self_attend(0, x, None)
        count = len(memory.frames)
        size = OBJECTS_AT_ONCE if self.fold_values else count
        parts = [self._run(x, memory, slice(start, start + size), begun) for start in range(0, count, size)]
        return torch.cat(parts)


@contextmanager
def flushed_subnormals() -> Iterator[bool]:
    """Take subnormal numbers for zero on this thread; gives whether that holds wherever torch computes.

    It does not where torch has threads of its own: they keep their ways.
    """
    if torch.get_num_threads() > 1:
        yield False
        return
    before = bool(_SUBNORMAL * 1 == 0)
    flushing = torch.set_flush_denormal(True)
    try:
        yield flushing
    finally:
        if not before:
            torch.set_flush_denormal(False)


def softmax_without_subnormals(scores: Tensor, out: Tensor) -> None:
    """Softmax over the last dimension of ``scores``, which is overwritten, into ``out``.

    From exp(-87) down to exp(-104) an exponential is a subnormal number; a CPU is some hundred times slower with these,
    and a trained model has many.  Raising them to exp(-64) of the largest weight changes no sum in float32.
    """
    torch.softmax(scores.clamp_(min=scores.amax(-1, keepdim=True) - 64), -1, out=out)


def _mix(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention of one head, softmax(q k / sqrt(C)) v, in plain products over as many queries as the cache holds.

    One thread needs no pass over the scores to keep subnormal numbers away: it flushes them.

    Args:
        query: (B, T, C).
        keys: (B, N, C).
        values: (B, N, V).

    Returns:
        (B, T, V).
    """
    query = query * query.shape[-1] ** -0.5
    (batch, tokens, _), count = query.shape, keys.shape[1]
    blocks = max(1, round(tokens * count * query.element_size() / SCORE_BYTES))
    step = max(-(-tokens // blocks), min(64, tokens))
    mixed = values.new_empty(batch, tokens, values.shape[-1])
    scores, weights = query.new_empty(2, step, count)
    with flushed_subnormals() as flushing:
        softmax = partial(torch.softmax, dim=-1) if flushing else softmax_without_subnormals
        for row in range(batch):
            for start in range(0, tokens, step):
                at = slice(start, min(start + step, tokens))
                size = at.stop - start
                torch.mm(query[row, at], keys[row].t(), out=scores[:size])
                softmax(scores[:size], out=weights[:size])
                torch.mm(weights[:size], values[row], out=mixed[row, at])
    return mixed
