"""The segmentation node as a user sees it: frame rate, latency and service waits over DDS.

The node runs as a process of its own; this process publishes pictures at a steady rate, prompts objects and listens.
Latency is the time from an image's stamp to the arrival of its ``objects`` message.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from robust_pvos_interfaces.msg import Prompt, TrackedObjects
from robust_pvos_interfaces.srv import AddObject, ListObjects, RefineObject
from sensor_msgs.msg import Image, RegionOfInterest

from benchmarks.provenance import REPOSITORY, describe_run
from robust_pvos_ros.messages import nanoseconds, time_message

PATIENCE = 120.0
SERVICES: dict[str, Any] = {'add_object': AddObject, 'refine_object': RefineObject, 'list_objects': ListObjects}
LOOP = 90  # pictures before the film runs backwards
FPS_BAR = {1: 15.0, 4: 8.0}
"""Least frame rate by number of objects: the compact model on two cores."""
SERVICE_BAR_MS = 1000.0


def make_film(width: int, height: int, objects: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Discs that drift over a textured ground.

    Returns:
        LOOP pictures, uint8 (H, W, 3) RGB, and the discs' boxes (LOOP, objects, 4) as x0, y0, x1, y1.
    """
    random = np.random.default_rng(3)
    coarse = random.integers(40, 160, (height // 12, width // 12, 3)).astype(np.uint8)
    ground = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    columns = int(np.ceil(np.sqrt(objects)))
    radius = min(width, height) // (4 * columns)
    colours = random.integers(0, 256, (objects, 3)).tolist()
    pictures, boxes = [], np.zeros((LOOP, objects, 4), int)
    for index in range(LOOP):
        picture = ground.copy()
        for number in range(objects):
            x = int((number % columns + 0.5) * width / columns + radius * np.sin(index / LOOP * np.pi))
            y = int((number // columns + 0.5) * height / columns + radius / 2 * np.cos(index / LOOP * np.pi + number))
            cv2.circle(picture, (x, y), radius, colours[number], cv2.FILLED, cv2.LINE_AA)
            boxes[index, number] = np.clip(
                (x - radius, y - radius, x + radius, y + radius), 0, (width, height, width, height)
            )
        pictures.append(picture)
    return pictures, boxes


@dataclass
class Sample:
    """What one measurement saw."""

    latencies_ms: list[float] = field(default_factory=list)
    arrivals: list[float] = field(default_factory=list)
    published: int = 0


class Client(Node):
    """Publishes the film, receives results, calls services."""

    def __init__(self, namespace: str, film: list[np.ndarray], rate: float, reliable: bool) -> None:
        super().__init__('benchmark_client', namespace=namespace)
        self.sample = Sample()
        self.index = 0
        self.node_report: dict[str, str] = {}
        self._film = film
        self._rate = rate
        self._ended = threading.Event()
        reliability = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
        quality = QoSProfile(depth=5, reliability=reliability)
        self.images = self.create_publisher(Image, 'camera/image_raw', quality)
        self.create_subscription(TrackedObjects, 'robust_pvos/camera/objects', self._received, 50)
        self.create_subscription(DiagnosticArray, '/diagnostics', self._diagnosed, 10)
        self._callers = {name: self.create_client(kind, f'robust_pvos/{name}') for name, kind in SERVICES.items()}
        self._publisher = threading.Thread(target=self._publish, name='camera')

    def start(self) -> None:
        """Begin to publish the film."""
        self._publisher.start()

    def stop(self) -> None:
        """Stop publishing."""
        self._ended.set()
        self._publisher.join()

    def _publish(self) -> None:
        message = Image(height=self._film[0].shape[0], width=self._film[0].shape[1], encoding='rgb8')
        message.header.frame_id = 'camera'
        message.step = message.width * 3
        due, count = time.monotonic(), 0
        while not self._ended.wait(max(due - time.monotonic(), 0)):
            self.index = LOOP - 1 - abs(count % (2 * LOOP) - LOOP) if count % (2 * LOOP) else 0
            del message.data[:]
            message.data.frombytes(self._film[self.index].reshape(-1).data)
            message.header.stamp = time_message(time.time_ns())
            self.images.publish(message)
            self.sample.published += 1
            count += 1
            due += 1 / self._rate

    def _received(self, message: TrackedObjects) -> None:
        self.sample.arrivals.append(time.monotonic())
        self.sample.latencies_ms.append((time.time_ns() - nanoseconds(message.header.stamp)) / 1e6)

    def _diagnosed(self, message: DiagnosticArray) -> None:
        self.node_report = {pair.key: pair.value for status in message.status for pair in status.values}

    def call(self, service: str, **fields: Any) -> tuple[Any, float]:
        """Reply and milliseconds waited for it."""
        client = self._callers[service]
        done = threading.Event()
        start = time.monotonic()
        future = client.call_async(SERVICES[service].Request(**fields))
        future.add_done_callback(lambda _: done.set())
        if not done.wait(PATIENCE):
            raise SystemExit(f'no reply from {service} within {PATIENCE:.0f} s')
        return future.result(), (time.monotonic() - start) * 1e3


def box_prompt(box: np.ndarray, **fields: Any) -> Prompt:
    x0, y0, x1, y1 = (int(v) for v in box)
    region = RegionOfInterest(x_offset=x0, y_offset=y0, width=x1 - x0, height=y1 - y0)
    return Prompt(has_box=True, box=region, **fields)


@contextmanager
def spinning(node: Node) -> Iterator[None]:
    """An executor for the client on a thread of its own."""
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    stopping = threading.Event()

    def spin() -> None:
        try:
            while not stopping.is_set():
                executor.spin_once()
        except ExternalShutdownException:
            pass

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        executor.create_task(lambda: None)
        thread.join()
        executor.shutdown()


@contextmanager
def node_process(namespace: str, args: argparse.Namespace) -> Iterator[subprocess.Popen]:
    """The segmentation node as a process of its own."""
    parameters = {
        'model': args.model,
        'device': args.device,
        'precision': args.precision,
        'threads': args.threads,
        'overload_policy': args.overload_policy,
    }
    if args.checkpoint:
        parameters['checkpoint'] = args.checkpoint
    command = [sys.executable, '-m', 'robust_pvos_ros.node_main', '--ros-args', '-r', f'__ns:={namespace}']
    for name, value in parameters.items():
        command += ['-p', f'{name}:={value}']
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def wait_for(condition: Callable[[], bool], what: str, process: subprocess.Popen) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        if process.poll() is not None:
            raise SystemExit(f'the node ended with code {process.returncode} while waiting for {what}')
        if time.monotonic() > end:
            raise SystemExit(f'waited {PATIENCE:.0f} s for {what}')
        time.sleep(0.05)


def cpu_seconds(process: subprocess.Popen) -> float:
    """User and system time of a process so far."""
    fields = Path(f'/proc/{process.pid}/stat').read_text(encoding='ascii').rsplit(')', 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def measure(client: Client, process: subprocess.Popen, boxes: np.ndarray, seconds: float) -> dict[str, float]:
    """Prompt every object, then watch the stream, then call services while it goes on."""
    for number in range(boxes.shape[1]):
        reply, _ = client.call('add_object', prompt=box_prompt(boxes[client.index, number]))
        if not reply.success:
            raise SystemExit(f'add_object was refused: {reply.message}')
    time.sleep(1.0)
    cpu, start = cpu_seconds(process), time.monotonic()
    client.sample = Sample()
    time.sleep(seconds)
    sample, client.sample = client.sample, Sample()
    elapsed = time.monotonic() - start
    cpu = cpu_seconds(process) - cpu
    latencies = np.percentile(sample.latencies_ms or [np.nan], (50, 99))
    return {
        'in fps': sample.published / elapsed,
        'out fps': len(sample.arrivals) / elapsed,
        'p50 ms': float(latencies[0]),
        'p99 ms': float(latencies[1]),
        'node CPU %': 100 * cpu / elapsed,
        **service_waits(client, boxes),
        'node MB': float(client.node_report.get('resident_memory_mb', 'nan')),
    }


def service_waits(client: Client, boxes: np.ndarray) -> dict[str, float]:
    """Longest waits for the slow and for the quick kind of request while images flow."""
    prompts, quick = [], []
    for _ in range(15):
        reply, waited = client.call('list_objects')
        quick.append(waited)
        known = reply.cameras[0].objects[0].id
        box = boxes[client.index, 0]
        reply, waited = client.call('refine_object', prompt=box_prompt(box, object_id=known))
        if not reply.success:
            raise SystemExit(f'refine_object was refused: {reply.message}')
        prompts.append(waited)
        time.sleep(0.1)
    return {'prompt max ms': max(prompts), 'list max ms': max(quick)}


def run(args: argparse.Namespace, objects: int) -> tuple[dict[str, float], dict[str, str]]:
    """Figures of one number of objects, and the node's last report about itself."""
    width, height = args.size
    film, boxes = make_film(width, height, objects)
    namespace = f'/benchmark_{os.getpid()}'
    client = Client(namespace, film, args.rate, reliable=args.overload_policy == 'every')
    try:
        with spinning(client), node_process(namespace, args) as process:
            wait_for(lambda: client.images.get_subscription_count() > 0, 'the node to subscribe', process)
            client.start()
            try:
                wait_for(lambda: len(client.sample.arrivals) > 10, 'the first results', process)
                figures = measure(client, process, boxes, args.seconds)
            finally:
                client.stop()
            return figures, client.node_report
    finally:
        client.destroy_node()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='python -m benchmarks.node', description=__doc__)
    parser.add_argument('--objects', type=int, nargs='+', default=[1, 4], help='numbers of objects (default: 1 4)')
    parser.add_argument('--seconds', type=float, default=15.0, help='length of each measurement')
    parser.add_argument('--rate', type=float, default=30.0, help='images a second')
    parser.add_argument('--size', type=int, nargs=2, default=(640, 480), metavar=('WIDTH', 'HEIGHT'))
    parser.add_argument('--model', default='compact')
    parser.add_argument('--checkpoint', default='', help='weights file (default: the shipped compact model)')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    parser.add_argument('--precision', default='auto', help='auto, float32 or bfloat16')
    parser.add_argument('--threads', type=int, default=0, help="CPU threads of torch (default: torch's choice)")
    parser.add_argument('--overload-policy', choices=('latest', 'every'), default='latest')
    parser.add_argument('--stages', action='store_true', help="also print the node's own timings")
    parser.add_argument('--check', action='store_true', help='end with code 1 if a bar is missed')
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    profile = REPOSITORY / 'config' / 'fastdds_large.xml'
    os.environ.setdefault('FASTRTPS_DEFAULT_PROFILES_FILE', str(profile))
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    for name, value in describe_run().items():
        print(f'{name}: {value}')
    print(f'{args.size[0]}x{args.size[1]} at {args.rate:g} Hz, overload_policy {args.overload_policy}')
    rclpy.init()
    missed = []
    try:
        for objects in args.objects:
            figures, report = run(args, objects)
            if objects == args.objects[0]:
                print(' '.join(f'{name:>13}' for name in ('objects', *figures)))
            cells = (str(objects), *(f'{value:.1f}' for value in figures.values()))
            print(' '.join(f'{cell:>13}' for cell in cells), flush=True)
            if args.stages:
                stages = [name[:-7] for name in report if name.endswith('_p50_ms')]
                print('  ' + ', '.join(f'{s} {report[f"{s}_p50_ms"]} (p99 {report[f"{s}_p99_ms"]})' for s in stages))
            if figures['out fps'] < FPS_BAR.get(objects, 0) or figures['prompt max ms'] > SERVICE_BAR_MS:
                missed.append(objects)
    finally:
        rclpy.try_shutdown()
    if args.check and missed:
        raise SystemExit(f'below the bar with {", ".join(map(str, missed))} objects')


if __name__ == '__main__':
    main()
