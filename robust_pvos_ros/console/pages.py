"""The pages that are open: what each of them gets, and how fast.  No ROS.

A page confirms every frame that it has shown.  No more than two frames of a camera are on their way to it; of those
that come meanwhile the newest waits.  A frame is encoded once for all pages, and not at all while no page can take it;
for a page that stands still, pictures are not even read: it costs nothing.  Of cameras that a page does not show it is
told the objects now and then.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from robust_pvos_ros.console.encoding import Frame, encode_frame, objects_of, with_age
from robust_pvos_ros.console.protocol import ProtocolError
from robust_pvos_ros.tracking.types import FrameError

ON_THE_WAY = 2
MOST_TEXTS = 200
STANDSTILL = 3.0
"""Seconds after which a page that does not confirm a frame counts as standing still."""
FRESH = 1.0
"""Seconds for which a picture goes out without its age."""
ALIVE = json.dumps({'type': 'alive'})

Send = Callable[[str | bytes], Awaitable[None]]
Encode = Callable[[Frame, int], bytes]
log = logging.getLogger(__name__)


class Encoded(NamedTuple):
    """A frame as pages get it: by its number; ``arrived`` as in :class:`Frame`."""

    number: int
    data: bytes
    arrived: float

    def message(self) -> bytes:
        """What is sent at this moment."""
        age = time.monotonic() - self.arrived
        return self.data if age < FRESH else with_age(self.data, age)


class Page:
    """One open page.

    Attributes:
        watched: names of the cameras that it shows.
        overrun: it has not taken so many messages that it must be given up.
    """

    def __init__(self) -> None:
        self.watched: frozenset[str] = frozenset()
        self.overrun = False
        self._texts: deque[str] = deque()
        self._state = ''
        self._waiting: dict[str, Encoded] = {}
        self._past: dict[str, bytes] = {}
        self._tables: dict[str, str] = {}
        self._beat = False
        self._sent: dict[str, deque[tuple[int, float]]] = {}
        self._done: dict[str, int] = {}
        self._newest: dict[str, int] = {}
        self._changed = asyncio.Event()

    def tell(self, state: Mapping[str, Any]) -> None:
        """Let a state wait, in the place of an older one."""
        self._state = json.dumps(state, ensure_ascii=False)
        self._changed.set()

    def say(self, message: Mapping[str, Any]) -> None:
        """Queue a message that must not be lost."""
        if len(self._texts) >= MOST_TEXTS:
            self.overrun = True
        else:
            self._texts.append(json.dumps(message, ensure_ascii=False))
        self._changed.set()

    def offer(self, camera: str, encoded: Encoded) -> None:
        """Let a frame wait, in the place of an older one."""
        if camera in self.watched and encoded.number > self._newest.get(camera, 0):
            self._newest[camera] = encoded.number
            self._waiting[camera] = encoded
            self._changed.set()

    def offer_past(self, camera: str, data: bytes) -> None:
        """Let masks of a past frame wait, in the place of earlier ones; the page confirms none of them."""
        if camera in self.watched:
            self._past[camera] = data
            self._changed.set()

    def tell_objects(self, camera: str, text: str) -> None:
        """Let the objects of a camera wait, in the place of older ones."""
        self._tables[camera] = text
        self._changed.set()

    def beat(self) -> None:
        """Let a sign of life wait."""
        self._beat = True
        self._changed.set()

    def watch(self, cameras: frozenset[str]) -> None:
        """Show these cameras from here on."""
        self.watched = cameras
        for store in (self._waiting, self._newest, self._past):
            for camera in store.keys() - cameras:
                del store[camera]

    def shown(self, camera: str, number: int) -> None:
        """Note that the page is done with a frame and those before it.

        Raises:
            ProtocolError: if that frame was not sent to it.
        """
        if number <= self._done.get(camera, 0):
            return  # a later frame was done with first: one without a picture need not be decoded
        sent = self._sent.get(camera, deque())
        if number not in [known for known, _ in sent]:
            raise ProtocolError(f'frame {number} of camera {camera!r} is not on its way to this page')
        while sent and sent[0][0] <= number:
            sent.popleft()
        self._done[camera] = number
        self._changed.set()

    def looks_at(self) -> frozenset[str]:
        """The cameras that it shows, without those of which it has not confirmed a frame for some seconds."""
        late = time.monotonic() - STANDSTILL
        return frozenset(
            camera for camera in self.watched if all(at > late for _, at in self._sent.get(camera, ()))
        )

    def can_take(self, camera: str) -> bool:
        """Whether another frame of a camera could be sent at once."""
        free = len(self._sent.get(camera, ())) < ON_THE_WAY
        return camera in self.watched and free and camera not in self._waiting

    async def pump(self, send: Send) -> None:
        """Send what waits until the page is given up."""
        while not self.overrun:
            self._changed.clear()
            while self._texts:
                await send(self._texts.popleft())
            if self._state:
                state, self._state = self._state, ''
                await send(state)
            for camera in list(self._waiting):
                sent = self._sent.setdefault(camera, deque())
                if len(sent) < ON_THE_WAY and camera in self._waiting:
                    encoded = self._waiting.pop(camera)
                    sent.append((encoded.number, time.monotonic()))
                    await send(encoded.message())
            while self._past:
                _, data = self._past.popitem()
                await send(data)
            while self._tables:
                _, text = self._tables.popitem()
                await send(text)
            if self._beat:
                self._beat = False
                await send(ALIVE)
            await self._changed.wait()


class Table(NamedTuple):
    """The objects of a camera's newest frame, as its frame would tell them."""

    number: int
    frame: Frame

    def text(self) -> str:
        """As a message: ``type`` (``objects``), ``camera``, ``number``, ``objects``."""
        objects = objects_of(self.frame.objects, self.frame.ages or {})
        fields = {'type': 'objects', 'camera': self.frame.camera, 'number': self.number, 'objects': objects}
        return json.dumps(fields, ensure_ascii=False)


