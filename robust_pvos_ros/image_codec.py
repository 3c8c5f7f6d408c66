"""Pixels of an image message as an RGB array, after strict validation.  NumPy, OpenCV and Pillow, no ROS.

Works on anything with the fields of ``sensor_msgs/Image`` or ``sensor_msgs/CompressedImage`` (rclpy's messages and
those of ``rosbags``).  Own conversions instead of ``cv_bridge``, which not every installation has and which misreads
three-channel rows whose ``step`` is no multiple of the pixel size.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from robust_pvos_ros.tracking.types import MAX_IMAGE_PIXELS, FrameError, shown

Convert = Callable[[np.ndarray], np.ndarray]


class _Packing(NamedTuple):
    """How one encoding lies in memory.

    Attributes:
        pixel_bytes: bytes of one pixel in a row.
        convert: rows as uint8 (rows, W, pixel_bytes), or (rows, W) for one byte a pixel -> uint8 (H, W, 3) RGB.
        even_width, even_height: the encoding shares samples between neighbouring columns or rows.
        rows: rows of memory for two rows of the picture; 3 for 4:2:0, where the chroma rows follow the luma rows.
    """

    pixel_bytes: int
    convert: Convert
    even_width: bool = False
    even_height: bool = False
    rows: int = 2


def _by(code: int) -> Convert:
    return lambda pixels: cv2.cvtColor(pixels, code)


def _top_byte(index: int) -> Convert:
    """A 16-bit picture divided by 256 is its more significant byte; ``index`` says where that byte lies."""
    return lambda pixels: cv2.cvtColor(np.ascontiguousarray(pixels[..., index]), cv2.COLOR_GRAY2RGB)


_BGR = _Packing(3, _by(cv2.COLOR_BGR2RGB))
_BGRA = _Packing(4, _by(cv2.COLOR_BGRA2RGB))
_GREY = _Packing(1, _by(cv2.COLOR_GRAY2RGB))
_UYVY = _Packing(2, _by(cv2.COLOR_YUV2RGB_UYVY), even_width=True)
_YUYV = _Packing(2, _by(cv2.COLOR_YUV2RGB_YUY2), even_width=True)


def _bayer(code: int) -> _Packing:
    return _Packing(1, _by(code), even_width=True, even_height=True)


def _semi_planar(code: int) -> _Packing:
    return _Packing(1, _by(code), even_width=True, even_height=True, rows=3)


# Bare OpenCV types follow OpenCV's order, blue first.  OpenCV names a Bayer pattern by the second row's second and
# third pixel, ROS by the first row's first and second, so the letters differ.
_PACKINGS: dict[str, _Packing] = {
    'rgb8': _Packing(3, lambda pixels: pixels),
    'bgr8': _BGR,
    'rgba8': _Packing(4, _by(cv2.COLOR_RGBA2RGB)),
    'bgra8': _BGRA,
    'mono8': _GREY,
    '8UC1': _GREY,
    '8UC3': _BGR,
    '8UC4': _BGRA,
    'mono16': _Packing(2, _top_byte(1)),
    'bayer_rggb8': _bayer(cv2.COLOR_BayerBG2RGB),
    'bayer_bggr8': _bayer(cv2.COLOR_BayerRG2RGB),
    'bayer_gbrg8': _bayer(cv2.COLOR_BayerGR2RGB),
    'bayer_grbg8': _bayer(cv2.COLOR_BayerGB2RGB),
    'yuv422': _UYVY,
    'uyvy': _UYVY,
    'yuv422_yuy2': _YUYV,
    'yuyv': _YUYV,
    'nv12': _semi_planar(cv2.COLOR_YUV2RGB_NV12),
    'nv21': _semi_planar(cv2.COLOR_YUV2RGB_NV21),
}
_MONO16_BIG_ENDIAN = _Packing(2, _top_byte(0))

ENCODINGS = tuple(_PACKINGS)
MAX_COMPRESSED_BYTES = 1 << 26


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_IMAGE_PIXELS:
        raise FrameError(f'image is {width}x{height} pixels: at most {MAX_IMAGE_PIXELS} pixels are taken')


def check_image(image: Any) -> _Packing:
    """Validate an image message without touching its pixels.

    Args:
        image: fields of ``sensor_msgs/Image``: height, width, encoding, is_bigendian, step, data.

    Raises:
        FrameError: if the size is zero or too large, the encoding unknown, ``step`` too small or the amount of data
            wrong.
    """
    packing = _PACKINGS.get(image.encoding)
    if packing is None:
        raise FrameError(
            f'image encoding {shown(image.encoding)} is not supported; use one of {", ".join(ENCODINGS)}'
        )
    if image.encoding == 'mono16' and image.is_bigendian:
        packing = _MONO16_BIG_ENDIAN
    height, width, step = int(image.height), int(image.width), int(image.step)
    if height == 0 or width == 0:
        raise FrameError(f'image is {width}x{height} pixels: width and height must be positive')
    _check_size(width, height)
    if (packing.even_width and width % 2) or (packing.even_height and height % 2):
        sides = 'width and height' if packing.even_height else 'width'
        raise FrameError(f'image is {width}x{height} pixels: {image.encoding} needs even {sides}')
    if step < width * packing.pixel_bytes:
        raise FrameError(
            f'step is {step} bytes, but a row of {width} {image.encoding} pixels takes {width * packing.pixel_bytes}'
        )
    if image.encoding == 'mono16' and step % 2:
        raise FrameError(f'step is {step} bytes: rows of mono16 must be a multiple of 2 bytes')
    expected = step * height * packing.rows // 2
    if len(image.data) != expected:
        raise FrameError(
            f'image data has {len(image.data)} bytes, but {height} rows of {step} bytes take {expected}'
        )
    return packing


def rows_of(image: Any, rows: int, pixel_bytes: int) -> np.ndarray:
    """Uint8 (rows, W, pixel_bytes), or (rows, W) for one byte a pixel: a view of the data without padding."""
    width = int(image.width)
    shape: tuple[int, ...] = (rows, width) if pixel_bytes == 1 else (rows, width, pixel_bytes)
    strides = (int(image.step), 1) if pixel_bytes == 1 else (int(image.step), pixel_bytes, 1)
    return np.ndarray(shape, np.uint8, memoryview(image.data).cast('B'), strides=strides)


def image_to_rgb(image: Any) -> np.ndarray:
    """Pixels as uint8 (H, W, 3) RGB.

    ``rgb8`` is returned as a view of the message's data.  16-bit pictures are divided by 256; YUV is BT.601 with
    limited range; ``nv12`` and ``nv21`` carry ``height`` rows of luma followed by ``height / 2`` rows of chroma.

    Raises:
        FrameError: see :func:`check_image`.
    """
    packing = check_image(image)
    return packing.convert(rows_of(image, int(image.height) * packing.rows // 2, packing.pixel_bytes))


_BEGINNINGS = (b'\xff\xd8\xff', b'\x89PNG\r\n\x1a\n')


def check_compressed(image: Any) -> None:
    """Validate a compressed image message without decoding it.

    Args:
        image: fields of ``sensor_msgs/CompressedImage``: format, data.

    Raises:
        FrameError: if the data is empty, too long, or begins like neither JPEG nor PNG.
    """
    size = len(image.data)
    if not 0 < size <= MAX_COMPRESSED_BYTES:
        raise FrameError(f'compressed image has {size} bytes: it must have 1 to {MAX_COMPRESSED_BYTES}')
    if not bytes(memoryview(image.data).cast('B')[:8]).startswith(_BEGINNINGS):
        raise FrameError(f'compressed image ({shown(image.format)}) is neither JPEG nor PNG')


def compressed_to_rgb(image: Any) -> np.ndarray:
    """Pixels of a JPEG or PNG as uint8 (H, W, 3) RGB, by the decoder that reads datasets from files, too.

    Args:
        image: fields of ``sensor_msgs/CompressedImage``: format, data.

    Raises:
        FrameError: if the data is no whole JPEG or PNG with 8 bits a channel, or has too many pixels.
    """
    kind = f'compressed image ({shown(image.format)})'
    data = bytes(memoryview(image.data).cast('B'))
    try:
        with Image.open(io.BytesIO(data), formats=('JPEG', 'PNG')) as picture:
            _check_size(*picture.size)
            if picture.mode.startswith(('I', 'F')):
                raise FrameError(f'{kind} has 16 bits a pixel: it must have 8 a channel')
            return np.array(picture.convert('RGB'))
    except UnidentifiedImageError as error:
        raise FrameError(f'{kind} is neither JPEG nor PNG') from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise FrameError(f'{kind} cannot be decoded: {error}') from error


_LABEL_TYPES = {'16UC1': 2, 'mono16': 2, '8UC1': 1, 'mono8': 1}


def labels_of(image: Any) -> np.ndarray:
    """Object IDs of a label image as uint16 (H, W).

    Args:
        image: fields of ``sensor_msgs/Image``; 16UC1 or mono16 in either byte order, or 8UC1 or mono8.

    Raises:
        FrameError: if the encoding is another one, or size, ``step`` and data do not fit.
    """
    pixel_bytes = _LABEL_TYPES.get(image.encoding)
    if pixel_bytes is None:
        raise FrameError(f'a label image must be one of {", ".join(_LABEL_TYPES)}, got {image.encoding!r}')
    height, width, step = int(image.height), int(image.width), int(image.step)
    if min(height, width) < 1 or step < width * pixel_bytes or len(image.data) != step * height:
        raise FrameError(
            f'a label image of {width}x{height} {image.encoding} pixels needs step >= {width * pixel_bytes} and '
            f'step * {height} bytes, got step {step} and {len(image.data)} bytes'
        )
    order = '>' if image.is_bigendian else '<'
    strides = (step, pixel_bytes)
    data = memoryview(image.data).cast('B')
    return np.ndarray((height, width), f'{order}u{pixel_bytes}', data, strides=strides).astype(np.uint16)
