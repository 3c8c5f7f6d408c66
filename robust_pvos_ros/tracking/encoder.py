"""Image encoders behind one protocol: camera image in, three feature maps out."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from sam2.modeling.backbones.hieradet import Hiera
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor


class EncoderOutput(NamedTuple):
    """Feature maps of one image.

    Attributes:
        stride4: (1, C / 8, S / 4, S / 4), after ``conv_s0`` of the mask decoder.
        stride8: (1, C / 4, S / 8, S / 8), after ``conv_s1`` of the mask decoder.
        stride16: (1, C, S / 16, S / 16).

    An encoder that is given B images gives B in the place of 1.
    """

    stride4: Tensor
    stride8: Tensor
    stride16: Tensor


class Encoder(Protocol):
    """Turns a normalised image into feature maps."""

    @property
    def name(self) -> str:
        """``torch``, ``onnx`` or ``tensorrt``."""

    @property
    def takes_batches(self) -> bool:
        """Whether several images can be encoded at once."""

    def __call__(self, image: Tensor) -> EncoderOutput:
        """(B, 3, S, S) float32, normalised with the ImageNet statistics -> feature maps of batch B.

        B is 1 unless the encoder takes batches.
        """


class TorchEncoder:
    """The image encoder of ``SAM2Base`` run by torch.

    Same result as ``SAM2Base.forward_image``; what does not depend on the image (the interpolated position embedding of
    the trunk, the position encodings of the neck) is computed once or not at all.  The weights must not change
    afterwards.
    """

    name = 'torch'
    takes_batches = True

    def __init__(self, sam: SAM2Base) -> None:
        self._trunk = sam.image_encoder.trunk
        self._neck = sam.image_encoder.neck
        self._levels = len(self._neck.convs) - sam.image_encoder.scalp
        self._skips = (sam.sam_mask_decoder.conv_s0, sam.sam_mask_decoder.conv_s1)
        self._position: Tensor | None = None
        if isinstance(self._trunk, Hiera):
            side = sam.image_size // 4
            with torch.inference_mode():
                self._position = self._trunk._get_pos_embed((side, side)).clone()

    @torch.inference_mode()
    def __call__(self, image: Tensor) -> EncoderOutput:
        """See :class:`Encoder`."""
        return self.run(image)

    def to(self, dtype: torch.dtype) -> None:
        """Compute in ``dtype``; the network changes with it."""
        for module in (self._trunk, self._neck, *self._skips):
            module.to(dtype)
        self._position = None if self._position is None else self._position.to(dtype)

    def run(self, image: Tensor) -> EncoderOutput:
        """The trunk's ``forward`` and ``FpnNeck.forward``, outside inference mode too."""
        stages = self._trunk(image) if self._position is None else self._hiera(image, self._position)
        stride4, stride8, stride16 = self._pyramid(stages)[: self._levels]
        return EncoderOutput(self._skips[0](stride4), self._skips[1](stride8), stride16)

    def _hiera(self, image: Tensor, position: Tensor) -> list[Tensor]:
        x = self._trunk.patch_embed(image) + position
        stages = []
        for index, block in enumerate(self._trunk.blocks):
            x = block(x)
            if index in self._trunk.stage_ends:
                stages.append(x.permute(0, 3, 1, 2))
        return stages

    def _pyramid(self, stages: list[Tensor]) -> list[Tensor]:
        neck = self._neck
        last = len(neck.convs) - 1
        maps: list[Tensor] = []
        above: Tensor | None = None
        for level in range(last, -1, -1):
            lateral = neck.convs[last - level](stages[level])
            if level in neck.fpn_top_down_levels and above is not None:
                lateral = lateral + F.interpolate(above.float(), scale_factor=2.0, mode='nearest')
            above = lateral
            maps.insert(0, lateral)
        return maps
