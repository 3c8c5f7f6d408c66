"""MoGA: memory-object-conditioned gated-rank adaptation of SAM 2's memory attention (equations 1-7 of the paper).

Every adapted projection computes

    h = W0 x + B ( mean_o z_o . A x ),   z_o = 1[sigmoid(MLP(m_o)) > 0.5]

over the object pointers ``m_o`` that the attention itself receives.  ``B`` is linear, so the gates are averaged first
and the cost does not grow with the number of pointers.  Objects lie on the batch dimension: each gets its own gates.
``B`` starts at zero, so an untrained adapter changes nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from sam2.modeling.sam2_base import SAM2Base
from sam2.modeling.sam2_utils import MLP
from torch import Tensor, nn

from robust_pvos_ros.tracking.types import ModelError

ADAPTER_FORMAT = 'robust_pvos_adapter'
PLACEMENTS = {
    'self_q': ('self_attn', 'q_proj'),
    'self_k': ('self_attn', 'k_proj'),
    'self_v': ('self_attn', 'v_proj'),
    'cross_q': ('cross_attn_image', 'q_proj'),
}
CONDITIONINGS = ('object', 'memory', 'frame', 'none')


@dataclass(frozen=True)
class MogaConfig:
    """Shape of a MoGA adapter.

    Attributes:
        rank: number R of rank-1 components (paper: 128).
        gate_hidden: hidden width of the three-layer gate MLP, one MLP for each projection.
        temperature: tau of the Gumbel-sigmoid (equation 3); training anneals it.
        placement: adapted projections of every memory-attention layer.  Cross-attention keys and values are left out
            as in the paper, which also lets the tracker keep them cached.
        conditioning: ``object`` gates on each pointer and averages the gates (MoGA), ``memory`` gates once on the mean
            pointer, ``frame`` on the mean feature of the current frame, alike for all objects (as GaRA), ``none`` keeps
            every component on (plain LoRA).
    """

    rank: int = 128
    gate_hidden: int = 16
    temperature: float = 0.3
    placement: tuple[str, ...] = ('self_q', 'self_k', 'self_v', 'cross_q')
    conditioning: str = 'object'

    def __post_init__(self) -> None:
        object.__setattr__(self, 'placement', tuple(self.placement))  # files and YAML hold lists
        unknown = sorted(set(self.placement) - set(PLACEMENTS))
        if unknown or not self.placement:
            raise ModelError(f'adapter placement must be some of {sorted(PLACEMENTS)}, got {list(self.placement)}')
        if self.conditioning not in CONDITIONINGS:
            raise ModelError(f'adapter conditioning must be one of {CONDITIONINGS}, got {self.conditioning!r}')
        if self.rank < 1 or self.gate_hidden < 1 or not self.temperature > 0:
            raise ModelError('adapter rank and gate_hidden must be at least 1, and temperature above 0')


def gumbel_sigmoid(logits: Tensor, temperature: float) -> Tensor:
    """Hard 0/1 gates with the soft gradient: equations 3 and 4, one Gumbel(0, 1) sample per logit, straight-through."""
    uniform = torch.rand_like(logits, dtype=torch.float32).clamp(1e-6, 1 - 1e-6)
    soft = torch.sigmoid((logits - torch.log(-torch.log(uniform)).to(logits.dtype)) / temperature)
    hard = (soft > 0.5).to(soft.dtype)
    return hard - soft.detach() + soft


class MogaLinear(nn.Module):
    """A linear projection with gated rank-1 components beside it.

    ``gates`` (B, R), set by :meth:`MogaAdapter.condition`, belongs to the batch of the next forward; without it (None)
    the projection is the base one.
    """

    def __init__(self, base: nn.Linear, pointer_dim: int, config: MogaConfig) -> None:
        super().__init__()
        self.base = base
        self.config = config
        self.down = nn.Linear(base.in_features, config.rank, bias=False)
        self.up = nn.Linear(config.rank, base.out_features, bias=False)
        nn.init.zeros_(self.up.weight)
        self.gate: nn.Module | None = None
        if config.conditioning != 'none':
            self.gate = MLP(pointer_dim, config.gate_hidden, config.rank, num_layers=3)
        self.temperature = config.temperature
        self.gates: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, in) -> (B, T, out); equation 6."""
        h = self.base(x)
        if self.gates is None:
            return h
        return h + self.up(self.gates[:, None, :].to(x.dtype) * self.down(x))

    def open_gates(self, pointers: Tensor) -> Tensor:
        """Mean over the pointers (B, P, C) of their gates z (B, R); equations 2-5."""
        if self.gate is None:
            return pointers.new_ones(pointers.shape[0], self.config.rank)
        if self.config.conditioning == 'memory':
            pointers = pointers.mean(dim=1, keepdim=True)
        logits = self.gate(pointers)
        z = gumbel_sigmoid(logits, self.temperature) if self.training else (logits > 0).to(logits.dtype)
        return z.mean(dim=1)


