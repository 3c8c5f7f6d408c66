"""The image encoder in the float16 of a TensorRT engine, run by torch: what that rounding does can be seen anywhere."""

from __future__ import annotations

import torch
from torch import Tensor

from robust_pvos_ros.export.choose import fresh_sam
from robust_pvos_ros.export.onnx_file import EncoderModule, exact_attention
from robust_pvos_ros.tracking.encoder import EncoderOutput
from robust_pvos_ros.tracking.model import Sam2Model
from robust_pvos_ros.tracking.types import ModelConfig


class Float16Encoder:
    """The module that is exported as the ONNX file of a float16 engine; every layer rounds to float16 as that does.

    Args:
        config: of the model whose encoder it is; device: where it runs.
    """

    name = 'float16'
    takes_batches = False

    def __init__(self, config: ModelConfig, device: torch.device) -> None:
        self._device = device
        self._module = EncoderModule(fresh_sam(config), torch.float16).eval().to(device)

    @torch.inference_mode()
    def __call__(self, image: Tensor) -> EncoderOutput:
        """See :class:`robust_pvos_ros.tracking.encoder.Encoder`."""
        with torch.autocast(self._device.type, enabled=False), exact_attention():
            return EncoderOutput(*self._module(image.float()))


def encode_in_float16(model: Sam2Model, config: ModelConfig) -> None:
    """Put the encoder of ``config`` in float16 into ``model``, which was loaded from it."""
    model.encoder = Float16Encoder(config, model.device)
