"""Reading of bags without ROS: MCAP and sqlite3, of any age and compression, also without ``metadata.yaml``."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import zstandard
from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader

from robust_pvos_ros.bags.definitions import (
    COMPRESSED_IMAGE,
    IMAGE,
    INTERFACES,
    BagError,
    interface_typestore,
    modern_name,
)
from robust_pvos_ros.image_codec import compressed_to_rgb, image_to_rgb
from robust_pvos_ros.tracking.types import PvosError

ENDINGS = ('.mcap', '.db3')
ZSTD_MAGIC = b'\x28\xb5\x2f\xfd'  # no CDR message begins so: its first byte is 0
IMAGE_TYPES = (IMAGE, COMPRESSED_IMAGE)


class TopicInfo(NamedTuple):
    """A topic of a bag: its type, such as ``sensor_msgs/msg/Image``, and the number of its messages."""

    type: str
    messages: int


class RawEntry(NamedTuple):
    """One message as stored: ``data`` is CDR, ``time`` nanoseconds at which it was recorded."""

    topic: str
    type: str
    time: int
    data: bytes


class Entry(NamedTuple):
    """One message taken apart."""

    topic: str
    type: str
    time: int
    message: Any


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turn whatever a damaged file makes the libraries raise into a ``BagError``."""
    try:
        yield
    except PvosError:
        raise
    except Exception as error:  # truncated and foreign files raise errors of zlib, sqlite, struct, YAML, ...
        raise BagError(f'bag {path} cannot be read: {_reason(path, error)}') from error


def _reason(path: Path, error: Exception) -> str:
    text = ' '.join(str(error).split()) or type(error).__name__
    if 'end magic' in text or 'Truncated' in text or 'MCAP footer' in text:
        return f'the end is missing ({text}); "pvos_bag recover" rewrites what is there'
    if 'file is not a database' in text or 'File magic' in text or 'ord() expected' in text:
        return f'it is no ROS 2 bag ({text})'
    return text.rstrip('.')


def is_bag(path: Path) -> bool:
    """Whether a path looks like a bag: a storage file, or a folder with one or with ``metadata.yaml``."""
    if path.is_dir():
        return (path / 'metadata.yaml').is_file() or bool(storage_files(path))
    return path.suffix in ENDINGS and path.is_file()


def storage_files(folder: Path) -> list[Path]:
    """The MCAP and sqlite3 files of a folder, in the order of their names."""
    return sorted(path for path in folder.iterdir() if path.suffix in ENDINGS)


def find_bags(path: Path) -> list[Path]:
    """The bag at ``path``, or the bags in that folder, in the order of their names.

    Raises:
        BagError: if there is none.
    """
    if not path.exists():
        raise BagError(f'{path} does not exist')
    if is_bag(path):
        return [path]
    found = sorted(place for place in path.iterdir() if is_bag(place)) if path.is_dir() else []
    found = [place for place in found if place.suffix != '.partial']
    if not found:
        raise BagError(f'{path} is no bag: give an .mcap or .db3 file, a folder of a bag, or a folder of bags')
    return found


