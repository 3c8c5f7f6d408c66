"""Whether frames of several cameras are encoded faster in one batch than one after the other.

    python -m benchmarks.cameras [--cameras 2 3 4] [--device cuda]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from benchmarks.provenance import describe_run
from robust_pvos_ros.tracking.model import Sam2Model, load_model
from robust_pvos_ros.tracking.types import ModelConfig


def median_ms(action: Callable[[], object], rounds: int, device: torch.device) -> float:
    """Median time of a call, milliseconds, after two that do not count."""
    times = []
    for _ in range(rounds + 2):
        start = time.perf_counter()
        action()
        if device.type == 'cuda':
            torch.cuda.synchronize(device)
        times.append((time.perf_counter() - start) * 1e3)
    return float(np.median(times[2:]))


def encode_alone(model: Sam2Model, pictures: list[np.ndarray]) -> None:
    """One picture after the other."""
    for rgb in pictures:
        model.encode(rgb)


def main() -> None:
    parser = argparse.ArgumentParser(prog='python -m benchmarks.cameras', description=__doc__)
    parser.add_argument('--cameras', type=int, nargs='+', default=[2, 3, 4])
    parser.add_argument('--size', type=int, nargs=2, default=(640, 480), metavar=('WIDTH', 'HEIGHT'))
    parser.add_argument('--rounds', type=int, default=30)
    parser.add_argument('--model', default='compact')
    parser.add_argument('--checkpoint', default='')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    parser.add_argument('--precision', default='auto', help='auto, float32 or bfloat16')
    parser.add_argument('--threads', type=int, default=0)
    args = parser.parse_args()
    model = load_model(
        ModelConfig(
            model=args.model, checkpoint=args.checkpoint, device=args.device, precision=args.precision,
            threads=args.threads,
        )
    )  # fmt: skip
    for name, value in describe_run().items():
        print(f'{name}: {value}')
    print(f'{model.name} on {model.device} in {model.precision}, {torch.get_num_threads()} threads, ms for all cameras')
    print(f'{"cameras":>8} {"one by one":>11} {"one batch":>10} {"ratio":>6}')
    random = np.random.default_rng(0)
    for count in args.cameras:
        pictures = list(random.integers(0, 256, (count, args.size[1], args.size[0], 3), dtype=np.uint8))
        alone = median_ms(partial(encode_alone, model, pictures), args.rounds, model.device)
        batch = median_ms(partial(model.encode_batch, pictures), args.rounds, model.device)
        print(f'{count:>8} {alone:>11.1f} {batch:>10.1f} {alone / batch:>6.2f}')


if __name__ == '__main__':
    main()
