"""What the console's server makes of messages, and that a page that stands still costs nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from aiohttp import WSMsgType
from console_site import image, next_frame, running, scene, tracked, until

from robust_pvos_ros.console.bridge import RequestError
from robust_pvos_ros.console.encoding import Frame, labels_from_runs
from robust_pvos_ros.console.protocol import LONGEST_MESSAGE


def frame(stamp: int = 1, camera: str = 'camera') -> Frame:
    rgb, labels = scene()
    return Frame(camera, stamp, image(rgb, 'rgb8'), image(labels, '16UC1'), (tracked(300),), {300: 1.0})


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
        async with running(tmp_path, max_pages=2) as site, site.page() as first, site.page():
            async with site.page() as third:
                told = await third.receive(10)
                assert (told.type, told.data) == (WSMsgType.CLOSE, aiohttp.WSCloseCode.TRY_AGAIN_LATER)
                assert told.extra == 'as many pages are open as max_pages allows (2): close one'
            assert len(site.server.pages) == 2
            await first.close()
            while len(site.server.pages) == 2:
                await asyncio.sleep(0.01)
            async with site.page() as fourth:
                await until(fourth, 'hello')

    asyncio.run(check())


def test_a_quiet_page_gets_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('robust_pvos_ros.console.server.BEAT_PERIOD', 0.05)

    async def check() -> None:
        async with running(tmp_path) as site, site.page() as socket:
            for _ in range(5):
                assert await until(socket, 'alive') == {'type': 'alive'}

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


def test_frames_may_be_confirmed_out_of_order(tmp_path: Path) -> None:
    """A frame without a picture is done with while the one before it is still being decoded."""

    async def check() -> None:
        async with running(tmp_path) as site, site.page() as socket:
            await socket.send_json({'type': 'watch', 'cameras': ['camera']})
            while not site.segmentation.watched:
                await asyncio.sleep(0.01)
            numbers = []
            for sent in (frame(1), replace(frame(2), image=None)):
                site.server.pages.frame(sent)
                numbers.append((await next_frame(socket))[0]['number'])
            for number in (numbers[1], numbers[0], 99):
                await socket.send_json({'type': 'shown', 'camera': 'camera', 'number': number})
            assert 'frame 99 of camera' in (await until(socket, 'refused'))['message']

    asyncio.run(check())


def test_masks_of_a_past_frame_reach_a_page_beside_its_frames(tmp_path: Path) -> None:
    late = replace(frame(1), image=None, past=True)

    async def check() -> None:
        async with running(tmp_path) as site, site.page() as socket, site.page() as blind:
            await socket.send_json({'type': 'watch', 'cameras': ['camera']})
            while not site.segmentation.watched:
                await asyncio.sleep(0.01)
            for stamp in (5, 6):
                site.server.pages.frame(frame(stamp))
                assert (await next_frame(socket))[0]['stamp'] == str(stamp)
            site.server.pages.frame(frame(7))  # waits: two are on their way
            site.server.pages.frame(late)
            header, runs, picture = await next_frame(socket)
            assert (header['type'], header['camera'], header['stamp'], picture) == ('past', 'camera', '1', b'')
            np.testing.assert_array_equal(labels_from_runs(runs, 48, 64), scene()[1])
            (entry,) = header['objects']
            assert (entry['id'], entry['state'], entry['unseen']) == (300, 'TRACKING', 0)
            shown = scene()[1] == 300
            assert entry['area'] == shown.sum() and entry['box'] == [5, 10, 30, 20]
            await socket.send_json({'type': 'shown', 'camera': 'camera', 'number': 2})
            assert (await next_frame(socket))[0]['stamp'] == '7'
            with contextlib.suppress(asyncio.TimeoutError):
                while True:
                    assert (await blind.receive(0.3)).type == WSMsgType.TEXT, 'it does not show the camera'

    asyncio.run(check())


def test_a_page_is_told_the_objects_of_cameras_that_it_does_not_show(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path) as site, site.page() as socket:
            await socket.send_json({'type': 'watch', 'cameras': ['front']})
            while site.segmentation.watched != {'front'}:
                await asyncio.sleep(0.01)
            site.server.pages.frame(frame(5, 'rear'))
            told = await until(socket, 'objects')
            assert told['camera'] == 'rear'
            assert [(entry['id'], entry['age']) for entry in told['objects']] == [(300, 1.0)]
            site.server.pages.frame(Frame('rear', 5, processed=False))
            gone = await until(socket, 'objects')
            assert gone['objects'] == [] and gone['number'] > told['number']
            site.server.pages.frame(frame(6, 'front'))
            assert (await next_frame(socket))[0]['camera'] == 'front', 'no picture of a camera that it does not show'
            async with site.page() as late:
                known: set[str] = set()
                while known != {'front', 'rear'}:
                    known.add((await until(late, 'objects'))['camera'])

    asyncio.run(check())


def test_a_page_that_looks_away_keeps_the_objects_that_it_had_not_been_sent(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path) as site, site.page() as socket:
            await socket.send_json({'type': 'watch', 'cameras': ['camera']})
            while not site.segmentation.watched:
                await asyncio.sleep(0.01)
            for stamp in range(1, 5):  # it confirms none, so the last ones wait
                site.server.pages.frame(frame(stamp))
                await asyncio.sleep(0.05)
            sent = [(await next_frame(socket))[0]['number'] for _ in range(2)]
            await socket.send_json({'type': 'watch', 'cameras': []})
            assert (await until(socket, 'objects'))['number'] > max(sent)

    asyncio.run(check())


def test_an_old_picture_is_sent_with_its_age(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path) as site, site.page() as socket:
            await socket.send_json({'type': 'watch', 'cameras': ['camera']})
            while not site.segmentation.watched:
                await asyncio.sleep(0.01)
            site.server.pages.frame(frame(1))
            assert (await next_frame(socket))[0]['age'] == 0
            site.server.pages.frame(replace(frame(2), arrived=time.monotonic() - 60))
            header, runs, picture = await next_frame(socket)
            assert 60 <= header['age'] < 70
            np.testing.assert_array_equal(labels_from_runs(runs, 48, 64), scene()[1])
            assert picture.startswith(b'\xff\xd8'), 'a JPEG'
            async with site.page() as late:
                await late.send_json({'type': 'watch', 'cameras': ['camera']})
                assert (await next_frame(late))[0]['age'] >= 60

    asyncio.run(check())


def test_masks_of_a_node_that_is_gone_are_not_shown_to_a_late_page(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path) as site, site.page() as socket:
            await socket.send_json({'type': 'watch', 'cameras': ['camera']})
            while not site.segmentation.watched:
                await asyncio.sleep(0.01)
            site.server.pages.frame(frame(1))
            await next_frame(socket)
            site.server.pages.frame(Frame('camera', 1, processed=False))
            async with site.page() as late:
                await late.send_json({'type': 'watch', 'cameras': ['camera']})
                assert (await until(late, 'objects'))['objects'] == []
                header, number = None, 1
                while header is None or not header['picture']:
                    assert header is None or not header['masks']
                    number += 1  # the page may come to watch only after a frame
                    site.server.pages.frame(frame(number))
                    with contextlib.suppress(asyncio.TimeoutError):
                        header = (await asyncio.wait_for(next_frame(late), 1))[0]
                assert int(header['stamp']) >= 2

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
            while not (trouble := (await until(socket, 'state')).get('trouble')):
                pass
            assert "'nonsense' is not supported" in trouble['camera']
            site.server.pages.frame(frame(2))
            assert (await next_frame(socket))[0]['stamp'] == '2'
            assert site.server.pages.state['trouble'] == {'camera': ''}

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
