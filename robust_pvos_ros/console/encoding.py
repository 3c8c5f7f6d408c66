"""A frame as the page gets it: one binary message of a header, run lengths of exact IDs and a JPEG.  No ROS.

A canvas cuts a 16-bit PNG down to 8 bits, so IDs travel as numbers.  Layout, little-endian:

    uint32   bytes of the header, spaces at its end included, so that what follows lies on a multiple of four
    header   JSON; `runs` is the number N of runs, the rest is described at `header_of`
    uint32   N lengths of runs, row by row from the top left; their sum is width * height
    uint16   N object IDs of those runs, 0 = background
    ...      JPEG, to the end of the message; empty if the header says so by `picture` = false
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import cv2
import numpy as np

from robust_pvos_ros.image_codec import compressed_to_rgb, image_to_rgb, labels_of
from robust_pvos_ros.tracking.types import FrameError, ObjectState, TrackedObject


@dataclass(frozen=True, eq=False)
class Frame:
    """What the console knows of one frame of a camera; messages are taken apart only when a page wants them.

    Attributes:
        camera: its name.
        stamp: nanoseconds, of the image.
        image: fields of ``sensor_msgs/Image`` or ``CompressedImage``, or None if it was lost.
        labels: fields of ``sensor_msgs/Image`` with object IDs, or None where there is no mask of this frame.
        objects: the object table of the frame.
        ages: object ID -> seconds of image time since the console first saw it.
        processed: False for an image that the segmentation node has not seen.
        past: these are masks for a picture that pages may still show, after a prompt on it; they come without one.
        arrived: when the console got the image, or the objects of one that was lost; ``time.monotonic``, seconds.
    """

    camera: str
    stamp: int
    image: Any = None
    labels: Any = None
    objects: tuple[TrackedObject, ...] = ()
    ages: Mapping[int, float] | None = None
    processed: bool = True
    past: bool = False
    arrived: float = field(default_factory=time.monotonic)


class Runs(NamedTuple):
    """A label image row by row: uint32 (N,) lengths and uint16 (N,) object IDs."""

    lengths: np.ndarray
    ids: np.ndarray


def run_lengths(labels: np.ndarray) -> Runs:
    """Runs of equal IDs in uint16 (H, W); a run may go on from one row into the next."""
    flat = np.ascontiguousarray(labels, np.uint16).ravel()
    if not flat.size:
        return Runs(np.zeros(0, np.uint32), np.zeros(0, np.uint16))
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    lengths = np.diff(starts, append=flat.size).astype(np.uint32)
    return Runs(lengths, flat[starts])


def labels_from_runs(runs: Runs, height: int, width: int) -> np.ndarray:
    """uint16 (H, W) from its runs.  Raises ``FrameError`` if they do not fill the picture exactly."""
    total = int(runs.lengths.sum(dtype=np.uint64))
    if total != height * width or len(runs.lengths) != len(runs.ids):
        raise FrameError(
            f'{len(runs.lengths)} runs with {len(runs.ids)} IDs cover {total} pixels: there must be one ID for each '
            f'run and {height * width} pixels'
        )
    return np.repeat(runs.ids.astype(np.uint16), runs.lengths).reshape(height, width)


def encode_picture(rgb: np.ndarray, quality: int, longest: int) -> bytes:
    """JPEG of uint8 (H, W, 3), made smaller where a side has more than ``longest`` pixels; ``quality`` 1 to 100."""
    height, width = rgb.shape[:2]
    scale = longest / max(height, width)
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode('.jpg', cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise FrameError(f'a picture of {width}x{height} pixels cannot be written as JPEG')
    return data.tobytes()


def stamp_text(stamp: int) -> str:
    """Nanoseconds as text: JavaScript's numbers cannot hold them."""
    return str(stamp)


def encode_frame(frame: Frame, number: int, quality: int, longest: int) -> bytes:
    """A frame as one message.

    Args:
        frame: to be sent.
        number: by which the page confirms it.
        quality: of the JPEG, 1 to 100.
        longest: most pixels of a side of the JPEG; masks keep the size of the camera's picture.

    Raises:
        FrameError: if image or masks are malformed.
    """
    rgb = None if frame.image is None else _pixels_of(frame.image)
    labels = None if frame.labels is None else labels_of(frame.labels)
    runs = Runs(np.zeros(0, np.uint32), np.zeros(0, np.uint16)) if labels is None else run_lengths(labels)
    seen = labels if labels is not None else rgb
    height, width = (0, 0) if seen is None else seen.shape[:2]
    if rgb is not None and rgb.shape[:2] != (height, width):
        raise FrameError(
            f'the masks have {width}x{height} pixels, but the picture has {rgb.shape[1]}x{rgb.shape[0]}'
        )
    picture = b'' if rgb is None else encode_picture(rgb, quality, longest)
    if frame.past and labels is not None:
        frame = replace(frame, objects=tuple(_found_on(labels, frame.objects)))
    return pack(header_of(frame, number, height, width, bool(picture)), runs, picture)


