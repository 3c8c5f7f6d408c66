"""SAM 2 in four verbs: encode, condition, decode, remember.  Stateless; memories are owned by the tracker.

Every verb handles a batch of objects of one frame.  Shapes: B objects, S image size, C hidden dimension,
hw = (S / 16)^2 stride-16 tokens.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from sam2.modeling.sam2_base import NO_OBJ_SCORE, SAM2Base
from torch import Tensor

from robust_pvos_ros.tracking.adapters import MogaAdapter, load_adapter
from robust_pvos_ros.tracking.attention import CachedMemoryAttention, Step
from robust_pvos_ros.tracking.checkpoints import adapter_file, build_sam, resolve_device
from robust_pvos_ros.tracking.encoder import Encoder, EncoderOutput, TorchEncoder
from robust_pvos_ros.tracking.layout import lay_out
from robust_pvos_ros.tracking.memory import MemoryFrame, ObjectMemory, assemble
from robust_pvos_ros.tracking.staging import Stager, make_stager
from robust_pvos_ros.tracking.types import ModelConfig, ModelError

BOX_LABELS = (2, 3)


class Decoded(NamedTuple):
    """Output of the mask decoder for B objects.

    Attributes:
        logits: float32 (B, 1, S / 4, S / 4) mask logits; -1024 throughout where the object is absent.
        score: float32 (B, 1) object score logits, positive where the object is visible.
        iou: float32 (B,) predicted IoU of the mask.
        pointer: (B, C) object pointers.
    """

    logits: Tensor
    score: Tensor
    iou: Tensor
    pointer: Tensor


class Sam2Model:
    """A SAM 2 network for streaming, on one device.

    Args:
        sam: the network in evaluation mode.  It is taken over: its weights are laid out for inference, in bfloat16 also
            rounded, and must not change afterwards.
        name: for messages and diagnostics.
        adapter: MoGA layers inside ``sam``, or None.
        precision: ``float32`` or ``bfloat16`` (autocast around each verb).
        memory_dtype: type that memories are rounded to when they are stored, bfloat16 as in ``SAM2VideoPredictor``.
    """

    def __init__(
        self,
        sam: SAM2Base,
        name: str,
        adapter: MogaAdapter | None = None,
        precision: str = 'float32',
        memory_dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        self.sam = sam
        self.name = name
        self.adapter = adapter
        self.precision = precision
        self.memory_dtype = memory_dtype
        self.device = sam.device
        self.image_size: int = sam.image_size
        self.encoder: Encoder = TorchEncoder(sam)
        self.compiled: dict[str, Step] = {}
        self.attention = CachedMemoryAttention(sam, adapter, getattr(torch, precision))
        with torch.inference_mode():
            nowhere = torch.zeros(1, 1, 2, device=self.device), -torch.ones(1, 1, dtype=torch.int32, device=self.device)
            self._no_points, self._no_mask = sam.sam_prompt_encoder(points=nowhere, boxes=None, masks=None)
            self._image_position = sam.sam_prompt_encoder.get_dense_pe()
        self._encoding = threading.Lock()  # encoders and stagers have buffers; frames may be encoded ahead of the rest
        self.stager: Stager = make_stager(self.device, self.image_size)
        lay_out(sam, precision)

    def _autocast(self) -> AbstractContextManager:
        if self.precision == 'float32':
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def preprocess(self, rgb: np.ndarray) -> Tensor:
        """uint8 (H, W, 3) RGB of any size -> float32 (1, 3, S, S), squashed to a square and normalised as in SAM 2."""
        return self.stager(rgb)

    @torch.inference_mode()
    def encode(self, rgb: np.ndarray) -> EncoderOutput:
        """Feature maps of a camera image, uint8 (H, W, 3)."""
        with self._encoding, self._autocast():
            return EncoderOutput(*(x.float() for x in self.encoder(self.preprocess(rgb))))

    @torch.inference_mode()
    def encode_batch(self, pictures: Sequence[np.ndarray]) -> list[EncoderOutput]:
        """Feature maps of several camera images, uint8 (H, W, 3) of any sizes, in their order.

        They equal those of :meth:`encode` up to rounding, and share no memory.  Where the encoder takes one image at a
        time they are encoded one after the other.
        """
        if len(pictures) < 2 or not self.encoder.takes_batches:
            return [self.encode(rgb) for rgb in pictures]
        with self._encoding, self._autocast():
            maps = self.encoder(torch.cat([self.preprocess(rgb) for rgb in pictures]))
        # copies, since a view would keep the maps of every camera alive as long as any one frame is remembered
        rows = (tuple(x[row : row + 1].to(torch.float32, copy=True) for x in maps) for row in range(len(pictures)))
        return [EncoderOutput(*parts) for parts in rows]

    def round_to_bfloat16(self) -> bool:
        """Go on in bfloat16, which needs about half the memory; False if it runs in that already.

        What has been remembered stays valid.
        """
        if self.precision == 'bfloat16':
            return False
        with self._encoding:
            self.attention = CachedMemoryAttention(self.sam, self.adapter, torch.bfloat16)
            self.precision = 'bfloat16'
            self.compiled = {}
            self.encoder = getattr(self.encoder, 'plain', self.encoder)  # a recorded graph reads the old weights
            lay_out(self.sam, self.precision)
        return True

    @torch.inference_mode()
    def condition(self, frame: EncoderOutput, memories: Sequence[ObjectMemory], frame_index: int) -> Tensor:
        """Stride-16 features (B, C, S / 16, S / 16) fused with each object's memory.

        Args:
            frame: of the current image.
            memories: of B objects with equal ``group_key``.
            frame_index: of the current image.
        """
        with self._autocast():
            tokens = frame.stride16.flatten(2).transpose(1, 2)
            batch = assemble(memories, frame_index, self.attention, tokens)
            fused = self.attention(tokens, batch).float()
        return fused.transpose(1, 2).unflatten(2, frame.stride16.shape[-2:]).contiguous()

    @torch.inference_mode()
    def unconditioned(self, frame: EncoderOutput) -> Tensor:
        """Stride-16 features (1, C, S / 16, S / 16) for an object without memory (``directly_add_no_mem_embed``)."""
        return frame.stride16 + self.sam.no_mem_embed.view(1, -1, 1, 1)

    @torch.inference_mode()
    def decode(
        self,
        frame: EncoderOutput,
        fused: Tensor,
        points: tuple[Tensor, Tensor] | None = None,
        previous_logits: Tensor | None = None,
        first: bool = False,
    ) -> Decoded:
        """Masks of B objects: ``SAM2Base._forward_sam_heads``.

        Args:
            frame: of the current image.
            fused: (B, C, S / 16, S / 16) from :meth:`condition` or :meth:`unconditioned`.
            points: coordinates float32 (B, P, 2) in pixels of the S x S image and labels int32 (B, P): 1 foreground,
                0 background, 2 and 3 box corners.
            previous_logits: (B, 1, S / 4, S / 4) of an earlier round on the same frame.
            first: the object has no memory yet (``is_init_cond_frame``).
        """
        inputs = None if points is None else {'point_coords': points[0], 'point_labels': points[1]}
        with self._autocast():
            _, _, ious, logits, _, pointer, score = self.sam._forward_sam_heads(
                backbone_features=fused,
                point_inputs=inputs,
                mask_inputs=previous_logits,
                high_res_features=[frame.stride4, frame.stride8],
                multimask_output=self.sam._use_multimask(first, inputs),
            )
        return Decoded(logits.float(), score.float(), ious.float().amax(-1), pointer.float())

    @torch.inference_mode()
    def track(self, frame: EncoderOutput, fused: Tensor) -> Decoded:
        """Masks of B unprompted objects: :meth:`decode` without a prompt, whose embeddings are constants of the model.

        Args:
            frame: of the current image.
            fused: (B, C, S / 16, S / 16) from :meth:`condition`.
        """
        step = self.compiled.get('track', self.track_step)
        with self._autocast():
            return Decoded(*step((frame.stride4, frame.stride8), (fused,)))

    def track_step(self, shared: tuple[Tensor, ...], rows: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The fields of ``Decoded`` from the frame's finer maps and from ``fused`` of :meth:`track`."""
        [fused] = rows
        sam, batch = self.sam, len(fused)
        logits, ious, tokens, score = sam.sam_mask_decoder(
            image_embeddings=fused,
            image_pe=self._image_position,
            sparse_prompt_embeddings=self._no_points.expand(batch, -1, -1),
            dense_prompt_embeddings=self._no_mask,
            multimask_output=sam._use_multimask(False, None),
            repeat_image=False,
            high_res_features=list(shared),
        )
        every, best = torch.arange(batch, device=fused.device), ious.argmax(-1)
        visible = score > 0
        logits = torch.where(visible[:, None, None], logits[every, best][:, None].float(), NO_OBJ_SCORE)
        pointer = sam.obj_ptr_proj(tokens[every, best if tokens.shape[1] > 1 else 0])
        pointer = torch.where(visible, pointer, sam.no_obj_ptr)
        return logits, score.float(), ious[every, best].float(), pointer.float()

    @torch.inference_mode()
    def decode_mask(self, frame: EncoderOutput, mask: Tensor) -> Decoded:
        """A mask prompt taken as the output: ``SAM2Base._use_mask_as_output``.

        Args:
            frame: of the current image.
            mask: float32 (B, 1, S, S) of 0 and 1.
        """
        features = frame.stride16.expand(len(mask), -1, -1, -1)
        with self._autocast():
            _, _, ious, logits, _, pointer, score = self.sam._use_mask_as_output(
                features, [frame.stride4, frame.stride8], mask
            )
        return Decoded(logits.float(), score.float(), ious.float().amax(-1), pointer.float())

    @torch.inference_mode()
    def remember(
        self, frame: EncoderOutput, decoded: Decoded, frame_index: int, prompted: bool = False
    ) -> list[MemoryFrame]:
        """One memory for each of B objects: ``SAM2Base._encode_new_memory``, projected for the attention.

        Args:
            frame: of the current image.
            decoded: its masks.
            frame_index: of the current image.
            prompted: the masks come from prompts and are binarised where the model asks for it.
        """
        step = self.compiled.get('remember', self.remember_step)
        with self._autocast():
            keys, values = step((frame.stride16,), (decoded.logits, decoded.score), prompted)
        # copies, since a view would keep the whole batch alive as long as any one object remembers it
        rows = (tuple(x[row].clone() for x in (keys, values, decoded.pointer)) for row in range(len(keys)))
        return [MemoryFrame(frame_index, *parts) for parts in rows]

    def remember_step(
        self, shared: tuple[Tensor, ...], rows: tuple[Tensor, ...], prompted: bool
    ) -> tuple[Tensor, ...]:
        """Keys and values of :meth:`remember` from the frame's stride-16 map and from mask logits and scores."""
        [stride16], [logits, score] = shared, rows
        memory, _ = self.sam._encode_new_memory(
            current_vision_feats=[stride16.flatten(2).permute(2, 0, 1)],
            feat_sizes=[tuple(stride16.shape[-2:])],
            pred_masks_high_res=F.interpolate(logits, size=(self.image_size, self.image_size), mode='bilinear'),
            object_score_logits=score,
            is_mask_from_pts=prompted,
        )
        return self.attention.project(memory.flatten(2).transpose(1, 2).to(self.memory_dtype).float())

    def absent_logits(self) -> Tensor:
        """float32 (1, 1, S / 4, S / 4) logits of an object that was never seen."""
        side = self.image_size // 4
        return torch.full((1, 1, side, side), NO_OBJ_SCORE, device=self.device)


