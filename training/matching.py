"""Data-dependent start of the memory attention: every pixel attends to remembered pixels with like features.

A model trained from scratch first learns to repeat the last mask at the same place, and lingers there, because random
queries and keys match nothing.  Canonical correlation analysis of the features of a frame and of the memory of the same
frame gives projections under which equal content attracts; the network improves on them by training.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from robust_pvos_ros.procedural.textures import TextureBank
from robust_pvos_ros.procedural.video import render_clips
from training.model import LONG_VIDEO, ClipModel, normalise
from training.prompts import choose_objects


def canonical_projections(first: Tensor, second: Tensor, ridge: float = 0.03) -> tuple[Tensor, Tensor, Tensor]:
    """Canonical correlation analysis of paired samples (n, p) and (n, q) with p >= q (Hotelling 1936).

    Returns:
        matrices (q, p) and (q, q) that make centred samples unit-variance canonical variates, and correlations (q,),
        descending.
    """
    first, second = ((x - x.mean(0)).double() for x in (first, second))

    def inverse_root(x: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(x.T @ x / len(x))
        values = values.clamp(min=0) + ridge * values.mean()
        return vectors @ torch.diag(values**-0.5) @ vectors.T

    white_first, white_second = inverse_root(first), inverse_root(second)
    u, correlation, v = torch.linalg.svd(white_first @ (first.T @ second / len(first)) @ white_second)
    count = second.shape[1]
    return (u.T[:count] @ white_first).float(), (v[:count] @ white_second).float(), correlation.float()


@torch.no_grad()
def calibrate_matching(
    model: ClipModel, bank: TextureBank, seed: int, peak: float = 6.0, locality: float = 1.5, images: int = 40
) -> list[float]:
    """Set query and key projections of every memory cross-attention of ``model`` from rendered frames.

    Args:
        peak: attention logit of the right pixel where a wrong one has 0 on average.
        locality: bias of the high-frequency rotary channels, which favours the same place.

    Returns:
        mean canonical correlation of every layer.
    """
    size, side = model.image_size, model.image_size // 16
    frames, ids = render_clips(images, 1, size, seed, bank, 1.0, 1.5)[:2]
    rows = choose_objects(ids, 1, np.random.default_rng(seed))
    frames = frames[rows.clip, 0]
    down, right = side // 4, -(side // 4)
    moved = frames.roll((down * 16, right * 16), (-2, -1))
    gain = torch.linspace(0.8, 1.2, len(frames), device=frames.device)[:, None, None, None]
    moved = (moved.float() * gain).clamp(0, 255)
    correlations = []
    for layer in model.memory_attention.layers:
        query, key = attention_inputs(model, layer.cross_attn_image, frames, moved, rows.masks[:, 0])
        query = query.view(-1, side, side, query.shape[-1]).roll((-down, -right), (1, 2)).flatten(0, 2)
        key = key.flatten(0, 1)
        to_query, to_key, correlation = canonical_projections(query, key)
        _install(layer.cross_attn_image, query.mean(0), key.mean(0), to_query, to_key, correlation, peak, locality)
        correlations.append(float(correlation.mean()))
    return correlations


def attention_inputs(
    model: ClipModel, attention: torch.nn.Module, frames: Tensor, moved: Tensor, masks: Tensor
) -> tuple[Tensor, Tensor]:
    """Queries (n, HW, C) of ``moved`` and keys (n, HW, M) of the memory of ``frames`` as ``attention`` gets them."""
    seen: dict[str, Tensor] = {}

    def keep(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.update(kwargs)

    prepared = [model._prepare_backbone_features(model.forward_image(normalise(x))) for x in (frames, moved)]
    _, levels, _, sizes = prepared[0]
    score = torch.full((len(frames), 1), 10.0, device=frames.device)
    features, position = model._encode_new_memory(levels, sizes, masks[:, None] * 20 - 10, score, False)
    pointer = torch.zeros(len(frames), model.hidden_dim, device=frames.device)
    entry = {'maskmem_features': features, 'maskmem_pos_enc': position, 'obj_ptr': pointer}
    _, levels, positions, sizes = prepared[1]
    handle = attention.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        model._prepare_memory_conditioned_features(
            frame_idx=1,
            is_init_cond_frame=False,
            current_vision_feats=levels[-1:],
            current_vision_pos_embeds=positions[-1:],
            feat_sizes=sizes[-1:],
            output_dict={'cond_frame_outputs': {0: entry}, 'non_cond_frame_outputs': {}},
            num_frames=LONG_VIDEO,
        )
    finally:
        handle.remove()
    return seen['q'].float(), seen['k'][:, : seen['q'].shape[1]].float()


def _install(
    attention: Any,
    query_mean: Tensor,
    key_mean: Tensor,
    to_query: Tensor,
    to_key: Tensor,
    correlation: Tensor,
    peak: float,
    locality: float,
) -> None:
    """Put the variates on the slow rotary channels, which match at any distance, and a bias on the fast ones.

    Axial rotary encoding turns channels 0 .. D/2 with x and D/2 .. D with y, fast ones first within each half.
    """
    width = attention.internal_dim
    quarter = width // 4
    slow = torch.cat([torch.arange(quarter, 2 * quarter), torch.arange(3 * quarter, width)])
    count = min(len(slow), len(correlation))
    scale = (peak * width**0.5 / float((correlation[:count] ** 2).sum())) ** 0.5
    weight = scale * correlation[:count, None] ** 0.5
    for linear, matrix, mean in (
        (attention.q_proj, to_query[:count], query_mean),
        (attention.k_proj, to_key[:count], key_mean),
    ):
        linear.weight.mul_(0.1)
        linear.bias.fill_(locality)
        linear.weight[slow[:count]] = weight * matrix
        linear.bias[slow] = 0.0
        linear.bias[slow[:count]] = -(weight * matrix) @ mean
