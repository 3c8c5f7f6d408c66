"""The server of the page: routes, the WebSocket of each page, and the end of it all.  No ROS.

Files are read once, at start, and found by a table: no path that comes from outside reaches the file system.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web

from robust_pvos_ros.console import protocol
from robust_pvos_ros.console.access import Gate, foreign_origin, refusal
from robust_pvos_ros.console.bridge import RequestError, Segmentation
from robust_pvos_ros.console.config import ConsoleConfig, ConsoleError
from robust_pvos_ros.console.pages import Page, Pages, encoder
from robust_pvos_ros.console.protocol import ProtocolError
from robust_pvos_ros.console.recording import Recording, RecordingError
from robust_pvos_ros.overlay import PALETTE, TINT
from robust_pvos_ros.tracking.types import MAX_LABEL_LENGTH

STATIC = Path(__file__).parent / 'static'
TYPES = {'.html': 'text/html', '.css': 'text/css', '.js': 'text/javascript', '.svg': 'image/svg+xml'}
HEARTBEAT = 15.0
CLOSE_TIME = 2.0
LOOK_PERIOD = 0.5
RECORDING_PERIOD = 1.0
BEAT_PERIOD = 3.0
"""Seconds between two signs of life; a page takes a silence of three times as long for a connection that is dead."""
MOST_REQUESTS = 16
"""Requests of one page that may wait for their answers."""
log = logging.getLogger(__name__)


class ConsoleServer:
    """Serves the page and speaks with it; every method runs on the event loop.

    Args:
        config: of the console.
        token: that requests must show; empty for none.
        segmentation: what prompts go to.
        node: full name of the segmentation node, for people.
        recording: what the record button moves.
    """

    def __init__(
        self, config: ConsoleConfig, token: str, segmentation: Segmentation, node: str, recording: Recording
    ) -> None:
        self._config = config
        self._segmentation = segmentation
        self._node = node
        self._recording = recording
        # One thread for pictures: encoding several at once would take the cores from the network.
        self._encoders = ThreadPoolExecutor(1, 'encoder')
        self._recorders = ThreadPoolExecutor(1, 'recording')
        encode = encoder(config.picture_quality, config.picture_side)
        self.pages = Pages(encode, self._encoders, segmentation.watch)
        self._sockets: set[web.WebSocketResponse] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._runner: web.AppRunner | None = None
        self._files = _read_files()
        self.app = web.Application(middlewares=[Gate(token).middleware()], client_max_size=protocol.LONGEST_MESSAGE)
        self.app.router.add_get('/socket', self._socket)
        for name in self._files:
            self.app.router.add_get(f'/{name}', partial(self._file, name))
        self.app.router.add_get('/', partial(self._file, 'index.html'))
        self.app.on_startup.append(self._begin)
        self.app.on_shutdown.append(self._say_goodbye)
        self.app.on_cleanup.append(self._end)

    # ---------------------------------------------------------------------------------------------------- life

    async def start(self) -> int:
        """Listen; returns the port.  Raises ``ConsoleError`` if the address cannot be had."""
        self._runner = web.AppRunner(self.app, access_log=None, handle_signals=False, shutdown_timeout=2.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._config.host, self._config.port)
        try:
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            raise ConsoleError(
                f'cannot listen on {self._config.host} port {self._config.port}: {error.strerror}; choose another with '
                'the parameters host and port'
            ) from error
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Say good-bye to every page and end."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _begin(self, _: web.Application) -> None:
        for work in (self.pages.work, self._look, self._beat, self._watch_recording):
            task = asyncio.create_task(work())
            task.add_done_callback(_log_failure)
            self._tasks.append(task)

    async def _say_goodbye(self, _: web.Application) -> None:
        closing = [
            socket.close(code=WSCloseCode.GOING_AWAY, message=b'the console is ending') for socket in self._sockets
        ]
        await asyncio.gather(*closing)

    async def _end(self, _: web.Application) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            await self._in_recorder(self._recording.close)
        except RecordingError as error:
            log.error('%s', error)
        self._encoders.shutdown(cancel_futures=True)
        self._recorders.shutdown()

    async def _look(self) -> None:
        while True:
            self.pages.note_watched()
            self.pages.tell_objects()
            await asyncio.sleep(LOOK_PERIOD)

    async def _beat(self) -> None:
        while True:
            self.pages.beat()
            await asyncio.sleep(BEAT_PERIOD)

    async def _watch_recording(self) -> None:
        while True:
            self.pages.tell({'recording': await self._in_recorder(self._recording.state)})
            await asyncio.sleep(RECORDING_PERIOD)

    async def _in_recorder(self, function: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._recorders, function)

    # --------------------------------------------------------------------------------------------------- files

    async def _file(self, name: str, _: web.Request) -> web.Response:
        data, kind = self._files[name]
        return web.Response(body=data, content_type=kind, charset='utf-8')

    # ------------------------------------------------------------------------------------------------- sockets

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        refused = foreign_origin(request)
        if refused is not None:
            return refused
        socket = web.WebSocketResponse(
            timeout=CLOSE_TIME, heartbeat=HEARTBEAT, max_msg_size=protocol.LONGEST_MESSAGE, compress=False
        )
        if not socket.can_prepare(request).ok:
            return refusal(426, 'This address is for WebSockets: open / in a browser.')
        await socket.prepare(request)
        if len(self._sockets) >= self._config.max_pages:
            # A browser does not let its page read an answer other than a WebSocket, but the reason of an end it does.
            reason = f'as many pages are open as max_pages allows ({self._config.max_pages}): close one'
            await socket.close(code=WSCloseCode.TRY_AGAIN_LATER, message=reason.encode())
            return socket
        page = Page()
        self._sockets.add(socket)
        page.say(self._greeting())
        self.pages.add(page)
        pump = asyncio.create_task(self._pump(socket, page))
        answers: set[asyncio.Task[None]] = set()
        try:
            async for message in socket:
                if message.type != WSMsgType.TEXT:
                    page.say(_refused('a message must be text with a JSON object, got binary data'))
                else:
                    self._take(page, message.data, answers)
        finally:
            self._sockets.discard(socket)
            self.pages.discard(page)
            for task in (pump, *answers):
                task.cancel()
            for result in await asyncio.gather(pump, *answers, return_exceptions=True):
                if isinstance(result, Exception):
                    log.error('a page was given up: %s: %s', type(result).__name__, result)
        return socket

    def _greeting(self) -> dict[str, Any]:
        return {
            'type': 'hello', 'node': self._node, 'palette': [list(colour) for colour in PALETTE], 'tint': TINT,
            'longest_label': MAX_LABEL_LENGTH,
        }  # fmt: skip

    async def _pump(self, socket: web.WebSocketResponse, page: Page) -> None:
        async def send(data: str | bytes) -> None:
            await (socket.send_str(data) if isinstance(data, str) else socket.send_bytes(data))

        try:
            await page.pump(send)
        except ConnectionError:
            return
        await socket.close(code=WSCloseCode.TRY_AGAIN_LATER, message=b'this page takes too few messages')

    def _take(self, page: Page, text: str, answers: set[asyncio.Task[None]]) -> None:
        """Act on one message of a page."""
        try:
            message = protocol.parse(text)
            if isinstance(message, protocol.Watch):
                self.pages.watch(page, message.cameras)
                return
            if isinstance(message, protocol.Shown):
                self.pages.shown(page, message.camera, message.number)
                return
            if len(answers) >= MOST_REQUESTS:
                raise ProtocolError(f'{MOST_REQUESTS} requests are waiting: wait for their answers', message.request)
        except ProtocolError as error:
            page.say(_refused(str(error), error.request))
            return
        task = asyncio.create_task(self._answer(page, message))
        answers.add(task)
        task.add_done_callback(answers.discard)

    async def _answer(self, page: Page, message: Any) -> None:
        answer: dict[str, Any] = {'success': False, 'object_id': 0}
        try:
            answer |= await self._ask(message)
        except (RequestError, RecordingError) as error:
            answer['message'] = str(error)
        except Exception as error:
            log.exception('a request failed')
            answer['message'] = f'the request failed unexpectedly: {type(error).__name__}: {error}'
        page.say({'type': 'reply', 'request': message.request, **answer})

    def _ask(self, message: Any) -> Awaitable[dict[str, Any]]:
        segmentation = self._segmentation
        if isinstance(message, protocol.PromptRequest):
            return segmentation.prompt(message)
        if isinstance(message, protocol.Remove):
            return segmentation.remove(message.object_id)
        if isinstance(message, protocol.Rename):
            return segmentation.rename(message.object_id, message.label)
        if isinstance(message, protocol.Reset):
            return segmentation.reset(message.camera)
        return self._record(message.on)

    async def _record(self, on: bool) -> dict[str, Any]:
        text = await self._in_recorder(self._recording.start if on else self._recording.stop)
        self.pages.tell({'recording': await self._in_recorder(self._recording.state)})
        return {'success': True, 'message': text}


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error('a part of the console has failed: %s: %s', type(error).__name__, error, exc_info=error)


def _refused(text: str, request: int | None = None) -> dict[str, Any]:
    return {'type': 'refused', 'request': request, 'message': text}


def _read_files() -> dict[str, tuple[bytes, str]]:
    """Name -> content and type of every file of the page."""
    return {
        path.name: (path.read_bytes(), TYPES[path.suffix])
        for path in sorted(STATIC.iterdir())
        if path.suffix in TYPES
    }