class MogaAdapter:
    """The MoGA layers of one model.  Made by :func:`inject`; not a module, so the model's own state dict names hold."""

    def __init__(self, sam: SAM2Base, config: MogaConfig) -> None:
        self.sam = sam
        self.config = config
        self.layers: dict[str, MogaLinear] = {}

    def condition(self, pointers: Tensor | None, frame: Tensor | None = None) -> None:
        """Set the gates for the next pass of the memory attention.

        Args:
            pointers: (B, P, C) the object pointers that the attention receives; None or P = 0 leaves the base model.
            frame: (B, C) mean feature of the current frame, what the gates see with conditioning ``frame``.
        """
        if pointers is not None and frame is not None and self.config.conditioning == 'frame':
            pointers = frame[:, None] if pointers.shape[1] else pointers
        for layer in self.layers.values():
            layer.gates = None if pointers is None or pointers.shape[1] == 0 else layer.open_gates(pointers)

    def set_temperature(self, temperature: float) -> None:
        """tau of equation 3 for all layers."""
        for layer in self.layers.values():
            layer.temperature = temperature

    def parameters_by_part(self) -> dict[str, int]:
        """Number of trainable scalars: ``components`` (A and B), ``gates`` and the model's ``layer_norms``."""
        layers = self.layers.values()
        return {
            'components': sum(x.down.weight.numel() + x.up.weight.numel() for x in layers),
            'gates': sum(p.numel() for x in layers if x.gate is not None for p in x.gate.parameters()),
            'layer_norms': sum(p.numel() for p in layer_norm_parameters(self.sam).values()),
        }

    def state_dict(self) -> dict[str, Tensor]:
        """The adapter's own tensors, named ``adapter.<layer>.<placement>.<part>``."""
        return {
            f'adapter.{name}.{key}': tensor
            for name, layer in self.layers.items()
            for key, tensor in layer.state_dict().items()
            if not key.startswith('base.')
        }


class GateBank:
    """The gate MLPs of all layers of a trained adapter in one evaluation: hard gates as at inference, in float32.

    Args:
        adapter: its weights must not change afterwards.

    Attributes:
        layers: the L adapted projections in the order of the gates.
        per_pointer: gates belong to single pointers (conditioning ``object``), so that they may be kept beside them,
            not to the mean pointer of an object.
        per_frame: gates belong to the current frame (conditioning ``frame``).
    """

    def __init__(self, adapter: MogaAdapter) -> None:
        self.layers = list(adapter.layers.values())
        self.per_pointer = adapter.config.conditioning == 'object'
        self.per_frame = adapter.config.conditioning == 'frame'
        self._rank = adapter.config.rank
        self._stages: list[tuple[Tensor, Tensor]] = []
        if adapter.config.conditioning != 'none':
            stages = zip(*(layer.gate.layers for layer in self.layers if layer.gate is not None), strict=True)
            for stage in stages:
                weight = torch.stack([linear.weight for linear in stage]).detach().float()
                bias = torch.stack([linear.bias for linear in stage])[:, None].detach().float()
                self._stages.append((weight.transpose(1, 2).contiguous(), bias))

    def open(self, pointers: Tensor) -> Tensor:
        """Hard gates z, bool (N, L, R), of pointers (N, C); equations 2 and 5."""
        if not self._stages:
            return pointers.new_ones(len(pointers), len(self.layers), self._rank, dtype=torch.bool)
        # A gate near its threshold must not hang on the precision that the rest of the network runs in.
        with torch.autocast(pointers.device.type, enabled=False):
            x = pointers.float().expand(len(self.layers), -1, -1)
            for index, (weight, bias) in enumerate(self._stages):
                x = torch.baddbmm(bias, F.relu(x) if index else x, weight)
        return (x > 0).transpose(0, 1)


