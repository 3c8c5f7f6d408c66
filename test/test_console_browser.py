"""The console in a real Chromium, beside the live node and a rendered street.

Screenshots go to the folder PVOS_ARTEFACTS, by default out/console.  The check with axe-core runs where the variable
AXE_CORE names an axe.min.js, or `npm install --no-save axe-core` has put one into node_modules.
"""

from __future__ import annotations

import io
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from console_chromium import chromium, needs_chromium
from console_page import ARTEFACTS, Console
from console_street import RED_CAR, WHITE_VAN, Program, Street
from node_harness import wait_until

from robust_pvos_ros.demo.prompting import bounding_box, innermost_point, largest_part
from robust_pvos_ros.messages import nanoseconds

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
AXE = Path(os.environ.get('AXE_CORE', ROOT / 'node_modules' / 'axe-core' / 'axe.min.js'))
MASK_WITHIN = 1.0

needs_chromium()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    return tmp_path_factory.mktemp('console')


@pytest.fixture(scope='module')
def street() -> Iterator[Street]:
    street = Street()
    yield street
    street.close()


@pytest.fixture(scope='module')
def node(folder: Path, street: Street) -> Iterator[Program]:
    with Program(folder, 'segmentation_node', 'history_frames:=90') as program:
        program.start()
        wait_until(lambda: street.objects, 'the node to process pictures', 120)
        yield program


@pytest.fixture(scope='module')
def address(folder: Path, node: Program) -> Iterator[str]:
    port = free_port()
    with Program(folder, 'console.main', f'port:={port}', f'record_folder:={folder / "bags"}') as program:
        program.start()
        wait_until(lambda: f'http://127.0.0.1:{port}/' in program.log, 'the console to listen', 60)
        yield f'http://127.0.0.1:{port}/'
    assert 'Traceback' not in program.log, program.log


@pytest.fixture(scope='module')
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def console(browser: Any, address: str, street: Street) -> Iterator[Console]:
    console = Console(browser, address, street)
    console.wait(lambda: 'active' in console.page.locator('#node').inner_text(), 'the node to be seen')
    console.reset()
    yield console
    console.close()


def test_a_click_on_a_car_becomes_its_mask_within_a_second(console: Console, street: Street) -> None:
    where = console.middle_of(RED_CAR)
    before = set(console.listed)
    begun = time.monotonic()
    console.page.mouse.click(*where)
    console.wait(lambda: console.drawn - before, 'a mask', 10)
    took = time.monotonic() - begun
    (new,) = console.drawn - before
    console.wait(lambda: console.listed == [new] and street.ids() == [new], 'the list and the topic to agree')
    console.picture('click')
    (ARTEFACTS / 'click_to_mask.txt').write_text(f'{took:.3f} s from the click to the mask on the screen\n')
    (tracked,) = street.objects[-1].objects
    x0, y0, x1, y1 = bounding_box(street.truth(console.stamp, RED_CAR))
    assert x0 - 20 < tracked.centroid.x < x1 + 20 and y0 - 20 < tracked.centroid.y < y1 + 20
    assert took < MASK_WITHIN, f'the mask took {took:.2f} s'


def test_the_canvas_shows_the_mask_where_the_topic_has_it(console: Console, street: Street) -> None:
    console.add(RED_CAR)
    street.playing.clear()
    try:
        console.wait(lambda: console.stamp == str(nanoseconds(street.objects[-1].header.stamp)), 'the last picture')
        painted = console.page.evaluate("""() => {
            const canvas = document.querySelector('.masks');
            const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
            let count = 0;
            for (let i = 0; i < data.length; i += 4) {
                if (data[i + 3] > 0 && data[i] + data[i + 1] + data[i + 2] > 0) count += 1;
            }
            return [canvas.width, canvas.height, count];
        }""")
        assert painted == [640, 480, street.objects[-1].objects[0].area_px]
    finally:
        street.playing.set()


