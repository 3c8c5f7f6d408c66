"""Networks by name, and their weights from local files.

``compact`` ships with the package as safetensors; the official SAM 2.1 models load from the checkpoint files that Meta
publishes (``{'model': state_dict}`` pickles, read with ``weights_only=True``).
"""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from importlib import resources
from pathlib import Path

import torch
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor

from robust_pvos_ros.tracking.compact import CompactConfig, build_compact
from robust_pvos_ros.tracking.types import ModelConfig, ModelError

COMPACT_FORMAT = 'robust_pvos_compact'
OFFICIAL_CONFIGS = {
    'sam2.1_tiny': 'configs/sam2.1/sam2.1_hiera_t.yaml',
    'sam2.1_small': 'configs/sam2.1/sam2.1_hiera_s.yaml',
    'sam2.1_base_plus': 'configs/sam2.1/sam2.1_hiera_b+.yaml',
    'sam2.1_large': 'configs/sam2.1/sam2.1_hiera_l.yaml',
}
MODEL_NAMES = ('compact', *OFFICIAL_CONFIGS)


def resolve_device(name: str) -> torch.device:
    """``auto`` -> CUDA where there is one, else the CPU.

    Raises:
        ModelError: if the device does not exist here.
    """
    if name == 'auto':
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ModelError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:N', got {name!r}") from error
    if device.type not in ('cpu', 'cuda'):
        raise ModelError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:N', got {name!r}")
    if device.type == 'cuda' and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise ModelError(f'device {name!r} was asked for, but torch sees {torch.cuda.device_count()} CUDA devices')
    return device


def shipped_weights() -> Path:
    """Path of the compact model's weights inside the package."""
    return Path(str(resources.files('robust_pvos_ros.tracking') / 'weights' / 'compact.safetensors'))


def shipped_adapter() -> Path:
    """Path of the compact model's adapter inside the package."""
    return shipped_weights().with_name('compact_moga.safetensors')


def adapter_file(config: ModelConfig) -> Path | None:
    """The adapter that a configuration asks for; None for stock SAM 2.

    Raises:
        ModelError: if the shipped one is asked for with weights that it was not trained on.
    """
    if config.adapter != 'shipped':
        return Path(config.adapter) if config.adapter not in ('', 'none') else None
    if config.model != 'compact' or config.checkpoint:
        raise ModelError("adapter 'shipped' belongs to the shipped weights of model 'compact': name a file, or 'none'")
    return shipped_adapter()


def build_sam(model: str, checkpoint: str = '', image_size: int = 0) -> SAM2Base:
    """A network in evaluation mode on the CPU with the weights of ``checkpoint``.

    Args:
        model: one of ``MODEL_NAMES``.
        checkpoint: weights file; empty takes the shipped one (``compact`` only).
        image_size: of the input, pixels (``compact`` only); 0 takes that of the weights.

    Raises:
        ModelError: if the name is unknown, the file is missing, unreadable or of another model, or the size is wrong.
    """
    if model == 'compact':
        return _load_compact(Path(checkpoint) if checkpoint else shipped_weights(), image_size)
    if model not in OFFICIAL_CONFIGS:
        raise ModelError(f'model must be one of {", ".join(MODEL_NAMES)}, got {model!r}')
    if image_size:
        raise ModelError(f'image_size must be 0 for model {model!r}, whose size is fixed, got {image_size}')
    if not checkpoint:
        raise ModelError(f'model {model!r} needs the parameter checkpoint: the path of the official {model} .pt file')
    return _load_official(model, Path(checkpoint))


def build_official(model: str, image_size: int = 0, target: str = '') -> SAM2Base:
    """An official SAM 2.1 network with random weights, with the settings of ``build_sam2_video_predictor``.

    Args:
        image_size: of the input, pixels; 0 takes the official 1024.
        target: dotted name of a subclass of ``SAM2Base`` to build instead.
    """
    from sam2.build_sam import build_sam2

    overrides = ['++model.binarize_mask_from_pts_for_mem_enc=true']
    overrides += [f'++model.image_size={image_size}'] if image_size else []
    overrides += [f'++model._target_={target}'] if target else []
    return build_sam2(OFFICIAL_CONFIGS[model], device='cpu', hydra_overrides_extra=overrides)


def read_compact(path: Path) -> tuple[CompactConfig, dict[str, Tensor]]:
    """Architecture and float32 weights of a compact model's file.

    Raises:
        ModelError: if the file is missing, damaged or of another kind.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ModelError(f'weights file {path} does not exist')
    try:
        with safe_open(str(path), framework='pt') as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).float() for name in sorted(file.keys())}
    except (OSError, SafetensorError) as error:
        raise ModelError(f'weights file {path} is damaged or not a safetensors file: {error}') from error
    if metadata.get('format') != COMPACT_FORMAT:
        raise ModelError(f'{path} is not a compact model: its metadata must say format={COMPACT_FORMAT}')
    try:
        fields = json.loads(metadata['config'])
        fields = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
        return CompactConfig(**fields), tensors
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f'weights file {path} has an unreadable configuration: {error}') from error


def _load_compact(path: Path, image_size: int = 0) -> SAM2Base:
    config, tensors = read_compact(path)
    if image_size:
        step = 32 if config.trunk == 'conv' else 128
        if image_size % step or not 128 <= image_size <= 1024:
            raise ModelError(f'image_size must be 0 or a multiple of {step} from 128 to 1024, got {image_size}')
        config = replace(config, image_size=image_size)
    sam = build_compact(config)
    load_state(sam, tensors, path, 'compact')
    return sam


def read_official(path: Path) -> dict[str, Tensor]:
    """The weights in an official SAM 2.1 ``.pt`` file.

    Raises:
        ModelError: if the file is missing, damaged or of another kind.
    """
    if not path.is_file():
        raise ModelError(f'checkpoint {path} does not exist')
    try:
        content = torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f'checkpoint {path} is damaged, or holds more than tensors and is refused: '
            f'expected an official SAM 2.1 .pt file'
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ModelError(f'checkpoint {path} is truncated or damaged: {error}') from error
    state = content.get('model') if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"checkpoint {path} lacks the key 'model' with a state dict: expected an official .pt file")
    return state


def _load_official(model: str, path: Path) -> SAM2Base:
    state = read_official(path)
    sam = build_official(model)
    load_state(sam, state, path, model)
    return sam


def load_state(sam: SAM2Base, state: dict[str, Tensor], path: Path, model: str) -> None:
    """Load ``state``, read from ``path``, into ``sam``.

    Raises:
        ModelError: if names or shapes differ, with the first that does.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in sam.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    wrong = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
    if wrong:
        raise ModelError(
            f'{path} does not fit model {model!r}: {len(wrong)} of {len(expected)} tensors differ, the first is '
            f'{wrong[0]} with shape {found.get(wrong[0], "missing")}, expected {expected.get(wrong[0], "none")}'
        )
    sam.load_state_dict(state)
