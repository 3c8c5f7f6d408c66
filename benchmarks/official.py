"""The official video predictor with the weights of one of our models: the reference of benchmarks and tests."""

from __future__ import annotations

from dataclasses import replace

from sam2.build_sam import build_sam2_video_predictor
from sam2.modeling.sam2_base import SAM2Base
from sam2.sam2_video_predictor import SAM2VideoPredictor

from robust_pvos_ros.tracking.checkpoints import OFFICIAL_CONFIGS
from robust_pvos_ros.tracking.compact import CompactConfig, sam2_arguments


def build_predictor(model: str, sam: SAM2Base, compact: CompactConfig | None = None) -> SAM2VideoPredictor:
    """``SAM2VideoPredictor`` with the weights and image size of ``sam`` and the settings that a stream shares with it.

    No holes are filled, no memory is cleared, and every corrected frame becomes a conditioning frame.

    Args:
        model: name of the architecture, as for ``load_model``.
        sam: source of the weights, without an adapter.
        compact: architecture of ``sam`` where ``model`` is ``compact``.
    """
    if model == 'compact':
        arguments = sam2_arguments(replace(compact or CompactConfig(), image_size=sam.image_size))
        predictor = SAM2VideoPredictor(**arguments, add_all_frames_to_correct_as_cond=True)
    else:
        predictor = _build_official(model, sam)
    predictor.load_state_dict(sam.state_dict())
    return predictor.to(sam.device).eval()


def build_compiled_predictor(model: str, sam: SAM2Base) -> SAM2VideoPredictor:
    """The official predictor as ``build_sam2_video_predictor(vos_optimized=True)`` compiles it, with the weights and
    the image size of ``sam``; an official model."""
    predictor = _build_official(model, sam, vos_optimized=True)
    predictor.load_state_dict(sam.state_dict())
    return predictor


def _build_official(model: str, sam: SAM2Base, **options: bool) -> SAM2VideoPredictor:
    settings = [f'++model.image_size={sam.image_size}', '++model.add_all_frames_to_correct_as_cond=true']
    predictor = build_sam2_video_predictor(
        OFFICIAL_CONFIGS[model], device=str(sam.device), hydra_overrides_extra=settings, **options
    )
    predictor.fill_hole_area = 0  # an override would lose to that of the builder, which comes later
    return predictor
