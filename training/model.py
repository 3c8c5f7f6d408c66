"""SAM 2 in training: a differentiable forward pass over clips, memory included."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from sam2.modeling.position_encoding import apply_rotary_enc
from sam2.modeling.sam2_base import NO_OBJ_SCORE, SAM2Base
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from robust_pvos_ros.tracking.staging import IMAGE_MEAN, IMAGE_STD
from training.prompts import Rows, boxes, correction, points, spoil

LONG_VIDEO = 1000  # frames; SAM 2 leaves out the pointers of frames from the length of a video on


def normalise(images: Tensor) -> Tensor:
    """uint8 (..., 3, S, S) RGB to the float32 input of SAM 2's image encoder."""
    mean, std = (torch.tensor(v, device=images.device)[:, None, None] for v in (IMAGE_MEAN, IMAGE_STD))
    return (images.float() / 255 - mean) / std


@dataclass
class PromptMix:
    """How objects are pointed at in training.

    Attributes:
        mask: share of objects that start from a mask; the others start from one kind of click per step.
        box, one_point, points, corrected: odds of the kinds of click.
        imperfect: share of the masks that are spoilt, at most one half.
        forced: chance that the true mask of clicked objects is remembered instead of the decoder's.
        extra: further prompts by click per step, of all objects on the first frame, decoded but not remembered.
        revisited: share of the steps in which a later frame is corrected by a click and becomes a prompted frame.
    """

    mask: float = 0.55
    box: float = 0.45
    one_point: float = 0.2
    points: float = 0.15
    corrected: float = 0.2
    imperfect: float = 0.3
    forced: float = 0.0
    extra: int = 0
    revisited: float = 0.0


@dataclass
class Decoded:
    """Raw outputs of the mask decoder for N objects with M candidates.

    Attributes:
        logits: (N, M, h, w) mask logits, not replaced where the object score is negative.
        ious: (N, M); score: (N, 1) logits; tokens: (N, M or 1, C).
    """

    logits: Tensor
    ious: Tensor
    score: Tensor
    tokens: Tensor


@dataclass
class Supervised:
    """A decoder output, the rows of the batch it belongs to and its task: mask, click or track.

    Attributes:
        conditioned: (N, C, h, h) image features after memory attention, where there was one.
        attention: per layer of it (N, h * h, t * h * h) logits of the attention to the spatial memories.
    """

    task: str
    frame: int
    rows: Tensor
    decoded: Decoded
    conditioned: Tensor | None = None
    attention: list[Tensor] = field(default_factory=list)


