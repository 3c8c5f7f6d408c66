"""Milliseconds of the image encoder, by encoder and image size, in turns on the same pictures.

    python -m benchmarks.encoder [--model compact] [--image-sizes 256 320 512] [--rounds 20] [--out DIR]

All encoders that run here are measured: torch in float32 and bfloat16 and ONNX Runtime on a CPU; torch in both and a
TensorRT engine, built and cached as the node does, on a GPU.  Resizing and normalising the picture are included.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.provenance import ORIGIN, describe_run
from robust_pvos_ros.export.choose import equip_with_encoder
from robust_pvos_ros.procedural.street import StreetScene
from robust_pvos_ros.tracking.model import load_model
from robust_pvos_ros.tracking.types import ModelConfig, PvosError

VARIANTS = {
    'torch float32': ('torch', 'float32'),
    'torch bfloat16': ('torch', 'bfloat16'),
    'onnx float32': ('onnx', 'float32'),
    'tensorrt float32': ('tensorrt', 'float32'),
    'tensorrt float16': ('tensorrt', 'bfloat16'),
}
"""Name -> encoder and precision of the model around it."""


def load(config: ModelConfig) -> dict[str, Callable[[np.ndarray], object]]:
    """Name -> encoding of a picture, for every variant that runs here; what does not is printed with its reason."""
    found: dict[str, Callable[[np.ndarray], object]] = {}
    for name, (encoder, precision) in VARIANTS.items():
        chosen = replace(config, encoder=encoder, precision=precision)
        try:
            model = load_model(chosen)
            equip_with_encoder(model, chosen)
        except PvosError as error:
            print(f'{name}: {error}')
            continue
        found[name] = model.encode
    return found


def measure(
    encoders: dict[str, Callable[[np.ndarray], object]], pictures: list[np.ndarray], rounds: int
) -> dict[str, list[float]]:
    """Milliseconds of every picture after two for warming up, all encoders in turns."""
    times: dict[str, list[float]] = {name: [] for name in encoders}
    for index in range(rounds + 2):
        for name, encode in encoders.items():
            start = time.perf_counter()
            encode(pictures[index % len(pictures)])
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if index >= 2:
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default='compact')
    parser.add_argument('--checkpoint', default='')
    parser.add_argument('--image-sizes', nargs='+', type=int, default=[256, 320, 512], help='0: that of the weights')
    parser.add_argument('--rounds', type=int, default=20)
    parser.add_argument('--device', default='auto')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--out', type=Path, help='folder for encoder.csv')
    options = parser.parse_args()
    scene = StreetScene(prepare=False)
    pictures = [scene.frame(second)[0] for second in (2.0, 9.0, 20.0)]
    rows = []
    for size in options.image_sizes:
        config = ModelConfig(options.model, options.checkpoint, size, device=options.device, threads=options.threads)
        times = measure(load(config), pictures, options.rounds)
        reference = np.median(next(iter(times.values())))
        for name, values in times.items():
            median, slow = np.percentile(values, [50, 99])
            rows.append([str(size), name, f'{median:.1f}', f'{slow:.1f}', f'{reference / median:.2f}'])
    header = ['pixels', 'encoder', 'ms p50', 'ms p99', 'times the first']
    for row in [header, *rows]:
        print(f'{row[0]:>7} {row[1]:<18}' + ''.join(f'{value:>16}' for value in row[2:]))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        about = describe_run()
        with (options.out / 'encoder.csv').open('w', newline='') as file:
            writer = csv.writer(file, lineterminator='\n')
            writer.writerows([[*header, *ORIGIN]])
            writer.writerows([[*row, *(about[name] for name in ORIGIN)] for row in rows])


if __name__ == '__main__':
    main()
