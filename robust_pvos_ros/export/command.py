"""``pvos_export``: write the image encoder as an ONNX file, check it against torch, and build its TensorRT engine.

    pvos_export encoder.onnx [--model compact] [--checkpoint FILE] [--adapter FILE] [--precision float16] [--engine]

The node does the same by itself when it is configured; this command does it beforehand, on a machine like the robot's.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from robust_pvos_ros.export.choose import fresh_sam
from robust_pvos_ros.export.engine import cached_engine, make_key
from robust_pvos_ros.export.onnx_file import PRECISIONS, ExportError, encoder_digest, export_onnx, relative_error
from robust_pvos_ros.procedural.street import StreetScene
from robust_pvos_ros.tracking.checkpoints import MODEL_NAMES
from robust_pvos_ros.tracking.encoder_onnx import OnnxEncoder
from robust_pvos_ros.tracking.model import Sam2Model
from robust_pvos_ros.tracking.types import ModelConfig, PvosError

TOLERANCE = {'float32': 1e-4, 'float16': 3e-2}


def check_parity(path: Path, config: ModelConfig, precision: str, frames: int = 3) -> float:
    """Largest relative error of an exported encoder against torch, on frames of the demo's street.

    Raises:
        ExportError: if it is above ``TOLERANCE``.
    """
    model, encoder = Sam2Model(fresh_sam(config), config.model), OnnxEncoder(path, torch.get_num_threads())
    scene = StreetScene(prepare=False)
    worst = 0.0
    for index in range(frames):
        image = model.preprocess(scene.frame(2.0 + 8.0 * index)[0])
        worst = max(worst, relative_error(encoder(image), model.encoder(image)))
    if not worst <= TOLERANCE[precision]:
        raise ExportError(
            f'{path} differs from torch by {worst:.1e} of the largest value, more than {TOLERANCE[precision]:.0e} in '
            f'{precision}'
        )
    return worst


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 2 on bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('output', type=Path, help='ONNX file to write')
    parser.add_argument('--model', choices=MODEL_NAMES, default='compact')
    parser.add_argument('--checkpoint', default='', help='weights file (default: the shipped compact model)')
    parser.add_argument('--adapter', default='none', help='whose LayerNorms are merged: a file, shipped or none')
    parser.add_argument('--image-size', type=int, default=0, help='pixels; 0 takes that of the weights')
    parser.add_argument('--precision', choices=PRECISIONS, default='float32')
    parser.add_argument('--engine', action='store_true', help='also build the TensorRT engine, beside the file')
    options = parser.parse_args(argv)
    config = ModelConfig(options.model, options.checkpoint, options.image_size, options.adapter, device='cpu')
    try:
        sam = fresh_sam(config)
        digest = encoder_digest(sam)
        print(f'exporting {options.model} at {sam.image_size} pixels', flush=True)
        export_onnx(sam, options.output, options.precision)
        print(f'wrote {options.output}, {options.output.stat().st_size / 1e6:.1f} MB', flush=True)
        error = check_parity(options.output, config, options.precision)
        print(f'largest difference from torch: {error:.1e} of the largest value', flush=True)
        if options.engine:
            key = make_key(digest, options.output, options.precision)
            cached_engine(options.output.parent, key, options.output, lambda text: print(text, flush=True))
    except PvosError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
