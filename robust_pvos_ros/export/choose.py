"""Which encoder runs: the choice, what it needs on disk, and what happens when it fails."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor

from robust_pvos_ros.export.engine import cached_engine, make_key
from robust_pvos_ros.export.onnx_file import cache_folder, encoder_digest, export_onnx
from robust_pvos_ros.tracking.adapters import load_adapter
from robust_pvos_ros.tracking.checkpoints import adapter_file, build_sam
from robust_pvos_ros.tracking.compiled import OUT_OF_MEMORY as OUT_OF_MEMORY
from robust_pvos_ros.tracking.compiled import compile_model
from robust_pvos_ros.tracking.encoder import Encoder, EncoderOutput
from robust_pvos_ros.tracking.encoder_onnx import OnnxEncoder
from robust_pvos_ros.tracking.encoder_tensorrt import TensorRTEncoder
from robust_pvos_ros.tracking.model import Sam2Model
from robust_pvos_ros.tracking.types import ModelConfig, ModelError, PvosError

ENCODERS = ('auto', 'torch', 'onnx', 'tensorrt')
Note = Callable[[str], None]


@dataclass(frozen=True)
class Choice:
    """The encoder that a model was given.

    Attributes:
        name: ``torch``, ``onnx`` or ``tensorrt``; reason: why, to be read after the name.
        failure: what kept a faster one from running; empty where nothing did.
    """

    name: str
    reason: str
    failure: str = ''


class GuardedEncoder:
    """An encoder that is replaced by torch's for good when it fails on a frame.

    Attributes:
        failure: what it said, empty as long as it works.
    """

    def __init__(self, encoder: Encoder, spare: Encoder, note: Note) -> None:
        self._encoder, self._spare, self._note = encoder, spare, note
        self.failure = ''

    @property
    def name(self) -> str:
        """Of the encoder that runs."""
        return self._encoder.name

    @property
    def takes_batches(self) -> bool:
        """See :class:`Encoder`."""
        return self._encoder.takes_batches

    def give_up(self, reason: str) -> bool:
        """Go on with torch's encoder for good; False if it runs already."""
        if self._encoder is self._spare:
            return False
        self.failure = reason
        self._encoder = self._spare
        self._note(reason)
        return True

    def __call__(self, image: Tensor) -> EncoderOutput:
        """See :class:`Encoder`."""
        if not self.failure:
            try:
                return self._encoder(image)
            except OUT_OF_MEMORY:
                raise  # that is no fault of the encoder
            except (ModelError, RuntimeError) as error:
                self.give_up(f'the encoder {self._encoder.name} failed and torch goes on: {error}')
        return self._encoder(image)


def equip_with_encoder(
    model: Sam2Model, config: ModelConfig, note: Note = lambda text: None, folder: Path | None = None
) -> Choice:
    """Give ``model``, which ``load_model`` made from ``config``, the encoder that ``config.encoder`` names, and compile
    it where ``config.compile`` asks for that.

    ``auto`` takes TensorRT on a GPU where it is installed and builds an engine, ONNX Runtime on a CPU that does not
    multiply bfloat16, and torch otherwise and where these fail.

    Args:
        note: told what is being done, for a log; folder: for exported files (default: :func:`cache_folder`).

    Raises:
        ModelError: if ``config.encoder`` is unknown, or is not ``auto`` and cannot run here, or if the model cannot be
            compiled.
        ExportError: if it is not ``auto`` and cannot be exported or built.
    """
    choice = _equip(model, config, note, folder or cache_folder())
    if config.compile:
        compile_model(model, note=note)
    return choice


def _equip(model: Sam2Model, config: ModelConfig, note: Note, folder: Path) -> Choice:
    if config.encoder not in ENCODERS:
        raise ModelError(f'encoder must be one of {", ".join(ENCODERS)}, got {config.encoder!r}')
    name, reason = (config.encoder, 'as asked for') if config.encoder != 'auto' else _best(model)
    if name == 'torch':
        return Choice(name, reason)
    try:
        encoder = _onnx(model, config, folder, note) if name == 'onnx' else _tensorrt(model, config, folder, note)
    except PvosError as error:
        if config.encoder != 'auto':
            raise
        note(f'the encoder {name} cannot be used: {error}')
        return Choice('torch', f'{name} cannot be used', str(error))
    model.encoder = GuardedEncoder(encoder, model.encoder, note)
    return Choice(name, reason)


def _best(model: Sam2Model) -> tuple[str, str]:
    """Name of the encoder that is the fastest where it works, and why."""
    if model.device.type == 'cuda':
        if any(importlib.util.find_spec(name) for name in ('tensorrt', 'tensorrt_rtx')):
            return 'tensorrt', 'TensorRT is installed'
        return 'torch', 'TensorRT is not installed'
    if model.precision == 'bfloat16':
        return 'torch', 'the CPU multiplies bfloat16'
    if all(importlib.util.find_spec(name) for name in ('onnx', 'onnxruntime')):
        return 'onnx', 'the CPU does not multiply bfloat16'
    return 'torch', 'onnx and onnxruntime are not installed'


def exported(model: str, sam: SAM2Base, digest: str, folder: Path, precision: str, note: Note) -> Path:
    """The ONNX file of ``sam``, which is taken over, in ``folder``; it is written unless it is there.

    Args:
        digest: of ``sam``, see :func:`encoder_digest`.
    """
    path = folder / f'{model}_{sam.image_size}_{digest}_{precision}.onnx'
    if not path.is_file():
        note(f'exporting the image encoder to {path}')
        export_onnx(sam, path, precision)
    return path


def fresh_sam(config: ModelConfig) -> SAM2Base:
    """The network of ``config`` in float32 on the CPU, an adapter's LayerNorms in it."""
    sam = build_sam(config.model, config.checkpoint, config.image_size)
    if (adapter := adapter_file(config)) is not None:
        load_adapter(adapter, sam, config.model)
    return sam.eval().requires_grad_(False)


def _onnx(model: Sam2Model, config: ModelConfig, folder: Path, note: Note) -> Encoder:
    if model.device.type != 'cpu':
        raise ModelError(f'the encoder onnx runs on a CPU, but the model is on {model.device}: use tensorrt or torch')
    sam = fresh_sam(config)
    digest = encoder_digest(sam)
    path = exported(config.model, sam, digest, folder, 'float32', note)
    try:
        return OnnxEncoder(path, torch.get_num_threads())
    except ModelError as error:
        if not path.is_file() or importlib.util.find_spec('onnxruntime') is None:
            raise
        note(f'{error}; it is exported again')
        path.unlink()
        exported(config.model, fresh_sam(config), digest, folder, 'float32', note)
        return OnnxEncoder(path, torch.get_num_threads())


def _tensorrt(model: Sam2Model, config: ModelConfig, folder: Path, note: Note) -> Encoder:
    if model.device.type != 'cuda':
        raise ModelError(f'the encoder tensorrt needs a GPU, but the model is on {model.device}: use onnx or torch')
    sam = fresh_sam(config)
    precision = 'float32' if model.precision == 'float32' else 'float16'
    digest = encoder_digest(sam)
    path = exported(config.model, sam, digest, folder, precision, note)
    key = make_key(digest, path, precision)
    return TensorRTEncoder(cached_engine(folder, key, path, note), model.device)
