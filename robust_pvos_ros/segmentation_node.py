"""The lifecycle node ``robust_pvos``: lifecycle, services, diagnostics and the program around it.  Wiring only.

Threads: the executor's takes messages and requests off the middleware and publishes diagnostics; the worker's owns
models and trackers and runs every transition, every request and every frame, one at a time.  A service callback is a
coroutine that awaits the worker, so the executor goes on while the network computes.
"""

from __future__ import annotations

import dataclasses
import gc
import os
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.lifecycle.node import LifecycleNodeMixin
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_msgs.msg import String

from robust_pvos_ros import interface
from robust_pvos_ros.node_camera import Camera, IncomingFrame, prompts_publisher
from robust_pvos_ros.node_main import main
from robust_pvos_ros.node_parameters import NodeParameters
from robust_pvos_ros.node_prompts import PromptIntake
from robust_pvos_ros.node_report import camera_status, node_status, status_line
from robust_pvos_ros.node_services import NodeServices, ServedNode
from robust_pvos_ros.parameter_services import guard_parameter_services
from robust_pvos_ros.parameters import Configuration, NodeConfig
from robust_pvos_ros.throttle import Throttle
from robust_pvos_ros.tracking.types import ModelError, Prompt, PromptError, PvosError, shown
from robust_pvos_ros.worker import Admission, FrameQueue, Waiting, Worker

if TYPE_CHECKING:
    from robust_pvos_ros.export.choose import Choice
    from robust_pvos_ros.relief import MemoryRelief
    from robust_pvos_ros.tracking.model import Sam2Model
    from robust_pvos_ros.tracking.tracker import VideoTracker

REPORT_PERIOD = 1.0
STOP_TIMEOUT = 10.0
MAX_OBJECT_ID = 65535
MAX_TRANSITIONS = 8  # that may wait; counted apart, so that a flood of other requests does not keep an operator out
LONGEST_REASON = 2000  # characters: it may repeat paths, and is part of every report and refusal
SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class ObjectIds:
    """Fresh object IDs from 1, for all cameras and over every reset and reconfiguration of the node."""

    def __init__(self) -> None:
        self._last = 0

    def __iter__(self) -> ObjectIds:
        return self

    def __next__(self) -> int:
        if self._last == MAX_OBJECT_ID:
            raise PromptError(
                f'all {MAX_OBJECT_ID} object IDs that fit into a label image are used up: restart the node'
            )
        self._last += 1
        return self._last


