"""The image encoder as an ONNX file: trunk, neck and the two skip convolutions of the mask decoder at one image size.

Position encodings of the trunk are baked in; those of the neck depend on nothing and stay with the tracker.  LayerNorms
of an adapter are merged, since they are the model's own, so the file belongs to these weights and no others.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from contextlib import AbstractContextManager
from pathlib import Path
from unittest import mock

import torch
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor, nn

from robust_pvos_ros.tracking.encoder import EncoderOutput, TorchEncoder
from robust_pvos_ros.tracking.types import PvosError

OPSET = 17
INPUT, OUTPUTS = 'image', EncoderOutput._fields
PRECISIONS = ('float32', 'float16')


class ExportError(PvosError):
    """A model that cannot be exported, or a file that does not do what the model does."""


class EncoderModule(nn.Module):
    """:class:`TorchEncoder` as the module that is exported: its forward can be traced.

    In float16 layer norms and softmax stay in float32, since sums of squares and of exponentials overflow or lose too
    much, and so do the ends.

    Args:
        sam: network in float32, which is taken over; dtype: float32 or float16.
    """

    def __init__(self, sam: SAM2Base, dtype: torch.dtype) -> None:
        super().__init__()
        self.trunk_and_neck = sam.image_encoder
        self.skips = nn.ModuleList([sam.sam_mask_decoder.conv_s0, sam.sam_mask_decoder.conv_s1])
        self._encoder = TorchEncoder(sam)
        self._dtype = dtype
        if dtype != torch.float32:
            self._encoder.to(dtype)
            for module in self.modules():
                if isinstance(module, nn.LayerNorm):
                    module.float()
                    module.register_forward_pre_hook(lambda _, args: (args[0].float(),))
                    module.register_forward_hook(lambda _, args, output: output.to(dtype))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """float32 (1, 3, S, S) -> the fields of ``EncoderOutput``, float32."""
        stride4, stride8, stride16 = (x.float() for x in self._encoder.run(image.to(self._dtype)))
        return stride4, stride8, stride16


def exact_attention() -> AbstractContextManager:
    """Inside it ``scaled_dot_product_attention`` takes its softmax in float32."""

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
        return scores.float().softmax(-1).to(value.dtype) @ value

    return mock.patch('torch.nn.functional.scaled_dot_product_attention', attend)


def encoder_digest(sam: SAM2Base) -> str:
    """16 hex digits that stand for the weights of the image encoder and the size of its input."""
    digest = hashlib.sha256(f'{sam.image_size}'.encode())
    parts = {'encoder': sam.image_encoder, 's0': sam.sam_mask_decoder.conv_s0, 's1': sam.sam_mask_decoder.conv_s1}
    for prefix, module in parts.items():
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(f'{prefix}.{name}'.encode())
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def export_onnx(sam: SAM2Base, path: Path, precision: str = 'float32') -> None:
    """Write the image encoder of ``sam``, which is on the CPU in float32; it is taken over.

    The file takes ``image``, float32 (1, 3, S, S), and gives ``EncoderOutput`` in float32, in either precision.  It
    is written under another name first.

    Raises:
        ExportError: if ``precision`` is unknown, a package is missing, or the file cannot be written.
    """
    if precision not in PRECISIONS:
        raise ExportError(f'precision must be one of {", ".join(PRECISIONS)}, got {precision!r}')
    try:
        import onnx
    except ImportError as error:
        raise ExportError('exporting needs the Python package onnx: pip install onnx') from error
    part, digest = path.with_name(path.name + '.part'), encoder_digest(sam)
    image = torch.zeros(1, 3, sam.image_size, sam.image_size)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(f'cannot write {path}: {error}') from error
    try:
        with warnings.catch_warnings(), torch.inference_mode(), exact_attention():
            warnings.simplefilter('ignore')  # the tracer speaks of its age, and of sizes that are constants here
            torch.onnx.export(
                EncoderModule(sam, getattr(torch, precision)).eval(),
                (image,),
                str(part),
                opset_version=OPSET,
                dynamo=False,
                input_names=[INPUT],
                output_names=list(OUTPUTS),
            )
        model = onnx.load(str(part))
        onnx.helper.set_model_props(model, {'encoder': digest, 'precision': precision})
        onnx.checker.check_model(model)
        onnx.save(model, str(part))
        part.replace(path)
    except OSError as error:
        raise ExportError(f'cannot write {path}: {error}') from error
    except (RuntimeError, onnx.checker.ValidationError) as error:
        raise ExportError(f'the image encoder cannot be exported: {error}') from error
    finally:
        part.unlink(missing_ok=True)


def relative_error(found: EncoderOutput, wanted: EncoderOutput) -> float:
    """Largest difference of any map over the largest value of that map."""
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, wanted, strict=True))


def file_digest(path: Path) -> str:
    """16 hex digits of a file's SHA-256."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def cache_folder() -> Path:
    """Where exported files lie: ``robust_pvos_ros`` in ``XDG_CACHE_HOME``, by default ``~/.cache``."""
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'robust_pvos_ros'
