"""The demo's operator: points at objects through the node's services, as a person would.

    python -m robust_pvos_ros.demo.client                                  # the street scene, prompts from its truth
    python -m robust_pvos_ros.demo.client --prompt box:120,80,260,200@car  # a video, prompts given
    python -m robust_pvos_ros.demo.client --auto                           # a video, one prompt on what stands out
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
from rclpy.node import Client
from rclpy.utilities import remove_ros_args
from robust_pvos_interfaces.msg import TrackedObjects
from robust_pvos_interfaces.srv import AddObject, RefineObject, RemoveObject
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from robust_pvos_ros import interface
from robust_pvos_ros.demo import names
from robust_pvos_ros.demo.plan import PLAN, Action, truth_ids
from robust_pvos_ros.demo.prompting import correction, parse_prompt, prompt_from_truth, salient_box
from robust_pvos_ros.image_codec import image_to_rgb
from robust_pvos_ros.messages import nanoseconds, prompt_message, time_message
from robust_pvos_ros.node_process import StoppableNode, run
from robust_pvos_ros.stop_signal import StopSignal
from robust_pvos_ros.tracking.types import Prompt, PromptError, PvosError

KEPT = 60  # frames whose truth is remembered
ATTEMPTS = 8
PATIENCE = 4.0  # seconds that an action waits for a hidden object
REPLY_TIMEOUT = 60.0
PICTURES_FOR_SALIENCY = 5
Draw = Callable[[int], Prompt | None]


class ClientError(PvosError):
    """The node did not do what the demo needs."""


class _StoppedError(Exception):
    """The process is ending."""


class DemoClient(StoppableNode):
    """Runs a list of requests on a thread of its own, and ends its process after the last.

    Args:
        prompts: given on the command line; empty follows the plan of the street scene.
        auto: prompt what stands out instead.
        done: set after the last request.
    """

    def __init__(self, prompts: list[Prompt], auto: bool, done: StopSignal) -> None:
        super().__init__('demo_client')
        self._done = done
        self.problem = ''
        self._given = prompts
        self._auto = auto
        self._changed = threading.Condition()
        self._stopping = False
        self._truth: OrderedDict[int, np.ndarray] = OrderedDict()
        self._labels: OrderedDict[int, np.ndarray] = OrderedDict()
        self._pictures: OrderedDict[int, np.ndarray] = OrderedDict()
        self._first_truth: int | None = None
        self._processed = 0
        self._ids: dict[str, int] = {}
        self._node: dict[str, Client] = {
            'add': self.create_client(AddObject, names.absolute(interface.ADD_OBJECT.name)),
            'refine': self.create_client(RefineObject, names.absolute(interface.REFINE_OBJECT.name)),
            'remove': self.create_client(RemoveObject, names.absolute(interface.REMOVE_OBJECT.name)),
        }
        self.create_subscription(TrackedObjects, names.OBJECTS, self._on_objects, 10)
        if auto:
            self.create_subscription(Image, names.IMAGE, self._on_image, 10)
        elif not prompts:
            self.create_subscription(Image, names.TRUTH, self._on_truth, 10)
            self.create_subscription(Image, names.LABELS, self._on_labels, 10)
        self._thread = threading.Thread(target=self._work, name='client')
        self._thread.start()

    # ------------------------------------------------------------------------------------------------------- messages

    def _keep(self, store: OrderedDict[int, np.ndarray], message: Image, pixels: np.ndarray) -> None:
        with self._changed:
            store[nanoseconds(message.header.stamp)] = pixels
            while len(store) > KEPT:
                store.popitem(last=False)
            self._changed.notify_all()

    def _on_truth(self, message: Image) -> None:
        if self._first_truth is None:
            self._first_truth = nanoseconds(message.header.stamp)
        self._keep(self._truth, message, _ids_of(message).astype(np.uint8))

    def _on_labels(self, message: Image) -> None:
        self._keep(self._labels, message, _ids_of(message))

    def _on_image(self, message: Image) -> None:
        if len(self._pictures) < PICTURES_FOR_SALIENCY:
            self._keep(self._pictures, message, image_to_rgb(message))

    def _on_objects(self, message: TrackedObjects) -> None:
        with self._changed:
            self._processed = nanoseconds(message.header.stamp)
            self._changed.notify_all()

    # ------------------------------------------------------------------------------------------------------- scenario

    def _work(self) -> None:
        try:
            if self._auto or self._given:
                self._prompt_video()
            else:
                for action in PLAN:
                    self._perform(action)
            print('all requests done', flush=True)
        except _StoppedError:
            return
        except PvosError as error:
            self.problem = str(error)
        self._done.set()

    def _wait_for(self, condition: Callable[[], bool], timeout: float = float('inf')) -> bool:
        """Wait with the lock held; False after ``timeout`` seconds."""
        end = time.monotonic() + timeout
        while not condition():
            if self._stopping:
                raise _StoppedError
            if time.monotonic() > end:
                return False
            self._changed.wait(0.1)
        return True

    def _wait_for_result(self) -> None:
        """Wait, with the lock held, until the node has finished another frame."""
        before = self._processed
        if not self._wait_for(lambda: self._processed > before and bool(self._truth), REPLY_TIMEOUT):
            raise ClientError(f'no frame was processed for {REPLY_TIMEOUT:.0f} s')

    def _perform(self, action: Action) -> None:
        due = int(action.time * 1e9)
        with self._changed:
            self._wait_for(lambda: self._first_truth is not None and self._processed >= self._first_truth + due)
        if action.verb == 'remove':
            self._remove(action.label)
            return
        if action.verb == 'refine' and action.label not in self._ids:
            print(f'{action.label!r} is not tracked: nothing to refine', flush=True)
            return
        target = truth_ids()[action.label]
        draw = self._drawn(action, target) if action.verb == 'add' else self._corrected(self._ids[action.label], target)
        reply = self._prompt(action.verb, draw)
        if reply is None:
            print(f'{action.label!r} was not visible for {PATIENCE:.0f} s: left out', flush=True)
            return
        self._ids[action.label] = reply.object_id
        how = action.how if action.how == 'points' else f'a {action.how}'
        done = f'added with {how}' if action.verb == 'add' else 'corrected with a click'
        self._report(reply, f'{action.label} {done}')

    def _drawn(self, action: Action, target: int) -> Draw:
        return lambda stamp: prompt_from_truth(self._truth[stamp] == target, action.label, action.how)

    def _corrected(self, object_id: int, target: int) -> Draw:
        def draw(stamp: int) -> Prompt | None:
            judged = max((known for known in self._labels if known in self._truth), default=None)
            if judged is None:
                return None
            now, then = self._truth[stamp] == target, self._truth[judged] == target
            prompt = correction(then, self._labels[judged] == object_id, object_id)
            if prompt is None or not now.any():
                return None
            moved = np.argwhere(now).mean(0) - np.argwhere(then).mean(0)
            points = prompt.points + moved[::-1].astype(np.float32)
            edge = np.array(now.shape[::-1], np.float32) - 1
            return Prompt(object_id, points=np.clip(points, 0, edge), point_labels=prompt.point_labels)

        return draw

    def _prompt(self, verb: str, draw: Draw) -> Any:
        """Prompt on the frame that the node has just taken up; None if the object stays hidden.

        A live node takes prompts for its newest frame only.  When the result of a frame arrives it has begun with the
        newest image of that moment, so that is the frame to draw on.  If the guess was wrong, the node says so and
        changes nothing.
        """
        end = time.monotonic() + PATIENCE
        attempt = 0
        while True:
            with self._changed:
                self._wait_for_result()
                newest = next(reversed(self._truth))
                prompt = draw(newest)
            if prompt is not None:
                attempt += 1
                exact = attempt < ATTEMPTS
                reply = self._call(verb, prompt, newest if exact else 0)
                if reply.success:
                    return reply
                if not exact or 'newest processed frame' not in reply.message:
                    raise ClientError(f'the node refused to {verb} {prompt.label!r}: {reply.message}')
            elif time.monotonic() > end:
                return None

    def _remove(self, label: str) -> None:
        if label not in self._ids:
            return
        object_id = self._ids.pop(label)
        reply = self._request('remove', RemoveObject.Request(object_id=object_id))
        if not reply.success:
            raise ClientError(f'the node refused to remove object {object_id}: {reply.message}')
        print(f'object {object_id}: {label} removed', flush=True)

    def _prompt_video(self) -> None:
        with self._changed:
            wanted = PICTURES_FOR_SALIENCY if self._auto else 0
            self._wait_for(lambda: self._processed > 0 and len(self._pictures) >= wanted)
            if wanted:
                last = next(reversed(self._pictures))
                self._wait_for(lambda: self._processed >= last, REPLY_TIMEOUT)
        prompts, why = self._given, 'as told'
        if self._auto:
            box, why = salient_box(list(self._pictures.values()))
            prompts = [Prompt(label='object', box=box)]
            self._pictures.clear()
        for prompt in prompts:
            reply = self._call('add', prompt, 0)
            if not reply.success:
                raise ClientError(f'the node refused the prompt: {reply.message}')
            where = 'a mask' if prompt.box is None else f'box {[round(float(v)) for v in prompt.box]}'
            if prompt.mask is None and prompt.box is None:
                where = f'points {prompt.points.tolist()}'
            self._report(reply, f'{prompt.label or "object"} added with {where} ({why})')

    # ------------------------------------------------------------------------------------------------------- requests

    def _report(self, reply: Any, what: str) -> None:
        print(f'object {reply.object_id}: {what}; {reply.area_px} px, predicted IoU {reply.predicted_iou:.2f}',
              flush=True)

    def _call(self, verb: str, prompt: Prompt, stamp: int) -> Any:
        kind = AddObject if verb == 'add' else RefineObject
        header = Header(stamp=time_message(stamp))
        return self._request(verb, kind.Request(prompt=prompt_message(prompt, header, names.CAMERA, prompt.object_id)))

    def _request(self, verb: str, request: Any) -> Any:
        client = self._node[verb]
        if not client.wait_for_service(REPLY_TIMEOUT):
            raise ClientError(f'{client.srv_name} did not appear within {REPLY_TIMEOUT:.0f} s: is the node running?')
        future = client.call_async(request)
        future.add_done_callback(lambda _: self._wake())
        with self._changed:
            if not self._wait_for(future.done, REPLY_TIMEOUT):
                raise ClientError(f'{client.srv_name} did not answer within {REPLY_TIMEOUT:.0f} s')
        return future.result()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def stop(self) -> bool:
        """End the scenario."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(10)
        return not self._thread.is_alive()


