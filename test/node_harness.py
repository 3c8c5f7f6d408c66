"""A segmentation node and a client talking over DDS inside one process."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Point
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import (
    DescribeParameters,
    GetParameters,
    GetParameterTypes,
    SetParameters,
    SetParametersAtomically,
)
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from robust_pvos_interfaces.msg import Prompt, TrackedObjects
from robust_pvos_interfaces.srv import AddObject, ListObjects, RefineObject, RemoveObject, Reset, SetLabel
from sensor_msgs.msg import Image, RegionOfInterest
from std_msgs.msg import Header, String

from robust_pvos_ros.segmentation_node import SegmentationNode

WAIT = 20.0
SERVICES = {
    'add_object': AddObject,
    'refine_object': RefineObject,
    'remove_object': RemoveObject,
    'set_label': SetLabel,
    'list_objects': ListObjects,
    'reset': Reset,
    'change_state': ChangeState,
    'get_state': GetState,
    'set_parameters': SetParameters,
    'get_parameters': GetParameters,
    'get_parameter_types': GetParameterTypes,
    'describe_parameters': DescribeParameters,
    'set_parameters_atomically': SetParametersAtomically,
}
HEIGHT, WIDTH = 120, 160
BOX = (60, 40, 100, 80)  # x0, y0, x1, y1 of the bright square in `scene`


def scene(height: int = HEIGHT, width: int = WIDTH, shift: int = 0) -> np.ndarray:
    """uint8 (H, W, 3) RGB: a textured ground with a bright red square at BOX, moved to the right by `shift` pixels."""
    noise = np.random.default_rng(1).integers(30, 90, (height // 8 + 1, width // 8 + 1, 3)).astype(np.uint8)
    picture = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    x0, y0, x1, y1 = BOX
    picture[y0:y1, x0 + shift : x1 + shift] = (230, 60, 40)
    return picture


def stamp(nanoseconds: int) -> Time:
    return Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)


def image(rgb: np.ndarray, nanoseconds: int, frame_id: str = 'camera_optical') -> Image:
    message = Image(height=rgb.shape[0], width=rgb.shape[1], encoding='rgb8', step=rgb.shape[1] * 3)
    message.header = Header(stamp=stamp(nanoseconds), frame_id=frame_id)
    message.data.frombytes(np.ascontiguousarray(rgb).tobytes())
    return message


def mask_image(mask: np.ndarray) -> Image:
    message = Image(height=mask.shape[0], width=mask.shape[1], encoding='mono8', step=mask.shape[1])
    message.data.frombytes((mask.astype(np.uint8) * 255).tobytes())
    return message


def square_mask() -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    x0, y0, x1, y1 = BOX
    mask[y0:y1, x0:x1] = True
    return mask


def box_prompt(box: tuple[int, int, int, int] = BOX, **fields: Any) -> Prompt:
    x0, y0, x1, y1 = box
    region = RegionOfInterest(x_offset=x0, y_offset=y0, width=x1 - x0, height=y1 - y0)
    return Prompt(has_box=True, box=region, **fields)


def point_prompt(*points: tuple[float, float], labels: tuple[int, ...] | None = None, **fields: Any) -> Prompt:
    labels = (1,) * len(points) if labels is None else labels
    return Prompt(points=[Point(x=float(x), y=float(y)) for x, y in points], point_labels=list(labels), **fields)


def mask_prompt(mask: np.ndarray | None = None, **fields: Any) -> Prompt:
    return Prompt(mask=mask_image(square_mask() if mask is None else mask), **fields)


def wait_until(condition: Callable[[], Any], what: str, timeout: float = WAIT) -> Any:
    """The first true value of `condition`."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f'waited {timeout} s for {what}'
        time.sleep(0.01)


class Spinning:
    """An executor for one node on a thread of its own."""

    def __init__(self, node: Node, context: Context) -> None:
        self._stopping = False
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(node)
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._spin)
        self._thread.start()

    def _spin(self) -> None:
        try:
            while not self._stopping:
                self._executor.spin_once()
        except ExternalShutdownException:
            pass
        except Exception as error:
            self.error = error

    def stop(self) -> None:
        self._stopping = True
        self._executor.create_task(lambda: None)
        self._thread.join()
        self._executor.shutdown()
        assert self.error is None, f'a callback ended the executor: {self.error!r}'


