"""A camera on the rendered street that knows the truth of every picture, and programs of this project as children."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import rclpy
from node_harness import Spinning
from rclpy.context import Context
from rclpy.node import Node
from rclpy.qos import QoSProfile
from robust_pvos_interfaces.msg import Prompt, TrackedObjects
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from robust_pvos_ros.messages import image_message, time_message
from robust_pvos_ros.procedural.street import StreetScene

SECONDS = (4.0, 8.0)  # of the scene: the red car waits, people walk
STEP = 8.0  # pictures rendered for a second of the scene
RED_CAR, BLUE_COAT, WHITE_VAN = 1, 5, 8


class Street:
    """A camera on the rendered street, to and fro for ever, which knows the truth of every picture; and a listener."""

    def __init__(self, rate: float = 8.0) -> None:
        self._period = 1 / rate
        self.context = Context()
        rclpy.init(context=self.context)
        self.node = Node('street', context=self.context)
        self._images = self.node.create_publisher(Image, '/camera/image_raw', QoSProfile(depth=5))
        self.objects: list[TrackedObjects] = []
        self.prompts: list[Prompt] = []
        self.node.create_subscription(TrackedObjects, '/robust_pvos/camera/objects', self.objects.append, 10)
        self.node.create_subscription(Prompt, '/robust_pvos/prompts', self.prompts.append, 10)
        scene = StreetScene(640, 480, 0)
        frames = [scene.frame(second) for second in np.arange(*SECONDS, 1 / STEP)]
        self._loop = [*frames, *frames[-2:0:-1]]
        self._shown: dict[int, int] = {}
        self.playing = threading.Event()
        self.playing.set()
        self._ended = threading.Event()
        self._spinning = Spinning(self.node, self.context)
        self._thread = threading.Thread(target=self._play)
        self._thread.start()

    def _play(self) -> None:
        index = 0
        while not self._ended.wait(self._period):
            if not self.playing.is_set():
                continue
            stamp = time.time_ns()
            self._shown[stamp] = index % len(self._loop)
            rgb = self._loop[index % len(self._loop)][0]
            header = Header(stamp=time_message(stamp), frame_id='camera_optical_frame')
            self._images.publish(image_message(rgb, 'rgb8', header))
            index += 1

    def truth(self, stamp: str, which: int) -> np.ndarray:
        """bool (H, W): where an object of the scene is in the picture with a stamp."""
        return self._loop[self._shown[int(stamp)]][1] == which

    def ids(self) -> list[int]:
        """IDs in the newest message of the topic."""
        return [tracked.id for tracked in self.objects[-1].objects]

    def labels(self) -> dict[int, str]:
        return {tracked.id: tracked.label for tracked in self.objects[-1].objects}

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        self._spinning.stop()
        self.node.destroy_node()
        self.context.try_shutdown()


class Program:
    """A ROS program as a child process, which does not outlive a `with` block: it would answer later tests."""

    def __init__(self, folder: Path, module: str, *parameters: str) -> None:
        words = [word for text in parameters for word in ('-p', text)]
        self._command = [sys.executable, '-m', f'robust_pvos_ros.{module}', '--ros-args', *words]
        self._log = folder / f'{module}.log'
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Program:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is None:
            self.end()
        elif self.process is not None:  # what has gone wrong already is what is to be told
            self.process.kill()
            self.process.wait()

    def start(self) -> None:
        with self._log.open('ab') as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log)

    def end(self) -> None:
        if self.process is None:
            return
        self.process.terminate()
        code = self.process.wait(60)
        assert code == 0, f'it ended with code {code}:\n{self.log}'
        self.process = None

    @property
    def log(self) -> str:
        return self._log.read_text(errors='replace')