class BagReader:
    """A bag opened for reading; a context manager.

    Args:
        path: folder of a bag, or a bare ``.mcap`` or ``.db3`` file.

    Raises:
        BagError: if it cannot be opened, with a sentence that says why.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._stack = ExitStack()
        self._readers: list[Reader] = []
        if not is_bag(self.path):
            find_bags(self.path)
            raise BagError(f'{self.path} is a folder of bags: give one of them')
        try:
            with damage_named(self.path):
                for place in self._places():
                    if place.is_file() and place.stat().st_size == 0:
                        raise BagError(f'bag {self.path} cannot be read: {place.name} is empty')
                    self._readers.append(self._stack.enter_context(Reader(place)))
            self._check_definitions()
        except BaseException:
            self._stack.close()
            raise

    def _places(self) -> list[Path]:
        if not self.path.is_dir() or (self.path / 'metadata.yaml').is_file():
            return [self.path]
        return storage_files(self.path)

    def _check_definitions(self) -> None:
        for connection in self._connections():
            name = modern_name(connection.msgtype)
            known = name.startswith(f'{INTERFACES}/') and name in interface_typestore().fielddefs
            told = connection.digest.startswith('RIHS01_')
            if known and told and connection.digest != interface_typestore().hash_rihs01(name):
                raise BagError(f'bag {self.path} was written with another version of {name}')

    def _connections(self) -> list[Connection]:
        return [connection for reader in self._readers for connection in reader.connections]

    def __enter__(self) -> BagReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def topics(self) -> dict[str, TopicInfo]:
        """Name -> type and number of messages, in the order of the names."""
        found: dict[str, TopicInfo] = {}
        for connection in sorted(self._connections(), key=lambda connection: connection.topic):
            count = connection.msgcount + (found[connection.topic].messages if connection.topic in found else 0)
            found[connection.topic] = TopicInfo(modern_name(connection.msgtype), count)
        return found

    @property
    def about(self) -> dict[str, str]:
        """``custom_data`` of the metadata; empty where there is none."""
        custom = self._readers[0].storage.metadata.custom
        return {str(key): str(value) for key, value in (custom or {}).items()}

    @property
    def name(self) -> str:
        """The bag's name: of its folder, or of the file without its ending."""
        return self.path.name if self.path.is_dir() else self.path.stem

    @property
    def duration(self) -> int:
        """Nanoseconds from the first message to the last."""
        held = [reader for reader in self._readers if reader.message_count]
        return max(r.end_time for r in held) - min(r.start_time for r in held) - 1 if held else 0

    @property
    def message_count(self) -> int:
        """Number of messages."""
        return sum(reader.message_count for reader in self._readers)

    def definition(self, topic: str) -> tuple[str, str]:
        """Text and hash of the type of a topic as stored in the bag; empty texts where there is none."""
        for connection in self._connections():
            if connection.topic == topic and connection.msgdef.data:
                return connection.msgdef.data, connection.digest
        return '', ''

    def require(self, topic: str, *types: str) -> str:
        """Type of a topic.

        Raises:
            BagError: if the bag has no such topic, or its type is none of ``types``.
        """
        info = self.topics.get(topic)
        if info is None:
            raise BagError(f'bag {self.path} has no topic {topic}; it has {", ".join(self.topics) or "none"}')
        if types and info.type not in types:
            raise BagError(f'topic {topic} of bag {self.path} is {info.type}, but must be {" or ".join(types)}')
        return info.type

    def raw(self, topics: Collection[str] = ()) -> Iterator[RawEntry]:
        """Messages as stored, decompressed, in the order of their times; of all topics where none is named.

        Raises (while it is iterated):
            BagError: if the bag is damaged.
        """
        wanted = [c for c in self._connections() if not topics or c.topic in topics]
        parts = [
            reader.messages([c for c in wanted if c in reader.connections])
            for reader in self._readers
            if any(c in reader.connections for c in wanted)
        ]
        messages = heapq.merge(*parts, key=lambda entry: entry[1])
        while True:
            with damage_named(self.path):
                found = next(messages, None)
                if found is None:
                    return
                connection, time, data = found
                entry = RawEntry(connection.topic, modern_name(connection.msgtype), time, plain(data))
            yield entry

    def messages(self, topics: Collection[str] = ()) -> Iterator[Entry]:
        """The same, taken apart.

        Raises (while it is iterated):
            BagError: if the bag is damaged.
        """
        for raw in self.raw(topics):
            yield Entry(raw.topic, raw.type, raw.time, self.parse(raw))

    def parse(self, raw: RawEntry) -> Any:
        """Fields of a message.  Raises ``BagError`` if its type is unknown or it is damaged."""
        with damage_named(self.path):
            if raw.type not in interface_typestore().fielddefs:
                raise BagError(f'topic {raw.topic} of bag {self.path} has messages of the unknown type {raw.type}')
            return interface_typestore().deserialize_cdr(raw.data, raw.type)


def plain(data: bytes) -> bytes:
    """A message without its compression: bags compressed message by message say so in ``metadata.yaml`` alone, which
    may be lost."""
    if data[:4] != ZSTD_MAGIC:
        return data
    return zstandard.ZstdDecompressor().decompressobj().decompress(data)


def picture_of(message: Any, message_type: str) -> np.ndarray:
    """RGB picture, uint8 (H, W, 3), of an image message of either type.  Raises ``FrameError``."""
    return compressed_to_rgb(message) if message_type == COMPRESSED_IMAGE else image_to_rgb(message)
