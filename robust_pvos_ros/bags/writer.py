"""Writing of ROS 2 bags without ROS: serialised messages go into an MCAP file as they came off the wire."""

from __future__ import annotations

import importlib.util
import os
import struct
from pathlib import Path
from types import TracebackType

from rosbags.interfaces import Connection
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.rosbag2.errors import WriterError
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from robust_pvos_ros.tracking.types import PvosError

INTERFACES = 'robust_pvos_interfaces'


class BagError(PvosError):
    """A bag that cannot be written."""


def interface_folder() -> Path:
    """Folder with the ``.msg`` files of ``robust_pvos_interfaces``: of the installation, else of the source tree.

    Raises:
        BagError: if there is none.
    """
    spec = importlib.util.find_spec(INTERFACES)
    places = [Path(place) for place in (spec.submodule_search_locations or ())] if spec is not None else []
    prefixes = [Path(prefix) for prefix in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep) if prefix]
    prefixes += [parent for place in places for parent in place.parents]
    candidates = [prefix / 'share' / INTERFACES / 'msg' for prefix in prefixes]
    candidates += [place / 'msg' for place in [*places, Path(__file__).resolve().parents[2] / INTERFACES]]
    for folder in candidates:
        if any(folder.glob('*.msg')):
            return folder
    raise BagError(f'the message definitions of {INTERFACES} were not found: build and source that package')


def interface_typestore() -> Typestore:
    """Type store of ROS 2 Jazzy together with the messages of ``robust_pvos_interfaces``.  Raises ``BagError``."""
    store = get_typestore(Stores.ROS2_JAZZY)
    for path in sorted(interface_folder().glob('*.msg')):
        store.register(get_types_from_msg(path.read_text(), f'{INTERFACES}/msg/{path.stem}'))
    return store


def header_stamp(data: bytes | memoryview) -> int:
    """Nanoseconds of the leading ``std_msgs/Header`` of a serialised message (CDR, either byte order).

    Raises:
        BagError: if the data is too short to begin with a header.
    """
    if len(data) < 12:
        raise BagError(f'a serialised message with a header has at least 12 bytes, got {len(data)}')
    order = '<' if data[1] & 1 else '>'
    seconds, nanoseconds = struct.unpack_from(f'{order}iI', data, 4)
    return seconds * 1_000_000_000 + nanoseconds


class BagWriter:
    """An MCAP bag under construction, compressed by chunks; a context manager.

    Topics are registered with their first message or by :meth:`add_topic`.  Not safe for several threads.

    Args:
        path: folder of the bag; it must not exist.
        typestore: definitions of the messages; None takes :func:`interface_typestore`.

    Raises:
        BagError: if the folder exists or cannot be made.
    """

    def __init__(self, path: Path, typestore: Typestore | None = None) -> None:
        self.path = Path(path)
        self._store = interface_typestore() if typestore is None else typestore
        self._connections: dict[str, Connection] = {}
        try:
            self._writer = Writer(self.path, version=9, storage_plugin=StoragePlugin.MCAP)
            self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
            self._writer.open()
        except (WriterError, OSError) as error:
            raise BagError(f'bag {self.path} cannot be made: {error}') from error

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add_topic(self, topic: str, message_type: str) -> None:
        """Register a topic, so that the bag lists it even if no message comes.

        Args:
            topic: full name.
            message_type: such as ``sensor_msgs/msg/Image``.

        Raises:
            BagError: if the type is unknown, or the topic is registered with another type.
        """
        known = self._connections.get(topic)
        if known is not None:
            if known.msgtype != message_type:
                raise BagError(f'topic {topic} has messages of type {known.msgtype}, got one of type {message_type}')
            return
        if message_type not in self._store.fielddefs:
            raise BagError(f'message type {message_type} is unknown: its definition must be in the type store')
        self._connections[topic] = self._writer.add_connection(topic, message_type, typestore=self._store)

    def write(self, topic: str, message_type: str, time: int, data: bytes | memoryview) -> None:
        """Append one message.

        Args:
            topic: full name.
            message_type: such as ``sensor_msgs/msg/Image``.
            time: nanoseconds at which it was received; the stamps inside the message stay as they are.
            data: the serialised message.

        Raises:
            BagError: see :meth:`add_topic`.
        """
        self.add_topic(topic, message_type)
        self._writer.write(self._connections[topic], time, data)

    def close(self) -> None:
        """Write the index and the metadata; the bag is complete after this."""
        self._writer.close()
