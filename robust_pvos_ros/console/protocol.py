"""What a page may say, checked before anything else looks at it.  No ROS.

Every message is a JSON object with ``type`` and the keys of that type, no others; ``request`` is a number that the
answer repeats.  Whatever is wrong is answered with one sentence, and nothing happens.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from robust_pvos_ros.tracking.types import MAX_LABEL_LENGTH, MAX_POINTS, Prompt, PromptError, PvosError

LONGEST_MESSAGE = 16_384
"""Bytes; a prompt with the most points and the longest label takes a quarter of it."""
LARGEST_REQUEST = 2**31 - 1
LARGEST_ID = 65_535
LARGEST_SIDE = 65_536
LARGEST_STAMP = 2**31 * 1_000_000_000 - 1
LONGEST_NAME = 128
MOST_CAMERAS = 16
_SHOWN = 60


class ProtocolError(PvosError):
    """A message that is refused.

    Attributes:
        request: the number that the message gave itself, or None.
    """

    def __init__(self, text: str, request: int | None = None) -> None:
        super().__init__(text)
        self.request = request


@dataclass(frozen=True, eq=False)
class PromptRequest:
    """``add`` and ``refine``: a prompt drawn on the frame with ``stamp`` (nanoseconds; 0 = the newest)."""

    request: int
    camera: str
    stamp: int
    prompt: Prompt


@dataclass(frozen=True)
class Remove:
    """``remove``: stop tracking an object."""

    request: int
    object_id: int


@dataclass(frozen=True)
class Rename:
    """``rename``: give an object another label."""

    request: int
    object_id: int
    label: str


@dataclass(frozen=True)
class Reset:
    """``reset``: forget every object of a camera, or of all where the name is empty."""

    request: int
    camera: str


@dataclass(frozen=True)
class Record:
    """``record``: begin or end a recording."""

    request: int
    on: bool


@dataclass(frozen=True)
class Watch:
    """``watch``: which cameras the page wants to see; none for no pictures at all."""

    cameras: tuple[str, ...]


@dataclass(frozen=True)
class Shown:
    """``shown``: the page is done with a frame, and with all before it."""

    camera: str
    number: int


Message = PromptRequest | Remove | Rename | Reset | Record | Watch | Shown


def parse(text: str) -> Message:
    """One message of a page.

    Raises:
        ProtocolError: with one sentence, and with the message's ``request`` where it has a valid one.
    """
    fields = _object(text)
    known: Any = fields.get('request')
    if not _is_integer(known) or not 0 <= known <= LARGEST_REQUEST:
        known = None
    kind = fields.get('type')
    reader = _READERS.get(kind) if isinstance(kind, str) else None
    try:
        if reader is None:
            raise ProtocolError(f'type must be one of {", ".join(_READERS)}, got {_shown(kind)}')
        return reader(_Fields(fields))
    except PvosError as error:
        raise ProtocolError(str(error), known) from error


def _object(text: str) -> dict[str, Any]:
    size = len(text.encode(errors='surrogatepass'))
    if size > LONGEST_MESSAGE:
        raise ProtocolError(f'a message may have {LONGEST_MESSAGE} bytes, got {size}')
    try:
        fields = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except RecursionError as error:
        raise ProtocolError('a message must be a flat JSON object, got one nested too deeply') from error
    except ValueError as error:
        raise ProtocolError(f'a message must be a JSON object: {error}') from error
    if not isinstance(fields, dict):
        raise ProtocolError(f'a message must be a JSON object, got {_shown(fields)}')
    return fields


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError('a key is given twice')
    return fields


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f'{name} is no number')


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _shown(value: object) -> str:
    text = repr(value).encode('ascii', 'backslashreplace').decode()
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + '...'


class _Fields:
    """The keys of a message; those that were not read are refused."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields
        self._read = {'type'}

    def _take(self, name: str, default: Any = None) -> Any:
        self._read.add(name)
        return self._fields.get(name, default)

    def integer(self, name: str, low: int, high: int) -> int:
        """An integer from ``low`` to ``high``."""
        value = self._take(name)
        if not _is_integer(value) or not low <= value <= high:
            raise ProtocolError(f'{name} must be an integer from {low} to {high}, got {_shown(value)}')
        return value

    def request(self) -> int:
        """The number of the message."""
        return self.integer('request', 0, LARGEST_REQUEST)

    def object_id(self) -> int:
        """The ID of an object that exists."""
        return self.integer('object_id', 1, LARGEST_ID)

    def text(self, name: str, longest: int, default: str | None = None) -> str:
        """A text of printable characters."""
        value = self._take(name, default)
        if not isinstance(value, str):
            raise ProtocolError(f'{name} must be a text, got {_shown(value)}')
        if len(value) > longest:
            raise ProtocolError(f'{name} must have at most {longest} characters, got {len(value)}')
        if any(unicodedata.category(character) in ('Cc', 'Cs') for character in value):
            raise ProtocolError(f'{name} must have printable characters alone, got {_shown(value)}')
        return value

    def boolean(self, name: str) -> bool:
        """True or false."""
        value = self._take(name)
        if not isinstance(value, bool):
            raise ProtocolError(f'{name} must be true or false, got {_shown(value)}')
        return value

    def stamp(self) -> int:
        """Nanoseconds, written as text; 0 for the newest frame."""
        value = self._take('stamp', '0')
        plain = isinstance(value, str) and len(value) <= 19 and value.isascii() and value.isdigit()
        if not plain or int(value) > LARGEST_STAMP:
            raise ProtocolError(f'stamp must be nanoseconds as a text of digits, got {_shown(value)}')
        return int(value)

    def names(self, name: str) -> tuple[str, ...]:
        """A list of names of cameras."""
        value = self._take(name)
        if not isinstance(value, list) or len(value) > MOST_CAMERAS:
            raise ProtocolError(f'{name} must be a list of at most {MOST_CAMERAS} names, got {_shown(value)}')
        for entry in value:
            if not isinstance(entry, str) or len(entry) > LONGEST_NAME:
                raise ProtocolError(f'{name} must hold names of cameras, got {_shown(entry)}')
        return tuple(value)

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """float32 (P, 2) pixels (x, y) and int32 (P,) labels, from a list of [x, y, label]."""
        value = self._take('points', [])
        if not isinstance(value, list) or len(value) > MAX_POINTS:
            raise ProtocolError(f'points must be a list of at most {MAX_POINTS} [x, y, label], got {_shown(value)}')
        for entry in value:
            if not (isinstance(entry, list) and len(entry) == 3 and all(map(_is_pixel, entry[:2]))):
                raise ProtocolError(
                    f'a point must be [x, y, label] with x and y from 0 to {LARGEST_SIDE}, got {_shown(entry)}'
                )
            if not _is_integer(entry[2]) or entry[2] not in (0, 1):
                raise ProtocolError(f'the label of a point must be 1 or 0 (background), got {_shown(entry[2])}')
        points = np.array([entry[:2] for entry in value], np.float32).reshape(-1, 2)
        return points, np.array([entry[2] for entry in value], np.int32)

    def box(self) -> np.ndarray | None:
        """float32 (4,) pixels x0, y0, x1, y1, widened to whole pixels."""
        value = self._take('box')
        if value is None:
            return None
        if not (isinstance(value, list) and len(value) == 4 and all(map(_is_pixel, value))):
            raise ProtocolError(f'box must be [x0, y0, x1, y1] from 0 to {LARGEST_SIDE}, got {_shown(value)}')
        x0, y0, x1, y1 = value
        if not (x0 < x1 and y0 < y1):
            raise ProtocolError(f'box must have x0 < x1 and y0 < y1, got {_shown(value)}')
        return np.array([math.floor(x0), math.floor(y0), math.ceil(x1), math.ceil(y1)], np.float32)

    def finish(self) -> None:
        """Refuse keys that nobody asked for."""
        unknown = sorted(self._fields.keys() - self._read)
        if unknown:
            known = ', '.join(sorted(self._read))
            raise ProtocolError(f'{_shown(unknown[0])} is no key of this message: it may have {known}')


