"""Pixels and requests in, results out."""

from __future__ import annotations

import array
import io
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from geometry_msgs.msg import Point
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Picture
from robust_pvos_interfaces.msg import Prompt as PromptMsg
from sensor_msgs.msg import CompressedImage, Image, RegionOfInterest
from std_msgs.msg import Header

from robust_pvos_ros import messages
from robust_pvos_ros.image_codec import ENCODINGS, check_compressed, check_image, compressed_to_rgb, image_to_rgb
from robust_pvos_ros.tracking.types import (
    FrameError,
    FrameResult,
    ObjectState,
    PromptError,
    TrackedObject,
    seconds_text,
)

HEADER = Header(stamp=messages.time_message(12_000_000_345), frame_id='optical')


def smooth_picture(height: int = 24, width: int = 32) -> np.ndarray:
    """uint8 (H, W, 3) RGB with all hues and little detail, so that demosaicing and chroma subsampling lose little."""
    coarse = np.random.default_rng(0).integers(20, 236, (3, 4, 3)).astype(np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def message_of(rows: np.ndarray, encoding: str, width: int, height: int, padding: int = 0) -> Image:
    """Rows of bytes as a message whose rows end with `padding` bytes of rubbish."""
    rows = rows.reshape(len(rows), -1).view(np.uint8)
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=77)
    message = Image(width=width, height=height, encoding=encoding, step=padded.shape[1])
    message.data = array.array('B', padded.tobytes())
    return message


def mosaic(rgb: np.ndarray, pattern: str) -> np.ndarray:
    """What a sensor behind a Bayer filter sees; `pattern` names the top-left 2 x 2 pixels row by row."""
    raw = np.zeros(rgb.shape[:2], np.uint8)
    for position, letter in enumerate(pattern):
        rows, columns = slice(position // 2, None, 2), slice(position % 2, None, 2)
        raw[rows, columns] = rgb[rows, columns, 'rgb'.index(letter)]
    return raw


def yuv(rgb: np.ndarray) -> np.ndarray:
    """float (H, W, 3), BT.601 with limited range, from the standard's own coefficients."""
    matrix = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]) / 255
    return rgb @ matrix.T + (16, 128, 128)


def pack_422(rgb: np.ndarray, order: str) -> np.ndarray:
    y, u, v = np.moveaxis(yuv(rgb), -1, 0)
    u, v = (np.repeat((x[:, ::2] + x[:, 1::2]) / 2, 2, 1) for x in (u, v))
    chroma = np.where(np.arange(rgb.shape[1]) % 2 == 0, u, v)
    pairs = (chroma, y) if order == 'uyvy' else (y, chroma)
    return np.stack(pairs, -1).round().clip(0, 255).astype(np.uint8)