def layer_norm_parameters(sam: nn.Module) -> dict[str, nn.Parameter]:
    """Weights and biases of every LayerNorm (``nn.LayerNorm`` and sam2's ``LayerNorm2d``) by their full names."""
    found = {}
    for prefix, module in sam.named_modules():
        if isinstance(module, nn.LayerNorm) or type(module).__name__ == 'LayerNorm2d':
            for name, parameter in module.named_parameters(recurse=False):
                found[f'{prefix}.{name}'] = parameter
    return found


def pointers_in(memory: Tensor, num_obj_ptr_tokens: int, dim: int) -> Tensor:
    """The object pointers (B, P, C) inside the memory (N, B, C_mem) that ``MemoryAttention.forward`` receives.

    ``SAM2Base`` appends each pointer as ``C / C_mem`` consecutive tokens.
    """
    batch, mem_dim = memory.shape[1:]
    tokens = memory[memory.shape[0] - num_obj_ptr_tokens :]
    split = dim // mem_dim
    return tokens.reshape(-1, split, batch, mem_dim).permute(2, 0, 1, 3).reshape(batch, -1, dim)


def _refuse_second(sam: nn.Module) -> None:
    if any(isinstance(module, MogaLinear) for module in sam.modules()):
        raise ModelError('the model carries an adapter already: load the model anew to put in another one')


def inject(sam: SAM2Base, config: MogaConfig) -> MogaAdapter:
    """Put MoGA into the memory attention of ``sam``, in place.

    The gates follow every call of ``sam.memory_attention``, so the official predictor and training code work unchanged.

    Raises:
        ModelError: if the model carries an adapter already.
    """
    _refuse_second(sam)
    adapter = MogaAdapter(sam, config)
    reference = next(sam.memory_attention.parameters())
    for index, layer in enumerate(sam.memory_attention.layers):
        for name in config.placement:
            owner = getattr(layer, PLACEMENTS[name][0])
            base = getattr(owner, PLACEMENTS[name][1])
            moga = MogaLinear(base, sam.hidden_dim, config).to(reference.device, reference.dtype)
            moga.train(sam.training)
            setattr(owner, PLACEMENTS[name][1], moga)
            adapter.layers[f'{index}.{name}'] = moga

    def condition_on_memory(_module: nn.Module, args: tuple, kwargs: dict) -> None:
        memory = kwargs['memory'] if 'memory' in kwargs else args[1]
        current = kwargs['curr'] if 'curr' in kwargs else args[0]
        current = current[0] if isinstance(current, list) else current  # (hw, B, C)
        pointers = pointers_in(memory, kwargs.get('num_obj_ptr_tokens', 0), sam.hidden_dim)
        adapter.condition(pointers, current.mean(dim=0) if config.conditioning == 'frame' else None)

    sam.memory_attention.register_forward_pre_hook(condition_on_memory, with_kwargs=True)
    return adapter


