"""The compact SAM 2: the official modules in a size that a plain CPU runs at camera rate.

Every module is ``sam2``'s own with other widths and depths, except the trunk of the image encoder, which may be a
convolutional one in place of Hiera.  The architecture travels in the weights file as JSON of :class:`CompactConfig`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from sam2.modeling.backbones.hieradet import Hiera
from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
from sam2.modeling.memory_attention import MemoryAttention, MemoryAttentionLayer
from sam2.modeling.memory_encoder import CXBlock, Fuser, MaskDownSampler, MemoryEncoder
from sam2.modeling.position_encoding import PositionEmbeddingSine
from sam2.modeling.sam.transformer import RoPEAttention
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor

from robust_pvos_ros.tracking.trunk import ConvTrunk


@dataclass(frozen=True)
class CompactConfig:
    """Sizes of a compact model.

    Attributes:
        image_size: side of the square input in pixels, a multiple of 32, with Hiera of 128 (windows tile every
            stage without padding).
        trunk: ``conv`` or ``hiera``.
        widths, depths: of the convolutional trunk: channels and residual blocks per stage (strides 4, 8, 16, 32).
        embed_dim: channels of Hiera's first stage; doubles with every stage.
        stages: Hiera blocks per stage (strides 4, 8, 16, 32).
        global_blocks: Hiera blocks with global instead of windowed attention.
        dim: channels of the feature maps, tokens and object pointers (hidden dimension).
        mem_dim: channels of a spatial memory; pointers are split into ``dim / mem_dim`` tokens.
        attention_layers: memory-attention layers.
        feedforward: hidden width of a memory-attention layer's MLP.
        fuser_layers: ConvNeXt blocks of the memory encoder.
        num_maskmem: spatial memories attended to: one conditioning frame and ``num_maskmem - 1`` recent ones.
    """

    image_size: int = 256
    embed_dim: int = 32
    stages: tuple[int, ...] = (1, 2, 4, 1)
    global_blocks: tuple[int, ...] = (4, 6)
    dim: int = 128
    mem_dim: int = 64
    attention_layers: int = 2
    feedforward: int = 512
    fuser_layers: int = 1
    num_maskmem: int = 7
    trunk: str = 'hiera'
    widths: tuple[int, ...] = (48, 128, 192, 192)
    depths: tuple[int, ...] = (1, 2, 3, 2)

    def __post_init__(self) -> None:
        if self.trunk not in ('conv', 'hiera'):
            raise ValueError(f"trunk must be 'conv' or 'hiera', got {self.trunk!r}")


class Float32MaskDownSampler(MaskDownSampler):
    """``MaskDownSampler`` outside autocast.

    Its second convolution (16 channels, 4 x 4, stride 4) gives wrong results in bfloat16 on processors with AMX
    (torch 2.13, oneDNN): a relative error of 1.2 where 0.003 is due.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Masks (B, 1, S, S) -> (B, C, S / 16, S / 16), float32."""
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


def _sine(channels: int) -> PositionEmbeddingSine:
    return PositionEmbeddingSine(
        num_pos_feats=channels, normalize=True, scale=None, temperature=10000, warmup_cache=False
    )


def _image_encoder(config: CompactConfig) -> ImageEncoder:
    if config.trunk == 'conv':
        trunk = ConvTrunk(config.widths, config.depths)
    else:
        trunk = Hiera(
            embed_dim=config.embed_dim,
            num_heads=1,
            stages=config.stages,
            global_att_blocks=config.global_blocks,
            window_pos_embed_bkg_spatial_size=(8, 8),
            window_spec=(8, 4, 8, 4),
        )
    neck = FpnNeck(
        position_encoding=_sine(config.dim),
        d_model=config.dim,
        backbone_channel_list=trunk.channel_list,
        fpn_top_down_levels=[2, 3],
        fpn_interp_model='nearest',
    )
    return ImageEncoder(trunk=trunk, neck=neck, scalp=1)


def _memory_attention(config: CompactConfig) -> MemoryAttention:
    side = config.image_size // 16
    common: dict[str, Any] = {
        'rope_theta': 10000.0,
        'feat_sizes': (side, side),
        'embedding_dim': config.dim,
        'num_heads': 1,
        'downsample_rate': 1,
        'dropout': 0.0,
    }
    layer = MemoryAttentionLayer(
        activation='relu',
        cross_attention=RoPEAttention(rope_k_repeat=True, kv_in_dim=config.mem_dim, **common),
        d_model=config.dim,
        dim_feedforward=config.feedforward,
        dropout=0.0,
        pos_enc_at_attn=False,
        pos_enc_at_cross_attn_keys=True,
        pos_enc_at_cross_attn_queries=False,
        self_attention=RoPEAttention(**common),
    )
    return MemoryAttention(
        d_model=config.dim, pos_enc_at_input=True, layer=layer, num_layers=config.attention_layers
    )


def _memory_encoder(config: CompactConfig) -> MemoryEncoder:
    block = CXBlock(dim=config.dim, kernel_size=7, padding=3, layer_scale_init_value=0.1, use_dwconv=True)
    return MemoryEncoder(
        out_dim=config.mem_dim,
        in_dim=config.dim,
        position_encoding=_sine(config.mem_dim),
        mask_downsampler=Float32MaskDownSampler(embed_dim=config.dim, kernel_size=4, stride=4, padding=0),
        fuser=Fuser(block, num_layers=config.fuser_layers),
    )


def sam2_arguments(config: CompactConfig) -> dict[str, Any]:
    """Freshly initialised modules and settings for ``SAM2Base`` or any subclass, such as ``SAM2VideoPredictor``.

    The settings are those of SAM 2.1 except that tracking uses the single-mask token: the three-mask output answers
    one-click prompts only.
    """
    return {
        'image_encoder': _image_encoder(config),
        'memory_attention': _memory_attention(config),
        'memory_encoder': _memory_encoder(config),
        'num_maskmem': config.num_maskmem,
        'image_size': config.image_size,
        'sigmoid_scale_for_mem_enc': 20.0,
        'sigmoid_bias_for_mem_enc': -10.0,
        'use_mask_input_as_output_without_sam': True,
        'directly_add_no_mem_embed': True,
        'no_obj_embed_spatial': True,
        'use_high_res_features_in_sam': True,
        'multimask_output_in_sam': True,
        'multimask_output_for_tracking': False,
        'multimask_min_pt_num': 0,
        'multimask_max_pt_num': 1,
        'use_multimask_token_for_obj_ptr': True,
        'iou_prediction_use_sigmoid': True,
        'use_obj_ptrs_in_encoder': True,
        'add_tpos_enc_to_obj_ptrs': True,
        'proj_tpos_enc_in_obj_ptrs': True,
        'use_signed_tpos_enc_to_obj_ptrs': True,
        'only_obj_ptrs_in_the_past_for_eval': True,
        'pred_obj_scores': True,
        'pred_obj_scores_mlp': True,
        'fixed_no_obj_ptr': True,
        'use_mlp_for_obj_ptr_proj': True,
        'binarize_mask_from_pts_for_mem_enc': True,
    }


def build_compact(config: CompactConfig) -> SAM2Base:
    """A compact ``SAM2Base`` in evaluation mode with random weights."""
    return SAM2Base(**sam2_arguments(config)).eval()