def pack_420(rgb: np.ndarray, order: str) -> np.ndarray:
    y, u, v = np.moveaxis(yuv(rgb), -1, 0)
    u, v = (cv2.resize(x, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for x in (u, v))
    chroma = np.stack((u, v) if order == 'uv' else (v, u), -1).reshape(len(u), -1)
    return np.concatenate([y, chroma]).round().clip(0, 255).astype(np.uint8)


GREY = smooth_picture()[..., 1]
RGB = smooth_picture()
ALPHA = np.full((*RGB.shape[:2], 1), 9, np.uint8)
GREY_RGB = np.repeat(GREY[..., None], 3, -1)
FINE_GREY = GREY.astype(np.uint16) * 256 + 200
# Encoding -> rows in memory, the expected picture, the largest error.
PACKED = {
    'rgb8': (RGB, RGB, 0),
    'bgr8': (RGB[..., ::-1], RGB, 0),
    '8UC3': (RGB[..., ::-1], RGB, 0),
    'rgba8': (np.concatenate([RGB, ALPHA], -1), RGB, 0),
    'bgra8': (np.concatenate([RGB[..., ::-1], ALPHA], -1), RGB, 0),
    '8UC4': (np.concatenate([RGB[..., ::-1], ALPHA], -1), RGB, 0),
    'mono8': (GREY, GREY_RGB, 0),
    '8UC1': (GREY, GREY_RGB, 0),
    'mono16': (FINE_GREY.astype('<u2'), GREY_RGB, 0),
    'bayer_rggb8': (mosaic(RGB, 'rggb'), RGB, 12),
    'bayer_bggr8': (mosaic(RGB, 'bggr'), RGB, 12),
    'bayer_gbrg8': (mosaic(RGB, 'gbrg'), RGB, 12),
    'bayer_grbg8': (mosaic(RGB, 'grbg'), RGB, 12),
    'yuv422': (pack_422(RGB, 'uyvy'), RGB, 12),
    'uyvy': (pack_422(RGB, 'uyvy'), RGB, 12),
    'yuv422_yuy2': (pack_422(RGB, 'yuyv'), RGB, 12),
    'yuyv': (pack_422(RGB, 'yuyv'), RGB, 12),
    'nv12': (pack_420(RGB, 'uv'), RGB, 18),
    'nv21': (pack_420(RGB, 'vu'), RGB, 18),
}


def test_every_encoding_has_a_case():
    assert set(PACKED) == set(ENCODINGS)


@pytest.mark.parametrize('padding', [0, 6])
@pytest.mark.parametrize('encoding', PACKED)
def test_pixels_come_out_as_they_went_in(encoding, padding):
    rows, expected, tolerance = PACKED[encoding]
    message = message_of(np.ascontiguousarray(rows), encoding, RGB.shape[1], RGB.shape[0], padding)
    rgb = image_to_rgb(message)
    assert (rgb.dtype, rgb.shape) == (np.uint8, RGB.shape)
    inner = (slice(2, -2), slice(2, -2)) if tolerance else (slice(None), slice(None))
    error = np.abs(rgb.astype(int) - expected.astype(int))[inner]
    assert np.percentile(error, 98) <= tolerance
    assert error.max() <= 3 * tolerance


@pytest.mark.parametrize('encoding', ['rgb8', 'bgr8', 'rgba8', 'bgra8', 'mono8', 'bayer_rggb8', 'bayer_grbg8', 'uyvy'])
def test_pixels_equal_those_of_cv_bridge(encoding):
    cv_bridge = pytest.importorskip('cv_bridge', reason='cv_bridge is not installed')
    message = message_of(np.ascontiguousarray(PACKED[encoding][0]), encoding, RGB.shape[1], RGB.shape[0])
    assert np.array_equal(image_to_rgb(message), cv_bridge.CvBridge().imgmsg_to_cv2(message, 'rgb8'))


def test_images_read_by_rosbags_are_converted_too():
    class Stored:
        """The fields as rosbags gives them."""

        height, width, step, encoding, is_bigendian = 24, 32, 96, 'rgb8', 0
        data = RGB.reshape(-1)

    assert np.array_equal(image_to_rgb(Stored()), RGB)


def test_big_endian_16_bit():
    message = message_of(FINE_GREY.astype('>u2'), 'mono16', RGB.shape[1], RGB.shape[0], 4)
    message.is_bigendian = 1
    assert np.array_equal(image_to_rgb(message), GREY_RGB)


def test_rgb8_is_a_view_without_a_copy():
    message = message_of(RGB, 'rgb8', RGB.shape[1], RGB.shape[0], 5)
    assert np.shares_memory(image_to_rgb(message), np.frombuffer(message.data, np.uint8))


@pytest.mark.parametrize(
    ('encoding', 'changes', 'problem'),
    [
        ('rgb8', {'step': 95}, 'a row of 32 rgb8 pixels takes 96'),
        ('rgb8', {'step': 97}, '24 rows of 97 bytes take 2328'),
        ('rgb8', {'height': 23}, 'image data has 2304 bytes'),
        ('rgb8', {'height': 0}, 'width and height must be positive'),
        ('rgb8', {'width': 0}, 'width and height must be positive'),
        ('rgb8', {'encoding': 'RGB8'}, "'RGB8' is not supported; use one of rgb8, bgr8"),
        ('rgb8', {'encoding': '16UC1'}, "'16UC1' is not supported"),
        ('mono16', {'step': 65, 'height': 24}, 'must be a multiple of 2'),
        ('yuyv', {'width': 31}, 'needs even width'),
        ('nv12', {'height': 23}, 'needs even width and height'),
        ('bayer_rggb8', {'height': 23}, 'needs even width and height'),
    ],
)
def test_a_malformed_image_is_named(encoding, changes, problem):
    message = message_of(np.ascontiguousarray(PACKED[encoding][0]), encoding, RGB.shape[1], RGB.shape[0])
    for name, value in changes.items():
        setattr(message, name, value)
    with pytest.raises(FrameError, match=problem.replace('*', r'\*')):
        image_to_rgb(message)


@settings(max_examples=300, deadline=None)
@given(
    encoding=st.sampled_from([*ENCODINGS, '', 'jpeg', '32FC1']),
    size=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    step=st.integers(0, 40),
    data=st.binary(max_size=400),
    big=st.booleans(),
)
def test_any_image_gives_pixels_or_a_frame_error(encoding, size, step, data, big):
    message = Image(height=size[0], width=size[1], encoding=encoding, step=step, is_bigendian=int(big))
    needed = step * size[0] * (3 if encoding in ('nv12', 'nv21') else 2) // 2
    message.data.frombytes((data * (needed // max(len(data), 1) + 1))[: max(needed, len(data) - 390)])
    try:
        rgb = image_to_rgb(message)
    except FrameError:
        return
    assert (rgb.dtype, rgb.shape) == (np.uint8, (*size, 3))


# ------------------------------------------------------------------------------------------------------------- prompts


def test_a_request_becomes_a_prompt():
    message = PromptMsg(object_id=3, label='car', point_labels=[1, 0], has_box=True)
    message.points = [Point(x=1.5, y=2.0, z=9.0), Point(x=3.0, y=4.0)]
    message.box = RegionOfInterest(x_offset=1, y_offset=2, width=10, height=20)
    prompt = messages.prompt_from_message(message)
    assert (prompt.object_id, prompt.label) == (3, 'car')
    assert prompt.points.tolist() == [[1.5, 2], [3, 4]]
    assert prompt.point_labels.tolist() == [1, 0]
    assert prompt.box.tolist() == [1, 2, 11, 22]
    assert prompt.mask is None


def test_a_padded_mask_is_read_without_its_padding():
    mask = np.eye(6, 8, dtype=np.uint8) * 3
    prompt = messages.prompt_from_message(PromptMsg(mask=message_of(mask, '8UC1', 8, 6, 5)))
    assert np.array_equal(prompt.mask, mask > 0)


def test_a_box_that_is_not_declared_is_ignored():
    message = PromptMsg(points=[Point(x=1.0, y=1.0)], point_labels=[1])
    message.box = RegionOfInterest(width=5, height=5)
    assert messages.prompt_from_message(message).box is None


def test_an_accepted_prompt_survives_the_way_through_a_message():
    original = PromptMsg(label='car', point_labels=[1], has_box=True, points=[Point(x=1.5, y=2.0)])
    original.box = RegionOfInterest(x_offset=1, y_offset=2, width=10, height=20)
    echoed = messages.prompt_message(messages.prompt_from_message(original), HEADER, 'front', 7)
    assert (echoed.header, echoed.camera, echoed.object_id) == (HEADER, 'front', 7)
    assert (echoed.label, echoed.box, echoed.has_box) == ('car', original.box, True)
    assert echoed.points == original.points
    assert list(echoed.point_labels) == [1]
    mask = np.eye(6, 8, dtype=bool)
    with_mask = PromptMsg(mask=messages.mask_message(mask, HEADER))
    echoed = messages.prompt_message(messages.prompt_from_message(with_mask), HEADER, 'front', 7)
    assert echoed.mask == with_mask.mask


def test_points_that_are_not_numbers_are_refused():
    with pytest.raises(PromptError, match='not finite'):
        messages.prompt_from_message(PromptMsg(points=[Point(x=float('nan'))], point_labels=[1]))


class Huge:
    """A sequence that says how long it is and must not be read."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __iter__(self):
        raise AssertionError('read before its length was checked')

    __getitem__ = __iter__


def fields_of(message, **changes) -> SimpleNamespace:
    values = {name: getattr(message, name) for name in message.get_fields_and_field_types()}
    return SimpleNamespace(**{**values, **changes})


def test_what_is_too_long_is_refused_before_it_is_read():
    for changes in ({'points': Huge(10**8)}, {'point_labels': Huge(10**8)}):
        with pytest.raises(PromptError, match='at most 64 points'):
            messages.prompt_from_message(fields_of(PromptMsg(), **changes))
    side = 8000
    mask = fields_of(Image(width=side, height=side, encoding='mono8', step=side), data=Huge(side * side))
    with pytest.raises(PromptError, match='mask is 8000x8000 pixels'):
        messages.prompt_from_message(fields_of(PromptMsg(), mask=mask))
    picture = fields_of(Image(width=side, height=side, encoding='mono8', step=side), data=Huge(side * side))
    with pytest.raises(FrameError, match='image is 8000x8000 pixels: at most'):
        check_image(picture)
    stream = fields_of(CompressedImage(format='jpeg'), data=Huge(1 << 27))
    with pytest.raises(FrameError, match='compressed image has 134217728 bytes'):
        check_compressed(stream)


def test_a_small_file_that_unpacks_to_a_huge_picture_is_refused_before_it_is_unpacked():
    stream = io.BytesIO()
    Picture.new('1', (60_000, 60_000)).save(stream, 'PNG')
    message = CompressedImage(format='png')
    message.data.frombytes(stream.getvalue())
    check_compressed(message)
    with pytest.raises(FrameError, match=r'60000x60000 pixels|decompression bomb'):
        compressed_to_rgb(message)


def test_texts_from_outside_are_cut_in_what_is_said_about_them():
    with pytest.raises(FrameError) as error:
        check_image(Image(height=1, width=1, encoding='x' * 100_000))
    assert "'... (100000 characters)" in str(error.value) and len(str(error.value)) < 500
    decision = messages.Decision('add_object', camera='c' * 999, label='l' * 999)
    message = messages.decision_message(decision, HEADER)
    assert (len(message.camera), len(message.label)) == (128, 128)


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=300), kind=st.sampled_from(['', 'JPEG', 'PNG']), cut=st.integers(0, 300))
def test_any_compressed_image_gives_pixels_or_a_frame_error(data, kind, cut):
    if kind:
        stream = io.BytesIO()
        Picture.fromarray(RGB).save(stream, kind)
        whole = bytearray(stream.getvalue())
        whole[cut : cut + len(data) // 30] = data[: len(data) // 30]
        data = bytes(whole)
    message = CompressedImage(format=kind)
    message.data.frombytes(data)
    try:
        check_compressed(message)
        rgb = compressed_to_rgb(message)
    except FrameError:
        return
    assert rgb.dtype == np.uint8 and rgb.ndim == 3 and rgb.shape[2] == 3


# ------------------------------------------------------------------------------------------------------------- results


def result_of_two() -> FrameResult:
    masks = np.zeros((2, 6, 8), bool)
    masks[0, 1:3, 2:6] = True
    labels = np.where(masks[0], 300, 0).astype(np.uint16)
    seen = TrackedObject(
        300, 'car', ObjectState.TRACKING, 0.75, 0.5, (2, 1, 6, 3), (3.5, 1.5), 8, 0, 5
    )
    gone = TrackedObject(301, '', ObjectState.LOST, 0.1, 0.2, (0, 0, 0, 0), (0.0, 0.0), 0, 91, 5)
    return FrameResult(5, 0, 6, 8, (seen, gone), np.zeros((2, 2, 2), np.float32), masks, labels)


def test_results_become_messages_under_the_given_header():
    result = result_of_two()
    objects = messages.objects_message(result.objects, HEADER, 'front')
    label_image = messages.label_message(result, HEADER)
    mask = messages.mask_message(result.mask(300), HEADER)
    assert objects.header == label_image.header == mask.header == HEADER
    assert label_image.encoding == '16UC1'
    assert label_image.is_bigendian == (sys.byteorder == 'big')
    assert np.array_equal(np.frombuffer(label_image.data, np.uint16).reshape(6, 8), result.label_image)
    assert np.array_equal(np.frombuffer(mask.data, np.uint8).reshape(6, 8), result.masks[0] * 255)
    seen, gone = objects.objects
    assert (seen.id, seen.label, seen.state, seen.area_px) == (300, 'car', seen.TRACKING, 8)
    assert (seen.object_score, seen.predicted_iou) == (0.75, 0.5)
    assert seen.box == RegionOfInterest(x_offset=2, y_offset=1, width=4, height=2)
    assert (seen.centroid.x, seen.centroid.y) == (3.5, 1.5)
    assert seen.mask_stamp == messages.time_message(5)
    assert (gone.state, gone.frames_since_seen, gone.box) == (gone.LOST, 91, RegionOfInterest())


def test_detections_are_the_visible_objects():
    pytest.importorskip('vision_msgs.msg', reason='vision_msgs is not installed')
    detections = messages.detections_message(result_of_two().objects, HEADER)
    (seen,) = detections.detections
    assert detections.header == seen.header == HEADER
    assert seen.id == '300'
    assert (seen.bbox.center.position.x, seen.bbox.center.position.y) == (3.5, 1.5)
    assert (seen.bbox.size_x, seen.bbox.size_y) == (4, 2)
    assert seen.results[0].hypothesis.class_id == 'car'
    assert seen.results[0].hypothesis.score == 0.75


def test_stamps_survive():
    for nanoseconds in (0, 1, 999_999_999, 1_000_000_000, 1_795_183_120_918_174_976):
        assert messages.nanoseconds(messages.time_message(nanoseconds)) == nanoseconds
    assert seconds_text(12_000_000_345) == '12.000000345'
