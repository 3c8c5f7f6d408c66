"""The services of the segmentation node: each request runs on the worker's thread and is answered with a sentence."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from rclpy.callback_groups import CallbackGroup
from rclpy.task import Future
from robust_pvos_interfaces.msg import Decision as DecisionMsg
from robust_pvos_interfaces.srv import AddObject, ListObjects, RefineObject, RemoveObject, Reset, SetLabel
from std_msgs.msg import Header

from robust_pvos_ros import interface, messages
from robust_pvos_ros.node_process import StoppableNode
from robust_pvos_ros.tracking.types import PromptError, PvosError, shown
from robust_pvos_ros.worker import Admission

if TYPE_CHECKING:
    from robust_pvos_ros.node_camera import Camera
    from robust_pvos_ros.throttle import Throttle
    from robust_pvos_ros.worker import Worker

DECISIONS_DEPTH = 100
MAX_WAITING = 64
"""Requests that may wait for the worker: a client that does not wait for replies must not fill the memory."""
Handler = Callable[[Any, Any], 'list[Camera]']
"""Fills in a response and gives the cameras concerned; raises ``PvosError`` for a refusal."""


class NotActiveError(PvosError):
    """A request that only an active node can serve."""


class ServedNode(StoppableNode):
    """What the services need of their node.

    Attributes:
        cameras: by name; empty unless configured.
        worker: its thread runs every request.
        problem: why the last transition failed, or empty.
        progress: what ``configure`` is doing, or empty.
        throttle: for lines of the log that a flood of requests could repeat.
    """

    cameras: dict[str, Camera]
    worker: Worker
    problem: str
    progress: str
    throttle: Throttle

    @property
    def state(self) -> str:
        """Label of the lifecycle state."""
        raise NotImplementedError


class NodeServices:
    """Creates the services of a node and answers them.

    Args:
        node: with its cameras and its worker.
        group: of the callbacks; requests may come while others wait.

    Attributes:
        admission: of the requests that wait.
    """

    def __init__(self, node: ServedNode, group: CallbackGroup) -> None:
        self._node = node
        self.admission = Admission(MAX_WAITING, 'requests')
        self._decisions = node.create_publisher(DecisionMsg, interface.DECISIONS.name, DECISIONS_DEPTH)
        for service, kind, handler in (
            (interface.ADD_OBJECT, AddObject, self._add_object),
            (interface.REFINE_OBJECT, RefineObject, self._refine_object),
            (interface.REMOVE_OBJECT, RemoveObject, self._remove_object),
            (interface.SET_LABEL, SetLabel, self._set_label),
            (interface.RESET, Reset, self._reset),
        ):
            node.create_service(kind, service.name, partial(self._serve, service, handler), callback_group=group)
        listed = partial(self._serve, interface.LIST_OBJECTS, self._list_objects)
        node.create_service(ListObjects, interface.LIST_OBJECTS.name, listed, callback_group=group)

    async def on_worker(self, command: Callable[[], Any], admission: Admission) -> Any:
        """Result of a command that runs on the worker's thread; the executor goes on meanwhile.

        Raises:
            TooManyWaitingError: if ``admission`` does not let another one wait.
        """
        admission.enter()
        future = Future()

        def done(finished: Any) -> None:
            admission.leave()
            future.set_result(finished)
            # A coroutine that waits is looked at again only when the executor wakes.
            if self._node.executor is not None:
                self._node.executor.wake()

        self._node.worker.submit(command).add_done_callback(done)
        return (await future).result()

    async def _serve(self, service: interface.Service, handler: Handler, request: Any, response: Any) -> Any:
        """Answer a request; whatever goes wrong becomes ``success = false`` and a sentence."""
        try:
            self.require_active()  # at once: the worker may be loading a model
            await self.on_worker(partial(self._carry_out, service, handler, request, response), self.admission)
            response.success = True
        except PvosError as error:
            response.message = str(error)
        except Exception as error:
            if said := self._node.throttle.line('request', traceback.format_exc()):
                self._node.get_logger().error(said)
            response.message = f'the request failed unexpectedly: {type(error).__name__}: {error}'
        if not response.success:
            self._tell(service, request, response, None)
        return response

    def _carry_out(self, service: interface.Service, handler: Handler, request: Any, response: Any) -> None:
        for camera in handler(request, response):
            self._tell(service, request, response, camera)

    def _tell(self, service: interface.Service, request: Any, response: Any, camera: Camera | None) -> None:
        """Publish what a request came to; ``camera`` is one that it changed, None for a refusal."""
        if service is interface.LIST_OBJECTS:
            return
        asked = getattr(request, 'prompt', request)
        decision = messages.Decision(
            service.name.removeprefix('~/'),
            camera=getattr(asked, 'camera', '') if camera is None else camera.name,
            object_id=int(getattr(response, 'object_id', 0) or getattr(asked, 'object_id', 0)),
            label=getattr(asked, 'label', ''),
            success=camera is not None,
            message=response.message,
        )
        self.publish(decision, None if camera is None else camera.header)

    def publish(self, decision: messages.Decision, header: Header | None) -> None:
        """Publish a decision under the header of the camera's newest frame, or under none."""
        self._decisions.publish(messages.decision_message(decision, header or Header()))

    # --------------------------------------------------------------------------------------------------------- lookup

    def require_active(self) -> None:
        """Raises ``NotActiveError`` unless the node is active."""
        state = self._node.state
        if state == 'active':
            return
        name = self._node.get_fully_qualified_name()
        if state == 'configuring':
            raise NotActiveError(f'the node is still configuring ({self._node.progress}): ask again when it is active')
        advice = {
            'unconfigured': f'ros2 lifecycle set {name} configure, then activate',
            'inactive': f'ros2 lifecycle set {name} activate',
        }.get(state, 'restart it')
        reason = f' because it {self._node.problem}' if self._node.problem else ''
        raise NotActiveError(f'the node is {state}{reason}: make it active first ({advice})')

    def camera(self, name: str) -> Camera:
        """The camera of a request; an empty name means the only one.  Raises ``PromptError`` if there is none such."""
        cameras = self._node.cameras
        if not name and len(cameras) == 1:
            return next(iter(cameras.values()))
        if not name:
            raise PromptError(f'this node has several cameras: name one of {", ".join(cameras)}')
        if name not in cameras:
            raise PromptError(f'there is no camera {shown(name)}; this node has {", ".join(cameras)}')
        return cameras[name]

    def _cameras(self, name: str) -> list[Camera]:
        self.require_active()
        return [self.camera(name)] if name else list(self._node.cameras.values())

    def _camera_of(self, object_id: int) -> Camera:
        self.require_active()
        cameras = list(self._node.cameras.values())
        for camera in cameras:
            if camera.has(object_id):
                return camera
        known = sorted(tracked.object_id for camera in cameras for tracked in camera.tracker.objects)
        raise PromptError(f'there is no object {object_id}; tracked IDs: {", ".join(map(str, known)) or "none"}')

    # ------------------------------------------------------------------------------------------------------- handlers

    def _add_object(self, request: AddObject.Request, response: AddObject.Response) -> list[Camera]:
        self.require_active()
        object_id = request.prompt.object_id
        if object_id != 0:
            raise PromptError(
                f'add_object starts a new object: object_id must be 0, got {object_id}; refine_object corrects one'
            )
        return self._prompt(request, response)

    def _refine_object(self, request: RefineObject.Request, response: RefineObject.Response) -> list[Camera]:
        self.require_active()
        if request.prompt.object_id == 0:
            raise PromptError('refine_object corrects a tracked object: object_id must be its ID, got 0')
        return self._prompt(request, response)

    def _prompt(self, request: Any, response: Any) -> list[Camera]:
        wanted, object_id = request.prompt.camera, request.prompt.object_id
        camera = self._camera_of(object_id) if object_id and not wanted else self.camera(wanted)
        prompt = messages.prompt_from_message(request.prompt)
        [tracked] = camera.apply([prompt], messages.nanoseconds(request.prompt.header.stamp))
        response.object_id = tracked.object_id
        response.object_score = tracked.object_score
        response.predicted_iou = tracked.predicted_iou
        response.area_px = tracked.area_px
        response.mask_stamp = messages.time_message(tracked.mask_stamp)
        response.message = f'object {tracked.object_id}: {tracked.area_px} px, score {tracked.object_score:.2f}'
        if not tracked.area_px:
            response.message += '; its mask is empty on this frame: refine it with further points, a box or a mask'
        return [camera]

    def _remove_object(self, request: RemoveObject.Request, response: RemoveObject.Response) -> list[Camera]:
        camera = self._camera_of(request.object_id)
        camera.remove(request.object_id)
        response.message = f'object {request.object_id} removed'
        return [camera]

    def _set_label(self, request: SetLabel.Request, response: SetLabel.Response) -> list[Camera]:
        camera = self._camera_of(request.object_id)
        camera.set_label(request.object_id, request.label)
        response.message = f'object {request.object_id} is labelled {request.label!r}'
        return [camera]

    def _reset(self, request: Reset.Request, response: Reset.Response) -> list[Camera]:
        cameras = self._cameras(request.camera)
        response.removed = sum(camera.reset() for camera in cameras)
        response.message = f'{response.removed} objects removed'
        return cameras

    def _list_objects(self, request: ListObjects.Request, response: ListObjects.Response) -> list[Camera]:
        cameras = self._cameras(request.camera)
        response.cameras = [camera.table() for camera in cameras]
        response.message = f'{sum(len(table.objects) for table in response.cameras)} objects'
        return cameras
