"""A process that is several cameras: publishes a film on each at a steady rate and notes every image it sent.

    python test/soak/cameras.py --cameras a,b,c --seconds 60 --rate 30 --out FILE.npz

``FILE.npz`` holds the stamps of each camera in the order in which they were published, int64 nanoseconds.  The frame ID
of an image ends with its place in the film.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from benchmarks.node import LOOP, make_film
from robust_pvos_ros.messages import time_message

PATIENCE = 120.0


def place_in_film(count: int) -> int:
    """Forwards, then backwards, and so on."""
    place = count % (2 * (LOOP - 1))
    return min(place, 2 * (LOOP - 1) - place)


def publish(args: argparse.Namespace) -> dict[str, np.ndarray]:
    """Publish until the time is over; returns the stamps by camera."""
    width, height = args.size
    film, _ = make_film(width, height, args.objects)
    rclpy.init()
    node = rclpy.create_node('cameras', namespace=args.namespace)
    quality = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
    names = args.cameras.split(',')
    publishers = {name: node.create_publisher(Image, f'{name}/image_raw', quality) for name in names}
    stamps: dict[str, list[int]] = {name: [] for name in names}
    waited = time.monotonic()
    while not all(publisher.get_subscription_count() for publisher in publishers.values()):
        if time.monotonic() - waited > PATIENCE:
            raise SystemExit('nobody subscribes to the images')
        time.sleep(0.05)
    message = Image(height=height, width=width, encoding='rgb8', step=width * 3)
    begin = time.monotonic()
    count = 0
    while (due := begin + count / args.rate / len(names)) < begin + args.seconds:
        time.sleep(max(0.0, due - time.monotonic()))
        name, place = names[count % len(names)], place_in_film(count // len(names))
        del message.data[:]
        message.data.frombytes(film[place].reshape(-1).data)
        stamp = time.time_ns()
        message.header.stamp, message.header.frame_id = time_message(stamp), f'{name} {place}'
        publishers[name].publish(message)
        stamps[name].append(stamp)
        count += 1
    time.sleep(1.0)  # what is still on its way
    node.destroy_node()
    rclpy.try_shutdown()
    return {name: np.array(values, np.int64) for name, values in stamps.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--cameras', required=True)
    parser.add_argument('--namespace', default='/')
    parser.add_argument('--seconds', type=float, default=60.0)
    parser.add_argument('--rate', type=float, default=30.0)
    parser.add_argument('--size', type=int, nargs=2, default=(640, 480))
    parser.add_argument('--objects', type=int, default=3)
    parser.add_argument('--out', type=Path, required=True)
    args = parser.parse_args()
    np.savez(args.out, **publish(args))  # type: ignore[arg-type]


if __name__ == '__main__':
    main()
