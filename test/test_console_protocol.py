"""What a page may say to the console, and how frames travel to it."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from console_site import image, scene, tracked
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robust_pvos_ros.console import protocol
from robust_pvos_ros.console.encoding import (
    Frame,
    Runs,
    encode_frame,
    labels_from_runs,
    run_lengths,
    unpack,
)
from robust_pvos_ros.console.protocol import (
    PromptRequest,
    ProtocolError,
    Record,
    Remove,
    Rename,
    Reset,
    Shown,
    Watch,
    parse,
)
from robust_pvos_ros.tracking.types import FrameError

ADD = {'type': 'add', 'request': 1, 'camera': 'camera', 'stamp': '1700000000123456789', 'points': [[3.5, 4, 1]]}


def said(**fields: Any) -> str:
    return json.dumps(fields)


def changed(base: dict[str, Any], **fields: Any) -> str:
    return json.dumps({**base, **fields})


# ------------------------------------------------------------------------------------------------------------- parsing


def test_a_click_becomes_a_prompt_on_the_frame_it_was_made_on() -> None:
    message = parse(json.dumps(ADD))
    assert isinstance(message, PromptRequest)
    assert (message.request, message.camera, message.stamp) == (1, 'camera', 1_700_000_000_123_456_789)
    assert message.prompt.object_id == 0
    np.testing.assert_array_equal(message.prompt.points, np.array([[3.5, 4]], np.float32))
    np.testing.assert_array_equal(message.prompt.point_labels, [1])
    assert message.prompt.box is None


def test_a_box_is_widened_to_whole_pixels() -> None:
    message = parse(said(type='add', request=1, camera='c', box=[1.2, 2.0, 3.1, 4.9], label='car'))
    assert isinstance(message, PromptRequest)
    np.testing.assert_array_equal(message.prompt.box, [1, 2, 4, 5])
    assert (message.prompt.label, message.stamp) == ('car', 0)


def test_a_background_point_refines() -> None:
    message = parse(changed(ADD, type='refine', object_id=300, points=[[1, 2, 0]]))
    assert isinstance(message, PromptRequest)
    assert message.prompt.object_id == 300
    np.testing.assert_array_equal(message.prompt.point_labels, [0])


@pytest.mark.parametrize(
    'text, expected',
    [
        (said(type='remove', request=2, object_id=65535), Remove(2, 65535)),
        (said(type='rename', request=3, object_id=1, label='Bär'), Rename(3, 1, 'Bär')),
        (said(type='reset', request=4), Reset(4, '')),
        (said(type='reset', request=4, camera='front'), Reset(4, 'front')),
        (said(type='record', request=5, on=True), Record(5, True)),
        (said(type='watch', cameras=['a', 'b']), Watch(('a', 'b'))),
        (said(type='shown', camera='a', number=7), Shown('a', 7)),
    ],
)
def test_every_other_message_is_understood(text: str, expected: object) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    'text, sentence',
    [
        ('', 'must be a JSON object'),
        ('[]', 'must be a JSON object'),
        ('{"type": "add"', 'must be a JSON object'),
        ('{"type": "reset", "type": "remove"}', 'a key is given twice'),
        ('[' * 10_000, 'nested too deeply'),
        ('{"type": "remove", "request": NaN}', 'NaN is no number'),
        (' ' * 20_000, 'may have 16384 bytes, got 20000'),
        (said(type='shell'), "type must be one of add, refine, remove, rename, reset, record, watch, shown, got 'sh"),
        (said(type=['add']), 'type must be one of'),
        (said(type='remove', request=1, object_id=0), 'object_id must be an integer from 1 to 65535, got 0'),
        (said(type='remove', request=1, object_id=True), 'object_id must be an integer'),
        (said(type='remove', request=1, object_id=1.0), 'object_id must be an integer'),
        (said(type='remove', request=-1, object_id=1), 'request must be an integer from 0'),
        (said(type='remove', object_id=1), 'request must be an integer'),
        (said(type='remove', request=1, object_id=1, path='/etc/passwd'), "'path' is no key of this message"),
        (said(type='rename', request=1, object_id=1, label='x' * 129), 'at most 128 characters, got 129'),
        (said(type='rename', request=1, object_id=1, label='a\x00b'), 'printable characters'),
        (r'{"type": "rename", "request": 1, "object_id": 1, "label": "\ud800"}', 'printable characters'),
        (said(type='record', request=1, on=1), 'on must be true or false'),
        (said(type='record', request=1, on=True, path='../x'), "'path' is no key"),
        (said(type='watch', cameras=['a'] * 17), 'at most 16 names'),
        (said(type='watch', cameras=[1]), 'must hold names of cameras'),
        (changed(ADD, stamp=12), 'stamp must be nanoseconds as a text of digits'),
        (changed(ADD, stamp='-1'), 'stamp must be nanoseconds'),
        (changed(ADD, stamp='٣'), 'stamp must be nanoseconds'),
        (changed(ADD, stamp='9' * 19), 'stamp must be nanoseconds'),
        (changed(ADD, points=[]), 'the prompt is empty'),
        (changed(ADD, points=[[1, 2, 0]]), 'at least one foreground point'),
        (changed(ADD, points=[[1, 2]]), 'a point must be [x, y, label]'),
        (changed(ADD, points=[[1, 2, 2]]), 'label of a point must be 1 or 0'),
        (changed(ADD, points=[[-1, 2, 1]]), 'a point must be [x, y, label] with x and y from 0'),
        ('{"type": "add", "request": 1, "camera": "c", "points": [[1e999, 2, 1]]}', 'a point must be [x, y, label]'),
        (changed(ADD, points=[[1, 2, 1]] * 65), 'at most 64'),
        (changed(ADD, box=[1, 2, 3]), 'box must be [x0, y0, x1, y1]'),
        (changed(ADD, box=[5, 2, 3, 4]), 'box must have x0 < x1 and y0 < y1'),
        (changed(ADD, object_id=3), "'object_id' is no key"),
        (changed(ADD, camera=None), 'camera must be a text'),
    ],
)
def test_what_is_wrong_is_refused_in_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse(text)
    assert sentence in str(caught.value)
    assert '\n' not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_refusal_names_its_request() -> None:
    with pytest.raises(ProtocolError) as caught:
        parse(said(type='remove', request=77, object_id=0))
    assert caught.value.request == 77
    with pytest.raises(ProtocolError) as caught:
        parse(said(type='remove', request='77', object_id=1))
    assert caught.value.request is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(
    ['request', 'camera', 'stamp', 'points', 'box', 'label', 'object_id', 'on', 'cameras', 'number', 'extra']
)
NEARLY_RIGHT = st.fixed_dictionaries(
    {'type': st.sampled_from(['add', 'refine', 'remove', 'rename', 'reset', 'record', 'watch', 'shown', 'x', None])}
).flatmap(
    lambda base: st.dictionaries(
        KEYS, JSON | st.sampled_from([1, 'camera', '0', [[1, 2, 1]], [1, 2, 3, 4], True]), max_size=7
    ).map(lambda more: {**base, **more})
)
ANYTHING = (
    st.text(max_size=200)
    | st.binary(max_size=200).map(lambda data: data.decode('latin-1'))
    | JSON.map(json.dumps)
    | NEARLY_RIGHT.map(json.dumps)
)


@settings(max_examples=1000, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(ANYTHING)
def test_a_thousand_messages_are_understood_or_refused(text: str) -> None:
    try:
        message = parse(text)
    except ProtocolError as error:
        assert str(error) and '\n' not in str(error)
        str(error).encode()
    else:
        assert isinstance(message, protocol.Message)


# -------------------------------------------------------------------------------------------------------------- frames


def test_ids_above_255_arrive_exactly() -> None:
    rgb, labels = scene()
    stamp, known = 1_700_000_000_123_456_789, (tracked(300),)
    frame = Frame('front', stamp, image(rgb, 'rgb8'), image(labels, '16UC1'), known, {300: 2.5})
    header, runs, jpeg = unpack(encode_frame(frame, 9, 90, 1280))
    np.testing.assert_array_equal(labels_from_runs(runs, 48, 64), labels)
    assert header['stamp'] == '1700000000123456789'
    assert (header['camera'], header['number'], header['width'], header['height']) == ('front', 9, 64, 48)
    assert header['picture'] and header['masks'] and header['processed']
    (entry,) = header['objects']
    assert entry == {
        'id': 300, 'label': 'car', 'state': 'OCCLUDED', 'score': 0.5, 'box': [0, 0, 0, 0], 'area': 0, 'unseen': 12,
        'age': 2.5,
    }  # fmt: skip
    shown = cv2.cvtColor(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    assert np.abs(shown.astype(int) - rgb).mean() < 8


def test_a_large_picture_is_made_smaller_but_its_masks_are_not() -> None:
    rgb, labels = scene()
    header, runs, jpeg = unpack(encode_frame(Frame('c', 1, image(rgb, 'rgb8'), image(labels, '16UC1')), 1, 80, 32))
    assert cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).shape == (24, 32, 3)
    assert (header['width'], header['height']) == (64, 48)
    np.testing.assert_array_equal(labels_from_runs(runs, 48, 64), labels)


def test_a_frame_without_picture_or_masks_says_so() -> None:
    rgb, labels = scene()
    header, runs, jpeg = unpack(encode_frame(Frame('c', 1, None, image(labels, '16UC1')), 1, 80, 1280))
    assert (header['picture'], header['masks'], jpeg) == (False, True, b'')
    header, runs, jpeg = unpack(encode_frame(Frame('c', 1, image(rgb, 'rgb8'), processed=False), 1, 80, 1280))
    assert (header['masks'], header['processed'], len(runs.ids)) == (False, False, 0)
    assert jpeg


def test_a_compressed_picture_is_understood() -> None:
    rgb, _ = scene()
    data = cv2.imencode('.png', cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1].tobytes()
    header, _, jpeg = unpack(encode_frame(Frame('c', 1, SimpleNamespace(format='png', data=data)), 1, 95, 1280))
    assert (header['width'], header['height']) == (64, 48) and jpeg


def test_masks_of_another_size_are_refused() -> None:
    rgb, labels = scene()
    with pytest.raises(FrameError, match='masks have 64x40 pixels, but the picture has 64x48'):
        encode_frame(Frame('c', 1, image(rgb, 'rgb8'), image(labels[:40], '16UC1')), 1, 80, 1280)


@pytest.mark.parametrize('seed', range(20))
def test_any_labels_survive_their_runs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 40, 2))
    labels = rng.choice(np.array([0, 1, 255, 256, 300, 65535], np.uint16), shape)
    if seed % 2:
        labels = np.sort(labels.ravel()).reshape(shape)
    runs = run_lengths(labels)
    assert (runs.ids[1:] != runs.ids[:-1]).all()
    np.testing.assert_array_equal(labels_from_runs(runs, *shape), labels)


def test_runs_that_do_not_fill_the_picture_are_refused() -> None:
    with pytest.raises(FrameError, match='cover 5 pixels'):
        labels_from_runs(Runs(np.array([5], np.uint32), np.array([1], np.uint16)), 2, 3)
