"""The page in a real Chromium before a server whose node and cameras are made up: gestures, hidden and lost things."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from console_chromium import chromium, needs_chromium, wait_on
from console_site import Segmentation, image, tracked

from robust_pvos_ros.console.bridge import LoopThread
from robust_pvos_ros.console.config import ConsoleConfig
from robust_pvos_ros.console.encoding import Frame
from robust_pvos_ros.console.protocol import PromptRequest
from robust_pvos_ros.console.recording import Recording
from robust_pvos_ros.console.server import ConsoleServer

pytestmark = pytest.mark.slow

needs_chromium()

PERIOD = 50_000_000
"""Nanoseconds from one picture to the next."""


class Stage:
    """A server on a thread of its own, whose cameras show what a test says."""

    def __init__(self, folder: Path, **config: Any) -> None:
        self.segmentation = Segmentation()
        self.newest = 10**18
        self._thread = LoopThread()
        recording = Recording(folder / 'bags', '/robust_pvos')
        self._server = ConsoleServer(ConsoleConfig(port=0, **config), '', self.segmentation, '/robust_pvos', recording)
        self.address = f'http://127.0.0.1:{self._thread.run(self._server.start(), 20)}/'

    def cameras(self, *names: str, state: str = 'active') -> None:
        """What the node reports once a second."""
        about = {
            'name': '/robust_pvos', 'present': True, 'state': state, 'text': 'all is well', 'memory_mb': 100.0,
            'texts': {},
        }  # fmt: skip
        cameras = [{'name': name, 'topic': f'/{name}/image_raw', 'text': 'ok', 'figures': {}} for name in names]
        self._thread.loop.call_soon_threadsafe(self._server.pages.tell, {'node': about, 'cameras': cameras})

    def frame(self, camera: str, *ids: int, **fields: Any) -> None:
        """A new frame with a block for each object."""
        self.newest += PERIOD
        rgb = np.full((48, 64, 3), self.newest // PERIOD % 200, np.uint8)
        labels = np.zeros((48, 64), np.uint16)
        for place, object_id in enumerate(ids):
            labels[20:30, 10 * place + 2 : 10 * place + 9] = object_id
        objects = tuple(
            replace(tracked(object_id), box=(10 * place + 2, 20, 10 * place + 9, 30), area_px=70)
            for place, object_id in enumerate(ids)
        )
        frame = Frame(camera, self.newest, image(rgb, 'rgb8'), image(labels, '16UC1'), objects, **fields)
        self._thread.loop.call_soon_threadsafe(self._server.pages.frame, frame)

    def past(self, camera: str, stamp: int, *ids: int) -> None:
        """Masks of an earlier picture, a block for each object."""
        labels = np.zeros((48, 64), np.uint16)
        for place, object_id in enumerate(ids):
            labels[2:12, 10 * place + 2 : 10 * place + 9] = object_id
        objects = tuple(tracked(object_id) for object_id in ids)
        frame = Frame(camera, stamp, None, image(labels, '16UC1'), objects, past=True)
        self._thread.loop.call_soon_threadsafe(self._server.pages.frame, frame)

    @contextmanager
    def moving(self, camera: str) -> Iterator[None]:
        """Video, twenty pictures a second."""
        ended = threading.Event()

        def play() -> None:
            while not ended.wait(PERIOD / 1e9):
                self.frame(camera)

        thread = threading.Thread(target=play)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    @property
    def prompts(self) -> list[PromptRequest]:
        """What pages have asked for so far."""
        return [asked[1] for asked in self.segmentation.asked if asked[0] == 'prompt']

    def hang_up(self) -> None:
        """Break every connection without a word."""
        for socket in list(self._server._sockets):
            self._thread.loop.call_soon_threadsafe(socket._req.transport.abort)

    def close(self) -> None:
        self._thread.run(self._server.stop(), 20)
        self._thread.stop()


class Window:
    """A page that is open."""

    def __init__(self, browser: Any, stage: Stage, **options: Any) -> None:
        self.stage = stage
        self._context = browser.new_context(**{'viewport': {'width': 1280, 'height': 900}, **options})
        self.page = self._context.new_page()
        self.faults: list[str] = []
        self.page.on('pageerror', lambda error: self.faults.append(str(error)))
        self.page.goto(stage.address)

    def view(self, camera: str = 'front') -> Any:
        return self.page.locator(f'.view[data-camera="{camera}"]')

    def stamp(self, camera: str = 'front') -> int:
        """Of the picture on the screen; 0 for none."""
        return int(self.view(camera).get_attribute('data-stamp') or 0)

    def note(self, camera: str = 'front') -> str:
        return self.view(camera).locator('.note').inner_text()

    def drawn(self, camera: str = 'front') -> list[int]:
        """IDs that have pixels in the picture on the screen."""
        return [int(word) for word in (self.view(camera).get_attribute('data-ids') or '').split()]

    def ink(self, canvas: str, x: int, y: int) -> list[int]:
        """Red, green, blue and alpha of a pixel of a canvas."""
        script = '(canvas, [x, y]) => [...canvas.getContext("2d").getImageData(x, y, 1, 1).data]'
        return list(self.page.locator(canvas).first.evaluate(script, [x, y]))

    def thumbnail(self, object_id: int) -> list[int]:
        """Red, green and blue in the middle of an object's small picture."""
        return self.ink(f'li[data-id="{object_id}"] .thumb', 28, 28)[:3]

    @property
    def listed(self) -> list[int]:
        rows = '[...document.querySelectorAll("#list li")].map((row) => Number(row.dataset.id))'
        return list(self.page.evaluate(rows))

    @property
    def said(self) -> str:
        return self.page.locator('#said').inner_text()

    @property
    def banner(self) -> str:
        return self.page.locator('#banner').text_content()

    def spot(self, across: float, down: float, camera: str = 'front') -> tuple[float, float]:
        """Where a place of the picture, from 0 to 1, is on the screen."""
        area = self.view(camera).locator('.stage').bounding_box()
        return area['x'] + across * area['width'], area['y'] + down * area['height']

    def wait(self, condition: Any, what: str, timeout: float = 20.0) -> Any:
        return wait_on(self.page, condition, what, timeout)

    def let_pictures_come(self, count: int = 10) -> None:
        until = self.stage.newest + count * PERIOD
        self.wait(lambda: self.stage.newest > until, 'pictures to be sent')

    def touch(self, *places: tuple[float, float]) -> None:
        """A finger that goes from place to place."""
        wire = self._context.new_cdp_session(self.page)
        for kind, (x, y) in zip(('touchStart', *('touchMove',) * (len(places) - 1)), places):
            wire.send('Input.dispatchTouchEvent', {'type': kind, 'touchPoints': [{'x': x, 'y': y}]})
        self.page.wait_for_timeout(300)  # a finger that leaves in motion flings, and the next tap only ends that
        for kind in ('touchMove', 'touchEnd'):
            points = [{'x': x, 'y': y}] if kind == 'touchMove' else []
            wire.send('Input.dispatchTouchEvent', {'type': kind, 'touchPoints': points})
        wire.detach()

    def close(self) -> None:
        self._context.close()
        assert not self.faults, self.faults


