"""The official video predictor with the weights of one of our models: the reference of benchmarks and tests."""

from __future__ import annotations

from dataclasses import replace

from sam2.build_sam import build_sam2_video_predictor
from sam2.modeling.sam2_base import SAM2Base
from sam2.sam2_video_predictor import SAM2VideoPredictor

from robust_pvos_ros.tracking.checkpoints import OFFICIAL_CONFIGS
from robust_pvos_ros.tracking.compact import CompactConfig, sam2_arguments


def build_predictor(model: str, sam: SAM2Base, compact: CompactConfig | None = None) -> SAM2VideoPredictor:
    """``SAM2VideoPredictor`` with the weights of ``sam`` and the settings that a stream shares with it.

    No holes are filled, no memory is cleared, and every corrected frame becomes a conditioning frame.

    Args:
        model: name of the architecture, as for ``load_model``.
        sam: source of the weights, without an adapter.
        compact: architecture of ``sam`` where ``model`` is ``compact``; its image size is that of ``sam``.
    """
    if model == 'compact':
        arguments = sam2_arguments(replace(compact or CompactConfig(), image_size=sam.image_size))
        predictor = SAM2VideoPredictor(**arguments, add_all_frames_to_correct_as_cond=True)
    else:
        predictor = build_sam2_video_predictor(
            OFFICIAL_CONFIGS[model],
            device='cpu',
            hydra_overrides_extra=['++model.fill_hole_area=0', '++model.add_all_frames_to_correct_as_cond=true'],
        )
        predictor.fill_hole_area = 0
    predictor.load_state_dict(sam.state_dict())
    return predictor.to(sam.device).eval()


def build_compiled_predictor(model: str, sam: SAM2Base) -> SAM2VideoPredictor:
    """The official predictor as ``build_sam2_video_predictor(vos_optimized=True)`` compiles it, with the weights of
    ``sam``; an official model on a GPU."""
    predictor = build_sam2_video_predictor(OFFICIAL_CONFIGS[model], device=str(sam.device), vos_optimized=True)
    predictor.fill_hole_area = 0
    predictor.load_state_dict(sam.state_dict())
    return predictor