def test_a_box_is_dragged_refined_renamed_and_removed(console: Console, street: Street) -> None:
    page = console.page
    console.drag(WHITE_VAN)
    console.wait(lambda: console.listed and console.drawn, 'the object')
    (number,) = console.listed
    assert street.prompts[-1].has_box
    page.locator(f'li[data-id="{number}"] .chip').click()
    assert f'corrects object {number}' in page.locator('#target').inner_text()
    console.picture('chosen')
    console.click(WHITE_VAN)
    console.wait(lambda: list(street.prompts[-1].point_labels) == [1], 'the correction')
    assert street.prompts[-1].object_id == number
    x, y = console.middle_of(WHITE_VAN)
    page.keyboard.down('Shift')
    page.mouse.click(x, y - 4)
    page.keyboard.up('Shift')
    console.wait(lambda: list(street.prompts[-1].point_labels) == [0], 'the background point')
    assert street.prompts[-1].object_id == number
    page.get_by_role('button', name=f'Rename object {number}').click()
    page.keyboard.type('delivery van')
    page.keyboard.press('Enter')
    console.wait(lambda: street.labels() == {number: 'delivery van'}, 'the label on the topic')
    console.wait(lambda: 'delivery van' in page.locator('#list').inner_text(), 'the label on the page')
    page.get_by_role('button', name=f'Remove object {number}').click()
    console.wait(lambda: console.listed == [] and street.ids() == [], 'it to be gone')


def test_a_frozen_picture_is_prompted_with_its_own_stamp(console: Console, street: Street) -> None:
    page = console.page
    page.keyboard.press('f')
    console.wait(lambda: 'Still picture' in page.locator('.note').inner_text(), 'the picture to stand still')
    frozen = console.stamp
    page.wait_for_timeout(2500)
    assert console.stamp == frozen
    console.click(RED_CAR)
    console.wait(lambda: console.listed, 'the object')
    console.wait(lambda: 'Unfreeze' in console.said, 'advice')
    (number,) = console.wait(lambda: console.drawn and console.listed, 'its mask on the picture that stands still')
    assert console.stamp == frozen and console.drawn == {number}
    x, y = innermost_point(largest_part(street.truth(frozen, RED_CAR)))
    inked, seen = page.evaluate(
        """([x, y]) => [
            document.querySelector('.masks').getContext('2d').getImageData(x, y, 1, 1).data[3],
            Math.max(...document.querySelector('.thumb').getContext('2d').getImageData(28, 28, 1, 1).data.slice(0, 3)),
        ]""",
        [x, y],
    )
    assert inked > 0 and seen > 0, 'the mask lies on the car, and the small picture shows it'
    console.picture('frozen')
    assert str(nanoseconds(street.prompts[-1].header.stamp)) == frozen
    page.keyboard.press('f')
    console.wait(lambda: console.stamp != frozen and console.drawn == set(console.listed), 'the live mask')


def test_a_prompt_on_moving_video_has_the_stamp_of_the_picture_it_began_on(console: Console, street: Street) -> None:
    page = console.page
    page.mouse.move(*console.middle_of(RED_CAR))
    page.mouse.down()
    pointed = console.stamp
    page.wait_for_timeout(1000)  # eight pictures
    assert console.stamp == pointed, 'the picture stands still while the button is down'
    page.mouse.up()
    console.wait(lambda: console.listed, 'the object')
    console.wait(lambda: pointed in [str(nanoseconds(p.header.stamp)) for p in street.prompts], 'its stamp')
    console.wait(lambda: int(console.stamp) > int(pointed) + 1_000_000_000, 'the live picture')