class SegmentationNode(LifecycleNodeMixin, ServedNode):
    """Segments prompted objects in camera images; see ``interface.py`` for its topics and services."""

    def __init__(self, **kwargs: Any) -> None:
        Node.__init__(self, 'robust_pvos', automatically_declare_parameters_from_overrides=True, **kwargs)
        self._requests = ReentrantCallbackGroup()
        LifecycleNodeMixin.__init__(self, callback_group=self._requests)
        # The stock callback lets an invalid request end the process, and blocks the executor while a model loads.
        self._service_change_state.callback = self._change_state  # type: ignore[assignment]
        self.cameras: dict[str, Camera] = {}
        self.model: Sam2Model | None = None
        self.encoder_choice: Choice | None = None
        self.configuration: Configuration | None = None
        self.relief: MemoryRelief | None = None
        self.problem = ''
        self.progress = ''
        self.throttle = Throttle()
        self._ids = ObjectIds()
        self._changes: dict[str, Any] = {}
        self._transitions = Admission(MAX_TRANSITIONS, 'transitions')
        guard_parameter_services(self, self.throttle)
        self._settings = NodeParameters(self, lambda: self.configuration is not None, self._parameters_changed)
        self._prompts = prompts_publisher(self)
        self._status = self.create_publisher(String, interface.STATUS.name, 10)
        self._diagnostics = self.create_publisher(DiagnosticArray, interface.DIAGNOSTICS.name, 10)
        self.worker = Worker(self._worker_failed, self._prepare)
        self._served = NodeServices(self, self._requests)
        self._intake = PromptIntake(self, self._served)
        # A report must also come while simulated time stands still, so its rhythm is not the node's clock.
        self.create_timer(REPORT_PERIOD, self._report, clock=Clock(clock_type=ClockType.STEADY_TIME))
        if self.get_parameter('autostart').value:
            self.worker.submit(self._autostart)

    # ------------------------------------------------------------------------------------------------------ lifecycle

    @property
    def state(self) -> str:
        """Label of the lifecycle state."""
        return self._state_machine.current_state[1]

    def _autostart(self) -> None:
        if self.trigger_configure() == SUCCESS:
            self.trigger_activate()

    async def _change_state(
        self, request: ChangeState.Request, response: ChangeState.Response
    ) -> ChangeState.Response:
        try:
            run = partial(self._run_transition, request.transition)
            response.success = await self._served.on_worker(run, self._transitions)
        except PvosError as error:
            self._refuse_transition(str(error))
            response.success = False
        return response

    def _refuse_transition(self, text: str) -> None:
        if said := self.throttle.line('transition', f'transition refused: {text}'):
            self.get_logger().error(said)

    def _run_transition(self, wanted: Transition) -> bool:
        possible = {description[1]: description[0] for description in self._state_machine.available_transitions}
        chosen = possible.get(wanted.label) if wanted.label else wanted.id
        if chosen not in possible.values():
            can = ', '.join(f'{label} ({number})' for label, number in possible.items()) or 'do nothing'
            asked = shown(wanted.label) if wanted.label else wanted.id
            self._refuse_transition(f'from state {self.state} the node can {can}, asked for {asked}')
            return False
        trigger = {
            Transition.TRANSITION_CONFIGURE: self.trigger_configure,
            Transition.TRANSITION_CLEANUP: self.trigger_cleanup,
            Transition.TRANSITION_ACTIVATE: self.trigger_activate,
            Transition.TRANSITION_DEACTIVATE: self.trigger_deactivate,
        }.get(chosen, self.trigger_shutdown)
        return trigger() == SUCCESS

    def _transition(self, verb: str, action: Callable[[], None]) -> TransitionCallbackReturn:
        try:
            self.worker.call(action)
        except Exception as error:
            expected = isinstance(error, PvosError)
            reason = str(error) if expected else f'unexpected {type(error).__name__}: {error}'
            self.problem = f'cannot {verb}: {reason[:LONGEST_REASON]}'
            details = '' if expected else '\n' + traceback.format_exc()
            name = self.get_fully_qualified_name()
            advice = f'correct it (ros2 param set {name} ...), then: ros2 lifecycle set {name} {verb}'
            self.get_logger().error(f'{self.problem}; {advice}{details}')
            return FAILURE
        self.problem = ''
        return SUCCESS

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Read the parameters, load the model, create the cameras; on failure the node stays unconfigured."""
        return self._transition('configure', self._configure)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the images."""
        return self._transition('activate', self._activate)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop reading images; objects stay."""
        return self._transition('deactivate', self._deactivate)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Forget objects and free the model."""
        return self._transition('cleanup', self._release)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """As cleanup; the node stays visible until its process ends."""
        return self._transition('shutdown', self._release)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Back to unconfigured."""
        return self._transition('recover', self._release)

    def _configure(self) -> None:
        try:
            self._load()
        except Exception:
            self._release()
            raise
        finally:
            self.progress = ''

    def _load(self) -> None:
        with self._settings.lock:  # what is set from here on is refused, or reaches the cameras when they are there
            configuration = self.configuration = self._settings.read()
        start = time.perf_counter()
        self._note_progress(f'loading model {configuration.model.model} on device {configuration.model.device}')
        try:
            from robust_pvos_ros.export.choose import equip_with_encoder
            from robust_pvos_ros.relief import MemoryRelief, loaded
            from robust_pvos_ros.tracking.compiled import warm_up
            from robust_pvos_ros.tracking.model import load_model
            from robust_pvos_ros.tracking.tracker import VideoTracker
        except ImportError as error:
            raise ModelError(f'{error}: install the Python packages torch, sam2 and safetensors') from error
        what = f'model {configuration.model.model}'
        self.model = model = loaded(lambda: load_model(configuration.model), what)
        self.encoder_choice = choice = loaded(
            lambda: equip_with_encoder(model, configuration.model, self._note_progress), f'the encoder of {what}'
        )
        self.relief = relief = MemoryRelief(model, self._trackers, self.get_logger().warning)
        self._note_progress('warming up')
        relief.run(lambda: _warm_up(VideoTracker(model, configuration.tracker)))
        if model.compiled:
            relief.run(lambda: warm_up(model, configuration.tracker.max_objects, self._note_progress))
        for name, config in configuration.cameras.items():
            tracker = VideoTracker(model, configuration.tracker, self._ids, partial(self._objects_beside, name))
            self.cameras[name] = Camera(
                self, name, config, configuration.node, tracker, self.worker, relief, self._prompts, self._intake
            )
        wanted = configuration.node.batch_cameras
        pays = model.device.type == 'cuda' and model.encoder.takes_batches
        self.worker.together = len(self.cameras) > 1 and (wanted == 'true' or (wanted == 'auto' and pays))
        self.worker.ahead = _encodes_ahead(configuration.node.encode_ahead, model.device.type)
        took = time.perf_counter() - start
        self.get_logger().info(
            f'model {model.name} is ready on {model.device} in {model.precision} after {took:.1f} s; '
            f'encoder: {choice.name}, {choice.reason}'
        )

    def _trackers(self) -> list[VideoTracker]:
        return [camera.tracker for camera in self.cameras.values()]

    def _objects_beside(self, name: str) -> int:
        """Number of objects of all cameras but one."""
        return sum(len(camera.tracker.objects) for other, camera in self.cameras.items() if other != name)

    def _note_progress(self, text: str) -> None:
        self.progress = text
        self.get_logger().info(text)

    def _activate(self) -> None:
        try:
            for camera in self.cameras.values():
                camera.activate()
        except Exception:
            self._deactivate()
            raise

    def _deactivate(self) -> None:
        for camera in self.cameras.values():
            camera.deactivate()

    def _release(self) -> None:
        for camera in self.cameras.values():
            camera.destroy()
        on_gpu = self.model is not None and self.model.device.type == 'cuda'
        self.cameras = {}
        self.worker.together = self.worker.ahead = False
        self.model = self.configuration = self.encoder_choice = self.relief = None
        gc.collect()
        if on_gpu:
            import torch

            torch.cuda.empty_cache()

    def stop(self) -> bool:
        """End the worker; False if it was still busy after some seconds."""
        return self.worker.stop(STOP_TIMEOUT)

    # ----------------------------------------------------------------------------------------------------- parameters

    def set_parameters_atomically(self, parameter_list: list[Parameter]) -> SetParametersResult:
        """As in ``Node``, but a wrong value is answered with the parameter's name and range."""
        return self._settings.set_atomically(parameter_list, super().set_parameters_atomically)

    def _parameters_changed(self, values: dict[str, Any]) -> None:
        with self._settings.lock:
            waits = bool(self._changes)  # one command carries all that changes until it runs
            self._changes.update(values)
        if not waits:
            self.worker.submit(self._apply_parameters)

    def _apply_parameters(self) -> None:
        with self._settings.lock:
            values, self._changes = self._changes, {}
        ours = {field.name for field in dataclasses.fields(NodeConfig)}
        policies = {name: value for name, value in values.items() if name in ours}
        tracking = {name: value for name, value in values.items() if name not in ours}
        for camera in self.cameras.values():
            camera.configure(policies, tracking)

    # --------------------------------------------------------------------------------------------------------- frames

    def _prepare(self, frames: Waiting) -> Waiting:
        """Pixels of one frame each of some cameras, and feature maps where that is done ahead or in a batch."""
        ready: list[tuple[FrameQueue, IncomingFrame]] = []
        for queue, message in frames:
            camera = next(camera for camera in self.cameras.values() if camera.queue is queue)
            frame = camera.prepare(message)
            if frame is not None:
                ready.append((queue, frame))
        if len(ready) > 1 or (ready and self.worker.ahead):
            self._encode([frame for _, frame in ready])
        return ready

    def _encode(self, frames: list[IncomingFrame]) -> None:
        model, relief = self.model, self.relief
        if model is None or relief is None:
            return
        start = time.perf_counter()
        pictures = [frame.rgb for frame in frames]
        several = len(frames) > 1
        without = 'frames of several cameras are encoded one by one' if several else ''
        try:
            features = relief.attempt(lambda: model.encode_batch(pictures), without)
        except Exception:
            if said := self.throttle.line('batch', f'frames were not encoded beforehand:\n{traceback.format_exc()}'):
                self.get_logger().error(said)
            return  # each camera encodes its own frame then, and one that cannot says so
        if features is None:  # relief changes what belongs to the worker's thread, which this may not be
            self.worker.together = self.worker.together and not several
            return
        share = (time.perf_counter() - start) * 1e3 / len(frames)
        for frame, maps in zip(frames, features, strict=True):
            frame.features, frame.encode_ms = maps, share

    # -------------------------------------------------------------------------------------------------------- reports

    def _report(self) -> None:
        entries = [node_status(self), *(camera_status(self, camera) for camera in list(self.cameras.values()))]
        array = DiagnosticArray(status=entries)
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(array)
        self._status.publish(String(data=status_line(self)))

    def _worker_failed(self, error: Exception) -> None:
        if said := self.throttle.line('worker', ''.join(traceback.format_exception(error))):
            self.get_logger().error(said)


def _encodes_ahead(wanted: str, device: str) -> bool:
    if wanted != 'auto' or device != 'cpu':
        return wanted == 'true'
    import torch

    return 2 * torch.get_num_threads() <= (os.cpu_count() or 1)


def _warm_up(tracker: VideoTracker) -> None:
    """Run every stage once on an empty picture, so that the first frame and prompt are as quick as the rest."""
    side = tracker.model.image_size
    picture = np.zeros((side, side, 3), np.uint8)
    tracker.step(picture, 0)
    tracker.apply([Prompt(box=np.array([0, 0, side / 2, side / 2], np.float32))])
    tracker.step(picture, 1)


if __name__ == '__main__':
    main()