class Harness:
    """The node under test, and a client with its publisher, subscriptions and services."""

    def __init__(self, namespace: str = '', remappings: tuple[str, ...] = (), **parameters: Any) -> None:
        self.context = Context()
        rclpy.init(context=self.context)
        overrides = [Parameter(name.replace('__', '.'), value=value) for name, value in parameters.items()]
        rules = [part for rule in remappings for part in ('-r', rule)]
        self.node = SegmentationNode(
            context=self.context, namespace=namespace, parameter_overrides=overrides,
            cli_args=['--ros-args', *rules] if rules else None,
        )  # fmt: skip
        self.client = Node('client', context=self.context, namespace=namespace)
        self.messages: dict[str, list[Any]] = defaultdict(list)
        self._clients = {
            name: self.client.create_client(kind, f'robust_pvos/{name}') for name, kind in SERVICES.items()
        }
        self.publisher = self.client.create_publisher(Image, 'camera/image_raw', 100)
        self.objects = self.listen(TrackedObjects, 'camera/objects', depth=100)
        self.prompts = self.listen(Prompt, 'prompts', depth=100)
        self.status = self.listen(String, 'status')
        self.diagnostics = self.listen(DiagnosticArray, '/diagnostics')
        self._spinning = [Spinning(self.node, self.context), Spinning(self.client, self.context)]
        self._clock = 1_000_000_000

    def close(self) -> None:
        assert self.node.stop()
        for spinning in self._spinning:
            spinning.stop()
        self.client.destroy_node()
        self.node.destroy_node()
        self.context.try_shutdown()

    def listen(self, kind: type, topic: str, depth: int = 10) -> list[Any]:
        name = topic if topic.startswith('/') else f'robust_pvos/{topic}'
        received = self.messages[name]
        self.client.create_subscription(kind, name, received.append, depth)
        return received

    def call(self, service: str, **fields: Any) -> Any:
        client = self._clients[service]
        assert client.wait_for_service(WAIT)
        done = threading.Event()
        future = client.call_async(SERVICES[service].Request(**fields))
        future.add_done_callback(lambda _: done.set())
        assert done.wait(WAIT), f'no reply from {service}'
        return future.result()

    def transition(self, transition_id: int = 0, label: str = '') -> bool:
        return self.call('change_state', transition=Transition(id=transition_id, label=label)).success

    def state(self) -> str:
        return self.call('get_state').current_state.label

    def set(self, **values: Any) -> tuple[bool, str]:
        parameters = [
            Parameter(name.replace('__', '.'), value=value).to_parameter_msg() for name, value in values.items()
        ]
        result = self.call('set_parameters_atomically', parameters=parameters).result
        return result.successful, result.reason

    def wait_active(self) -> None:
        wait_until(lambda: self.node.state == 'active', 'the node to become active', 60)

    def tick(self) -> int:
        """A fresh stamp in nanoseconds."""
        self._clock += 33_333_333
        return self._clock

    def talk(self, kind: type, topic: str, quality: QoSProfile | int = 100) -> Callable[[Any], None]:
        """Publish on a topic of the client's namespace; a first message waits for a subscriber."""
        publisher = self.client.create_publisher(kind, topic, quality)

        def publish(message: Any) -> None:
            wait_until(publisher.get_subscription_count, f'a subscriber of {topic}')
            publisher.publish(message)

        return publish

    def publish(self, message: Image) -> None:
        wait_until(self.publisher.get_subscription_count, 'the node to subscribe')
        self.publisher.publish(message)

    def publish_next(self) -> int:
        """Publish one image without waiting, and return its stamp."""
        nanoseconds = self.tick()
        self.publish(image(scene(), nanoseconds))
        return nanoseconds

    def objects_at(self, nanoseconds: int) -> list[TrackedObjects]:
        return [message for message in list(self.objects) if message.header.stamp == stamp(nanoseconds)]

    def frame(self, rgb: np.ndarray | None = None, nanoseconds: int | None = None) -> int:
        """Publish one image, wait for its result, and return its stamp."""
        nanoseconds = self.tick() if nanoseconds is None else nanoseconds
        before = len(self.objects_at(nanoseconds))
        self.publish(image(scene() if rgb is None else rgb, nanoseconds))
        wait_until(lambda: len(self.objects_at(nanoseconds)) > before, f'objects at {nanoseconds}')
        return nanoseconds

    def table(self) -> dict[int, Any]:
        """ID -> object as listed, of all cameras."""
        reply = self.call('list_objects')
        assert reply.success, reply.message
        return {tracked.id: tracked for camera in reply.cameras for tracked in camera.objects}

    def counts(self, camera: str = 'camera') -> dict[str, int]:
        return self.node.cameras[camera].statistics.counts()

    def said(self) -> list[str]:
        """Every text of the diagnostics so far."""
        return [status.message for report in list(self.diagnostics) for status in report.status]