def base_digest(sam: nn.Module) -> str:
    """16 hex digits that stand for the weights an adapter is trained on: all but its own and the LayerNorms."""
    layers = {f'{name}.' for name, module in sam.named_modules() if isinstance(module, MogaLinear)}
    trained = layer_norm_parameters(sam).keys()
    weights = {}
    for name, tensor in sam.state_dict().items():
        layer = next((prefix for prefix in layers if name.startswith(prefix)), None)
        if name not in trained and (layer is None or name.startswith(f'{layer}base.')):
            weights[name if layer is None else layer + name.removeprefix(f'{layer}base.')] = tensor
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        values = weights[name].detach().float().cpu() + 0.0  # -0, whose sign an average loses, counts as 0
        digest.update(values.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def save_adapter(path: str | Path, adapter: MogaAdapter, model: str) -> None:
    """Write the adapter and the model's LayerNorms, which are trained with it, to a safetensors file.

    Args:
        path: file to write.
        adapter: what :func:`inject` returned.
        model: name of the base model, checked on loading.
    """
    from safetensors.torch import save_file

    tensors = dict(adapter.state_dict())
    tensors.update({f'norm.{name}': p.data for name, p in layer_norm_parameters(adapter.sam).items()})
    metadata = {
        'format': ADAPTER_FORMAT,
        'kind': 'moga',
        'model': model,
        'base': base_digest(adapter.sam),
        'config': json.dumps(dataclasses.asdict(adapter.config)),
    }
    save_file({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, str(path), metadata)


def load_adapter(path: str | Path, sam: SAM2Base, model: str) -> MogaAdapter:
    """Put the adapter stored in a file of :func:`save_adapter` into ``sam``; on an error ``sam`` is unchanged.

    It must be loaded before a ``Sam2Model`` takes ``sam`` over, which caches and may round its weights.

    Raises:
        ModelError: if the file cannot be read, is not an adapter, or was trained for another model or other weights.
    """
    from safetensors import SafetensorError, safe_open

    _refuse_second(sam)
    try:
        with safe_open(str(path), framework='pt') as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
    except (OSError, SafetensorError) as error:
        raise ModelError(f'cannot read adapter file {path}: {error}') from error
    if metadata.get('format') != ADAPTER_FORMAT:
        raise ModelError(f'{path} is not an adapter file: its metadata must say format={ADAPTER_FORMAT}')
    if metadata.get('model') != model:
        raise ModelError(f'adapter {path} was trained for model {metadata.get("model")!r}, but the model is {model!r}')
    try:
        fields = json.loads(metadata['config'])
        config = MogaConfig(**{**fields, 'placement': tuple(fields['placement'])})
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f'adapter {path} has an unreadable configuration: {error}') from error
    expected = _expected_shapes(sam, config)
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != expected:
        wrong = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
        raise ModelError(
            f'adapter {path} does not fit model {model!r}: {wrong[0]} is {found.get(wrong[0], "missing")}, '
            f'expected {expected.get(wrong[0], "nothing of that name")}'
        )
    if metadata.get('base') != (found_base := base_digest(sam)):
        raise ModelError(
            f'adapter {path} was trained on other weights of model {model!r}: on {metadata.get("base")}, '
            f'but those loaded are {found_base}; load the checkpoint that it was trained on'
        )
    norms = layer_norm_parameters(sam)
    adapter = inject(sam, config)
    with torch.no_grad():
        for name, tensor in adapter.state_dict().items():
            tensor.copy_(tensors[name])
        for name, parameter in norms.items():
            parameter.copy_(tensors[f'norm.{name}'])
    return adapter


def _expected_shapes(sam: SAM2Base, config: MogaConfig) -> dict[str, tuple[int, ...]]:
    shapes = {f'norm.{name}': tuple(p.shape) for name, p in layer_norm_parameters(sam).items()}
    for index, layer in enumerate(sam.memory_attention.layers):
        for name in config.placement:
            base = getattr(getattr(layer, PLACEMENTS[name][0]), PLACEMENTS[name][1])
            for key, tensor in MogaLinear(base, sam.hidden_dim, config).state_dict().items():
                if not key.startswith('base.'):
                    shapes[f'adapter.{index}.{name}.{key}'] = tuple(tensor.shape)
    return shapes