@pytest.fixture(scope='module')
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    stage.cameras('front')
    stage.frame('front', 1)
    yield stage
    stage.close()


@pytest.fixture
def window(browser: Any, stage: Stage) -> Iterator[Window]:
    window = Window(browser, stage)
    window.wait(lambda: window.view().count() and window.stamp(), 'a picture')
    yield window
    window.close()


# ----------------------------------------------------------------------------------------------------------- gestures


def test_a_click_is_for_the_picture_that_was_under_the_pointer(stage: Stage, window: Window) -> None:
    with stage.moving('front'):
        window.let_pictures_come()
        window.page.mouse.move(*window.spot(0.5, 0.5))
        window.page.mouse.down()
        pointed = window.stamp()
        window.let_pictures_come()
        assert window.stamp() == pointed < stage.newest - 5 * PERIOD
        window.page.mouse.up()
        window.wait(lambda: stage.prompts, 'the prompt')
        assert stage.prompts[0].stamp == pointed
        window.wait(lambda: window.stamp() > pointed + 10 * PERIOD, 'the video to go on')


def test_a_box_is_for_the_picture_that_it_was_begun_on(stage: Stage, window: Window) -> None:
    mouse = window.page.mouse
    with stage.moving('front'):
        mouse.move(*window.spot(0.25, 0.25))
        mouse.down()
        pointed = window.stamp()
        mouse.move(*window.spot(0.5, 0.4))
        window.let_pictures_come()
        mouse.move(*window.spot(0.75, 0.75))
        mouse.up()
        window.wait(lambda: stage.prompts, 'the prompt')
        assert stage.prompts[0].stamp == pointed
        assert stage.prompts[0].prompt.box is not None
        window.wait(lambda: window.stamp() > pointed + 10 * PERIOD, 'the video to go on')


def test_escape_lets_a_gesture_go_and_the_picture_with_it(stage: Stage, window: Window) -> None:
    mouse = window.page.mouse
    with stage.moving('front'):
        mouse.move(*window.spot(0.25, 0.25))
        mouse.down()
        mouse.move(*window.spot(0.5, 0.4))
        pointed = window.stamp()
        window.let_pictures_come()
        assert window.stamp() == pointed
        window.page.keyboard.press('Escape')
        window.wait(lambda: window.stamp() > pointed + 10 * PERIOD, 'the video to go on')
        mouse.up()
        window.page.wait_for_timeout(300)
        assert stage.prompts == []