class ClipModel(SAM2Base):
    """``SAM2Base``, compact or official, with a training forward over clips.

    It differs from the stock tracking step in two ways: the loss sees raw mask logits, because stock code replaces the
    masks of objects with a negative score by -1024 and so cuts their gradient; and objects prompted by masks and by
    clicks share a batch.
    """

    recompute = False
    """Run the image encoder again in the backward pass instead of keeping what it computed."""

    def forward(
        self, images: Tensor, rows: Rows, mix: PromptMix, rng: np.random.Generator, watch: bool = False
    ) -> tuple[list[Supervised], list[Tensor]]:
        """Follow the objects ``rows`` through clips; images uint8 (B, T, 3, S, S).

        Args:
            watch: collect the logits of the memory attention, which computes its queries and keys twice.

        Returns:
            what the loss sees, and the image encoder's maps (B * T, C, h, h) at strides 4, 8 and 16.
        """
        frames = images.shape[1]
        levels, positions, sizes, maps = self._encode(images)
        memory: dict[str, dict[int, Any]] = {'cond_frame_outputs': {}, 'non_cond_frame_outputs': {}}
        everyone = torch.arange(len(rows.clip), device=images.device)
        outputs: list[Supervised] = []
        # the prompted frame may lie far back, as it does after a while in a stream
        gap = int(rng.integers(1, 60)) if rng.uniform() < 0.4 else 0
        revisited = int(rng.integers(1, frames)) if frames > 1 and 0 < mix.revisited > rng.uniform() else 0
        for frame in range(frames):
            feats = [x[:, rows.clip, frame] for x in levels]
            high_res = [x.permute(1, 2, 0).unflatten(2, s) for x, s in zip(feats[:-1], sizes[:-1])]
            prompted = frame == 0
            if prompted:
                supervised, mask, pointer, score = self._prompted(feats, high_res, sizes, rows, mix, rng)
                outputs.extend(supervised)
            else:
                only_past = len(memory['cond_frame_outputs']) == 1
                watched = frame if watch and only_past and frame <= self.num_maskmem else 0
                with self._watched_attention(watched) as attention:
                    pix_feat = self._prepare_memory_conditioned_features(
                        frame_idx=frame + gap,
                        is_init_cond_frame=False,
                        current_vision_feats=feats[-1:],
                        current_vision_pos_embeds=[positions[:, rows.clip, frame]],
                        feat_sizes=sizes[-1:],
                        output_dict=memory,
                        num_frames=LONG_VIDEO,
                    )
                decoded = self._decode(pix_feat, high_res, multimask=self._use_multimask(False, None))
                outputs.append(Supervised('track', frame, everyone, decoded, pix_feat, attention))
                prompted = frame == revisited and bool(rows.masks[:, frame].flatten(1).any(1).all())
                if prompted:
                    decoded = self._corrected(pix_feat, high_res, decoded, rows.masks[:, frame], rng)
                    outputs.append(Supervised('click', frame, everyone, decoded))
                mask, pointer, score = self._remembered(decoded)
                mask = mask.detach()  # through the remembered mask gradients grow from frame to frame
                mask = torch.where(mask > 0, 10.0, -10.0) if prompted else mask
            if frame == frames - 1:
                break
            features_out, position_out = self._encode_new_memory(feats, sizes, mask, score, False)
            entry = {'maskmem_features': features_out, 'maskmem_pos_enc': position_out, 'obj_ptr': pointer}
            kind = 'cond_frame_outputs' if prompted else 'non_cond_frame_outputs'
            memory[kind][frame + gap if frame else 0] = entry
        return outputs, maps

    def _encode(self, images: Tensor) -> tuple[list[Tensor], Tensor, list[tuple[int, int]], list[Tensor]]:
        """All frames of clips, uint8 (B, T, 3, S, S), at once.

        Returns:
            features (hw, B, T, C) of three levels, position encodings (hw, B, T, C) of the last one, the sizes (h, w)
            of all, and the maps of :meth:`forward`.
        """
        shape = images.shape[:2]
        encoded = self._run_encoder(normalise(images.flatten(0, 1)))
        maps = encoded['backbone_fpn']
        skips = [self.sam_mask_decoder.conv_s0(maps[0]), self.sam_mask_decoder.conv_s1(maps[1])]
        _, levels, positions, sizes = self._prepare_backbone_features({**encoded, 'backbone_fpn': [*skips, maps[2]]})
        return [x.unflatten(1, shape) for x in levels], positions[-1].unflatten(1, shape), sizes, maps

    def _run_encoder(self, frames: Tensor) -> dict[str, Any]:
        """``image_encoder``; with ``recompute`` one frame after the other, whose activations are not kept."""
        if not self.recompute:
            encoded: dict[str, Any] = self.image_encoder(frames)
            return encoded
        parts: list[dict[str, Any]] = [
            checkpoint(self.image_encoder, frame[None], use_reentrant=False) for frame in frames
        ]
        return {
            name: [torch.cat(level) for level in zip(*(part[name] for part in parts), strict=True)]
            for name in ('backbone_fpn', 'vision_pos_enc')
        }

    @contextmanager
    def _watched_attention(self, memories: int) -> Iterator[list[Tensor]]:
        """Collects the logits of the attention to the ``memories`` spatial memories, oldest first; none for 0."""
        seen: list[Tensor] = []
        if not memories:
            yield seen
            return

        def watch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            attention: Any = module
            query, tokens = kwargs['q'], memories * kwargs['q'].shape[1]
            q, k = attention.q_proj(query)[:, None], attention.k_proj(kwargs['k'][:, :tokens])[:, None]
            q, k = apply_rotary_enc(q, k, attention.freqs_cis, repeat_freqs_k=True)
            seen.append((q @ k.transpose(-1, -2))[:, 0] / q.shape[-1] ** 0.5)

        layers: Any = self.memory_attention.layers
        handles = [x.cross_attn_image.register_forward_pre_hook(watch, with_kwargs=True) for x in layers]
        try:
            yield seen
        finally:
            for handle in handles:
                handle.remove()

    def _decode(
        self,
        pix_feat: Tensor,
        high_res: list[Tensor],
        prompt: dict[str, Tensor] | None = None,
        mask_prompt: Tensor | None = None,
        multimask: bool = False,
    ) -> Decoded:
        count, device = len(pix_feat), pix_feat.device
        if prompt is None:
            coords = torch.zeros(count, 1, 2, device=device)
            labels = -torch.ones(count, 1, dtype=torch.int32, device=device)
        else:
            coords, labels = prompt['point_coords'], prompt['point_labels']
        sparse, dense = self.sam_prompt_encoder(points=(coords, labels), boxes=None, masks=mask_prompt)
        logits, ious, tokens, score = self.sam_mask_decoder(
            image_embeddings=pix_feat,
            image_pe=self.sam_prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask,
            repeat_image=False,
            high_res_features=high_res,
        )
        return Decoded(logits.float(), ious, score.float(), tokens)

    def _upsample(self, logits: Tensor) -> Tensor:
        return F.interpolate(logits, size=(self.image_size, self.image_size), mode='bilinear', align_corners=False)

    def _remembered(self, decoded: Decoded) -> tuple[Tensor, Tensor, Tensor]:
        """What stock code keeps of a decoder output: full-size mask logits, object pointer, object score."""
        rows = torch.arange(len(decoded.score), device=decoded.score.device)
        best = decoded.ious.argmax(1)
        token = decoded.tokens[rows, best] if decoded.tokens.shape[1] > 1 else decoded.tokens[:, 0]
        appears = decoded.score > 0
        mask = torch.where(appears[:, None, None], decoded.logits[rows, best][:, None], NO_OBJ_SCORE)
        pointer = torch.where(appears, self.obj_ptr_proj(token), self.no_obj_ptr.expand(len(rows), -1))
        return self._upsample(mask), pointer, decoded.score

    def _prompted(
        self,
        feats: list[Tensor],
        high_res: list[Tensor],
        sizes: list[tuple[int, int]],
        rows: Rows,
        mix: PromptMix,
        rng: np.random.Generator,
    ) -> tuple[list[Supervised], Tensor, Tensor, Tensor]:
        """The first frame: some objects from masks, the others from clicks."""
        truth, count = rows.masks[:, 0], len(rows.clip)
        by_mask = torch.from_numpy(rng.uniform(size=count) < mix.mask).to(truth.device)
        pix_feat = feats[-1].permute(1, 2, 0).unflatten(2, sizes[-1])
        unconditioned = (feats[-1] + self.no_mem_embed).permute(1, 2, 0).unflatten(2, sizes[-1])
        pieces: list[tuple[Tensor, tuple[Tensor, Tensor, Tensor]]] = []
        supervised: list[Supervised] = []
        index = by_mask.nonzero()[:, 0]
        if len(index):
            given = truth[index]
            if rng.uniform() < 2 * mix.imperfect:
                half = torch.from_numpy(rng.uniform(size=len(index)) < 0.5).to(given.device)
                given = torch.where(half[:, None, None], spoil(given, rng), given)
            decoded, remembered = self._from_masks(pix_feat[index], [x[index] for x in high_res], given, rng)
            supervised.append(Supervised('mask', 0, index, decoded))
            pieces.append((index, remembered))
        index = (~by_mask).nonzero()[:, 0]
        if len(index):
            decoded = self._from_clicks(unconditioned[index], [x[index] for x in high_res], truth[index], mix, rng)
            supervised.append(Supervised('click', 0, index, decoded))
            mask, pointer, score = self._remembered(decoded)
            if rng.uniform() < mix.forced:
                mask, score = truth[index, None] * 20.0 - 10.0, torch.full_like(score, 10.0)
            elif rng.uniform() < 0.5:  # at inference the mask of a clicked frame is binarised before it is remembered
                mask = torch.where(mask > 0, 10.0, -10.0)
            pieces.append((index, (mask, pointer, score)))
        everyone = torch.arange(count, device=truth.device)
        for _ in range(mix.extra):
            decoded = self._from_clicks(unconditioned, high_res, truth, mix, rng)
            supervised.append(Supervised('click', 0, everyone, decoded))
        order = torch.cat([index for index, _ in pieces]).argsort()
        mask, pointer, score = (torch.cat([part[i].float() for _, part in pieces])[order] for i in range(3))
        return supervised, mask, pointer, score

    def _from_masks(
        self, pix_feat: Tensor, high_res: list[Tensor], masks: Tensor, rng: np.random.Generator
    ) -> tuple[Decoded, tuple[Tensor, Tensor, Tensor]]:
        """As ``SAM2Base._use_mask_as_output``: the mask is the output, the decoder only makes the pointer.

        The decoder's mask, which inference discards, is supervised all the same: repeating a given mask is the easiest
        of the tasks and brings the decoder off the empty mask, where a model from random weights lingers.
        """
        given = masks[:, None]
        decoded = self._decode(pix_feat, high_res, mask_prompt=self._mask_prompt(given))
        logits = given * 20.0 - 10.0
        if rng.uniform() < 0.7:  # the official predictor remembers the quarter-size mask, upsampled and binarised
            logits = torch.where(self._upsample(F.avg_pool2d(logits, 4)) > 0, 10.0, -10.0)
        pointer = self.obj_ptr_proj(decoded.tokens[:, 0])
        return decoded, (logits, pointer, torch.full_like(decoded.score, 10.0))

    def _mask_prompt(self, given: Tensor) -> Tensor:
        size = self.sam_prompt_encoder.mask_input_size
        prompt = self.mask_downsample(given).float()
        return F.interpolate(prompt, size=size, mode='bilinear', align_corners=False, antialias=True)

    def _from_clicks(
        self, pix_feat: Tensor, high_res: list[Tensor], truth: Tensor, mix: PromptMix, rng: np.random.Generator
    ) -> Decoded:
        odds = np.array([mix.box, mix.one_point, mix.points, mix.corrected])
        kind = int(rng.choice(4, p=odds / odds.sum()))
        if kind == 0:
            return self._decode(pix_feat, high_res, boxes(truth, rng))
        if kind == 1:
            return self._decode(pix_feat, high_res, points(truth, 1, rng), multimask=True)
        if kind == 2:
            return self._decode(pix_feat, high_res, points(truth, int(rng.integers(2, 4)), rng))
        prompt = points(truth, 1, rng) if rng.uniform() < 0.6 else boxes(truth, rng)
        with torch.no_grad():
            first = self._decode(pix_feat, high_res, prompt, multimask=prompt['point_labels'].shape[1] == 1)
        return self._corrected(pix_feat, high_res, first, truth, rng, prompt)

    def _corrected(
        self,
        pix_feat: Tensor,
        high_res: list[Tensor],
        earlier: Decoded,
        truth: Tensor,
        rng: np.random.Generator,
        prompt: dict[str, Tensor] | None = None,
    ) -> Decoded:
        """Another round with one more click, where ``earlier`` is wrong; the objects must be visible in ``truth``."""
        if prompt is None:
            prompt = {
                'point_coords': truth.new_zeros(len(truth), 0, 2),
                'point_labels': torch.zeros(len(truth), 0, dtype=torch.int32, device=truth.device),
            }
        best = earlier.logits[torch.arange(len(truth)), earlier.ious.argmax(1)][:, None].detach()
        prompt = correction(prompt, self._upsample(best)[:, 0], truth, rng)
        return self._decode(pix_feat, high_res, prompt, mask_prompt=best.clamp(-32, 32))
