"""The console's server by itself: who gets in, what is refused, and that a page that stands still costs nothing."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from aiohttp import WSMsgType
from test_console_protocol import image, scene, tracked

from robust_pvos_ros.console.bridge import RequestError
from robust_pvos_ros.console.config import ConsoleConfig, ConsoleError, read_token
from robust_pvos_ros.console.encoding import Frame, labels_from_runs, unpack
from robust_pvos_ros.console.protocol import LONGEST_MESSAGE, PromptRequest
from robust_pvos_ros.console.recording import Recording
from robust_pvos_ros.console.server import ConsoleServer

TOKEN = 'correct-horse-battery'
PATHS = ('/', '/index.html', '/app.js', '/style.css', '/socket', '/nothing')


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


def frame(stamp: int = 1, camera: str = 'camera') -> Frame:
    rgb, labels = scene()
    return Frame(camera, stamp, image(rgb, 'rgb8'), image(labels, '16UC1'), (tracked(300),), {300: 1.0})


# -------------------------------------------------------------------------------------------------------- who gets in


def test_a_wrong_token_gets_nothing(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path, TOKEN) as site:
            for path in PATHS:
                for extra in ('', '?token=', '?token=wrong', f'?token={TOKEN[:-1]}', f'?token={TOKEN}x'):
                    response = await site.get(path + extra)
                    assert response.status == 401, (path, extra)
                    assert 'needs its token' in await response.text()
                    assert 'Set-Cookie' not in response.headers
                for headers in (
                    {'Authorization': 'Bearer wrong'}, {'Authorization': TOKEN}, {'Authorization': f'Basic {TOKEN}'},
                    {'Cookie': 'robust_pvos_console=x'}, {'Cookie': f'robust_pvos_console={TOKEN}'},
                ):  # fmt: skip
                    assert (await site.get(path, headers=headers)).status == 401, (path, headers)
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                async with site.page():
                    pass
            assert refused.value.status == 401
            assert len(site.server.pages) == 0

    asyncio.run(check())


def test_the_token_opens_the_page_and_leaves_the_address(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path, TOKEN) as site:
            entered = await site.get(f'/?token={TOKEN}')
            assert (entered.status, entered.headers['Location']) == (303, '/')
            cookie = entered.headers['Set-Cookie']
            assert 'HttpOnly' in cookie and 'SameSite=Strict' in cookie and TOKEN not in cookie
            assert (await site.get('/')).status == 200
            async with site.page() as socket:
                assert (await until(socket, 'hello'))['node'] == '/robust_pvos'
        async with running(tmp_path, TOKEN) as site:
            assert (await site.get('/', headers={'Authorization': f'Bearer {TOKEN}'})).status == 200

    asyncio.run(check())


def test_a_page_of_another_site_gets_no_socket(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path) as site:
            for origin in ('http://evil.example', 'null', f'http://{site.host}.evil.example', 'http://127.0.0.1:1'):
                with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                    await site.session.ws_connect(f'{site.url}/socket', origin=origin)
                assert refused.value.status == 403, origin
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await site.session.ws_connect(f'{site.url}/socket')
            assert refused.value.status == 403
            assert (await site.get('/socket', headers={'Origin': site.url})).status == 426

    asyncio.run(check())


def test_without_a_token_a_foreign_name_gets_nothing(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path) as site:
            for name in ('evil.example', 'localhost.evil.example', '10.0.0.1', 'evil.example:8100', '[::1'):
                assert (await site.get('/', headers={'Host': name})).status == 403, name
            for name in ('localhost', 'localhost:9', '127.0.0.1', '127.0.0.1:8100', '[::1]:8100'):
                assert (await site.get('/', headers={'Host': name})).status == 200, name

    asyncio.run(check())


@pytest.mark.parametrize(
    'config, variable, sentence',
    [
        ({'host': '0.0.0.0'}, '', 'can be reached from other machines: give a token'),
        ({'host': '::'}, '', 'can be reached from other machines'),
        ({'host': '192.168.0.4'}, 'short', 'must have 16 to 256 printable ASCII'),
        ({'host': '127.0.0.1'}, 'with a space in the middle', 'without spaces'),
        ({'host': 'robot.local'}, '', 'host must be an IP address'),
        ({'host': 'robot.local'}, TOKEN, 'host must be an IP address'),
        ({'token_file': '/does/not/exist'}, '', 'cannot be read as text'),
    ],
)
def test_a_start_that_would_be_open_is_refused(config: dict[str, str], variable: str, sentence: str) -> None:
    with pytest.raises(ConsoleError, match=sentence):
        read_token(ConsoleConfig(**config), {'ROBUST_PVOS_CONSOLE_TOKEN': variable})


def test_the_token_comes_from_the_environment_or_a_file(tmp_path: Path) -> None:
    assert read_token(ConsoleConfig(), {}) == ''
    assert read_token(ConsoleConfig(host='0.0.0.0'), {'ROBUST_PVOS_CONSOLE_TOKEN': TOKEN}) == TOKEN
    path = tmp_path / 'token'
    path.write_text(f'{TOKEN}\n')
    assert read_token(ConsoleConfig(token_file=str(path)), {'ROBUST_PVOS_CONSOLE_TOKEN': 'x'}) == TOKEN
    path.write_text('\n')
    with pytest.raises(ConsoleError, match='is empty'):
        read_token(ConsoleConfig(token_file=str(path)), {})


def test_by_default_it_listens_on_loopback_alone(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path) as site:
            assert site.server._runner is not None
            assert [address[0] for address in site.server._runner.addresses] == ['127.0.0.1']

    asyncio.run(check())


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path) as site:
            port = int(site.host.rpartition(':')[2])
            other = ConsoleServer(
                ConsoleConfig(port=port), '', Segmentation(), '/robust_pvos', Recording(tmp_path, '/robust_pvos')
            )
            with pytest.raises(ConsoleError, match=f'cannot listen on 127.0.0.1 port {port}'):
                await other.start()

    asyncio.run(check())


# ------------------------------------------------------------------------------------------------------------- routes


def test_every_answer_has_the_headers_that_keep_a_page_safe(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path) as site:
            for path in ('/', '/app.js', '/style.css', '/nothing', '/../config.py', '/socket'):
                headers = (await site.get(path)).headers
                assert headers['Content-Security-Policy'].startswith("default-src 'none'; script-src 'self'"), path
                assert "'unsafe" not in headers['Content-Security-Policy']
                assert headers['X-Content-Type-Options'] == 'nosniff'
                assert headers['X-Frame-Options'] == 'DENY'
                assert headers['Referrer-Policy'] == 'no-referrer'
                assert 'aiohttp' not in headers['Server']

    asyncio.run(check())


def test_no_path_reaches_a_file_that_is_not_of_the_page(tmp_path: Path) -> None:
    paths = (
        '/static/app.js', '/server.py', '/../server.py', '/%2e%2e/server.py', '/..%2fserver.py', '//etc/passwd',
        '/%00', '/app.js/', '/app.js%00.html', '/index.html/../../server.py', '/' + 'a' * 5000,
    )  # fmt: skip

    async def check() -> None:
        async with running(tmp_path) as site:
            for path in paths:
                response = await site.get(path)
                assert response.status in (400, 404), (path, response.status)
                assert b'import' not in await response.read()
            for method in ('post', 'put', 'delete', 'patch', 'options'):
                async with site.session.request(method, site.url + '/') as response:
                    assert response.status == 405, method

    asyncio.run(check())


def test_garbage_on_the_wire_gets_no_file_and_ends_nothing(tmp_path: Path) -> None:
    random_ = random.Random(4)

    async def send(host: str, data: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*host.split(':'))
        writer.write(data)
        writer.write_eof()
        try:
            answer = await asyncio.wait_for(reader.read(), 10)
        except ConnectionError:
            answer = b''  # hung up on, which is an answer, too
        writer.close()
        return answer

    def garbage() -> bytes:
        if random_.random() < 0.3:
            return random_.randbytes(random_.randint(1, 300))
        method = random_.choice((b'GET', b'G\0T', b'POST', b'CONNECT', b'TRACE', b''))
        path = random_.choice((b'/', b'/../../etc/passwd', b'*', b'http://evil.example/', b'/socket', b'\xff\xfe', b''))
        lines = [method + b' ' + path + b' HTTP/' + random_.choice((b'1.1', b'9.9', b'x'))]
        lines.append(random_.choice((b'Host: 127.0.0.1', b'Host', b'Host: a\0b', b'Content-Length: -1')))
        lines.append(random_.choice((b'Upgrade: websocket', b'Transfer-Encoding: chunked', b'X: ' + b'y' * 9000)))
        return b'\r\n'.join((*lines, b'', random_.randbytes(20)))

    async def check() -> None:
        async with running(tmp_path) as site:
            for _ in range(200):
                answer = await send(site.host, garbage())
                assert b'root:' not in answer and b' 500 ' not in answer.split(b'\r\n')[0], answer
            assert (await site.get('/')).status == 200

    asyncio.run(check())


def test_the_page_asks_nobody_else_for_anything() -> None:
    folder = Path(__file__).resolve().parent.parent / 'robust_pvos_ros' / 'console' / 'static'
    for path in folder.iterdir():
        text = path.read_text().replace('http://www.w3.org/2000/svg', '').replace('http://ADDRESS:PORT', '')
        assert 'http://' not in text and 'https://' not in text, path.name
        assert 'style="' not in text and 'onclick=' not in text, f'{path.name}: the policy forbids it'


# ----------------------------------------------------------------------------------------------------------- messages


def test_requests_reach_the_node_and_answers_the_page(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path) as site, site.page() as socket:
            await socket.send_json({'type': 'remove', 'request': 5, 'object_id': 300})
            reply = await until(socket, 'reply')
            assert (reply['request'], reply['success'], reply['object_id']) == (5, True, 7)
            await socket.send_json({'type': 'add', 'request': 6, 'camera': 'c', 'stamp': '12', 'points': [[1, 2, 1]]})
            assert (await until(socket, 'reply'))['request'] == 6
            (removed, (_, prompt)) = site.segmentation.asked
            assert removed == ('remove', 300)
            assert (prompt.camera, prompt.stamp, prompt.prompt.points.tolist()) == ('c', 12, [[1.0, 2.0]])

    asyncio.run(check())


def test_a_node_that_is_gone_is_said_in_the_answer(tmp_path: Path) -> None:
    async def gone() -> None:
        raise RequestError('the segmentation node /robust_pvos is not there')

    async def broken() -> None:
        raise KeyError('surprise')

    async def check() -> None:
        async with running(tmp_path) as site, site.page() as socket:
            site.segmentation.answer = gone
            await socket.send_json({'type': 'reset', 'request': 1})
            reply = await until(socket, 'reply')
            assert (reply['success'], reply['message']) == (False, 'the segmentation node /robust_pvos is not there')
            site.segmentation.answer = broken
            await socket.send_json({'type': 'reset', 'request': 2})
            reply = await until(socket, 'reply')
            assert not reply['success'] and 'KeyError' in reply['message']

    asyncio.run(check())


def test_too_many_requests_at_once_are_refused(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path) as site, site.page() as socket:
            going_on = asyncio.Event()
            site.segmentation.answer = going_on.wait  # type: ignore[assignment]
            for number in range(17):
                await socket.send_json({'type': 'reset', 'request': number})
            refused = await until(socket, 'refused')
            assert refused['request'] == 16 and '16 requests are waiting' in refused['message']
            going_on.set()
            assert {(await until(socket, 'reply'))['request'] for _ in range(16)} == set(range(16))

    asyncio.run(check())


def nonsense(random_: random.Random) -> str:
    """A message that is wrong in one way or another."""
    kinds = ('add', 'refine', 'remove', 'rename', 'record', 'watch', 'shown', 'exec', '', 'reset ')
    values: tuple[Any, ...] = (
        None, True, -1, 0, 1e308, 2**70, '', '../../etc/passwd', '$(reboot)', '\x00', [], {}, [[1, 2]], 'x' * 300,
    )  # fmt: skip
    keys = ('request', 'camera', 'object_id', 'label', 'stamp', 'points', 'box', 'on', 'cameras', 'path', 'number')
    fields = {key: random_.choice(values) for key in random_.sample(keys, random_.randint(0, 6))}
    text = json.dumps({'type': random_.choice(kinds), **fields, 'wrong': 1})
    if random_.random() < 0.3:
        cut = random_.randint(0, len(text) - 1)
        text = text[:cut]
    return text


def test_a_thousand_bad_messages_are_refused_and_the_page_goes_on(tmp_path: Path) -> None:
    random_ = random.Random(8)

    async def check() -> None:
        async with running(tmp_path) as site, site.page() as socket:
            for _ in range(1000):
                await socket.send_str(nonsense(random_))
                message = (await until(socket, 'refused'))['message']
                assert message and '\n' not in message
            await socket.send_json({'type': 'reset', 'request': 1})
            assert (await until(socket, 'reply'))['success']
            assert site.segmentation.asked == [('reset', '')]
        assert not (tmp_path / 'bags').exists()

    asyncio.run(check())


def test_binary_data_is_refused_and_a_giant_message_ends_the_connection(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path) as site:
            async with site.page() as socket:
                await socket.send_bytes(b'\0' * 100)
                assert 'binary' in (await until(socket, 'refused'))['message']
                await socket.send_str('x' * (LONGEST_MESSAGE + 100))
                while (message := await socket.receive(10)).type in (WSMsgType.TEXT, WSMsgType.BINARY):
                    pass
                assert message.type in (WSMsgType.CLOSE, WSMsgType.CLOSED)
                assert socket.close_code == aiohttp.WSCloseCode.MESSAGE_TOO_BIG
            async with site.page() as socket:
                await until(socket, 'hello')

    asyncio.run(check())


def test_no_more_pages_than_allowed(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path, max_pages=2) as site, site.page(), site.page():
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                async with site.page():
                    pass
            assert refused.value.status == 503

    asyncio.run(check())


# ------------------------------------------------------------------------------------------------------------- frames


def test_a_frame_reaches_every_page_that_watches(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path) as site, site.page() as one, site.page() as two:
            for socket in (one, two):
                await socket.send_json({'type': 'watch', 'cameras': ['camera']})
                await until(socket, 'state')
            while site.segmentation.watched != {'camera'}:
                await asyncio.sleep(0.01)
            site.server.pages.frame(frame(5))
            site.server.pages.frame(frame(5, 'other'))
            for socket in (one, two):
                header, runs, _ = await next_frame(socket)
                assert (header['camera'], header['stamp']) == ('camera', '5')
                np.testing.assert_array_equal(labels_from_runs(runs, 48, 64), scene()[1])
            async with site.page() as late:
                await late.send_json({'type': 'watch', 'cameras': ['camera']})
                header, _, _ = await next_frame(late)
                assert header['stamp'] == '5', 'a page that opens later begins with the newest picture'
        assert site.segmentation.watched == frozenset()

    asyncio.run(check())


def test_a_page_that_confirms_nothing_gets_two_frames_and_then_the_newest(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path) as site, site.page() as socket:
            await socket.send_json({'type': 'watch', 'cameras': ['camera']})
            while not site.segmentation.watched:
                await asyncio.sleep(0.01)
            encoded = []
            encode = site.server.pages._encode

            def counted(given: Frame, number: int) -> bytes:
                encoded.append(given.stamp)
                return encode(given, number)

            site.server.pages._encode = counted  # type: ignore[method-assign]
            for stamp in range(1, 51):
                site.server.pages.frame(frame(stamp))
                await asyncio.sleep(0.01)
            assert len(encoded) == 2, 'a page that stands still costs no encoding'
            first = (await next_frame(socket))[0]
            second = (await next_frame(socket))[0]
            with pytest.raises(asyncio.TimeoutError):
                while (await socket.receive(0.5)).type != WSMsgType.BINARY:
                    pass
            await socket.send_json({'type': 'shown', 'camera': 'camera', 'number': second['number']})
            assert int(first['stamp']) < int(second['stamp']) < 50
            assert (await next_frame(socket))[0]['stamp'] == '50', 'after a pause comes the newest frame'

    asyncio.run(check())


def test_confirming_a_frame_that_was_never_sent_is_refused(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path) as site, site.page() as socket:
            await socket.send_json({'type': 'shown', 'camera': 'camera', 'number': 3})
            assert 'is not on its way to this page' in (await until(socket, 'refused'))['message']

    asyncio.run(check())


def test_a_frame_that_cannot_be_encoded_is_left_out(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path) as site, site.page() as socket:
            await socket.send_json({'type': 'watch', 'cameras': ['camera']})
            while not site.segmentation.watched:
                await asyncio.sleep(0.01)
            broken = Frame('camera', 1, image(scene()[0], 'nonsense'))
            site.server.pages.frame(broken)
            await asyncio.sleep(0.1)
            site.server.pages.frame(frame(2))
            assert (await next_frame(socket))[0]['stamp'] == '2'

    asyncio.run(check())


def test_the_state_is_told_when_it_changes(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path) as site, site.page() as socket:
            site.server.pages.tell({'node': {'present': True, 'state': 'active'}})
            while (state := await until(socket, 'state')).get('node') is None or 'recording' not in state:
                pass
            assert state['pages'] == 1
            assert state['node'] == {'present': True, 'state': 'active'}
            assert state['recording'] == {'on': False, 'name': '', 'seconds': 0, 'bytes': 0, 'problem': ''}

    asyncio.run(check())
