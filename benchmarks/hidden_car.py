"""Whether the red car of the rendered street, hidden behind a van for two seconds, is the one that comes out again.

    python -m benchmarks.hidden_car [--rates 6 8 10 15 20] [--begins 11 11.5 12 14.2] [--stray-cover 0.15 0]

A second red car, which nobody points at, passes it from second 12.5 to 14.2 of the scene; a drive that begins at 14.2
has no look-alike.  Traffic stands still while the car is behind the van.  It is given by its true mask on the first
frame, and found if it is TRACKING on the last one with an IoU of 0.5 or more.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from benchmarks.provenance import describe_run
from robust_pvos_ros.procedural.street import StreetScene
from robust_pvos_ros.tracking.association import mask_iou
from robust_pvos_ros.tracking.model import Sam2Model, load_model
from robust_pvos_ros.tracking.tracker import VideoTracker
from robust_pvos_ros.tracking.types import FrameResult, ModelConfig, ObjectState, Prompt, TrackerConfig

HEIGHT, WIDTH = 240, 320
RED_CAR = 1
LOOK_ALIKE_GONE = 14.2
BEHIND_THE_VAN, END = 16.0, 20.5
SECONDS_HIDDEN = 2.0
ENOUGH = 0.5


def moments(begin: float, rate: int) -> np.ndarray:
    """Seconds of the scene at which frames are taken, float64 (T,)."""
    before, after = np.arange(begin, BEHIND_THE_VAN, 1 / rate), np.arange(BEHIND_THE_VAN, END, 1 / rate)
    return np.concatenate([before, np.full(round(SECONDS_HIDDEN * rate), BEHIND_THE_VAN), after])


def drive(model: Sam2Model, begin: float, rate: int, config: TrackerConfig) -> Iterator[tuple[FrameResult, np.ndarray]]:
    """Every frame's result, and the red car's true mask on it, bool (H, W)."""
    scene = StreetScene(WIDTH, HEIGHT, seed=0, prepare=False)
    tracker = VideoTracker(model, config)
    for index, moment in enumerate(moments(begin, rate)):
        rgb, labels = scene.frame(float(moment))
        truth = labels == RED_CAR
        prompts = [Prompt(mask=truth, label='red car')] if index == 0 else ()
        yield tracker.step(rgb, index * 10**9 // rate, prompts), truth


def is_found(result: FrameResult, truth: np.ndarray) -> bool:
    """Whether the red car is where it is tracked."""
    tracking = result.objects[0].state == ObjectState.TRACKING
    return tracking and mask_iou(result.mask(result.objects[0].object_id), truth) >= ENOUGH


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rates', type=int, nargs='+', default=[6, 8, 10, 15, 20], help='frames a second')
    parser.add_argument('--begins', type=float, nargs='+', default=[11.0, 11.5, 12.0, LOOK_ALIKE_GONE])
    parser.add_argument('--stray-cover', type=float, nargs='+', default=[TrackerConfig().stray_cover, 0.0])
    parser.add_argument('--checkpoint', default='')
    options = parser.parse_args()
    model = load_model(ModelConfig(checkpoint=options.checkpoint, threads=1))
    print('\n'.join(f'{name}: {value}' for name, value in describe_run().items()))
    for cover in options.stray_cover:
        config = replace(TrackerConfig(), stray_cover=cover)
        for begin in options.begins:
            found = []
            for rate in options.rates:
                *_, (result, truth) = drive(model, begin, rate, config)
                found.append(is_found(result, truth))
            which = ', '.join(f'{rate}' for rate, flag in zip(options.rates, found, strict=True) if flag) or 'none'
            print(f'stray_cover {cover:g}, from {begin:g} s: {sum(found)} of {len(found)} (at {which} Hz)', flush=True)


if __name__ == '__main__':
    main()
