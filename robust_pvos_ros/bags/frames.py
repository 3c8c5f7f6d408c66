"""Frames of a bag: images in their order, each with the messages of other topics that bear its stamp."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from robust_pvos_ros.bags.definitions import COMPRESSED_IMAGE, IMAGE, BagError
from robust_pvos_ros.bags.reader import IMAGE_TYPES, BagReader, Entry
from robust_pvos_ros.image_codec import ENCODINGS
from robust_pvos_ros.message_core import nanoseconds

WINDOW = 60
"""Messages of one topic that wait for their counterparts; what comes later than that is missed."""
COMPRESSED_SUFFIX = '/compressed'
PLAIN_NAMES = ('image', 'image_raw', 'image_color', 'image_rect', 'image_rect_color', 'compressed')
OUTPUTS = ('label_image', 'mask', 'overlay', 'truth')
"""Last parts of the names of topics with images that are no camera's."""


class CameraTopic(NamedTuple):
    """A camera of a bag: its name, its image topic and the type of that."""

    name: str
    topic: str
    type: str

    @property
    def truth(self) -> str:
        """Topic of the true labels, 16UC1, pixel = object ID."""
        return f'/{self.name}/truth'


def camera_name(topic: str) -> str:
    """Name for the camera of an image topic: ``/front/left/image_raw`` is ``front_left``."""
    parts = [part for part in topic.split('/') if part]
    while len(parts) > 1 and parts[-1] in PLAIN_NAMES:
        parts.pop()
    return '_'.join(parts) or 'camera'


def find_cameras(reader: BagReader, chosen: Sequence[str] = ()) -> list[CameraTopic]:
    """The cameras of a bag.

    Args:
        reader: of the bag.
        chosen: ``TOPIC`` or ``NAME=TOPIC``; none takes every topic with pictures that a person would look at.  Of a
            picture that is there raw and compressed, the raw one is taken.

    Raises:
        BagError: if a chosen topic is missing or has no images, two cameras have one name, or there is no camera.
    """
    cameras = []
    for text in chosen or _camera_topics(reader):
        name, equals, topic = text.rpartition('=')
        message_type = reader.require(topic, *IMAGE_TYPES)
        cameras.append(CameraTopic(name if equals else camera_name(topic), topic, message_type))
    names = [camera.name for camera in cameras]
    if len(set(names)) < len(names):
        raise BagError(f'cameras need names of their own, got {", ".join(names)}: choose them with --camera NAME=TOPIC')
    if not cameras:
        listed = ', '.join(f'{topic} ({info.type})' for topic, info in reader.topics.items()) or 'no topics at all'
        raise BagError(f'bag {reader.path} has no camera images; it has {listed}')
    return cameras


def _camera_topics(reader: BagReader) -> list[str]:
    topics = {name: info for name, info in reader.topics.items() if info.messages and info.type in IMAGE_TYPES}
    found = [name for name in topics if name.split('/')[-1] not in OUTPUTS]
    found = [name for name in found if not name.endswith('/compressedDepth')]
    found = [name for name in found if name.removesuffix(COMPRESSED_SUFFIX) not in found or not _is_twin(name)]
    return [name for name in found if topics[name].type == COMPRESSED_IMAGE or _is_picture(reader, name)]


def _is_twin(topic: str) -> bool:
    return topic.endswith(COMPRESSED_SUFFIX)


def _is_picture(reader: BagReader, topic: str) -> bool:
    """Whether the first image can be shown; depth images cannot."""
    first = next(reader.messages([topic]), None)
    return first is not None and first.message.encoding in ENCODINGS


@dataclass(frozen=True, eq=False)
class Joined:
    """A message and those of its side topics that bear the same stamp.

    Attributes:
        entry: the message.
        stamp: nanoseconds, of its header.
        sides: topic -> message; topics without one of that stamp are missing.
    """

    entry: Entry
    stamp: int
    sides: Mapping[str, Entry]


@dataclass
class _Side:
    """Messages of one side topic by stamp, the newest ``WINDOW`` of them."""

    entries: dict[int, Entry] = field(default_factory=dict)
    newest: int = -1

    def add(self, stamp: int, entry: Entry) -> None:
        self.entries[stamp] = entry
        self.newest = stamp  # not the largest: time jumps back where a drive is looped
        while len(self.entries) > WINDOW:
            del self.entries[next(iter(self.entries))]


def stamp_of(message: Any) -> int:
    """Nanoseconds of a message's header."""
    return nanoseconds(message.header.stamp)


def join(entries: Iterable[Entry], sides_of: Mapping[str, Sequence[str]]) -> Iterator[Joined]:
    """Every message of the main topics, in order, once its counterparts are there.

    Counterparts may come before or after it, at most ``WINDOW`` messages away.  A message waits for a side topic until
    that has gone past its stamp.

    Args:
        entries: messages of all topics concerned.
        sides_of: main topic -> its side topics.
    """
    sides = {topic: _Side() for topics in sides_of.values() for topic in topics}
    waiting: deque[tuple[int, Entry]] = deque()

    def ready(stamp: int, entry: Entry) -> bool:
        return all(stamp in sides[t].entries or sides[t].newest > stamp for t in sides_of[entry.topic])

    def release() -> Joined:
        stamp, entry = waiting.popleft()
        found = {t: sides[t].entries[stamp] for t in sides_of[entry.topic] if stamp in sides[t].entries}
        return Joined(entry, stamp, found)

    for entry in entries:
        stamp = stamp_of(entry.message)
        if entry.topic in sides:
            sides[entry.topic].add(stamp, entry)
        if entry.topic in sides_of:
            waiting.append((stamp, entry))
        while waiting and (ready(*waiting[0]) or len(waiting) >= WINDOW):
            yield release()
    while waiting:
        yield release()


def has_labels(reader: BagReader, topic: str) -> bool:
    """Whether the bag has label images on a topic."""
    info = reader.topics.get(topic)
    return info is not None and info.type == IMAGE and info.messages > 0
