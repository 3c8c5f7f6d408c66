"""Prompts that other nodes give by topic: a plain ``Prompt``, or the boxes of a detector.

A detector sees the same objects again and again, so each prompt for a new object is matched with those that are
tracked: one that is visible is left alone, one that was lost is prompted again under its ID, all else becomes an
object as long as the table has room.
"""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from rclpy.clock import Clock, ClockType
from robust_pvos_interfaces.msg import Prompt as PromptMsg
from std_msgs.msg import Header

from robust_pvos_ros import interface, messages
from robust_pvos_ros.tracking.association import Scene, Verdict, same_thing
from robust_pvos_ros.tracking.types import Prompt, PromptError, PvosError
from robust_pvos_ros.worker import Admission, TooManyWaitingError

if TYPE_CHECKING:
    from robust_pvos_ros.node_camera import Camera
    from robust_pvos_ros.node_services import NodeServices, ServedNode

PROMPT_DEPTH = 50
MAX_WAITING = 64
"""Messages that may wait for the worker: one that floods the topic must not fill the memory."""
EXPIRY_PERIOD = 0.25


class Outcome(NamedTuple):
    """What became of a prompt: its label, whether anything changed, the object concerned (0: none), one sentence."""

    label: str
    changed: bool
    object_id: int
    message: str
    known: bool = False


