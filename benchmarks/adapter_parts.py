"""An adapter with less of what it learnt: which part of it does what, and blends with the base.

    python -m benchmarks.adapter_parts ADAPTER OUT [--norms 0] [--projections 1]

Writes an adapter whose LayerNorms are ``--norms`` of the way from the base's to its own, and whose low-rank projections
count ``--projections`` times; 0 is the base, 1 what was trained.  With both at the same share it is the interpolation
in weight space of Wortsman et al. 2022 (WiSE-FT), to be scored by ``benchmarks.robustness`` like any adapter.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from torch import Tensor

from robust_pvos_ros.tracking.adapters import layer_norm_parameters, load_adapter, save_adapter
from robust_pvos_ros.tracking.checkpoints import build_sam
from robust_pvos_ros.tracking.types import PvosError


def weigh(
    file: Path, out: Path, norms: float, projections: float, model: str = 'compact', checkpoint: str = ''
) -> None:
    """Write a weighed copy of an adapter, see the module's docstring.

    Args:
        file: of the adapter; out: of the copy.
        norms: share of the way of the LayerNorms; projections: factor of what the low-rank projections add.
        model: name of the model; checkpoint: its weights, the shipped ones where empty.

    Raises:
        ModelError: if the adapter cannot be read or belongs to other weights.
    """
    sam = build_sam(model, checkpoint)
    base: dict[str, Tensor] = {name: p.detach().clone() for name, p in layer_norm_parameters(sam).items()}
    adapter = load_adapter(file, sam, model)
    for name, parameter in layer_norm_parameters(sam).items():
        parameter.data.lerp_(base[name], 1 - norms)
    for name, tensor in adapter.state_dict().items():
        if '.up.' in name:
            tensor.mul_(projections)
    save_adapter(out, adapter, model)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('adapter', type=Path)
    parser.add_argument('out', type=Path)
    parser.add_argument('--norms', type=float, default=1.0)
    parser.add_argument('--projections', type=float, default=1.0)
    options = parser.parse_args()
    try:
        weigh(options.adapter, options.out, options.norms, options.projections)
    except PvosError as error:
        parser.error(str(error))


if __name__ == '__main__':
    main()
