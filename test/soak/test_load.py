"""Three cameras at 30 Hz with eight objects: bounded latency, flat memory, and every image accounted for.

A minute by default; ``SOAK_SECONDS`` says how long, and ``SOAK_REPORT`` names a file for what was seen.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from node_harness import Spinning, box_prompt, wait_until
from rclpy.context import Context
from rclpy.node import Node
from rclpy.qos import QoSProfile
from robust_pvos_interfaces.msg import TrackedObjects
from robust_pvos_interfaces.srv import AddObject
from soak_counters import FATES
from soak_report import note

from benchmarks.node import make_film
from robust_pvos_ros.messages import nanoseconds

ROOT = Path(__file__).resolve().parents[2]
SECONDS = float(os.environ.get('SOAK_SECONDS', '60'))
RATE, SIZE = 30.0, (640, 480)
OBJECTS = {'left': 3, 'middle': 3, 'right': 2}
GROWTH_MB = 25.0
MOST_LOST = 0.02  # of the images, between the publisher and the callback
WARM = 40  # outputs of each camera after which histories and memories are full

pytestmark = [pytest.mark.soak, pytest.mark.timeout(4 * SECONDS + 400)]


@dataclass
class Observed:
    """What came out of the node for one camera."""

    stamps: list[int] = field(default_factory=list)
    ages: list[tuple[float, float]] = field(default_factory=list)  # arrival (monotonic), age in ms
    ids: set[int] = field(default_factory=set)
    frame_ids: set[str] = field(default_factory=set)


class Observer:
    """Listens to a node in another process, and prompts it."""

    def __init__(self, namespace: str) -> None:
        self.context = Context()
        rclpy.init(context=self.context)
        self.node = Node('observer', context=self.context, namespace=namespace)
        self.seen: dict[str, Observed] = {name: Observed() for name in OBJECTS}
        self.reports: dict[str, dict[str, str]] = defaultdict(dict)
        self.newest: dict[str, TrackedObjects] = {}
        for name in OBJECTS:
            self.node.create_subscription(
                TrackedObjects, f'robust_pvos/{name}/objects', partial(self._objects, name), QoSProfile(depth=1000)
            )
        self.node.create_subscription(DiagnosticArray, '/diagnostics', self._diagnosed, 10)
        self._add = self.node.create_client(AddObject, 'robust_pvos/add_object')
        self._spinning = Spinning(self.node, self.context)

    def close(self) -> None:
        self._spinning.stop()
        self.node.destroy_node()
        self.context.try_shutdown()

    def _objects(self, name: str, message: TrackedObjects) -> None:
        stamp, seen = nanoseconds(message.header.stamp), self.seen[name]
        seen.stamps.append(stamp)
        seen.ages.append((time.monotonic(), (time.time_ns() - stamp) / 1e6))
        seen.ids |= {tracked.id for tracked in message.objects}
        seen.frame_ids.add(message.header.frame_id.split()[0])
        self.newest[name] = message

    def _diagnosed(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.reports[status.name.rpartition(': ')[2]] = {pair.key: pair.value for pair in status.values}

    def counts(self, camera: str) -> dict[str, int]:
        report = self.reports[camera]
        return {name: int(report[name]) for name in ('received', *FATES)} if 'received' in report else {}

    def settled(self, camera: str) -> bool:
        counts = self.counts(camera)
        return bool(counts) and counts['received'] == sum(counts[fate] for fate in FATES)

    def add(self, camera: str, box: np.ndarray, stamp: Any) -> Any:
        prompt = box_prompt(tuple(int(v) for v in box), camera=camera)
        prompt.header.stamp = stamp
        done = threading.Event()
        future = self._add.call_async(AddObject.Request(prompt=prompt))
        future.add_done_callback(lambda _: done.set())
        assert done.wait(60), 'no reply from add_object'
        return future.result()


@pytest.fixture
def observer():
    observer = Observer('/soak')
    yield observer
    observer.close()


@pytest.fixture
def node_process(tmp_path):
    names = f'[{", ".join(OBJECTS)}]'
    command = [sys.executable, '-m', 'robust_pvos_ros.node_main', '--ros-args', '-r', '__ns:=/soak']
    command += ['-p', f'cameras:={names}']
    log = tmp_path / 'node.log'
    with log.open('wb') as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
    yield process
    process.terminate()
    assert process.wait(60) == 0, log.read_text()
    assert 'Traceback' not in log.read_text(), log.read_text()


def run_cameras(out: Path) -> subprocess.Popen:
    command = [sys.executable, str(Path(__file__).with_name('cameras.py')), '--namespace', '/soak', '--out', str(out)]
    command += ['--cameras', ','.join(OBJECTS), '--seconds', str(SECONDS), '--rate', str(RATE)]
    command += ['--size', *map(str, SIZE)]
    return subprocess.Popen(command, cwd=ROOT, env=dict(os.environ, PYTHONPATH=str(ROOT)))


def prompt_all(observer: Observer) -> int:
    """Start every object on the newest frame of its camera; returns their number."""
    _, boxes = make_film(*SIZE, 3)
    ids = []
    for camera, count in OBJECTS.items():
        wait_until(lambda camera=camera: camera in observer.newest, f'the first result of {camera}', 120)
        for number in range(count):
            header = observer.newest[camera].header
            reply = observer.add(camera, boxes[int(header.frame_id.split()[1]), number], header.stamp)
            assert reply.success, reply.message
            ids.append(reply.object_id)
    assert len(set(ids)) == len(ids)
    return len(ids)


def test_load(observer, node_process, tmp_path):
    stamps_file = tmp_path / 'stamps.npz'
    cameras = run_cameras(stamps_file)
    try:
        assert prompt_all(observer) == 8
        steady, memory = 0.0, []
        process = psutil.Process(node_process.pid)
        while cameras.poll() is None:
            if not steady and all(len(seen.stamps) > WARM for seen in observer.seen.values()):
                steady = time.monotonic()
            memory.append((time.monotonic(), process.memory_info().rss / 2**20))
            assert node_process.poll() is None, 'the node ended'
            time.sleep(0.5)
        assert cameras.returncode == 0
        assert steady, f'no more than {WARM} frames of some camera in {SECONDS:.0f} s: raise SOAK_SECONDS'
    finally:
        cameras.kill()
        cameras.wait()
    for camera in OBJECTS:
        wait_until(lambda camera=camera: observer.settled(camera), f'the counters of {camera}', 30)
    time.sleep(1.5)  # one more report: the counters must stand
    with np.load(stamps_file) as published:
        report = {camera: judge(camera, published[camera], observer, steady) for camera in OBJECTS}
    growth = grown([mb for at, mb in memory if at > steady])
    report['node'] = {'seconds': SECONDS, 'memory_mb': memory[-1][1], 'growth_mb': growth}
    print(report)
    note('load', report)
    assert growth < GROWTH_MB, f'memory grew by {growth:.0f} MB'


def grown(samples: list[float]) -> float:
    """MB by which the last third of the samples lies above the first third, the median of each."""
    third = max(1, len(samples) // 3)
    return float(np.median(samples[-third:]) - np.median(samples[:third]))


def judge(camera: str, published: np.ndarray, observer: Observer, steady: float) -> dict[str, float]:
    """Hold one camera's outputs and counters against what was published."""
    counts, seen = observer.counts(camera), observer.seen[camera]
    assert counts['received'] == sum(counts[fate] for fate in FATES), counts
    assert counts['malformed'] == counts['failed'] == 0, counts
    lost = len(published) - counts['received']
    assert 0 <= lost <= MOST_LOST * len(published), f'{camera}: {lost} of {len(published)} images were not received'
    assert set(seen.stamps) <= set(published.tolist()), 'an output has a stamp that no image had'
    assert seen.frame_ids == {camera}
    assert len(set(seen.stamps)) == counts['processed'], 'a processed frame was not published'
    assert len(seen.ids) == OBJECTS[camera]
    ages = np.array([age for at, age in seen.ages if at > steady])
    assert len(ages) > 10
    moments = [at for at, _ in seen.ages if at > steady]
    rate = (len(moments) - 1) / (moments[-1] - moments[0])
    p50, p99 = np.percentile(ages, (50, 99))
    assert p99 < 2 * 1000 / rate, f'{camera}: p99 of image age is {p99:.0f} ms at {rate:.1f} fps'
    return {
        'published': len(published), 'lost before the callback': lost, **counts, 'fps': rate, 'age_p50_ms': p50,
        'age_p99_ms': p99,
    }  # fmt: skip
