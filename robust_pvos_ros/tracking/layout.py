"""How a network lies in memory, and the modules that get an equal in a faster form."""

from __future__ import annotations

import torch
from sam2.modeling.sam2_base import SAM2Base
from sam2.modeling.sam2_utils import LayerNorm2d
from torch import nn

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


def lay_out(sam: SAM2Base, precision: str) -> None:
    """Store the weights of ``sam``, in place, as its kernels read them, so that they are not converted on every call.

    Convolutions of both encoders get channels-last weights, norms over channels become fused ones.  With precision
    ``bfloat16``, convolutions and linear layers get the weights to which autocast would round theirs.
    """
    fuse_norms(sam)
    sam.image_encoder.to(memory_format=torch.channels_last)
    sam.memory_encoder.to(memory_format=torch.channels_last)
    if precision == 'float32':
        return
    exact = {x for module in sam.modules() if isinstance(module, Float32MaskDownSampler) for x in module.modules()}
    for module in sam.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)) and module not in exact:
            module.to(torch.bfloat16)
