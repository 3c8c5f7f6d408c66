"""A page of the console in Python: speaks the protocol as the one in the browser does."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any

import aiohttp
import numpy as np
from aiohttp import WSMsgType
from node_harness import wait_until

from robust_pvos_ros.console.encoding import labels_from_runs, unpack


class ConsoleClient:
    """Reads frames and states on a thread of its own.

    ``confirms`` is False for a page that stands still; ``pause`` are the seconds that a slow one takes for a frame.
    """

    def __init__(
        self, port: int, cameras: tuple[str, ...] = ('camera',), confirms: bool = True, pause: float = 0.0
    ) -> None:
        self.url = f'http://127.0.0.1:{port}'
        self.state: dict[str, Any] = {}
        self.header: dict[str, Any] = {}
        self.labels = np.zeros((0, 0), np.uint16)
        self.frames = 0
        self.past: list[tuple[str, np.ndarray]] = []
        self.replies: dict[int, dict[str, Any]] = {}
        self._cameras = cameras
        self._confirms = confirms
        self._pause = pause
        self._busy = asyncio.Lock()
        self._confirming: set[asyncio.Task[None]] = set()
        self._number = 0
        self._loop = asyncio.new_event_loop()
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._read(),))
        self._thread.start()
        wait_until(lambda: self.state, 'the console to greet')

    async def _read(self) -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f'{self.url}/socket', origin=self.url, max_msg_size=0) as socket,
        ):
            await socket.send_json({'type': 'watch', 'cameras': self._cameras})
            self._socket = socket
            async for message in socket:
                if message.type == WSMsgType.BINARY:
                    await self._take_frame(message.data)
                else:
                    self._take_text(json.loads(message.data))
            left = list(self._confirming)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def _take_frame(self, data: bytes) -> None:
        header, runs, _ = unpack(data)
        if header['type'] == 'past':
            self.past.append((header['stamp'], labels_from_runs(runs, header['height'], header['width'])))
            return
        if header['masks']:
            self.labels = labels_from_runs(runs, header['height'], header['width'])
        self.header = header
        self.frames += 1
        if self._confirms and self._pause:
            task = asyncio.create_task(self._confirm(header))
            self._confirming.add(task)
            task.add_done_callback(self._confirming.discard)
        elif self._confirms:
            await self._confirm(header)

    async def _confirm(self, header: dict[str, Any]) -> None:
        async with self._busy:
            await asyncio.sleep(self._pause)
            assert self._socket is not None
            await self._socket.send_json({'type': 'shown', 'camera': header['camera'], 'number': header['number']})

    def _take_text(self, message: dict[str, Any]) -> None:
        if message['type'] == 'state':
            self.state = message
        elif message.get('request') is not None:
            self.replies[message['request']] = message

    def request(self, kind: str, timeout: float = 40.0, **fields: Any) -> dict[str, Any]:
        """The answer to a request."""
        self._number += 1
        number = self._number
        message = {'type': kind, 'request': number, **fields}
        assert self._socket is not None
        asyncio.run_coroutine_threadsafe(self._socket.send_json(message), self._loop).result(10)
        return wait_until(lambda: self.replies.get(number), f'the answer to {kind}', timeout)

    @property
    def ids(self) -> list[int]:
        """IDs in the object list of the newest frame."""
        return [entry['id'] for entry in self.header.get('objects', [])]

    def wait(self, condition: Callable[[], Any], what: str, timeout: float = 20.0) -> Any:
        return wait_until(condition, what, timeout)

    def close(self) -> None:
        assert self._socket is not None
        asyncio.run_coroutine_threadsafe(self._socket.close(), self._loop).result(10)
        self._thread.join()
        self._loop.close()
