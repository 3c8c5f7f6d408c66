"""TensorRT engines from exported encoders: built with or without a GPU, kept in files that say what they are for."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from robust_pvos_ros.export.onnx_file import ExportError, file_digest
from robust_pvos_ros.tracking.encoder_tensorrt import import_tensorrt, listening_logger

MAGIC = b'PVOSENG1'
Note = Callable[[str], None]


@dataclass(frozen=True)
class EngineKey:
    """What an engine depends on.

    Attributes:
        encoder: digest of weights and image size; onnx: digest of the file it was built from.
        tensorrt: package and version; gpu: name and compute capability, ``none`` where it was built without one.
        precision: of the ONNX file.
    """

    encoder: str
    onnx: str
    tensorrt: str
    gpu: str
    precision: str

    @property
    def file_name(self) -> str:
        """A name of its own for every key."""
        return f'encoder_{hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:16]}.engine'


def describe_gpu() -> str:
    """Name and compute capability of torch's current GPU, ``none`` where there is none."""
    if not torch.cuda.is_available():
        return 'none'
    major, minor = torch.cuda.get_device_capability()
    return f'{torch.cuda.get_device_name()}, {major}.{minor}'


def make_key(encoder: str, onnx: Path, precision: str) -> EngineKey:
    """The key of an engine for this machine.  Raises ModelError where TensorRT is missing."""
    trt = import_tensorrt()
    return EngineKey(encoder, file_digest(onnx), f'{trt.__name__} {trt.__version__}', describe_gpu(), precision)


def build_engine(onnx: Path, note: Note = lambda text: None) -> bytes:
    """Parse an ONNX file and build its engine for this machine's GPU; TensorRT for RTX needs none.

    Args:
        note: told what is being done, a few times a minute at most.

    Raises:
        ModelError: if TensorRT is not installed.
        ExportError: if it cannot parse the file or build the engine, with what it said.
    """
    trt = import_tensorrt()
    said: list[str] = []
    logger = listening_logger(trt, said)
    builder = trt.Builder(logger)
    if builder is None:
        raise ExportError(f'{trt.__name__} {trt.__version__} has no builder here: {"; ".join(said)}')
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx.read_bytes()):
        errors = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        raise ExportError(f'{trt.__name__} cannot parse {onnx}: {"; ".join(errors)}')
    config = builder.create_builder_config()
    note(f'building an engine of {network.num_layers} layers with {trt.__name__} {trt.__version__}')
    config.progress_monitor = _monitor(trt, note)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise ExportError(f'{trt.__name__} {trt.__version__} cannot build {onnx}: {"; ".join(said[-3:])}')
    return bytes(engine)


def _monitor(trt: Any, note: Note) -> Any:
    """A progress monitor that speaks of the outermost phase, in tenths."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._outer: dict[str, tuple[int, int]] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self._outer[phase_name] = num_steps, -1

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self._outer:
                steps, told = self._outer[phase_name]
                tenth = 10 * step // max(1, steps)
                if tenth > told:
                    self._outer[phase_name] = steps, tenth
                    note(f'{phase_name}: {10 * tenth} %')
            return True

        def phase_finish(self, phase_name: str) -> None:
            self._outer.pop(phase_name, None)

    return Monitor()


def write_engine(path: Path, key: EngineKey, engine: bytes) -> None:
    """Write an engine with its key and checksum; the file appears whole or not at all.

    Raises:
        ExportError: if it cannot be written.
    """
    header = json.dumps({'key': asdict(key), 'sha256': hashlib.sha256(engine).hexdigest()}).encode()
    part = path.with_name(f'{path.name}.{os.getpid()}.part')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open('wb') as file:
                file.write(MAGIC + struct.pack('<I', len(header)) + header + engine)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise ExportError(f'cannot write {path}: {error}') from error


def read_engine(path: Path, key: EngineKey) -> bytes:
    """The engine in a file of :func:`write_engine`.

    Raises:
        ExportError: if the file is missing, foreign, truncated, damaged or made for another ``key``; says which.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ExportError(f'{path} cannot be read: {error.strerror}') from error
    begin = len(MAGIC) + 4
    if len(data) < begin or not data.startswith(MAGIC):
        raise ExportError(f'{path} is no engine of this project')
    end = begin + struct.unpack_from('<I', data, len(MAGIC))[0]
    try:
        header = json.loads(data[begin:end])
        found, checksum = EngineKey(**header['key']), header['sha256']
    except (ValueError, KeyError, TypeError) as error:
        raise ExportError(f'{path} is truncated or damaged') from error
    if found != key:
        wrong = [name for name, value in asdict(key).items() if getattr(found, name) != value]
        raise ExportError(f'{path} was built for another {", ".join(wrong)}')
    engine = data[end:]
    if hashlib.sha256(engine).hexdigest() != checksum:
        raise ExportError(f'{path} is truncated or damaged')
    return engine


def cached_engine(folder: Path, key: EngineKey, onnx: Path, note: Note = lambda text: None) -> bytes:
    """The engine for ``key`` from ``folder``, built and kept there if there is none that is sound.

    Raises:
        ExportError, ModelError: as :func:`build_engine`.
    """
    path = folder / key.file_name
    if path.exists():
        try:
            engine = read_engine(path, key)
            note(f'engine {path} is up to date')
            return engine
        except ExportError as error:
            note(f'{error}; it is built again')
    engine = build_engine(onnx, note)
    write_engine(path, key, engine)
    note(f'engine written to {path}')
    return engine
