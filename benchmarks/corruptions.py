"""Contact sheet of the eight corruptions, and what a frame costs.

    python -m benchmarks.corruptions OUT.jpg [--image PICTURE] [--severities 1 3 5] [--frame 12]

Without ``--image`` the demo's street is shown.  Times are those of one core.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from robust_pvos_ros.corruption.corruption import KINDS, ClipCorruption, CorruptionSpec
from robust_pvos_ros.evaluation.davis import read_image
from robust_pvos_ros.evaluation.sheet import SheetRow, write_sheet
from robust_pvos_ros.procedural.street import StreetScene

SIZE = (854, 480)
TILE = (320, 180)


def tiles_of(kind: str, image: np.ndarray, severities: list[float], frame: int) -> tuple[SheetRow, float]:
    """One row of the sheet, and milliseconds per frame of the slowest severity."""
    picture = torch.from_numpy(image).movedim(-1, 0).contiguous()
    tiles, slowest = [], 0.0
    for severity in severities:
        corruption = ClipCorruption([CorruptionSpec(kind, severity)], modulated=False)
        corruption(picture, 0)
        times = []
        for index in range(frame, frame + 5):
            start = time.perf_counter()
            corrupted = corruption(picture, index)
            times.append(1e3 * (time.perf_counter() - start))
        slowest = max(slowest, float(np.median(times)))
        shown = corrupted.movedim(0, -1).contiguous().numpy()
        tiles.append(cv2.resize(shown, TILE, interpolation=cv2.INTER_AREA))
    return SheetRow(f'{kind}, severity {", ".join(f"{severity:g}" for severity in severities)}', tuple(tiles)), slowest


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('output', type=Path)
    parser.add_argument('--image', type=Path, help='picture to corrupt')
    parser.add_argument('--severities', type=float, nargs='+', default=[1.0, 3.0, 5.0])
    parser.add_argument('--frame', type=int, default=12)
    options = parser.parse_args()
    torch.set_num_threads(1)
    image = read_image(options.image) if options.image else StreetScene(*SIZE).frame(5.0)[0]
    image = np.ascontiguousarray(cv2.resize(image, SIZE, interpolation=cv2.INTER_AREA))
    rows = []
    print(f'{"corruption":<18}{"ms per 854x480 frame":>22}')
    for kind in KINDS:
        row, slowest = tiles_of(kind, image, options.severities, options.frame)
        rows.append(row)
        print(f'{kind:<18}{slowest:>22.1f}')
    write_sheet(options.output, rows)
    print(f'wrote {options.output}')


if __name__ == '__main__':
    main()