def _found_on(labels: np.ndarray, objects: Iterable[TrackedObject]) -> Iterator[TrackedObject]:
    """Those of a later frame's objects that have a mask in uint16 (H, W), with its box and area."""
    for tracked in objects:
        mask = (labels == tracked.object_id).view(np.uint8)
        area = int(np.count_nonzero(mask))
        if area:
            x, y, width, height = cv2.boundingRect(mask)
            box = (x, y, x + width, y + height)
            yield replace(tracked, state=ObjectState.TRACKING, box=box, area_px=area, frames_since_seen=0)


def _pixels_of(image: Any) -> np.ndarray:
    # Raw images have an encoding, compressed ones a format.
    return image_to_rgb(image) if hasattr(image, 'encoding') else compressed_to_rgb(image)


def header_of(frame: Frame, number: int, height: int, width: int, picture: bool) -> dict[str, Any]:
    """The JSON header of a frame.

    Returns:
        ``type`` (``frame``, or ``past`` for masks of a picture that has gone by), ``camera``, ``number``, ``stamp``
        (nanoseconds as text), ``width`` and ``height`` of the camera's picture in pixels, ``picture`` (whether a JPEG
        follows), ``processed``, ``masks`` (whether runs follow), ``objects`` (see :func:`objects_of`), ``age`` (seconds
        since the picture came to the console; 0 until :func:`with_age` tells it).
    """
    return {
        'type': 'past' if frame.past else 'frame', 'camera': frame.camera, 'number': number,
        'stamp': stamp_text(frame.stamp), 'width': width, 'height': height, 'picture': picture,
        'processed': frame.processed, 'masks': frame.labels is not None,
        'objects': objects_of(frame.objects, frame.ages or {}), 'age': 0.0,
    }  # fmt: skip


def objects_of(objects: Sequence[TrackedObject], ages: Mapping[int, float]) -> list[dict[str, Any]]:
    """Objects for the page: ``id``, ``label``, ``state``, ``score``, ``box`` (x0, y0, x1, y1), ``area``, ``unseen``
    (frames since it was seen) and ``age`` (seconds)."""
    return [
        {
            'id': tracked.object_id, 'label': tracked.label, 'state': tracked.state.name,
            'score': round(tracked.object_score, 3), 'box': list(tracked.box), 'area': tracked.area_px,
            'unseen': tracked.frames_since_seen, 'age': round(ages.get(tracked.object_id, 0.0), 1),
        }
        for tracked in objects
    ]  # fmt: skip


def pack(header: Mapping[str, Any], runs: Runs, picture: bytes) -> bytes:
    """Header, runs and JPEG as one message.  Raises ``ValueError`` for a NaN, which JSON cannot hold."""
    text = json.dumps({**header, 'runs': len(runs.lengths)}, ensure_ascii=False, allow_nan=False).encode()
    text += b' ' * (-len(text) % 4)
    lengths, ids = runs.lengths.astype('<u4').tobytes(), runs.ids.astype('<u2').tobytes()
    return b''.join((struct.pack('<I', len(text)), text, lengths, ids, picture))


def with_age(message: bytes, age: float) -> bytes:
    """The message of a frame whose picture came ``age`` seconds ago."""
    header, runs, picture = unpack(message)
    return pack({**header, 'age': round(age, 1)}, runs, picture)


def unpack(message: bytes) -> tuple[dict[str, Any], Runs, bytes]:
    """What :func:`pack` put together: header, runs and JPEG; for clients in Python."""
    (size,) = struct.unpack_from('<I', message)
    header = json.loads(message[4 : 4 + size])
    begin, count = 4 + size, header['runs']
    lengths = np.frombuffer(message, '<u4', count, begin)
    ids = np.frombuffer(message, '<u2', count, begin + 4 * count)
    return header, Runs(lengths, ids), message[begin + 6 * count :]
