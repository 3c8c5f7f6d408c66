"""Who gets an answer, and under which headers.  No ROS.

Without a token only pages of this machine are answered, under its own names: a foreign name that was made to point here
(DNS rebinding) is refused.  With a token everything needs it: once in the address, `/?token=...`, which sets a cookie
and leads to the bare address, or as `Authorization: Bearer ...`.
"""

from __future__ import annotations

import hmac
import logging
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from robust_pvos_ros.console.config import ConsoleError, is_loopback, session_of

COOKIE = 'robust_pvos_console'
HEADERS = {
    'Content-Security-Policy': (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    'Cache-Control': 'no-store',
    'Cross-Origin-Opener-Policy': 'same-origin',
    'Cross-Origin-Resource-Policy': 'same-origin',
    'Permissions-Policy': 'camera=(), geolocation=(), microphone=()',
    'Referrer-Policy': 'no-referrer',
    'Server': 'robust_pvos_console',
    'X-Content-Type-Options': 'nosniff',
    'X-Frame-Options': 'DENY',
}
log = logging.getLogger(__name__)


def refusal(status: int, text: str) -> web.Response:
    """A sentence with a status code."""
    return web.Response(status=status, text=text + '\n', headers=HEADERS)


class Gate:
    """Decides about every request before its handler does.

    Args:
        token: that must be shown; empty for pages of this machine alone.
    """

    def __init__(self, token: str) -> None:
        self._token = token
        self._session = session_of(token) if token else ''
        self._logged: set[type[Exception]] = set()

    def middleware(self) -> Middleware:
        """For ``aiohttp.web.Application``."""

        @web.middleware
        async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
            try:
                return await self._answer(request, handler)
            except Exception as error:
                if request.writer.output_size:
                    raise  # a part of the answer is out: all that is left is to hang up
                self._note_failure(request, error)
                return refusal(500, '500: the console could not answer this request; its log says why.')

        return check

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        refused = self.refuse(request)
        if refused is not None:
            return refused
        if 'token' in request.query:
            return self._enter(request)
        try:
            response = await handler(request)
        except web.HTTPException as error:
            return refusal(error.status, f'{error.status}: {error.reason}')
        if not response.prepared:
            response.headers.update(HEADERS)
        return response

    def _note_failure(self, request: web.Request, error: Exception) -> None:
        """Log a failure unless one of its kind was logged before: whoever can cause it could fill the disk."""
        if type(error) not in self._logged:
            self._logged.add(type(error))
            log.error('%s %s could not be answered', request.method, request.path, exc_info=error)

    def refuse(self, request: web.Request) -> web.Response | None:
        """A refusal, or None where the request is welcome."""
        if not self._token:
            name = _host_name(request.host)
            if name is None or not _is_local(name):
                return refusal(403, 'This console answers under localhost and 127.0.0.1 only.')
            return None
        if self._may_enter(request):
            return None
        return refusal(401, 'This console needs its token: open it as http://ADDRESS:PORT/?token=TOKEN.')

    def _may_enter(self, request: web.Request) -> bool:
        shown = [request.query.get('token', '')]
        scheme, _, bearer = request.headers.get('Authorization', '').partition(' ')
        if scheme.lower() == 'bearer':
            shown.append(bearer.strip())
        by_cookie = _same(request.cookies.get(COOKIE, ''), self._session)
        return by_cookie or any(_same(token, self._token) for token in shown)

    def _enter(self, request: web.Request) -> web.Response:
        """Take the token out of the address bar and put a cookie in its place."""
        response = web.Response(status=303, headers={**HEADERS, 'Location': '/'})
        if self._token:
            secure = request.headers.get('X-Forwarded-Proto', request.scheme) == 'https'
            response.set_cookie(COOKIE, self._session, httponly=True, samesite='Strict', secure=secure, path='/')
        return response


def foreign_origin(request: web.Request) -> web.Response | None:
    """A refusal of a WebSocket that no page of this console opens, or None."""
    origin = request.headers.get('Origin', '')
    if not origin:
        return refusal(403, 'A WebSocket needs the header Origin: open the page of this console.')
    try:
        opener = urlsplit(origin).netloc.lower()
    except ValueError:
        return refusal(403, 'The header Origin must be an address such as http://127.0.0.1:8100, and this one is not.')
    if opener != request.host.lower():
        return refusal(403, 'A WebSocket may be opened by the page of this console alone, not by that of another site.')
    return None


def _same(shown: str, right: str) -> bool:
    return bool(right) and hmac.compare_digest(shown.encode(errors='surrogatepass'), right.encode())


def _host_name(host: str) -> str | None:
    """The name in a Host header, without its port; None if it is malformed."""
    try:
        return urlsplit(f'//{host}').hostname
    except ValueError:
        return None


def _is_local(name: str) -> bool:
    if name == 'localhost':
        return True
    try:
        return is_loopback(name)
    except ConsoleError:
        return False
