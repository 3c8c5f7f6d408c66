"""How a network lies in memory, and the modules that get an equal in a faster form."""

from __future__ import annotations

import torch
from sam2.modeling.sam.transformer import Attention
from sam2.modeling.sam2_base import SAM2Base
from sam2.modeling.sam2_utils import LayerNorm2d
from torch import Tensor, nn

from robust_pvos_ros.tracking.compact import Float32MaskDownSampler
from robust_pvos_ros.tracking.trunk import ChannelNorm


def fuse_norms(network: nn.Module) -> None:
    """Give every ``LayerNorm2d`` inside ``network``, in place, to torch's layer norm over channels-last memory.

    The parameters keep their names and the results are equal up to rounding.  ``LayerNorm2d`` is eight passes over the
    map; what follows it (a linear layer over channels in ``CXBlock``) copies its weights for every row of a map that is
    not channels-last.
    """
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, LayerNorm2d):
                fused = ChannelNorm(len(child.weight), eps=child.eps)
                fused.weight, fused.bias = child.weight, child.bias
                module.add_module(name, fused.train(child.training))


MOST_KEYS = 8
"""As many tokens as an object without a prompt has: those of the outputs and the two of an empty prompt."""


class FewKeysAttention(Attention):
    """``Attention`` of the mask decoder for the cells of a map that attend to a few tokens, on a CPU.

    The fused kernel goes row by row through the scores, and these rows are as short as the tokens are few.  Plain
    products with the softmax taken over columns are two to six times as fast.
    """

    @classmethod
    def taking_over(cls, attention: Attention) -> FewKeysAttention:
        """One with the layers of ``attention``."""
        own = cls.__new__(cls)
        own.__dict__.update(attention.__dict__)
        return own

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Queries (B, N, C), keys and values (B, M, ``kv_in_dim``) -> (B, N, C)."""
        if k.shape[1] > MOST_KEYS:
            return super().forward(q, k, v)
        projected = self.q_proj(q), self.k_proj(k), self.v_proj(v)
        query, key, value = (self._separate_heads(x, self.num_heads) for x in projected)
        weights = ((key * key.shape[-1] ** -0.5) @ query.transpose(-2, -1)).softmax(-2)
        mixed = (value.transpose(-2, -1) @ weights).transpose(-2, -1)
        return self.out_proj(self._recombine_heads(mixed))


def lay_out(sam: SAM2Base, precision: str) -> None:
    """Store the weights of ``sam``, in place, as its kernels read them, so that they are not converted on every call.

    Convolutions of both encoders get channels-last weights, norms over channels become fused ones.  With precision
    ``bfloat16``, convolutions and linear layers get the weights to which autocast would round theirs.  On a CPU the
    mask decoder gets :class:`FewKeysAttention`.
    """
    fuse_norms(sam)
    if sam.device.type == 'cpu':
        for layer in sam.sam_mask_decoder.transformer.layers:
            layer.cross_attn_image_to_token = FewKeysAttention.taking_over(layer.cross_attn_image_to_token)
    sam.image_encoder.to(memory_format=torch.channels_last)
    sam.memory_encoder.to(memory_format=torch.channels_last)
    if precision == 'float32':
        return
    exact = {x for module in sam.modules() if isinstance(module, Float32MaskDownSampler) for x in module.modules()}
    for module in sam.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)) and module not in exact:
            module.to(torch.bfloat16)