def test_two_pages_and_a_reload_show_the_same(browser: Any, address: str, console: Console, street: Street) -> None:
    console.page.get_by_label('Label of the next object').fill('red car')
    number = console.add(RED_CAR)
    other = Console(browser, address, street)
    try:
        other.wait(lambda: other.listed == [number] and number in other.drawn, 'the object on the second page')
        assert 'red car' in other.page.locator('#list').inner_text()
        other.page.get_by_role('button', name=f'Remove object {number}').click()
        console.wait(lambda: console.listed == [], 'it to go from the first page')
        number = console.add(WHITE_VAN)
        console.page.reload()
        console.wait(lambda: console.listed == [number] and number in console.drawn, 'the object after a reload')
    finally:
        other.close()


def test_everything_can_be_done_from_the_keyboard(console: Console, street: Street) -> None:
    page = console.page
    page.locator('.stage').focus()
    truth = largest_part(street.truth(console.stamp, WHITE_VAN))
    x, y = innermost_point(truth)
    for key, steps in (('ArrowRight', (x - 320) / 19.2), ('ArrowDown', (y - 240) / 19.2)):
        back = {'ArrowRight': 'ArrowLeft', 'ArrowDown': 'ArrowUp'}[key]
        for _ in range(round(abs(steps))):
            page.keyboard.press(key if steps > 0 else back)
    assert 'Cross at' in console.said
    page.keyboard.press('Enter')
    console.wait(lambda: console.listed, 'the object')
    page.keyboard.press('1')
    assert 'corrects object' in page.locator('#target').inner_text()
    page.keyboard.press('l')
    page.keyboard.type('van')
    page.keyboard.press('Enter')
    console.wait(lambda: list(street.labels().values()) == ['van'], 'the label')
    page.keyboard.press('?')
    assert page.locator('#help-dialog').is_visible()
    console.picture('help')
    page.keyboard.press('Escape')
    wanted = {
        'freeze', 'record', 'theme', 'help', 'toggle', 'stage', 'reset', 'label', 'chip', 'rename', 'remove',
    }  # fmt: skip
    reached = set()
    for _ in range(40):
        page.keyboard.press('Tab')
        reached.add(page.evaluate('document.activeElement.id || document.activeElement.className'))
    assert wanted <= reached, wanted - reached
    page.locator('#list .chip').focus()
    page.keyboard.press('Delete')
    console.wait(lambda: console.listed == [], 'it to go')


def test_recording_shows_its_size_and_leaves_a_bag(console: Console, folder: Path) -> None:
    page = console.page
    page.locator('#record').click()
    console.wait(lambda: 'Stop recording' in page.locator('#record').inner_text(), 'the recording', 60)
    page.wait_for_timeout(3000)
    console.picture('recording')
    page.locator('#record').click()
    console.wait(lambda: 'Recorded console_' in console.said, 'the bag', 60)
    bags = list((folder / 'bags').iterdir())
    assert len(bags) == 1 and any(bags[0].iterdir())


def test_pictures_of_the_documentation(console: Console) -> None:
    """The animation of the README and the screenshot of the operator's page."""
    page = console.page
    page.set_viewport_size({'width': 1100, 'height': 780})
    frames: list[PIL.Image.Image] = []

    def film(count: int) -> None:
        for _ in range(count):
            data = page.screenshot(clip={'x': 0, 'y': 0, 'width': 1100, 'height': 680})
            shot = PIL.Image.open(io.BytesIO(data)).convert('RGB')
            frames.append(shot.resize((640, round(640 * shot.height / shot.width)), PIL.Image.Resampling.LANCZOS))
            page.wait_for_timeout(60)

    film(4)
    page.get_by_label('Label of the next object').fill('red car')
    number = console.add(RED_CAR)
    film(10)
    page.get_by_label('Label of the next object').fill('van')
    console.drag(WHITE_VAN)
    console.wait(lambda: len(console.drawn) == 2, 'the second mask')
    film(14)
    page.locator(f'li[data-id="{number}"] .chip').click()
    console.picture('console')
    path = ARTEFACTS / 'click_to_mask.webp'
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=160, loop=0, quality=60, method=2)
    assert path.stat().st_size < 1_000_000
    with PIL.Image.open(path) as made:
        made.seek(len(frames) - 1)  # raises where there are fewer


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_a_phone_shows_picture_and_tools_without_scrolling_sideways(
    browser: Any, address: str, street: Street, scheme: str
) -> None:
    phone = Console(
        browser, address, street, viewport={'width': 390, 'height': 780}, has_touch=True, is_mobile=True,
        color_scheme=scheme, device_scale_factor=2,
    )  # fmt: skip
    try:
        assert phone.page.evaluate('document.documentElement.scrollWidth') <= 390
        tools = phone.page.locator('#tools').bounding_box()
        assert tools['y'] + tools['height'] <= 780, 'the tools lie under the thumb'
        for control in phone.page.locator('button:visible, #tools label').all():
            assert control.bounding_box()['height'] >= 40, control
        before = set(phone.listed)
        phone.page.touchscreen.tap(*phone.middle_of(RED_CAR))
        phone.wait(lambda: set(phone.listed) - before, 'an object from a tap')
        phone.picture(f'phone_{scheme}')
        phone.reset()
    finally:
        phone.close()


