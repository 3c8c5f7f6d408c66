"""What writing a bag costs beside the frame that it holds.

    python -m benchmarks.bags [--size 640 480] [--frames 120] [--objects 1 4] [--out DIR]

The tracker follows a rendered street; then all frames go into a bag in three ways: as the recorder writes a drive
(raw picture, label image and objects as they come off the wire), compressed and not, and as ``pvos_bag run`` writes it
(JPEG, label image and objects, made there).  Flushing to the disk is included.  The figure that counts is the share of
the frame time.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.provenance import describe_run
from robust_pvos_ros.bags.definitions import (
    COMPRESSED_IMAGE,
    IMAGE,
    OBJECTS,
    compressed_message,
    jpeg_of,
    message_types,
    serialise,
)
from robust_pvos_ros.bags.writer import BagWriter
from robust_pvos_ros.message_core import LABEL_ENCODING, make_header, make_image, make_objects
from robust_pvos_ros.procedural.street import StreetScene
from robust_pvos_ros.tracking.model import load_model
from robust_pvos_ros.tracking.tracker import VideoTracker
from robust_pvos_ros.tracking.types import FrameResult, ModelConfig, Prompt, TrackerConfig

FLUSH_EVERY = 10  # frames; the recorder flushes twice a second
WARMUP = 10
COLUMNS = ('objects', 'bag', 'frame ms', 'write ms', 'share %', 'MB/s at 20 Hz')
Message = tuple[str, str, bytes]


def outputs(stamp: int, result: FrameResult) -> list[Message]:
    """Topic, type and data of what the node says of a frame."""
    types, header = message_types(), make_header(message_types(), stamp, 'camera')
    labels = make_image(types, result.label_image, LABEL_ENCODING, header)
    objects = make_objects(types, result.objects, header, 'camera')
    return [
        ('/robust_pvos/camera/label_image', IMAGE, serialise(labels, IMAGE)),
        ('/robust_pvos/camera/objects', OBJECTS, serialise(objects, OBJECTS)),
    ]


def of_a_drive(stamp: int, rgb: np.ndarray, result: FrameResult) -> list[Message]:
    """What a recorder gets of a frame."""
    image = make_image(message_types(), rgb, 'rgb8', make_header(message_types(), stamp, 'camera'))
    return [('/camera/image_raw', IMAGE, serialise(image, IMAGE)), *outputs(stamp, result)]


def of_a_run(stamp: int, rgb: np.ndarray, result: FrameResult) -> list[Message]:
    """What ``pvos_bag run`` keeps of a frame."""
    data = compressed_message(jpeg_of(rgb), 'jpeg', make_header(message_types(), stamp, 'camera'))
    return [('/camera/image_raw/compressed', COMPRESSED_IMAGE, data), *outputs(stamp, result)]


KINDS = {'record': (True, True), 'record, uncompressed': (True, False), 'run': (False, True)}
"""Name -> whether the messages come from elsewhere, whether the bag is compressed."""


def write_frame(
    writer: BagWriter, index: int, rgb: np.ndarray, result: FrameResult, from_elsewhere: bool
) -> float:
    """Seconds of processor time that a frame costs the process that writes it; waiting for the disk costs none."""
    stamp = index * 50_000_000
    messages = of_a_drive(stamp, rgb, result) if from_elsewhere else []
    start = time.thread_time()
    for topic, kind, data in messages or of_a_run(stamp, rgb, result):
        writer.write(topic, kind, stamp, data)
    if index % FLUSH_EVERY == 0:
        writer.flush()
    return time.thread_time() - start


def follow(size: tuple[int, int], frames: int, objects: int) -> tuple[list[tuple[np.ndarray, FrameResult]], float]:
    """Pictures with what the tracker made of them, and its median milliseconds a frame."""
    scene = StreetScene(*size)
    tracker = VideoTracker(load_model(ModelConfig()), TrackerConfig(max_objects=objects, history_frames=0))
    found, times = [], []
    for index in range(frames + WARMUP):
        rgb, truth = scene.frame(index / 15)
        shown = [int(v) for v in np.unique(truth) if v][:objects]
        start = time.perf_counter()
        result = tracker.step(rgb, index, [Prompt(mask=truth == v) for v in shown] if index == 0 else ())
        times.append(time.perf_counter() - start)
        found.append((rgb, result))
    return found, float(np.median(times[WARMUP:])) * 1e3


def measure(size: tuple[int, int], frames: int, objects: int) -> list[list[str]]:
    """Rows of the table for one number of objects."""
    followed, frame = follow(size, frames, objects)
    rows = []
    for name, (from_elsewhere, compressed) in KINDS.items():
        with tempfile.TemporaryDirectory() as folder:
            writer = BagWriter(Path(folder) / 'bag', compressed=compressed)
            times = [write_frame(writer, i, *seen, from_elsewhere) for i, seen in enumerate(followed)]
            written = writer.growing_file.stat().st_size / len(times) / 1e6
            writer.discard()
        cost = float(np.mean(times[WARMUP:])) * 1e3
        share = 100 * cost / frame
        rows.append([str(objects), name, f'{frame:.1f}', f'{cost:.2f}', f'{share:.1f}', f'{20 * written:.1f}'])
    return rows


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--size', type=int, nargs=2, default=(640, 480), metavar=('WIDTH', 'HEIGHT'))
    parser.add_argument('--frames', type=int, default=120)
    parser.add_argument('--objects', type=int, nargs='+', default=[1, 4])
    parser.add_argument('--out', type=Path, help='folder for bags.csv')
    options = parser.parse_args()
    for key, value in describe_run().items():
        print(f'{key}: {value}')
    rows = [row for objects in options.objects for row in measure(tuple(options.size), options.frames, objects)]
    for line in [COLUMNS, *rows]:
        print(''.join(f'{value:>22}' for value in line))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        with (options.out / 'bags.csv').open('w', newline='') as file:
            csv.writer(file, lineterminator='\n').writerows([COLUMNS, *rows])


if __name__ == '__main__':
    main()
