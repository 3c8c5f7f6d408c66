"""The image encoder run by ONNX Runtime on the CPU."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from robust_pvos_ros.tracking.encoder import EncoderOutput
from robust_pvos_ros.tracking.types import ModelError


class OnnxEncoder:
    """An exported encoder, see :mod:`robust_pvos_ros.export.onnx_file`, in ONNX Runtime.

    Args:
        path: the ONNX file; threads: of the CPU, as torch uses them.

    Raises:
        ModelError: if onnxruntime is not installed, or the file is missing, damaged or no encoder.
    """

    name = 'onnx'
    takes_batches = False  # files and engines are of one size

    def __init__(self, path: Path, threads: int = 1) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise ModelError('the encoder onnx needs the package onnxruntime: pip install onnxruntime') from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # threads that wait by spinning would take the middleware's core
        options.add_session_config_entry('session.intra_op.allow_spinning', '0')
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
        except Exception as error:  # its errors share no base class
            raise ModelError(f'{path} is no ONNX file that can be run: {error}') from error
        names = tuple(output.name for output in self._session.get_outputs())
        if names != EncoderOutput._fields:
            raise ModelError(f'{path} is no image encoder: its outputs are {names}, expected {EncoderOutput._fields}')

    @torch.inference_mode()
    def __call__(self, image: Tensor) -> EncoderOutput:
        """See :class:`Encoder`; the image must be on the CPU."""
        maps = self._session.run(EncoderOutput._fields, {'image': image.contiguous().numpy()})
        return EncoderOutput(*(torch.from_numpy(x) for x in maps))
