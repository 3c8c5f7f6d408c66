"""Write the averaged adapter of a checkpoint in the form that the tracker loads.

    python -m training.export_adapter runs/moga/last.pt moga.safetensors
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from robust_pvos_ros.tracking.adapters import save_adapter
from robust_pvos_ros.tracking.checkpoints import build_official
from robust_pvos_ros.tracking.compact import build_compact
from training.adaptation import equip
from training.config import restore_config


def export_adapter(checkpoint: str | Path, output: str | Path) -> dict[str, int]:
    """Export the adapter of one checkpoint of :mod:`training.train`, with the LayerNorms trained beside it.

    Returns:
        scalars of the file by part.

    Raises:
        ValueError: if the run trained no adapter.
    """
    state = torch.load(checkpoint, map_location='cpu', weights_only=True)
    config = restore_config(state['config'])
    sam = build_official(config.official) if config.official else build_compact(config.model)
    adapter = equip(sam, config.adaptation)
    if adapter is None:
        raise ValueError(f'{checkpoint} trained no adapter: its adaptation.trains is {config.adaptation.trains!r}')
    sam.load_state_dict(state['average'])
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    save_adapter(output, adapter, config.official or 'compact')
    return adapter.parameters_by_part()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoint', type=Path)
    parser.add_argument('output', type=Path)
    arguments = parser.parse_args()
    for part, count in export_adapter(arguments.checkpoint, arguments.output).items():
        print(f'{part}: {count:,}')


if __name__ == '__main__':
    main()
