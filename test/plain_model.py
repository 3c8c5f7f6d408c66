"""The model's verbs by ``sam2``'s own code, one object at a time: nothing cached, batched, merged or laid out anew."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor

from robust_pvos_ros.tracking.encoder import EncoderOutput
from robust_pvos_ros.tracking.memory import MemoryFrame, ObjectMemory
from robust_pvos_ros.tracking.model import Decoded, Sam2Model

LONG_VIDEO = 64


class PlainModel(Sam2Model):
    """A ``Sam2Model`` that takes the steps of ``SAM2VideoPredictor``, so that a tracker is judged by its logic alone.

    A ``MemoryFrame`` of it holds the stored features as ``keys`` and their position encoding as ``values``.
    """

    def __init__(self, sam: SAM2Base) -> None:
        super().__init__(copy.deepcopy(sam), 'plain')
        self.sam = sam
        self._position: Tensor | None = None

    @torch.inference_mode()
    def encode(self, rgb: np.ndarray) -> EncoderOutput:
        output = self.sam.forward_image(self.preprocess(rgb).contiguous())
        self._position = output['vision_pos_enc'][-1]
        return EncoderOutput(*output['backbone_fpn'])

    @torch.inference_mode()
    def condition(self, frame: EncoderOutput, memories: Sequence[ObjectMemory], frame_index: int) -> Any:
        """A list of (1, C, S / 16, S / 16), whose strides a batch would change."""
        assert self._position is not None
        tokens, position = (x.flatten(2).permute(2, 0, 1) for x in (frame.stride16, self._position))
        return [
            self.sam._prepare_memory_conditioned_features(
                frame_idx=frame_index,
                is_init_cond_frame=False,
                current_vision_feats=[tokens],
                current_vision_pos_embeds=[position],
                feat_sizes=[tuple(frame.stride16.shape[-2:])],
                output_dict={
                    'cond_frame_outputs': _outputs(memory.conditioning),
                    'non_cond_frame_outputs': _outputs(memory.recent),
                },
                num_frames=LONG_VIDEO,
            )
            for memory in memories
        ]

    def decode(self, frame: EncoderOutput, fused: Any, *args: Any, **kwargs: Any) -> Decoded:
        return super().decode(frame, fused[0] if isinstance(fused, list) else fused, *args, **kwargs)

    def track(self, frame: EncoderOutput, fused: Any) -> Decoded:
        single = [self.decode(frame, [features]) for features in fused]
        return Decoded(*(torch.cat(parts) for parts in zip(*single, strict=True)))

    @torch.inference_mode()
    def remember(
        self, frame: EncoderOutput, decoded: Decoded, frame_index: int, prompted: bool = False
    ) -> list[MemoryFrame]:
        found = []
        for row in range(len(decoded.logits)):
            logits = decoded.logits[row : row + 1]
            memory, position = self.sam._encode_new_memory(
                current_vision_feats=[frame.stride16.flatten(2).permute(2, 0, 1)],
                feat_sizes=[tuple(frame.stride16.shape[-2:])],
                pred_masks_high_res=F.interpolate(logits, size=(self.image_size,) * 2, mode='bilinear'),
                object_score_logits=decoded.score[row : row + 1],
                is_mask_from_pts=prompted,
            )
            found.append(MemoryFrame(frame_index, memory.to(self.memory_dtype), position[-1], decoded.pointer[row]))
        return found


def _outputs(frames: Sequence[MemoryFrame]) -> dict[int, dict[str, Any]]:
    return {
        m.frame_index: {'maskmem_features': m.keys, 'maskmem_pos_enc': [m.values], 'obj_ptr': m.pointer[None]}
        for m in frames
    }
