"""Write the averaged weights of a checkpoint in the form that the tracker ships.

    python -m training.export_weights runs/compact/last.pt robust_pvos_ros/tracking/weights/compact.safetensors

Several checkpoints that grew from one ancestor are averaged once more (a model soup, Wortsman et al. 2022).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from robust_pvos_ros.tracking.compact import CompactConfig, build_compact
from training.validate import HeldOutScore

FORMAT = 'robust_pvos_compact'


def export(
    checkpoints: str | Path | Sequence[str | Path], output: str | Path, image_size: int = 0, weights: str = 'average'
) -> dict[str, str]:
    """Export one checkpoint of :mod:`training.train`, or the mean of several, to ``output`` in float16.

    Args:
        image_size: that the weights run at unless told otherwise, pixels; 0 takes that of the stage they ended in.
        weights: ``average`` takes the running average of the weights, ``model`` those of the last step.

    Returns:
        the metadata written: ``format``; ``config``, JSON of :class:`CompactConfig`; ``training``, JSON of steps,
        seconds, seeds, stage and the last validation J at ``image_size`` (of the first checkpoint).

    Raises:
        ValueError: if the weights do not fit the architecture, or a weight does not fit float16.
    """
    paths = [checkpoints] if isinstance(checkpoints, (str, Path)) else list(checkpoints)
    states = [torch.load(path, map_location='cpu', weights_only=True) for path in paths]
    state = states[0]
    fields: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in state['config']['model'].items()
    }
    progress, stages = state['progress'], state['config']['stages']
    stage = stages[min(progress['stage'], len(stages) - 1)]
    image_size = image_size or stage['size']
    config = CompactConfig(**{**fields, 'image_size': image_size})
    model = build_compact(config)
    mean = {name: torch.stack([s[weights][name].float() for s in states]).mean(0) for name in state[weights]}
    try:
        model.load_state_dict(mean)
    except RuntimeError as error:
        raise ValueError(f'{paths[0]} does not hold weights of {config}: {error}') from error
    tensors = {
        name: value.half() if value.is_floating_point() else value for name, value in model.state_dict().items()
    }
    unfit = [name for name, value in tensors.items() if value.is_floating_point() and not value.isfinite().all()]
    if unfit:
        raise ValueError(f'weights that are not finite in float16: {", ".join(unfit)}')
    scores = [entry for entry in progress['validation'] if entry[2] == image_size]
    training = {
        'steps': progress['step'],
        'seconds': round(progress['seconds']),
        'seeds': [s['config']['seed'] for s in states],
        'stage': stage['name'] if progress['stage'] < len(stages) else 'complete',
        'validation_j': dict(zip(HeldOutScore._fields, scores[-1][3:])) if scores else None,
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
    parser.add_argument('checkpoints', type=Path, nargs='+')
    parser.add_argument('output', type=Path)
    parser.add_argument('--image-size', type=int, default=0, help='pixels; 0 takes that of the last stage')
    parser.add_argument('--weights', choices=('average', 'model'), default='average')
    arguments = parser.parse_args()
    metadata = export(arguments.checkpoints, arguments.output, arguments.image_size, arguments.weights)
    print(json.dumps(metadata, indent=2))


if __name__ == '__main__':
    main()