class Pages:
    """All open pages, the newest frame of each camera and the newest state.

    Args:
        encode: makes a message of a frame and its number; runs on ``workers``.
        workers: threads for it.
        watched: called with the cameras that some page looks at, whenever they change.
    """

    def __init__(self, encode: Encode, workers: Executor, watched: Callable[[frozenset[str]], None]) -> None:
        self._encode = encode
        self._workers = workers
        self._tell_watched = watched
        self._watched: frozenset[str] = frozenset()
        self._pages: set[Page] = set()
        self._fresh: dict[str, tuple[int, Frame]] = {}
        self._past: dict[str, Frame] = {}
        self._encoded: dict[str, Encoded] = {}
        self._outdated: dict[str, int] = {}
        self._tables: dict[str, Table] = {}
        self._told: dict[str, int] = {}
        self._number = 0
        self._work = asyncio.Event()
        self.state: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self._pages)

    def add(self, page: Page) -> None:
        """Begin to serve a page."""
        self._pages.add(page)
        self.tell({})
        page.tell(self.state)
        self._tell_unwatched(page)

    def discard(self, page: Page) -> None:
        """Forget a page."""
        self._pages.discard(page)
        self.note_watched()
        self.tell({})

    def watch(self, page: Page, cameras: tuple[str, ...]) -> None:
        """Let a page show these cameras; it gets the newest frame of each at once."""
        page.watch(frozenset(cameras))
        self.note_watched()
        for camera in cameras:
            if camera in self._encoded:
                page.offer(camera, self._encoded[camera])
        self._tell_unwatched(page)
        self._work.set()

    def _tell_unwatched(self, page: Page) -> None:
        for camera, table in self._tables.items():
            if camera not in page.watched:
                page.tell_objects(camera, table.text())

    def tell_objects(self) -> None:
        """Tell every page what is known of the objects of cameras that it does not show; called now and then."""
        for camera, table in self._tables.items():
            if table.number == self._told.get(camera):
                continue
            self._told[camera] = table.number
            text = table.text()
            for page in self._pages:
                if camera not in page.watched:
                    page.tell_objects(camera, text)

    def beat(self) -> None:
        """Give each page a sign of life; called now and then, so that a quiet connection does not seem dead."""
        for page in self._pages:
            page.beat()

    def shown(self, page: Page, camera: str, number: int) -> None:
        """See :meth:`Page.shown`."""
        page.shown(camera, number)
        self._work.set()
        self.note_watched()

    def note_watched(self) -> None:
        """Tell which cameras are looked at; called now and then, since standing still makes no event."""
        watched = frozenset().union(*(page.looks_at() for page in self._pages))
        if watched != self._watched:
            self._watched = watched
            self._tell_watched(watched)

    def frame(self, frame: Frame) -> None:
        """Take a frame in; an older one of its camera that no page could take is gone."""
        if frame.past:
            self._past[frame.camera] = frame
            self._work.set()
            return
        self._number += 1
        self._fresh[frame.camera] = self._number, frame
        self._tables[frame.camera] = Table(self._number, replace(frame, image=None, labels=None))
        if not frame.processed:
            # The node has gone or rests: an earlier picture with its masks says what is true no longer.
            self._encoded.pop(frame.camera, None)
            self._outdated[frame.camera] = self._number
        self._work.set()

    def tell(self, parts: Mapping[str, Any]) -> None:
        """Take parts of the state in and tell every page the whole, if anything has changed."""
        state = {**self.state, **parts, 'type': 'state', 'pages': len(self._pages)}
        if state == self.state:
            return
        self.state = state
        for page in self._pages:
            page.tell(state)

    async def work(self) -> None:
        """Encode and hand out frames until cancelled."""
        while True:
            await self._work.wait()
            self._work.clear()
            for camera in list(self._past):
                data = await self._message(self._past.pop(camera), 0)
                if data is None:
                    continue
                for page in self._pages:
                    page.offer_past(camera, data)
            for camera in list(self._fresh):
                if not any(page.can_take(camera) for page in self._pages):
                    continue
                number, frame = self._fresh.pop(camera)
                data = await self._message(frame, number)
                if data is None:
                    continue
                encoded = Encoded(number, data, frame.arrived)
                # A page that opens later begins with the newest picture; the objects of lost pictures came in between.
                if frame.image is not None and number >= self._outdated.get(camera, 0):
                    self._encoded[camera] = encoded
                for page in self._pages:
                    page.offer(camera, encoded)

    async def _message(self, frame: Frame, number: int) -> bytes | None:
        """A frame as pages get it; None, which they are told, if it cannot be encoded."""
        loop = asyncio.get_running_loop()
        try:
            data = await loop.run_in_executor(self._workers, partial(self._encode, frame, number))
        except Exception as error:
            self._note_trouble(frame.camera, error)
            return None
        self._note_trouble(frame.camera, None)
        return data

    def _note_trouble(self, camera: str, error: Exception | None) -> None:
        """Tell pages why a camera's pictures cannot be shown, or that they can; the log hears of it once."""
        text = '' if error is None else f'Pictures cannot be shown: {error}.'
        known: dict[str, str] = self.state.get('trouble', {})
        if known.get(camera, '') == text:
            return
        if error is not None:
            log.error('%s: %s', camera, text, exc_info=None if isinstance(error, FrameError) else error)
        self.tell({'trouble': {**known, camera: text}})


def encoder(quality: int, longest: int) -> Encode:
    """Encodes frames with these settings; see :func:`robust_pvos_ros.console.encoding.encode_frame`."""
    return lambda frame, number: encode_frame(frame, number, quality, longest)