class PromptIntake:
    """Takes prompts and detections off their topics and hands them to the worker.

    Args:
        node: with its cameras and its worker.
        services: that look cameras up and publish decisions.
    """

    def __init__(self, node: ServedNode, services: NodeServices) -> None:
        self._node = node
        self._services = services
        self.admission = Admission(MAX_WAITING, 'prompts')
        self._expiring = False
        node.create_subscription(PromptMsg, interface.PROMPT.name, self.on_prompt, PROMPT_DEPTH)
        # Detections must not wait for ever while simulated time stands still.
        node.create_timer(EXPIRY_PERIOD, self._expire, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def on_prompt(self, message: PromptMsg) -> None:
        """Take one prompt, on the executor's thread."""
        decision = messages.Decision(
            'prompt', camera=message.camera, object_id=int(message.object_id), label=message.label
        )
        self._submit(decision, partial(self._prompt, message))

    def on_detections(self, camera: Camera, message: Any) -> None:
        """Take the boxes of a detector that looks at a camera, on the executor's thread."""
        self._submit(_about(camera), partial(self._detections, camera, message), camera)

    def on_frame(self, camera: Camera) -> None:
        """Go on with the detections that have waited for a frame of a camera, on the worker's thread."""
        for message in camera.held.take(camera.newest_stamp):
            self._run(_about(camera), partial(self._apply_detections, camera, message), camera)

    def _expire(self) -> None:
        """See to it that detections are answered whose images do not come."""
        if not self._expiring and any(camera.held.overdue() for camera in list(self._node.cameras.values())):
            self._expiring = True
            self._node.worker.submit(self._answer_overdue)

    def _answer_overdue(self) -> None:
        self._expiring = False
        for camera in self._node.cameras.values():
            self.on_frame(camera)

    def _submit(
        self, decision: messages.Decision, command: Callable[[messages.Decision], None], camera: Camera | None = None
    ) -> None:
        """Run a command on the worker; ``camera`` is that of detections, whose refusals it counts."""
        try:
            self.admission.enter()
        except TooManyWaitingError as error:
            self._refuse(decision, str(error), camera)
        else:
            self._node.worker.submit(partial(self._admitted, decision, command, camera))

    def _admitted(
        self, decision: messages.Decision, command: Callable[[messages.Decision], None], camera: Camera | None
    ) -> None:
        self.admission.leave()
        self._run(decision, command, camera)

    def _run(
        self, decision: messages.Decision, command: Callable[[messages.Decision], None], camera: Camera | None
    ) -> None:
        try:
            command(decision)
        except PvosError as error:
            self._refuse(decision, str(error), camera)
        except Exception as error:
            if said := self._node.throttle.line('prompt', traceback.format_exc()):
                self._node.get_logger().error(said)
            self._refuse(decision, f'the prompt failed unexpectedly: {type(error).__name__}: {error}', camera)

    def _refuse(self, decision: messages.Decision, text: str, camera: Camera | None) -> None:
        if camera is not None:
            camera.statistics.count('refused')
        self._services.publish(replace(decision, success=False, message=text), None)

    def _prompt(self, message: PromptMsg, decision: messages.Decision) -> None:
        self._services.require_active()
        camera = self._services.camera(message.camera)
        prompt = messages.prompt_from_message(message)
        stamp = messages.nanoseconds(message.header.stamp)
        for outcome in offer(camera, [prompt], stamp, camera.scene(stamp)):
            self._decide(camera, decision, outcome)

    def _detections(self, camera: Camera, message: Any, decision: messages.Decision) -> None:
        self._services.require_active()
        messages.check_detections(message)
        newest = camera.newest_stamp
        if newest is None:
            raise PromptError(f'camera {camera.name} has not processed a frame yet: detections need one')
        stamp = messages.nanoseconds(message.header.stamp)
        if not message.detections:
            return
        if stamp > newest:
            camera.held.add(stamp, message)
        else:
            self._apply_detections(camera, message, decision)

    def _apply_detections(self, camera: Camera, message: Any, decision: messages.Decision) -> None:
        self._services.require_active()
        stamp = camera.frame_near(messages.nanoseconds(message.header.stamp))
        scene = camera.scene(stamp)
        prompts, refused = messages.detections_to_prompts(message, scene.result.width, scene.result.height)
        outcomes = [Outcome('', False, 0, text) for text in refused]
        for outcome in itertools.chain(outcomes, offer(camera, prompts, stamp, scene)):
            if outcome.known:
                camera.statistics.count('associated')  # on every frame, and so no news
                continue
            if not outcome.changed:
                camera.statistics.count('refused')
            self._decide(camera, decision, outcome)

    def _decide(self, camera: Camera, decision: messages.Decision, outcome: Outcome) -> None:
        header: Header | None = camera.header
        decision = replace(
            decision,
            camera=camera.name,
            object_id=outcome.object_id or decision.object_id,
            label=outcome.label,
            success=outcome.changed,
            message=outcome.message,
        )
        self._services.publish(decision, header)


def _about(camera: Camera) -> messages.Decision:
    """A decision about the detections of a camera, to be filled in."""
    return messages.Decision('detections', camera=camera.name)


def offer(camera: Camera, prompts: Sequence[Prompt], stamp: int, scene: Scene) -> Iterator[Outcome]:
    """Match prompts with the objects of a camera and apply those that show something else.

    Args:
        camera: that they were drawn for.
        prompts: for objects that are tracked, by ID, or for new ones.
        stamp: nanoseconds of the frame they were drawn on; 0 for the newest.
        scene: the camera's on that frame.

    Yields:
        one outcome for each prompt, refusals and known objects first.
    """
    threshold = camera.policies.association_iou
    accepted: list[Prompt] = []
    for prompt in prompts:
        if prompt.object_id:
            accepted.append(prompt)
            continue
        try:
            match = scene.match(prompt, threshold)
        except PromptError as error:
            yield Outcome(prompt.label, False, 0, str(error))
            continue
        if match.verdict is Verdict.KNOWN:
            text = f'object {match.object_id} shows this already (overlap {match.overlap:.2f}): nothing was changed'
            yield Outcome(prompt.label, False, match.object_id, text, known=True)
        elif any(
            same_thing(prompt, other, threshold) or 0 < match.object_id == other.object_id
            for other in accepted
        ):
            text = 'another prompt of the same message shows this already: nothing was changed'
            yield Outcome(prompt.label, False, match.object_id, text, known=True)
        else:
            accepted.append(replace(prompt, object_id=match.object_id))
    yield from _apply(camera, accepted, stamp)


def _apply(camera: Camera, prompts: Sequence[Prompt], stamp: int) -> Iterator[Outcome]:
    """Apply prompts at once, or one by one if not all of them can be."""
    if not prompts:
        return
    try:
        objects = camera.apply(prompts, stamp)
    except PromptError as error:
        if len(prompts) == 1:
            yield Outcome(prompts[0].label, False, prompts[0].object_id, str(error))
            return
        for prompt in prompts:
            yield from _apply(camera, [prompt], stamp)
        return
    for prompt, tracked in zip(prompts, objects, strict=True):
        verb = 'prompted again' if prompt.object_id else 'started'
        text = f'object {tracked.object_id} {verb}: {tracked.area_px} px, score {tracked.object_score:.2f}'
        yield Outcome(tracked.label, True, tracked.object_id, text)