def test_axe_finds_no_serious_fault(browser: Any, address: str, console: Console, street: Street) -> None:
    if not AXE.is_file():
        pytest.skip(
            f'no axe-core at {AXE}: run `npm install --no-save axe-core` at the root of the source tree, or set the '
            f'variable AXE_CORE to the path of an axe.min.js'
        )
    console.add(RED_CAR)
    for theme in ('light', 'dark'):
        console.page.emulate_media(color_scheme=theme)
        console.page.wait_for_timeout(300)
        console.page.evaluate(AXE.read_text())
        for opened in ('', 'help-dialog'):
            if opened:
                console.page.locator('#help').click()
            result = console.page.evaluate('axe.run()')
            serious = [
                f'{fault["impact"]}: {fault["id"]}: {fault["nodes"][0]["html"]}'
                for fault in result['violations']
                if fault['impact'] in ('serious', 'critical')
            ]
            assert not serious, serious
            assert len(result['passes']) > 10
        console.page.keyboard.press('Escape')


def test_a_node_that_is_restarted_under_the_page_is_said_and_found_again(
    console: Console, node: Program, street: Street
) -> None:
    console.add(RED_CAR)
    node.end()
    banner = console.page.locator('#banner')
    console.wait(lambda: banner.is_visible() and 'is not there' in banner.inner_text(), 'the page to say it')
    console.picture('node_gone')
    first = console.stamp
    console.wait(lambda: console.stamp != first, 'the camera to go on')
    console.click(RED_CAR)
    console.wait(lambda: 'is not there' in console.said, 'a refusal in a sentence')
    node.start()
    console.wait(lambda: not banner.is_visible(), 'the page to recover', 120)
    console.wait(lambda: 'active' in console.page.locator('#node').inner_text(), 'the node', 120)
    console.wait(lambda: console.page.locator('.note').inner_text() == '', 'masks again', 60)
    number = console.add(RED_CAR)
    assert street.ids() == [number]


def test_a_server_that_is_gone_is_said_and_found_again(
    browser: Any, folder: Path, node: Program, street: Street
) -> None:
    port = free_port()
    with Program(folder, 'console.main', f'port:={port}', f'record_folder:={folder / "bags"}') as program:
        program.start()
        wait_until(lambda: f'http://127.0.0.1:{port}/' in program.log, 'the console to listen', 60)
        console = Console(browser, f'http://127.0.0.1:{port}/', street)
        try:
            program.end()
            banner = console.page.locator('#banner')
            console.wait(lambda: banner.is_visible() and 'Trying again' in banner.inner_text(), 'the page to say it')
            console.picture('server_gone')
            program.start()
            console.wait(lambda: not banner.is_visible(), 'the page to recover', 60)
            first = console.stamp
            console.wait(lambda: console.stamp != first, 'pictures again', 30)
        finally:
            console.faults.clear()  # Chromium logs the connections that it could not make
            console.close()
