"""Write the averaged weights of a checkpoint in the form that the tracker ships.

    python -m training.export_weights runs/compact/last.pt robust_pvos_ros/tracking/weights/compact.safetensors
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from robust_pvos_ros.tracking.compact import CompactConfig, build_compact

FORMAT = 'robust_pvos_compact'


def export(checkpoint: str | Path, output: str | Path, image_size: int = 256) -> dict[str, str]:
    """Export ``checkpoint`` of :mod:`training.train` to ``output``, float16; returns the metadata written.

    Metadata: ``format``; ``config``, JSON of :class:`CompactConfig`; ``training``, JSON of steps, seconds, seed, stage
    and the last validation J at ``image_size``.

    Raises:
        ValueError: if the weights do not fit the architecture, or a weight does not fit float16.
    """
    state = torch.load(checkpoint, map_location='cpu', weights_only=True)
    fields: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in state['config']['model'].items()
    }
    config = CompactConfig(**{**fields, 'image_size': image_size})
    model = build_compact(config)
    try:
        model.load_state_dict(state['average'])
    except RuntimeError as error:
        raise ValueError(f'{checkpoint} does not hold weights of {config}: {error}') from error
    tensors = {
        name: value.half() if value.is_floating_point() else value for name, value in model.state_dict().items()
    }
    unfit = [name for name, value in tensors.items() if value.is_floating_point() and not value.isfinite().all()]
    if unfit:
        raise ValueError(f'weights that are not finite in float16: {", ".join(unfit)}')
    progress, stages = state['progress'], state['config']['stages']
    scores = [entry for entry in progress['validation'] if entry[2] == image_size]
    training = {
        'steps': progress['step'],
        'seconds': round(progress['seconds']),
        'seed': state['config']['seed'],
        'stage': stages[progress['stage']]['name'] if progress['stage'] < len(stages) else 'complete',
        'validation_j': scores[-1][3] if scores else None,
    }
    metadata = {'format': FORMAT, 'config': json.dumps(asdict(config)), 'training': json.dumps(training)}
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    part = output.with_name(output.name + '.part')
    save_file({k: v.contiguous() for k, v in tensors.items()}, part, metadata)
    part.chmod(0o644)
    part.replace(output)
    return metadata


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoint', type=Path)
    parser.add_argument('output', type=Path)
    arguments = parser.parse_args()
    print(json.dumps(export(arguments.checkpoint, arguments.output), indent=2))


if __name__ == '__main__':
    main()