def _is_pixel(value: object) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and 0 <= value <= LARGEST_SIDE  # type: ignore[operator]


# ---------------------------------------------------------------------------------------------------------- the types


def _prompt(fields: _Fields, object_id: int) -> PromptRequest:
    request, camera, stamp = fields.request(), fields.text('camera', LONGEST_NAME), fields.stamp()
    label, (points, labels), box = fields.text('label', MAX_LABEL_LENGTH, ''), fields.points(), fields.box()
    fields.finish()
    try:
        prompt = Prompt(object_id, label, points, labels, box)
    except PromptError as error:
        raise ProtocolError(str(error)) from error
    return PromptRequest(request, camera, stamp, prompt)


def _add(fields: _Fields) -> PromptRequest:
    return _prompt(fields, 0)


def _refine(fields: _Fields) -> PromptRequest:
    return _prompt(fields, fields.object_id())


def _finished(fields: _Fields, message: Message) -> Message:
    fields.finish()
    return message


def _remove(fields: _Fields) -> Message:
    return _finished(fields, Remove(fields.request(), fields.object_id()))


def _rename(fields: _Fields) -> Message:
    return _finished(fields, Rename(fields.request(), fields.object_id(), fields.text('label', MAX_LABEL_LENGTH)))


def _reset(fields: _Fields) -> Message:
    return _finished(fields, Reset(fields.request(), fields.text('camera', LONGEST_NAME, '')))


def _record(fields: _Fields) -> Message:
    return _finished(fields, Record(fields.request(), fields.boolean('on')))


def _watch(fields: _Fields) -> Message:
    return _finished(fields, Watch(fields.names('cameras')))


def _shown_frame(fields: _Fields) -> Message:
    return _finished(fields, Shown(fields.text('camera', LONGEST_NAME), fields.integer('number', 0, 2**53 - 1)))


_READERS: dict[str, Callable[[_Fields], Message]] = {
    'add': _add,
    'refine': _refine,
    'remove': _remove,
    'rename': _rename,
    'reset': _reset,
    'record': _record,
    'watch': _watch,
    'shown': _shown_frame,
}
