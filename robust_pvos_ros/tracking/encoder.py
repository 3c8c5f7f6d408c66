"""Image encoders behind one protocol: camera image in, three feature maps out."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor


class EncoderOutput(NamedTuple):
    """Feature maps of one image.

    Attributes:
        stride4: (1, C / 8, S / 4, S / 4), after ``conv_s0`` of the mask decoder.
        stride8: (1, C / 4, S / 8, S / 8), after ``conv_s1`` of the mask decoder.
        stride16: (1, C, S / 16, S / 16).
    """

    stride4: Tensor
    stride8: Tensor
    stride16: Tensor


class Encoder(Protocol):
    """Turns a normalised image into feature maps."""

    def __call__(self, image: Tensor) -> EncoderOutput:
        """(1, 3, S, S) float32, normalised with the ImageNet statistics -> feature maps."""


class TorchEncoder:
    """The image encoder of ``SAM2Base`` run by torch."""

    name = 'torch'

    def __init__(self, sam: SAM2Base) -> None:
        self._sam = sam

    @torch.inference_mode()
    def __call__(self, image: Tensor) -> EncoderOutput:
        """See :class:`Encoder`; ``SAM2Base.forward_image`` without its constant position encodings."""
        return EncoderOutput(*self._sam.forward_image(image)['backbone_fpn'])
