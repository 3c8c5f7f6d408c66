"""Records the demo's topics into a bag, as they come off the wire.

    python -m robust_pvos_ros.demo.recorder OUT/bag
"""

from __future__ import annotations

import argparse
import queue
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.utilities import remove_ros_args
from robust_pvos_interfaces.msg import Prompt, TrackedObjects
from sensor_msgs.msg import Image

from robust_pvos_ros.bags.definitions import BagError
from robust_pvos_ros.bags.writer import BagWriter
from robust_pvos_ros.demo import names
from robust_pvos_ros.node_process import StoppableNode, run
from robust_pvos_ros.stop_signal import StopSignal

TOPICS: dict[str, type] = {
    names.IMAGE: Image,
    names.TRUTH: Image,
    names.LABELS: Image,
    names.OBJECTS: TrackedObjects,
    names.PROMPTS: Prompt,
    names.DIAGNOSTICS: DiagnosticArray,
}
DEPTH = 30
WAITING = 400  # messages between the middleware and the file


def type_name(message_class: type) -> str:
    """Name of a message type, such as ``sensor_msgs/msg/Image``."""
    return f'{message_class.__module__.split(".")[0]}/msg/{message_class.__name__}'


class Recorder(StoppableNode):
    """Subscribes to topics without taking their messages apart; a thread of its own compresses and writes.

    Args:
        writer: of the bag; the recorder closes it.
        topics: full name -> message class.
        failed: set when the bag cannot be written.
    """

    def __init__(self, writer: BagWriter, topics: dict[str, type], failed: StopSignal) -> None:
        super().__init__('demo_recorder')
        self._failed = failed
        self.lost = 0
        self.problem = ''
        self._writer = writer
        self._waiting: queue.Queue[tuple[str, str, int, bytes] | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._write, name='writer')
        self._thread.start()
        qos = QoSProfile(depth=DEPTH, reliability=ReliabilityPolicy.RELIABLE)
        for topic, message_class in topics.items():
            writer.add_topic(topic, type_name(message_class))
            callback = partial(self._receive, topic, type_name(message_class))
            self.create_subscription(message_class, topic, callback, qos, raw=True)
        print(f'recording {len(topics)} topics to {writer.path}', flush=True)

    def _receive(self, topic: str, message_type: str, data: bytes, info: dict[str, Any]) -> None:
        # The middleware notes the time of arrival; this callback may come later.
        time = int(info.get('received_timestamp') or 0) or self.get_clock().now().nanoseconds
        try:
            self._waiting.put_nowait((topic, message_type, time, data))
        except queue.Full:
            self.lost += 1

    def _write(self) -> None:
        try:
            while (entry := self._waiting.get()) is not None:
                self._writer.write(*entry)
        except OSError as error:
            self.problem = f'bag {self._writer.path} cannot be written: {error}'
            self._failed.set()
            while self._waiting.get() is not None:
                pass

    def stop(self) -> bool:
        """Write what is waiting and complete the bag."""
        self._waiting.put(None)
        self._thread.join()
        if not self.problem:
            self._writer.close()
        if self.lost:
            print(f'{self.lost} messages lost because the disk was too slow', flush=True)
        return True


def main(arguments: list[str] | None = None) -> None:
    """Record until SIGINT.

    Args:
        arguments: program name, options and ROS arguments; None takes the process's.
    """
    arguments = sys.argv if arguments is None else arguments
    parser = argparse.ArgumentParser(description="Records the demo's topics into a bag.")
    parser.add_argument('bag', type=Path, help='folder to be made for the bag')
    options = parser.parse_args(remove_ros_args(arguments)[1:])
    stop = StopSignal()
    try:
        writer = BagWriter(options.bag)
    except BagError as error:
        sys.exit(str(error))
    recorders: list[Recorder] = []

    def create() -> Recorder:
        recorders.append(Recorder(writer, TOPICS, stop))
        return recorders[0]

    code = run(create, stop, arguments)
    sys.exit(recorders[0].problem if recorders and recorders[0].problem else code)


if __name__ == '__main__':
    main()