def test_a_box_on_the_keyboard_holds_its_picture_from_corner_to_corner(stage: Stage, window: Window) -> None:
    page = window.page
    with stage.moving('front'):
        page.keyboard.press('x')
        page.locator('.stage').focus()
        page.keyboard.press('Enter')
        window.wait(lambda: 'First corner set' in window.said, 'the first corner')
        pointed = window.stamp()
        window.wait(lambda: 'waits for the prompt' in window.note(), 'the page to say that it stands still')
        window.let_pictures_come()
        for key in ('ArrowRight', 'ArrowRight', 'ArrowDown', 'ArrowDown'):
            page.keyboard.press(key)
        assert window.stamp() == pointed
        page.keyboard.press('Enter')
        window.wait(lambda: stage.prompts, 'the prompt')
        assert stage.prompts[0].stamp == pointed
        window.wait(lambda: window.stamp() > pointed + 10 * PERIOD, 'the video to go on')
        for end in ('Escape', 'Tab'):
            page.locator('.stage').focus()
            page.keyboard.press('Enter')
            window.wait(lambda: 'First corner set' in window.said, 'another first corner')
            pointed = window.stamp()
            page.keyboard.press(end)
            window.wait(lambda: 'let go' in window.said, 'the box to be let go')
            window.wait(lambda at=pointed: window.stamp() > at + 10 * PERIOD, 'the video to go on')  # type: ignore[misc]
    assert len(stage.prompts) == 1


def test_a_finger_that_drags_is_told_to_choose_box_first(browser: Any, stage: Stage) -> None:
    window = Window(browser, stage, viewport={'width': 390, 'height': 780}, has_touch=True, is_mobile=True)
    window.wait(lambda: window.view().count() and window.stamp(), 'a picture')
    drag = [window.spot(across, 0.5) for across in (0.2, 0.3, 0.5, 0.7)]
    window.touch(*drag)
    window.wait(lambda: 'choose Box first' in window.said, 'advice')
    window.page.wait_for_timeout(300)
    assert stage.prompts == [], 'neither a box nor a point'
    window.page.locator('#tools label', has_text='Box').tap()
    drag = [window.spot(*place) for place in ((0.2, 0.2), (0.4, 0.3), (0.6, 0.6), (0.7, 0.7))]
    window.touch(*drag)
    window.wait(lambda: stage.prompts, 'the box')
    assert stage.prompts[0].prompt.box is not None
    window.close()


# ------------------------------------------------------------------------------------------------------ still pictures


def test_masks_of_a_frozen_picture_are_drawn_on_it_and_those_of_another_are_not(stage: Stage, window: Window) -> None:
    window.page.keyboard.press('f')
    window.wait(lambda: 'Still picture' in window.note(), 'the picture to stand still')
    frozen = window.stamp()
    for _ in range(3):
        stage.frame('front', 1, 2)
    window.wait(lambda: window.listed == [1, 2], 'the object in the list')
    assert window.drawn() == [1]
    stage.past('front', frozen - PERIOD, 3)
    stage.past('rear', frozen, 3)
    stage.past('front', frozen, 1, 2)
    window.wait(lambda: window.drawn() == [1, 2], 'its mask')
    assert window.stamp() == frozen
    x, y = 16, 6  # in the block of object 2 on the past frame
    assert window.ink('.masks', x, y)[3] > 0 and window.ink('.masks', x, 25)[3] == 0
    window.page.keyboard.press('f')
    window.wait(lambda: window.stamp() == stage.newest and window.drawn() == [1, 2], 'the live picture')
    assert window.ink('.masks', x, 25)[3] > 0


def test_an_object_that_comes_while_the_picture_stands_still_gets_its_small_picture(
    stage: Stage, window: Window
) -> None:
    window.page.keyboard.press('f')
    window.wait(lambda: 'Still picture' in window.note(), 'the picture to stand still')
    frozen = window.stamp()
    stage.newest += 90 * PERIOD  # a bright picture
    stage.frame('front', 1, 2)
    window.wait(lambda: window.listed == [1, 2], 'the object in the list')
    window.wait(lambda: max(window.thumbnail(2)) > 60, 'its small picture')
    assert window.stamp() == frozen and window.drawn() == [1]


# ------------------------------------------------------------------------------------------------------------ cameras


