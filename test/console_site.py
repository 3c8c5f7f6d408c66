"""A server of the console with a segmentation node that a test decides about, clients for it, and frames to send."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import cv2
import numpy as np
from aiohttp import WSMsgType

from robust_pvos_ros.console.config import ConsoleConfig
from robust_pvos_ros.console.encoding import unpack
from robust_pvos_ros.console.protocol import PromptRequest
from robust_pvos_ros.console.recording import Recording
from robust_pvos_ros.console.server import ConsoleServer
from robust_pvos_ros.tracking.types import ObjectState, TrackedObject


class Segmentation:
    """Answers as a segmentation node would, and notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.watched: frozenset[str] = frozenset()
        self.answer: Callable[[], Awaitable[None]] | None = None

    async def _reply(self, *asked: Any) -> dict[str, Any]:
        self.asked.append(asked)
        if self.answer is not None:
            await self.answer()
        return {'success': True, 'message': 'done', 'object_id': 7}

    async def prompt(self, request: PromptRequest) -> dict[str, Any]:
        return await self._reply('prompt', request)

    async def remove(self, object_id: int) -> dict[str, Any]:
        return await self._reply('remove', object_id)

    async def rename(self, object_id: int, label: str) -> dict[str, Any]:
        return await self._reply('rename', object_id, label)

    async def reset(self, camera: str) -> dict[str, Any]:
        return await self._reply('reset', camera)

    def watch(self, cameras: frozenset[str]) -> None:
        self.watched = cameras


class Site:
    """A running server and clients for it."""

    def __init__(self, server: ConsoleServer, port: int, segmentation: Segmentation) -> None:
        self.server = server
        self.segmentation = segmentation
        self.host = f'127.0.0.1:{port}'
        self.url = f'http://{self.host}'
        self.session = aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True))

    async def get(self, path: str, **options: Any) -> aiohttp.ClientResponse:
        response = await self.session.get(self.url + path, allow_redirects=False, **options)
        await response.read()
        return response

    @asynccontextmanager
    async def page(self, **options: Any) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        async with self.session.ws_connect(f'{self.url}/socket', origin=self.url, **options) as socket:
            yield socket


@asynccontextmanager
async def running(folder: Path, token: str = '', **config: Any) -> AsyncIterator[Site]:
    segmentation = Segmentation()
    recording = Recording(folder / 'bags', '/robust_pvos')
    server = ConsoleServer(ConsoleConfig(port=0, **config), token, segmentation, '/robust_pvos', recording)
    site = Site(server, await server.start(), segmentation)
    try:
        yield site
    finally:
        await site.session.close()
        await server.stop()


async def until(socket: aiohttp.ClientWebSocketResponse, kind: str) -> dict[str, Any]:
    """The next text message of a type."""
    while True:
        message = await socket.receive(10)
        assert message.type in (WSMsgType.TEXT, WSMsgType.BINARY), message
        if message.type == WSMsgType.TEXT and (fields := json.loads(message.data))['type'] == kind:
            return fields


async def next_frame(socket: aiohttp.ClientWebSocketResponse) -> tuple[dict[str, Any], Any, bytes]:
    while True:
        message = await socket.receive(10)
        if message.type == WSMsgType.BINARY:
            return unpack(message.data)


def image(pixels: np.ndarray, encoding: str) -> SimpleNamespace:
    return SimpleNamespace(
        height=pixels.shape[0], width=pixels.shape[1], encoding=encoding, is_bigendian=0, step=pixels.strides[0],
        data=pixels.tobytes(),
    )  # fmt: skip


def tracked(object_id: int) -> TrackedObject:
    return TrackedObject(object_id, 'car', ObjectState.OCCLUDED, 0.5, 0.5, (0, 0, 0, 0), (0.0, 0.0), 0, 12, 5)


def scene() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    rgb = cv2.resize(rng.integers(0, 255, (6, 8, 3), np.uint8), (64, 48), interpolation=cv2.INTER_CUBIC)
    labels = np.zeros((48, 64), np.uint16)
    labels[10:20, 5:30], labels[15:40, 25:60], labels[47, 63] = 300, 65535, 44
    return rgb, labels