def _ids_of(message: Image) -> np.ndarray:
    """uint16 (H, W) of a 16UC1 image."""
    rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
    return rows[:, :2 * message.width].view('>u2' if message.is_bigendian else '<u2').astype(np.uint16)


def _parse(arguments: list[str]) -> tuple[list[Prompt], bool]:
    parser = argparse.ArgumentParser(description='Points at objects through the services of the segmentation node.')
    parser.add_argument('--prompt', action='append', default=[], metavar='TEXT',
                        help='point:x,y or box:x0,y0,x1,y1 in pixels, with @label at the end if you like; repeatable')
    parser.add_argument('--auto', action='store_true', help='prompt what moves or stands out in the first frames')
    options = parser.parse_args(arguments)
    try:
        prompts = [parse_prompt(text) for text in options.prompt]
    except PromptError as error:
        parser.error(str(error))
    if prompts and options.auto:
        parser.error('give either --prompt or --auto')
    return prompts, options.auto


def main(arguments: list[str] | None = None) -> None:
    """Run the requests until they are done or SIGINT comes.

    Args:
        arguments: program name, options and ROS arguments; None takes the process's.
    """
    arguments = sys.argv if arguments is None else arguments
    prompts, auto = _parse(remove_ros_args(arguments)[1:])
    stop = StopSignal()
    clients: list[DemoClient] = []

    def create() -> DemoClient:
        clients.append(DemoClient(prompts, auto, stop))
        return clients[0]

    code = run(create, stop, arguments)
    sys.exit(clients[0].problem if clients and clients[0].problem else code)


if __name__ == '__main__':
    main()
