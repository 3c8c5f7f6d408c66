"""Who gets an answer of the console's server, and that no path or garbage gets more than the page."""

from __future__ import annotations

import asyncio
import logging
import random
from pathlib import Path

import aiohttp
import pytest
from console_site import Segmentation, running, until

from robust_pvos_ros.console.config import ConsoleConfig, ConsoleError, read_token
from robust_pvos_ros.console.recording import Recording
from robust_pvos_ros.console.server import ConsoleServer

TOKEN = 'correct-horse-battery'
PATHS = ('/', '/index.html', '/app.js', '/style.css', '/socket', '/nothing')


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


def test_an_origin_that_is_no_address_is_refused_with_a_sentence(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path) as site:
            for origin in ('http://[', 'http://[::1', 'http://]', '//[x]', 'http://[v1.a]:x'):
                response = await site.get('/socket', headers={'Origin': origin})
                assert response.status == 403, origin
                text = await response.text()
                assert 'Origin must be an address' in text or 'not by that of another site' in text, origin

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


def test_a_failure_is_answered_safely_and_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def check() -> None:
        async with running(tmp_path) as site:
            site.server._files['app.js'] = None  # type: ignore[assignment]
            for _ in range(3):
                response = await site.get('/app.js')
                assert response.status == 500
                assert response.headers['X-Content-Type-Options'] == 'nosniff'
                assert "default-src 'none'" in response.headers['Content-Security-Policy']
                text = await response.text()
                assert 'could not answer this request' in text and 'TypeError' not in text
            assert (await site.get('/')).status == 200

    with caplog.at_level(logging.ERROR):
        asyncio.run(check())
    assert [record.getMessage() for record in caplog.records] == ['GET /app.js could not be answered']


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

    def strange_origin() -> bytes:
        """A handshake that is right but for where it says to come from."""
        scheme = random_.choice((b'http://', b'https://', b'//', b'null', b''))
        rest = bytes(random_.choices(b'[]:@/%.1af\xff\xc3 ?#\\', k=random_.randint(0, 12)))
        lines = (
            b'GET /socket HTTP/1.1', b'Host: 127.0.0.1', b'Upgrade: websocket', b'Connection: Upgrade',
            b'Sec-WebSocket-Version: 13', b'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==', b'Origin: ' + scheme + rest,
        )  # fmt: skip
        return b'\r\n'.join((*lines, b'', b''))

    async def check() -> None:
        async with running(tmp_path) as site:
            for number in range(400):
                answer = await send(site.host, strange_origin() if number % 2 else garbage())
                assert b' 101 ' not in answer.split(b'\r\n')[0], answer
                assert b'root:' not in answer and b' 500 ' not in answer.split(b'\r\n')[0], answer
            assert (await site.get('/')).status == 200

    asyncio.run(check())


def test_the_page_asks_nobody_else_for_anything() -> None:
    folder = Path(__file__).resolve().parent.parent / 'robust_pvos_ros' / 'console' / 'static'
    for path in folder.iterdir():
        text = path.read_text().replace('http://www.w3.org/2000/svg', '').replace('http://ADDRESS:PORT', '')
        assert 'http://' not in text and 'https://' not in text, path.name
        assert 'style="' not in text and 'onclick=' not in text, f'{path.name}: the policy forbids it'
