"""The process of the node ends cleanly, whenever it is told to and whatever it is told at start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from node_harness import Harness, wait_until


@pytest.fixture
def harness():
    harness = Harness(threads=1)
    harness.wait_active()
    yield harness
    harness.close()


class NodeProcess:
    """The node as a user starts it."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, '-m', 'robust_pvos_ros.node_main', '--ros-args', *arguments]
        environment = dict(os.environ, OMP_NUM_THREADS='1')
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)
        self.output = ''
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line.decode()

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text in self.output or self.process.poll() is not None, text, 60)
        assert text in self.output, self.output

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        try:
            code = self.process.wait(30)
        finally:
            self.process.kill()
            self._reader.join()
        return code


@pytest.mark.parametrize(
    ('moment', 'number'),
    [('loading model', signal.SIGINT), ('warming up', signal.SIGTERM), ('is ready', signal.SIGINT)],
)
def test_a_signal_ends_the_process_cleanly_at_any_moment(moment, number):
    node = NodeProcess('-p', 'threads:=1', '-r', '__node:=ended')
    node.wait_for(moment)
    assert node.end(number) == 0, node.output
    assert 'Traceback' not in node.output
    assert 'ERROR' not in node.output


def test_a_signal_amid_frames_and_requests_ends_the_process_cleanly(harness):
    harness.call('reset')
    node = NodeProcess('-p', 'threads:=1', '-r', '__node:=busy')
    node.wait_for('is ready')
    for _ in range(30):
        harness.publish_next()
        time.sleep(1 / 30)
    assert node.end(signal.SIGTERM) == 0, node.output
    assert 'Traceback' not in node.output
    assert 'ERROR' not in node.output


def test_a_command_line_that_ros_cannot_read_ends_with_one_sentence():
    node = NodeProcess('-p', 'max_objects:=[1, a]')
    assert node.process.wait(30) == 2
    node._reader.join()
    assert 'the node cannot start' in node.output
    assert 'Traceback' not in node.output


def test_signals_are_caught_before_ros_is_imported():
    code = 'import robust_pvos_ros.node_main, sys; sys.exit("rclpy" in sys.modules or "numpy" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0
