"""Memory attention with the work left out that need not be done on every frame.

``sam2.modeling.memory_attention`` projects and rotates every remembered token again on every frame.  A remembered frame
changes from one frame to the next only by its temporal position t, and the projection is linear:

    RoPE(Wk (memory + pos + tpos[t]) + bk) = RoPE(Wk (memory + pos) + bk) + RoPE(Wk tpos[t])

The first term is computed once when the frame is remembered, the second once per model; values do not depend on t.  Up
to the first cross-attention all objects share the same queries, so without an adapter they are computed once for all.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from sam2.modeling.position_encoding import compute_axial_cis
from sam2.modeling.sam2_base import SAM2Base
from sam2.modeling.sam2_utils import get_1d_sine_pe
from torch import Tensor

from robust_pvos_ros.tracking.adapters import MogaAdapter


@dataclass(frozen=True)
class MemoryBatch:
    """The memories of a group of objects, ready for attention.  N = spatial tokens + pointer tokens.

    Attributes:
        keys: per layer (B, N, C), rotated spatial keys first, then pointer keys, which take no RoPE.
        values: per layer (B, N, V); V = C, or C_mem where ``fold_values`` is set.
        pointers: (B, P, C) the object pointers among them, for the adapter's gates.
    """

    keys: list[Tensor]
    values: list[Tensor]
    pointers: Tensor


class CachedMemoryAttention:
    """``SAM2Base.memory_attention`` over cached keys and values; same weights, same result up to rounding.

    Args:
        sam: the model; its weights must not change afterwards.
        adapter: MoGA layers inside it, or None.
        fold_values: attend to the raw memory (C_mem channels) and project the mixture afterwards, which is the same sum
            in another order because attention weights sum to one: P (M Wv' + b) = (P M) Wv' + b.
    """

    def __init__(self, sam: SAM2Base, adapter: MogaAdapter | None, fold_values: bool) -> None:
        self._sam = sam
        self._adapter = adapter
        self._layers = list(sam.memory_attention.layers)
        self.fold_values = fold_values
        for layer in self._layers:
            if layer.cross_attn_image.num_heads != 1 or layer.self_attn.num_heads != 1:
                raise NotImplementedError('memory attention with several heads is not supported')
        side = sam.image_size // sam.backbone_stride
        weight = self._layers[0].cross_attn_image.k_proj.weight
        self._rotation = compute_axial_cis(dim=weight.shape[0], end_x=side, end_y=side).to(weight.device)
        cross = [layer.cross_attn_image for layer in self._layers]
        self._key_weight = torch.cat([x.k_proj.weight for x in cross]).detach()
        self._key_bias = torch.cat([x.k_proj.bias for x in cross]).detach()
        self._value_weight = torch.cat([x.v_proj.weight for x in cross]).detach()
        self._value_bias = torch.cat([x.v_proj.bias for x in cross]).detach()
        position = sam.memory_encoder.position_encoding(weight.new_zeros(1, sam.mem_dim, side, side))
        self._spatial_position = position.flatten(2).transpose(1, 2)
        query = sam.image_encoder.neck.position_encoding(weight.new_zeros(1, sam.hidden_dim, side, side))
        self._query_position = query.flatten(2).transpose(1, 2)
        self.temporal_keys = self._temporal_keys()

    def _temporal_keys(self) -> Tensor:
        """(num_maskmem, layers, hw, C): the rotated projection of every temporal position encoding."""
        projected = F.linear(self._sam.maskmem_tpos_enc[:, 0, 0].detach(), self._key_weight)
        tokens = self._rotation.shape[0]
        projected = projected.unflatten(-1, (len(self._layers), -1))[:, :, None].expand(-1, -1, tokens, -1)
        return self._rotate(projected)

    def _rotate(self, x: Tensor) -> Tensor:
        """Axial RoPE over (..., hw, C), as ``apply_rotary_enc``."""
        pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * self._rotation).flatten(-2).to(x.dtype)

    def project(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Memories (B, hw, C_mem) -> keys without temporal position (B, layers, hw, C), values (B, layers|1, hw, V)."""
        keys = F.linear(memory + self._spatial_position, self._key_weight, self._key_bias)
        keys = self._rotate(keys.unflatten(-1, (len(self._layers), -1)).transpose(1, 2))
        return keys, self._values(memory)

    def _values(self, memory: Tensor) -> Tensor:
        if self.fold_values:
            return memory[:, None].to(self._value_weight.dtype)
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
        return keys.unflatten(-1, (len(self._layers), -1)).transpose(1, 2), self._values(tokens)

    def _attend(self, layer: int, query: Tensor, memory: MemoryBatch) -> Tensor:
        """Cross-attention of one layer: queries (1 or B, hw, C) -> (B, hw, C)."""
        cross = self._layers[layer].cross_attn_image
        keys, values = memory.keys[layer], memory.values[layer]
        query = self._rotate(cross.q_proj(query)).expand(len(keys), -1, -1)
        if not self.fold_values:
            mixed = F.scaled_dot_product_attention(query[:, None], keys[:, None], values[:, None])[:, 0]
        else:
            scores = torch.matmul(query * query.shape[-1] ** -0.5, keys.transpose(1, 2))
            mixed = cross.v_proj(torch.matmul(scores.softmax(-1), values))
        return cross.out_proj(mixed)

    def _self_attend(self, layer: int, x: Tensor) -> Tensor:
        attention = self._layers[layer].self_attn
        query, key = self._rotate(attention.q_proj(x)), self._rotate(attention.k_proj(x))
        mixed = F.scaled_dot_product_attention(query[:, None], key[:, None], attention.v_proj(x)[:, None])
        return attention.out_proj(mixed[:, 0])

    def __call__(self, tokens: Tensor, memory: MemoryBatch) -> Tensor:
        """Condition the current frame on each object's memory: ``MemoryAttention.forward``, batch first.

        Args:
            tokens: (1, hw, C) stride-16 features of the current frame.
            memory: of B objects.

        Returns:
            (B, hw, C).
        """
        attention = self._sam.memory_attention
        x = tokens + 0.1 * self._query_position if attention.pos_enc_at_input else tokens
        if self._adapter is not None:
            self._adapter.condition(memory.pointers)
            x = x.expand(len(memory.pointers), -1, -1)
        for index, layer in enumerate(self._layers):
            normed = layer.norm1(x)
            x = x + self._self_attend(index, normed)
            x = x + self._attend(index, layer.norm2(x), memory)
            x = x + layer.linear2(layer.activation(layer.linear1(layer.norm3(x))))
        return attention.norm(x)
