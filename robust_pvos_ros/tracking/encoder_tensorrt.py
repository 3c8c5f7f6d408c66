"""The image encoder run by a TensorRT engine, on torch's memory and torch's stream."""

from __future__ import annotations

import importlib
from collections import deque
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from robust_pvos_ros.tracking.encoder import EncoderOutput
from robust_pvos_ros.tracking.types import ModelError

FLAVOURS = ('tensorrt', 'tensorrt_rtx')


def import_tensorrt() -> ModuleType:
    """``tensorrt``, or ``tensorrt_rtx``, whose interface is the same.

    Raises:
        ModelError: if neither can be imported, with what each said.
    """
    said = []
    for name in FLAVOURS:
        try:
            return importlib.import_module(name)
        except (ImportError, OSError) as error:  # OSError: a library of its own is missing
            said.append(f'{name}: {error}')
    raise ModelError(f'TensorRT is not installed ({"; ".join(said)}): pip install tensorrt-rtx-cu13, or use JetPack')


def listening_logger(trt: Any, said: list[str] | deque[str]) -> Any:
    """A TensorRT logger that appends warnings and errors to ``said``."""

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR, trt.ILogger.WARNING):
                said.append(text)

    return Logger()


class TensorRTEncoder:
    """A serialised engine of an exported encoder.

    Args:
        engine: what :func:`robust_pvos_ros.export.engine.build_engine` made for this GPU.
        device: the CUDA device that torch tracks on.

    Raises:
        ModelError: if TensorRT is not installed, or refuses the engine.
    """

    name = 'tensorrt'
    takes_batches = False  # files and engines are of one size

    def __init__(self, engine: bytes, device: torch.device) -> None:
        trt = import_tensorrt()
        self._device = device
        with torch.cuda.device(device):
            torch.cuda.current_stream()  # TensorRT then joins torch's context instead of making one
            self._said: deque[str] = deque(maxlen=8)
            self._logger: Any = listening_logger(trt, self._said)
            self._runtime: Any = trt.Runtime(self._logger)
            self._engine: Any = self._runtime.deserialize_cuda_engine(engine)
            self._context: Any = self._engine.create_execution_context() if self._engine is not None else None
        if self._context is None:
            why = '; '.join(self._said) or 'it was built by another version or for another GPU'
            raise ModelError(
                f'{trt.__name__} {trt.__version__} refuses the engine on {torch.cuda.get_device_name(device)}: {why}'
            )
        self._said.clear()
        self._shapes = {name: tuple(self._engine.get_tensor_shape(name)) for name in EncoderOutput._fields}

    @torch.inference_mode()
    def __call__(self, image: Tensor) -> EncoderOutput:
        """See :class:`Encoder`; the image must be on the engine's device.  Nothing is copied to the host."""
        image = image.contiguous()
        # fresh outputs: the tracker keeps the maps of the newest frame for prompts while the next one is encoded
        maps = {name: torch.empty(shape, device=self._device) for name, shape in self._shapes.items()}
        self._context.set_tensor_address('image', image.data_ptr())
        for name, tensor in maps.items():
            self._context.set_tensor_address(name, tensor.data_ptr())
        if not self._context.execute_async_v3(torch.cuda.current_stream(self._device).cuda_stream):
            raise ModelError(f'the TensorRT engine failed to run: {"; ".join(self._said) or "it does not say why"}')
        return EncoderOutput(**maps)