def test_the_objects_of_a_hidden_camera_go_on(stage: Stage, window: Window) -> None:
    stage.cameras('front', 'rear')
    window.wait(lambda: window.view('rear').count(), 'the second camera')
    stage.frame('rear', 2)
    window.wait(lambda: window.listed == [1, 2] and window.stamp('rear'), 'the objects of both')
    window.view('rear').get_by_role('button', name='Hide').click()
    window.wait(lambda: stage.segmentation.watched == {'front'}, 'the server to know')
    stage.frame('rear', 2, 3)
    window.wait(lambda: window.listed == [1, 2, 3], 'an object that was added')
    stage.frame('rear')
    window.wait(lambda: window.listed == [1], 'them to go')
    window.view('rear').get_by_role('button', name='Show').click()
    window.page.wait_for_timeout(1000)
    assert window.listed == [1], 'the picture that it had before does not bring its objects back'


def test_a_camera_that_is_gone_takes_view_and_objects_along(stage: Stage, window: Window) -> None:
    stage.cameras('front', 'rear')
    window.wait(lambda: window.view('rear').count(), 'the second camera')
    stage.frame('rear', 2)
    window.wait(lambda: window.listed == [1, 2], 'the objects of both')
    stage.cameras(state='unconfigured')
    window.wait(lambda: 'unconfigured' in window.page.locator('#node').inner_text(), 'the node to rest')
    assert window.view('rear').count() == 1, 'a node that rests may come back with the same cameras'
    stage.cameras('front')
    window.wait(lambda: window.view('rear').count() == 0, 'the view to go')
    assert window.listed == [1]
    for _ in range(3):
        stage.frame('rear', 4)
    stage.cameras('front', 'rear')
    window.wait(lambda: window.view('rear').count(), 'the camera to come back')
    with stage.moving('rear'):
        first = window.wait(lambda: window.stamp('rear'), 'its picture')
        window.wait(lambda: window.stamp('rear') > first + 10 * PERIOD, 'its video')


def test_a_camera_that_is_added_to_a_frozen_page_freezes_on_its_first_picture(stage: Stage, window: Window) -> None:
    window.page.keyboard.press('f')
    stage.cameras('front', 'rear')
    window.wait(lambda: window.view('rear').count(), 'the second camera')
    with stage.moving('rear'):
        first = window.wait(lambda: window.stamp('rear'), 'its picture')
        window.let_pictures_come()
        assert window.stamp('rear') == first
        assert window.view('rear').get_attribute('data-frozen') == 'true'
        window.page.keyboard.press('f')
        window.wait(lambda: window.stamp('rear') > first + 10 * PERIOD, 'its video')


def test_a_picture_that_is_old_when_the_page_opens_is_shown_as_old(browser: Any, stage: Stage) -> None:
    stage.frame('front', 1, arrived=time.monotonic() - 100)
    window = Window(browser, stage)
    window.wait(lambda: window.view().count() and 'No new picture for 10' in window.note(), 'its age')
    window.page.keyboard.press('f')
    window.wait(lambda: 'Still picture, 10' in window.note(), 'the age of the frozen picture')
    window.close()


# --------------------------------------------------------------------------------------------------------- connection


def test_a_page_too_many_is_told_why(browser: Any, tmp_path: Path) -> None:
    stage = Stage(tmp_path, max_pages=1)
    stage.cameras('front')
    first = Window(browser, stage)
    first.wait(lambda: first.view().count(), 'the first page')
    second = Window(browser, stage)
    try:
        second.wait(lambda: 'as many pages are open as max_pages allows (1)' in second.banner, 'the reason')
        assert 'Trying again in 15 s' in second.banner
        assert second.page.locator('#link').inner_text() == 'Not connected'
        first.close()
        second.wait(lambda: second.view().count() and not second.page.locator('#banner').is_visible(), 'its turn', 40)
    finally:
        second.close()
        stage.close()


def test_a_connection_that_breaks_is_told_at_once_and_made_anew(stage: Stage, window: Window) -> None:
    window.page.route('**/style.css', lambda route: None)  # what the page asks to learn the reason is never answered
    stage.hang_up()
    window.wait(lambda: 'was lost. Trying again' in window.banner, 'the page to say it', 2)
    window.wait(lambda: not window.page.locator('#banner').is_visible(), 'another connection', 5)
    stage.frame('front', 1)
    window.wait(lambda: window.stamp() == stage.newest, 'pictures again')


def test_a_connection_that_falls_silent_is_given_up(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('robust_pvos_ros.console.server.BEAT_PERIOD', 10_000)
    stage = Stage(tmp_path)
    stage.cameras('front')
    window = Window(browser, stage)
    window.wait(lambda: window.view().count(), 'the page')
    window.wait(lambda: 'Nothing has come from the console' in window.banner, 'the page to notice', 20)
    window.wait(lambda: not window.page.locator('#banner').is_visible(), 'another connection', 20)
    window.close()
    stage.close()
