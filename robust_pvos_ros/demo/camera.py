"""A camera that is not there: publishes the street scene, a video or a folder of pictures as a live camera would.

    python -m robust_pvos_ros.demo.camera [--video FILE_OR_FOLDER] [--rate HZ]
"""

from __future__ import annotations

import argparse
import math
import sys
import threading
import time
from pathlib import Path

import cv2
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.utilities import remove_ros_args
from robust_pvos_interfaces.msg import Prompt
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from robust_pvos_ros.demo import names
from robust_pvos_ros.demo.sources import Picture, Source, SourceError, open_source
from robust_pvos_ros.messages import image_message
from robust_pvos_ros.node_process import StoppableNode, run
from robust_pvos_ros.stop_signal import StopSignal

DEPTH = 10
PATIENCE = 120.0  # seconds to wait for subscribers and for prompts


class DemoCamera(StoppableNode):
    """Publishes pictures at a steady rate, stamped by the node's clock, and ends its process after the last one.

    A picture that is late by more than a period is left out, as a busy camera would.

    Args:
        source: of the pictures.
        options: of the command line.
        done: set after the last picture.
    """

    def __init__(self, source: Source, options: argparse.Namespace, done: StopSignal) -> None:
        super().__init__('demo_camera')
        self._done = done
        self.problem = ''
        self._source = source
        self._options = options
        self._stopping = threading.Event()
        self._prompts = 0
        reliable = options.reliability == 'reliable'
        qos = QoSProfile(
            depth=DEPTH, reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
        )
        self._images = self.create_publisher(Image, names.IMAGE, qos)
        self._truths = self.create_publisher(Image, names.TRUTH, qos)
        self.create_subscription(Prompt, names.PROMPTS, self._count_prompt, 10)
        self._thread = threading.Thread(target=self._work, name='camera')
        self._thread.start()

    def _count_prompt(self, _: Prompt) -> None:
        self._prompts += 1

    def _work(self) -> None:
        try:
            if self._wait_for_subscribers():
                self._stream()
        except SourceError as error:
            self.problem = str(error)
        finally:
            self._done.set()

    def _wait_for_subscribers(self) -> bool:
        end = time.monotonic() + PATIENCE
        while self._images.get_subscription_count() < self._options.subscribers:
            if time.monotonic() > end:
                self.problem = (
                    f'{self._images.get_subscription_count()} of {self._options.subscribers} subscribers came to '
                    f'{names.IMAGE} within {PATIENCE:.0f} s: is the segmentation node running?'
                )
                return False
            if self._stopping.wait(0.05):
                return False
        return True

    def _stream(self) -> None:
        rate = self._options.rate or self._source.rate
        duration = min(self._source.duration, self._options.duration)
        total = f'{int(duration * rate) + 1}' if math.isfinite(duration) else '?'
        published = skipped = index = 0
        start = time.monotonic()
        while index / rate <= duration and not self._stopping.is_set():
            late = time.monotonic() - start - index / rate
            if late > 1 / rate:
                skipped += int(late * rate)
                index += int(late * rate)
            elif late < 0 and self._stopping.wait(-late):
                break
            picture = self._source.at(index / rate)
            if picture is None:
                break
            self._publish(picture)
            published += 1
            print(f'frame {index + 1} {total}', flush=True)
            if published == self._options.hold_after:
                start += self._hold()
            index += 1
        self._stopping.wait(0.5)
        print(f'{published} frames published, {skipped} left out because the camera was late', flush=True)

    def _hold(self) -> float:
        """Stand still until the client has prompted; returns the seconds it took."""
        begin = time.monotonic()
        while self._prompts < self._options.hold_for and time.monotonic() - begin < PATIENCE:
            if self._stopping.wait(0.02):
                break
        return time.monotonic() - begin

    def _publish(self, picture: Picture) -> None:
        header = Header(stamp=self.get_clock().now().to_msg(), frame_id='camera_optical_frame')
        if picture.truth is not None:
            self._truths.publish(image_message(picture.truth, '16UC1', header))
        self._images.publish(image_message(picture.rgb, 'rgb8', header))

    def stop(self) -> bool:
        """End the stream."""
        self._stopping.set()
        self._thread.join(10)
        return not self._thread.is_alive()


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument('--video', type=Path, help='video file or folder of pictures; default: the street scene')
    parser.add_argument('--rate', type=float, help='Hz; default: that of the video, 15 for the scene and folders')
    parser.add_argument('--duration', type=float, default=math.inf, help='end after so many seconds')
    parser.add_argument('--seed', type=int, default=0, help='of the street scene')
    parser.add_argument('--reliability', choices=('reliable', 'best_effort'), default='reliable')
    parser.add_argument('--subscribers', type=int, default=1, help='wait for so many before the first frame')
    parser.add_argument('--hold-after', type=int, default=0, help='stand still after so many frames ...')
    parser.add_argument('--hold-for', type=int, default=1, help='... until so many prompts have been accepted')
    options = parser.parse_args(arguments)
    if options.rate is not None and not 0 < options.rate <= 1000:
        parser.error(f'--rate must be more than 0 and at most 1000 Hz, got {options.rate:g}')
    return options


def main(arguments: list[str] | None = None) -> None:
    """Run the camera until its pictures or SIGINT end it.

    Args:
        arguments: program name, options and ROS arguments; None takes the process's.
    """
    arguments = sys.argv if arguments is None else arguments
    options = _parse(remove_ros_args(arguments)[1:])
    stop = StopSignal()
    cv2.setNumThreads(1)  # the other core is the network's
    try:
        source = open_source(options.video, options.rate, options.seed)
    except SourceError as error:
        sys.exit(str(error))
    cameras: list[DemoCamera] = []

    def create() -> DemoCamera:
        cameras.append(DemoCamera(source, options, stop))
        return cameras[0]

    code = run(create, stop, arguments)
    if cameras and cameras[0].problem:
        sys.exit(cameras[0].problem)
    sys.exit(code)


if __name__ == '__main__':
    main()
