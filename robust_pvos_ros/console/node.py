"""The node ``web_console``: reads the segmentation node's topics, calls its services, and runs the server."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Mapping
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import InvalidTopicNameException
from rclpy.node import Client, Node
from rclpy.task import Future
from rclpy.validate_full_topic_name import validate_full_topic_name
from robust_pvos_interfaces.srv import AddObject, RefineObject, RemoveObject, Reset, SetLabel
from std_msgs.msg import Header

from robust_pvos_ros import interface
from robust_pvos_ros.console.bridge import Bridge, LoopThread, RequestError
from robust_pvos_ros.console.config import ConsoleConfig, ConsoleError, read_token
from robust_pvos_ros.console.feed import CameraFeed
from robust_pvos_ros.console.health import NodeHealth, read_health
from robust_pvos_ros.console.parameters import read_config
from robust_pvos_ros.console.protocol import PromptRequest
from robust_pvos_ros.console.recording import Recording
from robust_pvos_ros.console.server import ConsoleServer
from robust_pvos_ros.messages import prompt_message, time_message
from robust_pvos_ros.node_process import StoppableNode

LOOK_PERIOD = 0.2
FRESH = 3.5
"""Seconds after which a node that reports every second counts as gone."""
REPLY_TIME = 30.0
START_TIME, STOP_TIME = 20.0, 90.0
LOGGERS = ('robust_pvos_ros.console', 'aiohttp')


class ConsoleNode(StoppableNode):
    """Between the segmentation node and the pages.

    Raises:
        ConsoleError: if a parameter is wrong, the token is missing, or the address cannot be had.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__('web_console', **kwargs)
        config = read_config(self)
        token = read_token(config, os.environ)
        self.served = self.resolve_topic_name(config.node)
        self.port = 0
        self._health: NodeHealth | None = None
        self._heard = -FRESH
        self._feeds: dict[str, CameraFeed] = {}
        self._watched: frozenset[str] = frozenset()
        self._callers = {
            service: self._client(kind, service)
            for kind, service in (
                (AddObject, interface.ADD_OBJECT),
                (RefineObject, interface.REFINE_OBJECT),
                (RemoveObject, interface.REMOVE_OBJECT),
                (SetLabel, interface.SET_LABEL),
                (Reset, interface.RESET),
            )
        }
        self._log_handler = LogToRos(self)
        for name in LOGGERS:
            logging.getLogger(name).addHandler(self._log_handler)
        self._thread = LoopThread()
        self._server = ConsoleServer(
            config, token, _Requests(self), self.served, Recording(config.folder, self.served)
        )
        pages = self._server.pages
        self._bridge = Bridge(self._thread.loop, pages.frame, pages.tell)
        self._tell_state()
        self._start(config, bool(token))
        self.create_subscription(DiagnosticArray, interface.DIAGNOSTICS.name, self._on_diagnostics, 10)
        self.create_timer(LOOK_PERIOD, self._look, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _client(self, kind: type, service: interface.Service) -> Client:
        return self.create_client(kind, service.name.replace('~', self.served, 1))

    def _start(self, config: ConsoleConfig, locked: bool) -> None:
        try:
            self.port = self._thread.run(self._server.start(), START_TIME)
        except BaseException:
            self._thread.stop()
            raise
        host = f'[{config.host}]' if ':' in config.host else config.host
        with_token = '?token=TOKEN' if locked else ''
        self.get_logger().info(f'console of {self.served}: http://{host}:{self.port}/{with_token}')

    def stop(self) -> bool:
        """End the server, and a recording that runs."""
        try:
            self._thread.run(self._server.stop(), STOP_TIME)
        except (TimeoutError, FutureTimeoutError):
            self.get_logger().error(f'the server did not end within {STOP_TIME:.0f} s')
            return False
        self._thread.stop()
        for name in LOGGERS:
            logging.getLogger(name).removeHandler(self._log_handler)
        return True

    # ----------------------------------------------------------------------------------------------- on the executor

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        health = read_health(message.status, self.served)
        if health is None:
            return
        self._health, self._heard = health, time.monotonic()
        if health.state in ('active', 'inactive'):
            self._match_feeds(health)
        self._tell_state()

    def _match_feeds(self, health: NodeHealth) -> None:
        """One feed for each camera of the node."""
        for name in list(self._feeds):
            camera = health.cameras.get(name)
            if camera is None or camera.image_topic != self._feeds[name].image_topic:
                feed = self._feeds.pop(name)
                feed.forget()
                feed.destroy()
        for name, camera in health.cameras.items():
            if name not in self._feeds:
                self._add_feed(name, camera.image_topic)

    def _add_feed(self, name: str, image_topic: str) -> None:
        try:
            validate_full_topic_name(image_topic)
            self._feeds[name] = CameraFeed(
                self, self.served, name, image_topic, self._bridge.frame, self._is_processing
            )
        except InvalidTopicNameException as error:
            reason = ' '.join(str(error).split())
            self.get_logger().warning(f'a camera of {self.served} is left out: {reason}', once=True)

    def _is_processing(self) -> bool:
        return self._health is not None and self._health.state == 'active'

    def _look(self) -> None:
        late = time.monotonic() - self._heard > FRESH
        if self._health is not None and (late or not self._callers[interface.RESET].service_is_ready()):
            self._health = None
            for feed in self._feeds.values():
                feed.forget()
            self._tell_state()
        for name, feed in self._feeds.items():
            feed.look(name in self._watched)

    def _tell_state(self) -> None:
        self._bridge.state(state_of(self._health, self.served, tuple(self._feeds)))

    # --------------------------------------------------------------------------------------------------- on the loop

    def watch(self, cameras: frozenset[str]) -> None:
        """Note which cameras some page shows; the executor looks at it soon."""
        self._watched = cameras

    async def ask(self, service: interface.Service, request: Any) -> Any:
        """The answer of a service of the segmentation node.

        Raises:
            RequestError: if the node is not there or does not answer in time.
        """
        client = self._callers[service]
        if not client.service_is_ready():
            raise RequestError(f'the segmentation node {self.served} is not there: start it, or wait until it is back')
        answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        future = client.call_async(request)
        future.add_done_callback(lambda done: self._bridge.call(_settle, answered, done))
        try:
            return await asyncio.wait_for(answered, REPLY_TIME)
        except asyncio.TimeoutError as error:
            raise RequestError(
                f'the segmentation node {self.served} did not answer within {REPLY_TIME:.0f} s: it may be gone or busy'
            ) from error
        finally:
            client.remove_pending_request(future)


class _Requests:
    """The requests of pages as calls of services; see ``robust_pvos_ros.console.bridge.Segmentation``."""

    def __init__(self, node: ConsoleNode) -> None:
        self._node = node

    def watch(self, cameras: frozenset[str]) -> None:
        self._node.watch(cameras)

    async def prompt(self, request: PromptRequest) -> dict[str, Any]:
        prompt = request.prompt
        header = Header(stamp=time_message(request.stamp))
        message = prompt_message(prompt, header, request.camera, prompt.object_id)
        if prompt.object_id:
            return _reply(await self._node.ask(interface.REFINE_OBJECT, RefineObject.Request(prompt=message)))
        return _reply(await self._node.ask(interface.ADD_OBJECT, AddObject.Request(prompt=message)))

    async def remove(self, object_id: int) -> dict[str, Any]:
        return _reply(await self._node.ask(interface.REMOVE_OBJECT, RemoveObject.Request(object_id=object_id)))

    async def rename(self, object_id: int, label: str) -> dict[str, Any]:
        request = SetLabel.Request(object_id=object_id, label=label)
        return _reply(await self._node.ask(interface.SET_LABEL, request))

    async def reset(self, camera: str) -> dict[str, Any]:
        return _reply(await self._node.ask(interface.RESET, Reset.Request(camera=camera)))


def state_of(health: NodeHealth | None, node: str, known: tuple[str, ...]) -> dict[str, Any]:
    """The part of the pages' state that the segmentation node decides.

    Args:
        health: as last reported; None where the node is not there.
        node: its full name.
        known: names of the cameras that are read.

    Returns:
        ``node``: ``name``, ``present``, ``state``, ``text``, ``memory_mb``, ``texts``; ``cameras``: a list of ``name``,
        ``topic``, ``text``, ``figures``.
    """
    if health is None:
        text = f'The segmentation node {node} is not there. This page goes on by itself when it is back.'
        cameras: list[dict[str, Any]] = [
            {'name': name, 'topic': '', 'text': 'no report', 'figures': {}} for name in known
        ]
        about = {'name': node, 'present': False, 'state': 'gone', 'text': text, 'memory_mb': None, 'texts': {}}
        return {'node': about, 'cameras': cameras}
    cameras = [
        {'name': name, 'topic': camera.image_topic, 'text': camera.text, 'figures': dict(camera.figures)}
        for name, camera in health.cameras.items()
    ]
    about = {
        'name': node, 'present': True, 'state': health.state, 'text': health.text, 'memory_mb': health.memory_mb,
        'texts': dict(health.texts),
    }  # fmt: skip
    return {'node': about, 'cameras': cameras}


def _reply(response: Any) -> dict[str, Any]:
    """Fields of a service's response for the page."""
    answer: dict[str, Any] = {'success': bool(response.success), 'message': response.message}
    fields: Mapping[str, type] = {'object_id': int, 'object_score': float, 'area_px': int, 'removed': int}
    for name, kind in fields.items():
        if hasattr(response, name):
            answer[name] = kind(getattr(response, name))
    return answer


def _settle(answered: asyncio.Future[Any], done: Future) -> None:
    if answered.done():
        return
    error = done.exception()
    if error is not None:
        answered.set_exception(RequestError(f'the request could not be answered: {error}'))
    else:
        answered.set_result(done.result())


class LogToRos(logging.Handler):
    """What the server logs goes where the node logs; whatever goes wrong on the way, the one who logs goes on."""

    def __init__(self, node: Node) -> None:
        super().__init__(logging.WARNING)
        self._node = node

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record."""
        try:
            text, log = self.format(record), self._node.get_logger()
            # Two statements: rclpy allows each place that logs one severity for ever.
            if record.levelno >= logging.ERROR:
                log.error(text)
            else:
                log.warning(text)
        except Exception:
            self.handleError(record)


__all__ = ['ConsoleError', 'ConsoleNode', 'LogToRos', 'state_of']
