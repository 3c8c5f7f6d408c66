"""The console beside the live node, over DDS, with a page that is a few lines of Python."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from console_client import ConsoleClient
from node_harness import BOX, Harness, Spinning, image, scene, square_mask, wait_until
from rclpy.logging import get_logger
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image

from robust_pvos_ros.bags.reader import BagReader
from robust_pvos_ros.console.config import ConsoleError
from robust_pvos_ros.console.node import ConsoleNode, LogToRos, state_of

CENTRE = [(BOX[0] + BOX[2]) / 2, (BOX[1] + BOX[3]) / 2]


class Console:
    """A console in a context of a harness, and its pages."""

    def __init__(self, harness: Harness, **parameters: Any) -> None:
        overrides = [Parameter(name, value=value) for name, value in {'port': 0, **parameters}.items()]
        namespace = harness.client.get_namespace()
        self.node = ConsoleNode(context=harness.context, namespace=namespace, parameter_overrides=overrides)
        self._spinning = Spinning(self.node, harness.context)
        self._pages: list[ConsoleClient] = []

    @property
    def reads_masks(self) -> bool:
        readers = self.node.get_subscriptions_info_by_topic('/robust_pvos/camera/label_image')
        return 'web_console' in [reader.node_name for reader in readers]

    def page(self, **options: Any) -> ConsoleClient:
        page = ConsoleClient(self.node.port, **options)
        self._pages.append(page)
        return page

    def close(self) -> None:
        for page in self._pages:
            page.close()
        assert self.node.stop()
        self._spinning.stop()
        self.node.destroy_node()


@pytest.fixture(scope='module')
def harness() -> Iterator[Harness]:
    harness = Harness(threads=1, history_frames=60)
    harness.wait_active()
    yield harness
    harness.close()


@pytest.fixture
def console(harness: Harness, tmp_path: Path) -> Iterator[Console]:
    console = Console(harness, record_folder=str(tmp_path / 'bags'))
    yield console
    console.close()


@pytest.fixture
def page(harness: Harness, console: Console) -> ConsoleClient:
    assert harness.call('reset').success
    page = console.page()
    page.wait(lambda: page.state.get('node', {}).get('state') == 'active', 'the node to be seen')
    page.wait(lambda: console.reads_masks, 'the masks to be read')
    page.wait(lambda: harness.client.count_subscribers('/camera/image_raw') > 1, 'the console to read the camera')
    shown(harness, page)
    return page


def shown(harness: Harness, page: ConsoleClient, rgb: np.ndarray | None = None) -> str:
    """Stamp of a fresh frame that has reached the page with its masks; the first may come before DDS is ready."""
    for _ in range(20):
        stamp = str(harness.frame(rgb))
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            if page.header.get('stamp') == stamp and page.header['masks'] and page.header['picture']:
                return stamp
            time.sleep(0.01)
    raise AssertionError(f'no frame reached the page: {page.header}')


def test_a_click_becomes_an_object_whose_id_and_mask_are_those_of_the_topics(
    harness: Harness, page: ConsoleClient
) -> None:
    labels = harness.listen(Image, 'camera/label_image')
    wait_until(lambda: harness.node.count_subscribers('/robust_pvos/camera/label_image') > 1, 'a second reader')
    stamp = page.header['stamp']
    begun = time.monotonic()
    answer = page.request('add', camera='camera', stamp=stamp, box=list(BOX), label='square')
    assert answer['success'], answer
    page.wait(lambda: answer['object_id'] in page.labels, 'its mask')
    assert time.monotonic() - begun < 5
    assert page.ids == [answer['object_id']]
    at = shown(harness, page)
    published = wait_until(
        lambda: [m for m in labels if m.header.stamp.sec * 10**9 + m.header.stamp.nanosec == int(at)], 'the label image'
    )[-1]
    expected = np.frombuffer(published.data, np.uint16).reshape(published.height, published.width)
    np.testing.assert_array_equal(page.labels, expected)
    (entry,) = page.header['objects']
    assert (entry['label'], entry['state']) == ('square', 'TRACKING')
    assert entry['area'] == (expected == answer['object_id']).sum()


def test_a_prompt_on_a_past_frame_brings_the_masks_of_that_frame(harness: Harness, page: ConsoleClient) -> None:
    frozen = page.header['stamp']
    for _ in range(3):
        shown(harness, page)
    answer = page.request('add', camera='camera', stamp=frozen, box=list(BOX))
    assert answer['success'], answer
    stamp, labels = page.wait(lambda: page.past, 'the masks of the past frame')[0]
    assert stamp == frozen
    inside = square_mask() & (labels == answer['object_id'])
    assert inside.sum() > square_mask().sum() / 2
    newest = shown(harness, page)
    assert int(newest) > int(frozen) and page.ids == [answer['object_id']]


def test_an_object_is_refined_renamed_and_removed(harness: Harness, page: ConsoleClient) -> None:
    added = page.request('add', camera='camera', box=list(BOX))
    number = added['object_id']
    refined = page.request('refine', camera='camera', object_id=number, points=[[*CENTRE, 1]])
    assert (refined['success'], refined['object_id']) == (True, number), refined
    assert page.request('rename', object_id=number, label='Würfel')['success']
    page.wait(lambda: [entry['label'] for entry in page.header['objects']] == ['Würfel'], 'the label')
    assert page.request('remove', object_id=number)['success']
    page.wait(lambda: page.ids == [], 'it to go')
    refused = page.request('remove', object_id=number)
    assert not refused['success'] and f'there is no object {number}' in refused['message']


def test_a_prompt_on_a_frozen_picture_is_applied_to_that_picture(harness: Harness, page: ConsoleClient) -> None:
    frozen = page.header['stamp']
    for shift in range(2, 22, 2):
        shown(harness, page, scene(shift=shift))
    answer = page.request('add', camera='camera', stamp=frozen, box=list(BOX), label='frozen')
    assert answer['success'], answer
    (echo,) = wait_until(
        lambda: [p for p in harness.prompts if p.object_id == answer['object_id']], 'the prompt as accepted'
    )
    assert str(echo.header.stamp.sec * 10**9 + echo.header.stamp.nanosec) == frozen
    page.wait(lambda: page.ids == [answer['object_id']], 'the object')
    shown(harness, page, scene(shift=20))
    columns = np.flatnonzero((page.labels == answer['object_id']).any(0))
    assert abs(columns.mean() - (CENTRE[0] + 20)) < 8, 'it was carried on to where the square is by then'


def test_a_picture_that_is_too_old_is_refused_with_a_sentence(page: ConsoleClient) -> None:
    answer = page.request('add', camera='camera', stamp='1', box=list(BOX))
    assert not answer['success'] and 'stamp' in answer['message']
    answer = page.request('add', camera='rear', box=list(BOX))
    assert not answer['success'] and "no camera 'rear'" in answer['message']


def test_two_pages_see_the_same_and_a_late_one_sees_it_at_once(
    harness: Harness, console: Console, page: ConsoleClient
) -> None:
    other = console.page()
    answer = other.request('add', camera='camera', box=list(BOX), label='theirs')
    shown(harness, page)
    page.wait(lambda: page.ids == [answer['object_id']], 'the object of the other page')
    page.wait(lambda: page.state['pages'] == 2, 'two pages')
    late = console.page()
    late.wait(lambda: late.ids == [answer['object_id']] and late.labels.any(), 'the same on a paused stream')
    np.testing.assert_array_equal(late.labels, page.labels)


def test_pictures_are_read_only_while_somebody_looks(
    harness: Harness, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('robust_pvos_ros.console.feed.LINGER', 0.5)
    wait_until(lambda: console.node._feeds, 'the camera to be known')
    page = ConsoleClient(console.node.port)
    wait_until(lambda: console.reads_masks, 'the masks to be read')
    page.close()
    wait_until(lambda: not console.reads_masks, 'them to be left alone')


def test_for_a_page_that_stands_still_no_pictures_are_read(
    harness: Harness, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('robust_pvos_ros.console.feed.LINGER', 0.5)
    monkeypatch.setattr('robust_pvos_ros.console.pages.STANDSTILL', 1.0)
    wait_until(lambda: console.node._feeds, 'the camera to be known')
    page = console.page(confirms=False)
    wait_until(lambda: console.reads_masks, 'the masks to be read')
    shown(harness, page)
    wait_until(lambda: not console.reads_masks, 'them to be left alone')


def test_health_is_that_of_the_node(page: ConsoleClient) -> None:
    page.wait(lambda: page.state.get('cameras') and 'processed' in page.state['cameras'][0]['figures'], 'figures')
    (camera,) = page.state['cameras']
    assert (camera['name'], camera['topic']) == ('camera', '/camera/image_raw')
    assert {'fps', 'dropped', 'image_age_p50_ms', 'history_mb'} <= camera['figures'].keys()
    assert page.state['node']['texts']['model'] == 'compact'
    assert page.state['node']['memory_mb'] > 50


def test_the_record_button_makes_a_bag(harness: Harness, page: ConsoleClient, tmp_path: Path) -> None:
    answer = page.request('record', timeout=90, on=True)
    assert answer['success'], answer
    page.wait(lambda: page.state['recording']['on'], 'the state to tell')
    wait_until(lambda: harness.client.count_subscribers('/robust_pvos/camera/objects') > 2, 'the recorder', 60)
    for _ in range(5):
        shown(harness, page)
    page.wait(lambda: page.state['recording']['bytes'] > 0, 'a size')
    time.sleep(0.5)
    answer = page.request('record', timeout=90, on=False)
    assert answer['success'], answer
    (bag,) = (tmp_path / 'bags').iterdir()
    with BagReader(bag) as reader:
        assert '/robust_pvos/camera/objects' in reader.topics


def test_a_node_that_goes_and_comes_back_is_said_and_found_again() -> None:
    first = Harness('away', threads=1)
    console = Console(first)
    try:
        first.wait_active()
        page = console.page()
        page.wait(lambda: page.state.get('node', {}).get('state') == 'active', 'the node')
        images = '/away/camera/image_raw'
        page.wait(lambda: first.client.count_subscribers(images) > 1, 'the console to read the camera')
        shown(first, page)
        assert page.request('add', camera='camera', box=list(BOX))['success']
        page.wait(lambda: page.ids == [1], 'the object')
        assert first.node.stop()
        first._spinning[0].stop()
        first.node.destroy_node()
        page.wait(lambda: not page.state['node']['present'], 'the console to say that the node is gone')
        assert 'is not there' in page.state['node']['text']
        page.wait(lambda: page.ids == [], 'its objects to go')
        refused = page.request('reset')
        assert not refused['success'] and 'is not there' in refused['message']
        second = Harness('away', threads=1)
        try:
            second.wait_active()
            page.wait(lambda: page.state['node']['state'] == 'active', 'it to be back')
            shown(second, page)
            assert page.request('add', camera='camera', box=list(BOX))['object_id'] == 1
        finally:
            second.close()
    finally:
        console.close()
        first._spinning[1].stop()
        first.client.destroy_node()
        first.context.try_shutdown()


@pytest.mark.parametrize(
    'parameters, sentence',
    [
        ({'host': '0.0.0.0'}, 'give a token'),
        ({'port': 70000}, 'parameter port must be an integer from 0 to 65535'),
        ({'port': 'http'}, 'parameter port must be an integer'),
        ({'picture_quality': 0}, 'picture_quality must be an integer from 10 to 100'),
    ],
)
def test_a_console_that_cannot_run_says_why(harness: Harness, parameters: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConsoleError, match=sentence):
        Console(harness, **parameters)


@pytest.mark.slow
def test_the_executable_ends_cleanly_and_refuses_in_one_sentence() -> None:
    command = [sys.executable, '-m', 'robust_pvos_ros.console.main', '--ros-args', '-p']
    refused = subprocess.run([*command, 'host:=0.0.0.0'], capture_output=True, text=True, timeout=60)
    assert refused.returncode == 2
    assert refused.stderr.startswith('the node cannot start: 0.0.0.0 can be reached from other machines')
    assert 'Traceback' not in refused.stderr
    process = subprocess.Popen([*command, 'port:=0'], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = iter(process.stderr.readline, '')
    assert any('console of /robust_pvos: http://127.0.0.1:' in line for line in said), 'it ended without listening'
    process.terminate()
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0 and 'Traceback' not in err, out + err


def test_records_of_every_severity_reach_the_log_of_ros(capfd: pytest.CaptureFixture[str]) -> None:
    handler = LogToRos(SimpleNamespace(get_logger=lambda: get_logger('console_severities')))
    for level in (logging.WARNING, logging.ERROR, logging.WARNING, logging.CRITICAL):
        handler.handle(logging.LogRecord('server', level, '', 0, 'trouble %d', (level,), None))
    told = [line for line in capfd.readouterr().err.splitlines() if 'console_severities' in line]
    assert ['WARN' in line for line in told] == [True, False, True, False], told
    assert [line.rpartition(' ')[2] for line in told] == ['30', '40', '30', '50']


def test_a_log_that_cannot_be_written_ends_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, 'raiseExceptions', False)
    handler = LogToRos(SimpleNamespace())
    handler.handle(logging.LogRecord('server', logging.ERROR, '', 0, 'trouble', (), None))


def test_a_state_without_a_report_names_the_cameras_that_were_known() -> None:
    state = state_of(None, '/robust_pvos', ('front',))
    assert state['node']['state'] == 'gone' and [camera['name'] for camera in state['cameras']] == ['front']


def test_the_square_of_these_tests_is_where_they_point() -> None:
    message = image(scene(), 1)
    assert square_mask()[int(CENTRE[1]), int(CENTRE[0])] and message.width > CENTRE[0]
