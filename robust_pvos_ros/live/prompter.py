"""Repeats the requests of a drive at a segmentation node, each on the frame that it was made for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from robust_pvos_interfaces.srv import AddObject, RefineObject, RemoveObject, Reset, SetLabel
from std_msgs.msg import Header

from robust_pvos_ros import interface
from robust_pvos_ros.bags.definitions import BagError
from robust_pvos_ros.bags.prompts import Request
from robust_pvos_ros.message_core import Decision
from robust_pvos_ros.messages import prompt_message, time_message
from robust_pvos_ros.tracking.types import Prompt

REPLY_TIMEOUT = 60.0


class Prompter:
    """Calls the services of a segmentation node from a thread that is not the executor's.

    Objects get other IDs there than they had in the drive; later requests are told so.

    Args:
        node: whose executor spins on another thread.
        served: full name of the segmentation node.
        stopping: whether the process is about to end.
    """

    def __init__(self, node: Node, served: str, stopping: Callable[[], bool]) -> None:
        self._ids: dict[int, int] = {}
        self._started: dict[int, str] = {}
        self._stopping = stopping
        self._clients = {
            service: node.create_client(kind, interface.resolved(service.name, served))
            for service, kind in (
                (interface.ADD_OBJECT, AddObject),
                (interface.REFINE_OBJECT, RefineObject),
                (interface.REMOVE_OBJECT, RemoveObject),
                (interface.SET_LABEL, SetLabel),
                (interface.RESET, Reset),
            )
        }

    def start_over(self) -> list[str]:
        """Remove what the drive has started so far, which begins again; returns what could not be removed and why."""
        problems = []
        for number in self._started:
            try:
                self._call(interface.REMOVE_OBJECT, RemoveObject.Request(object_id=number))
            except BagError as error:
                problems.append(str(error))
        self._ids.clear()
        self._started.clear()
        return problems

    def ask(self, request: Request, camera: str, stamp: int) -> str:
        """Repeat one request.

        Args:
            request: as recorded or planned.
            camera: name of the camera in the segmentation node.
            stamp: nanoseconds of the frame of a prompt; 0 for the newest.

        Returns:
            the node's reply.

        Raises:
            BagError: if the node refuses it, does not answer or has no such service.
        """
        if isinstance(request, Prompt):
            return self._prompt(request, camera, stamp)
        return self._change(request, camera)

    def _prompt(self, prompt: Prompt, camera: str, stamp: int) -> str:
        known = self._ids.get(prompt.object_id, 0)
        message = prompt_message(prompt, Header(stamp=time_message(stamp)), camera, known)
        if known:
            return str(self._call(interface.REFINE_OBJECT, RefineObject.Request(prompt=message)).message)
        reply = self._call(interface.ADD_OBJECT, AddObject.Request(prompt=message))
        self._started[int(reply.object_id)] = camera
        if prompt.object_id:
            self._ids[prompt.object_id] = int(reply.object_id)
        return str(reply.message)

    def _change(self, decision: Decision, camera: str) -> str:
        if decision.service == 'reset':
            reply = self._call(interface.RESET, Reset.Request(camera=camera))
            self._started = {number: at for number, at in self._started.items() if at != camera}
            return str(reply.message)
        if decision.object_id not in self._ids:
            raise BagError(f'{decision.service} names object {decision.object_id}, which no prompt has started')
        number = self._ids[decision.object_id]
        if decision.service == 'remove_object':
            reply = self._call(interface.REMOVE_OBJECT, RemoveObject.Request(object_id=number))
            self._started.pop(number, None)
            return str(reply.message)
        renamed = SetLabel.Request(object_id=number, label=decision.label)
        return str(self._call(interface.SET_LABEL, renamed).message)

    def _call(self, service: interface.Service, request: Any) -> Any:
        client = self._clients[service]
        if not client.wait_for_service(REPLY_TIMEOUT):
            raise BagError(f'there is no service {client.srv_name}: start the segmentation node first')
        answered = threading.Event()
        future = client.call_async(request)
        future.add_done_callback(lambda _: answered.set())
        waited = 0.0
        while not answered.wait(0.2):
            waited += 0.2
            if self._stopping() or waited > REPLY_TIMEOUT:
                raise BagError(f'{client.srv_name} did not answer within {waited:.0f} s')
        reply = future.result()
        if reply is None or not reply.success:
            raise BagError(f'{client.srv_name} was refused: {reply.message if reply is not None else "no reply"}')
        return reply
