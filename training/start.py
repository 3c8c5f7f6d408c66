"""Models to train: the compact one from good start values, or an official SAM 2.1."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from robust_pvos_ros.tracking.checkpoints import build_official, load_state, read_compact, read_official
from robust_pvos_ros.tracking.compact import CompactConfig, sam2_arguments
from robust_pvos_ros.tracking.layout import fuse_norms
from training.config import TrainConfig
from training.model import ClipModel

log = logging.getLogger('training')


class CompactClipModel(ClipModel):
    """The compact model in training."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__(**sam2_arguments(config))
        self._initialise()

    def _initialise(self) -> None:
        """Start values from which masks get through the network at once.

        With torch's defaults a model trained from scratch lingers on the empty mask for hundreds of steps: linear
        layers shrink their input by sqrt(3), layer norms of the prompt encoder wipe out a binary mask, and a negative
        object score would replace every mask by -1024.
        """
        decoder, prompts = self.sam_mask_decoder, self.sam_prompt_encoder
        nn.init.constant_(decoder.pred_obj_score_head.layers[-1].bias, 4.0)
        # a binary mask prompt becomes logits of +-10, like those of a refinement
        nn.init.constant_(self.mask_downsample.weight, 20 / self.mask_downsample.weight[0].numel())
        nn.init.constant_(self.mask_downsample.bias, -10.0)
        with torch.no_grad():
            prompts.mask_downscaling[-1].weight.mul_(5)
            self.memory_encoder.mask_downsampler.encoder[-1].weight.mul_(4)
            for head in decoder.output_hypernetworks_mlps:
                for linear in head.layers:
                    linear.weight.mul_(3**0.5)
            for embedding in prompts.point_embeddings:
                embedding.weight.mul_(0.3)  # the place of a point outweighs its kind
            attentions = [decoder.transformer.final_attn_token_to_image]
            for block in decoder.transformer.layers:
                attentions += [block.cross_attn_token_to_image, block.cross_attn_image_to_token]
            for attention in attentions:  # tokens attend to the place they name: its encoding is their own
                attention.q_proj.weight.mul_(1.8)
                attention.k_proj.weight.copy_(attention.q_proj.weight)
                attention.q_proj.bias.zero_()
                attention.k_proj.bias.zero_()
        self._match_by_likeness()

    @torch.no_grad()
    def _match_by_likeness(self) -> None:
        """Let every pixel attend at first to remembered pixels with like features (Oh et al. 2019, STM)."""
        encoder = self.memory_encoder
        nn.init.dirac_(encoder.pix_feat_proj.weight)
        nn.init.zeros_(encoder.pix_feat_proj.bias)
        nn.init.orthogonal_(encoder.out_proj.weight.view(self.mem_dim, self.hidden_dim))
        project = encoder.out_proj.weight.view(self.mem_dim, self.hidden_dim)
        for layer in self.memory_attention.layers:
            attention = layer.cross_attn_image
            nn.init.orthogonal_(attention.k_proj.weight)
            attention.q_proj.weight.copy_(attention.k_proj.weight @ project)
            attention.q_proj.bias.fill_(0.3)  # equal biases under rotary encoding favour the same place
            attention.k_proj.bias.fill_(0.3)
            for linear in (attention.v_proj, attention.out_proj):
                linear.weight.mul_(3**0.5)


def build_clip_model(config: TrainConfig, image_size: int) -> ClipModel:
    """The model of a run with random weights, for images of ``image_size`` pixels."""
    model: ClipModel
    if config.official:
        official = build_official(config.official, image_size, f'{ClipModel.__module__}.{ClipModel.__qualname__}')
        assert isinstance(official, ClipModel)
        model = official
    else:
        model = CompactClipModel(CompactConfig(**{**asdict(config.model), 'image_size': image_size}))
    fuse_norms(model)
    model.recompute = config.recompute
    return model


def read_initial_weights(model: ClipModel, config: TrainConfig) -> None:
    """Load ``config.init`` where it is given.

    Raises:
        ModelError: if the file is missing, damaged or of another model.
    """
    path = Path(config.init)
    if config.official and config.init:
        load_state(model, read_official(path), path, config.official)
    elif config.init:
        load_state(model, read_compact(path)[1], path, 'compact')
    elif config.official:
        log.warning('training begins from random weights: init names no checkpoint of %s', config.official)
