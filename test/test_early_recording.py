"""A recorder that runs before its camera misses none of its images and writes none twice."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import rclpy
from bag_files import messages
from node_harness import Spinning, image, scene, wait_until
from rclpy.context import Context
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from robust_pvos_ros.bags.frames import stamp_of

NODE, TOPIC = 'late_node', '/late/image_raw'
IMAGES, PERIOD = 24, 0.05
"""Long enough for the recorder to look around several times meanwhile."""


@pytest.fixture
def reader() -> Iterator[Node]:
    """Stands for a segmentation node: it reads the camera's topic before the camera is there."""
    context = Context()
    rclpy.init(context=context)
    node = Node(NODE, context=context)
    quality = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    node.create_subscription(Image, TOPIC, lambda _: None, quality)
    spinning = Spinning(node, context)
    yield node
    spinning.stop()
    node.destroy_node()
    context.try_shutdown()


@pytest.mark.parametrize('reliability', [ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT])
def test_the_first_images_of_a_late_camera_are_recorded_once(
    reader: Node, reliability: ReliabilityPolicy, tmp_path: Path
) -> None:
    program = [sys.executable, '-m', 'robust_pvos_ros.bags.cli']
    command = [*program, 'record', str(tmp_path / 'drive'), '--node', f'/{NODE}']
    recorder = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: reader.count_subscribers(TOPIC) == 2, 'the recorder to listen', 60)
        camera = reader.create_publisher(Image, TOPIC, QoSProfile(depth=IMAGES, reliability=reliability))
        wait_until(lambda: camera.get_subscription_count() == 2, 'the camera to be heard')
        for number in range(IMAGES):
            camera.publish(image(scene(), number))
            time.sleep(PERIOD)
        taken_over = [info.qos_profile.reliability for info in reader.get_subscriptions_info_by_topic(TOPIC)]
    finally:
        recorder.send_signal(signal.SIGINT)
        text = ''.join(recorder.communicate(timeout=60))
    assert recorder.returncode == 0, text
    assert [stamp_of(message) for message in messages(tmp_path / 'drive', TOPIC)] == list(range(IMAGES))
    assert sorted(taken_over) == sorted([ReliabilityPolicy.BEST_EFFORT, reliability]), 'the camera offers that'
