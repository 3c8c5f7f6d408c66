"""Contact sheet of rendered clips: what a model is trained on, and what it makes of held-out clips.

    python -m benchmarks.clips OUT.png [--weights WEIGHTS.safetensors]

White outlines are the truth; with ``--weights``, tints are masks tracked from those of the first frame.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robust_pvos_ros.evaluation.sheet import SheetRow, draw_tile, write_sheet
from robust_pvos_ros.procedural.video import Clips, render_clips
from robust_pvos_ros.tracking.checkpoints import build_sam
from training.losses import hard_iou
from training.prompts import choose_objects
from training.validate import VALIDATION_SEED, follow_masks, validation_bank


def tracked_ids(clips: Clips, weights: Path) -> tuple[np.ndarray, list[float]]:
    """Objects of ``clips`` followed from their first masks.

    Returns:
        int (B, T, S, S) IDs, and the mean J of every clip without its first frame.
    """
    sam = build_sam('compact', str(weights))
    rows = choose_objects(clips.ids, 255, np.random.default_rng(0), min_area=0.002)
    logits = follow_masks(sam, clips.images, rows.clip, rows.masks[:, 0])
    full: Tensor = torch.nn.functional.interpolate(logits, size=clips.ids.shape[-2:], mode='bilinear')
    score = hard_iou(full[:, 1:], rows.masks[:, 1:]).mean(1)
    found = np.zeros(clips.ids.shape, int)
    means = []
    for clip in range(len(found)):
        own = (rows.clip == clip).nonzero()[:, 0]
        means.append(float(score[own].mean()) if len(own) else float('nan'))
        if len(own):
            first = clips.ids[clip, 0]
            numbers = [int(first[rows.masks[i, 0] > 0.5][0]) for i in own]
            best, index = full[own].max(0)
            found[clip] = np.where(best > 0, np.array(numbers)[index], 0)
    return found, means


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('output', type=Path)
    parser.add_argument('--weights', type=Path, default=None, help='compact weights to track with')
    parser.add_argument('--clips', type=int, default=6)
    parser.add_argument('--frames', type=int, default=8)
    parser.add_argument('--size', type=int, default=320, help='pixels')
    parser.add_argument('--seed', type=int, default=VALIDATION_SEED, help='of the clips (default: held-out ones)')
    options = parser.parse_args()
    clips = render_clips(options.clips, options.frames, options.size, options.seed, validation_bank(), livery=0.5)
    truth = clips.ids.numpy().astype(int)
    shown, titles = np.zeros_like(truth), [f'clip {i}' for i in range(options.clips)]
    if options.weights is not None:
        shown, means = tracked_ids(clips, options.weights)
        titles = [f'{title}: J {mean:.2f}' for title, mean in zip(titles, means)]
    rows = []
    frames = range(0, options.frames, max(1, options.frames // 5))
    for clip, title in enumerate(titles):
        pictures = clips.images[clip].permute(0, 2, 3, 1).numpy()
        rows.append(SheetRow(title, tuple(draw_tile(pictures[t], truth[clip, t], shown[clip, t], 224) for t in frames)))
    write_sheet(options.output, rows)
    print(f'wrote {options.output}')


if __name__ == '__main__':
    main()
