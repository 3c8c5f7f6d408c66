"""Frames of a bag: images in their order, each with the messages of other topics that bear its stamp."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

from robust_pvos_ros import interface
from robust_pvos_ros.bags.definitions import COMPRESSED_IMAGE, IMAGE, PROMPT, BagError, modern_name
from robust_pvos_ros.bags.reader import IMAGE_TYPES, BagReader, Entry
from robust_pvos_ros.image_codec import ENCODINGS
from robust_pvos_ros.message_core import nanoseconds

WINDOW = 60
"""Messages of one topic that wait for their counterparts; what comes later than that is missed."""
LOOKED_THROUGH = 200
"""Messages of the node that are read for the names of its cameras: bags may be long."""
COMPRESSED_SUFFIX = '/compressed'
PLAIN_NAMES = ('image', 'image_raw', 'image_color', 'image_rect', 'image_rect_color', 'compressed')
OUTPUTS = ('label_image', 'mask', 'overlay', 'truth')
"""Last parts of the names of topics with images that are no camera's."""


class CameraTopic(NamedTuple):
    """A camera of a bag: its name, its image topic, the type of that, and the topic of its true labels, 16UC1, pixel =
    object ID."""

    name: str
    topic: str
    type: str
    truth: str


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
            picture that is there raw and compressed, the raw one is taken.  Without ``NAME`` a camera is called as in
            the segmentation node whose messages the bag holds, else by :func:`camera_name`.

    Raises:
        BagError: if a chosen topic is missing or has no images, two cameras have one name, or there is no camera.
    """
    cameras = []
    known = names_in_the_node(reader)
    for text in chosen or _camera_topics(reader):
        name, equals, topic = text.rpartition('=')
        message_type = reader.require(topic, *IMAGE_TYPES)
        own = camera_name(topic)
        name = name if equals else known.get(topic.removesuffix(COMPRESSED_SUFFIX), own)
        truth = truth_topic(name)
        if not equals and truth not in reader.topics and truth_topic(own) in reader.topics:
            truth = truth_topic(own)
        cameras.append(CameraTopic(name, topic, message_type, truth))
    names = [camera.name for camera in cameras]
    if len(set(names)) < len(names):
        raise BagError(f'cameras need names of their own, got {", ".join(names)}: choose them with --camera NAME=TOPIC')
    if not cameras:
        listed = ', '.join(f'{topic} ({info.type})' for topic, info in reader.topics.items()) or 'no topics at all'
        raise BagError(f'bag {reader.path} has no camera images; it has {listed}')
    return cameras


def truth_topic(name: str) -> str:
    """Topic of a camera's true labels."""
    return f'/{name}/truth'


def names_in_the_node(reader: BagReader) -> dict[str, str]:
    """Image topic, without ``/compressed`` -> name of its camera in a segmentation node.

    The node's diagnostics say it; without them, where the bag holds one camera and all prompts are of one, it is that.
    A topic on which several nodes differ is left out.
    """
    found: dict[str, set[str]] = {}
    for message in _first_of(reader, [interface.DIAGNOSTICS.name], modern_name(interface.DIAGNOSTICS.type)):
        for status in message.status:
            values = {pair.key: pair.value for pair in status.values}
            if values.get('camera') and values.get('image_topic'):
                found.setdefault(values['image_topic'].removesuffix(COMPRESSED_SUFFIX), set()).add(values['camera'])
    topics = _camera_topics(reader) if not found else []
    if len(topics) == 1:
        prompts = _first_of(reader, reader.topics, PROMPT)
        found[topics[0].removesuffix(COMPRESSED_SUFFIX)] = {prompt.camera for prompt in prompts} - {''}
    return {topic: names.pop() for topic, names in found.items() if len(names) == 1}


def _first_of(reader: BagReader, topics: Iterable[str], message_type: str) -> list[Any]:
    filled = {topic for topic, info in reader.topics.items() if info.messages and info.type == message_type}
    wanted = [topic for topic in topics if topic in filled]
    return [entry.message for entry in islice(reader.messages(wanted), LOOKED_THROUGH)] if wanted else []


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