def _cpu_multiplies_bfloat16() -> bool:
    probe = getattr(torch.cpu, '_is_avx512_bf16_supported', None)  # private, and absent from older torch
    return probe is not None and bool(probe())


def set_threads(threads: int) -> None:
    """Threads of torch, in the whole process; 0 takes all cores but one.

    A thread that waits for its core holds up all the others, so the middleware gets a core of its own.
    """
    torch.set_num_threads(threads or max(1, (os.cpu_count() or 2) - 1))


def load_model(config: ModelConfig) -> Sam2Model:
    """Build a model, load its weights and its adapter, and move it to its device.

    Raises:
        ModelError: if a name, file, device or precision is wrong; the message says what would be right.
    """
    device = resolve_device(config.device)
    precisions = ('auto', 'float32', 'bfloat16')
    if config.precision not in precisions:
        raise ModelError(f'precision must be one of {precisions}, got {config.precision!r}')
    precision = config.precision
    if precision == 'auto':
        precision = 'bfloat16' if device.type == 'cuda' or _cpu_multiplies_bfloat16() else 'float32'
    if config.threads < 0:
        raise ModelError(f'threads must be 0 (automatic) or positive, got {config.threads}')
    if config.threads or device.type == 'cpu':
        set_threads(config.threads)
    sam = build_sam(config.model, config.checkpoint, config.image_size)
    file = adapter_file(config)
    adapter = load_adapter(file, sam, config.model) if file is not None else None
    sam = sam.to(device).eval().requires_grad_(False)
    return Sam2Model(sam, config.model, adapter, precision)
