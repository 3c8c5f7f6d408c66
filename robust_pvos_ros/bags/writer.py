"""Writing of ROS 2 bags without ROS: serialised messages go into an MCAP file as they came off the wire."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import zstandard
from rosbags.interfaces import Connection
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.rosbag2.errors import WriterError
from rosbags.rosbag2.metadata import parse_qos
from rosbags.rosbag2.storage_mcap import McapWriter
from rosbags.typesys.store import Typestore

from robust_pvos_ros.bags.definitions import BagError, interface_typestore, serialise
from robust_pvos_ros.bags.places import check_free, partial_of

METADATA_VERSION: Literal[8] = 8
"""The newest in which Humble can read the QoS profiles; in version 9 they are no text any more."""
COMPRESSION_LEVEL = -3
"""Of zstd: camera pictures take a quarter less time than at level 1 for 8 % more bytes."""


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


def with_stamp(data: bytes | memoryview, stamp: int) -> bytes:
    """The same message under another stamp, nanoseconds.  Raises as :func:`header_stamp`."""
    header_stamp(data)
    changed = bytearray(data)
    struct.pack_into(f'{"<" if data[1] & 1 else ">"}iI', changed, 4, *divmod(stamp, 1_000_000_000))
    return bytes(changed)


class BagWriter:
    """An MCAP bag under construction; a context manager.

    It grows in ``PATH.partial`` and appears as ``PATH`` when it is closed.  Leaving the context by an exception removes
    it.  Topics are registered with their first message or by :meth:`add_topic`.  Not safe for several threads.

    Attributes:
        written: number of messages; bytes: their size before compression.

    Args:
        path: folder of the bag; it must not exist.
        typestore: definitions of the messages; None takes :func:`interface_typestore`.
        about: key -> text, kept in the bag's metadata as ``custom_data``.
        compressed: compress by chunks (zstd).
        workplace: folder to grow in, on the same file system; None takes ``PATH.partial``.

    Raises:
        BagError: if the folder exists or cannot be made.
    """

    def __init__(
        self,
        path: Path,
        typestore: Typestore | None = None,
        about: Mapping[str, str] | None = None,
        compressed: bool = True,
        workplace: Path | None = None,
    ) -> None:
        self.path = Path(path)
        self.written = 0
        self.bytes = 0
        self._partial = workplace or partial_of(self.path)
        self._store = interface_typestore() if typestore is None else typestore
        self._connections: dict[str, Connection] = {}
        check_free(self.path, self._partial)
        try:
            self._partial.mkdir(parents=True)
            self._writer = Writer(
                self._partial / self.path.name, version=METADATA_VERSION, storage_plugin=StoragePlugin.MCAP
            )
            if compressed:
                self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
            for key, value in (about or {}).items():
                self._writer.set_custom_data(key, value)
            self._writer.open()
            if compressed:
                self._storage.compressor = zstandard.ZstdCompressor(level=COMPRESSION_LEVEL).compress
        except (WriterError, OSError) as error:
            shutil.rmtree(self._partial, ignore_errors=True)
            raise BagError(f'bag {self.path} cannot be made: {error}') from error

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    @property
    def growing_file(self) -> Path:
        """The file that is being written."""
        return self._storage.path

    @property
    def _storage(self) -> McapWriter:
        storage = self._writer.storage
        if not isinstance(storage, McapWriter):
            raise BagError(f'bag {self.path} is closed')
        return storage

    def add_topic(
        self, topic: str, message_type: str, definition: str = '', digest: str = '', qos: str = ''
    ) -> None:
        """Register a topic, so that the bag lists it even if no message comes.

        Args:
            topic: full name.
            message_type: such as ``sensor_msgs/msg/Image``.
            definition, digest: text and RIHS01 hash of a type that the type store does not know.
            qos: the ``offered_qos_profiles`` of another bag.

        Raises:
            BagError: if the type is unknown, or the topic is registered with another type.
        """
        known = self._connections.get(topic)
        if known is not None:
            if known.msgtype != message_type:
                raise BagError(f'topic {topic} has messages of type {known.msgtype}, got one of type {message_type}')
            return
        profiles = parse_qos(qos) if qos else []
        if message_type in self._store.fielddefs:
            added = self._writer.add_connection(
                topic, message_type, typestore=self._store, offered_qos_profiles=profiles
            )
        elif definition:
            added = self._writer.add_connection(
                topic, message_type, msgdef=definition, rihs01=digest or 'unknown', offered_qos_profiles=profiles
            )
        else:
            raise BagError(f'message type {message_type} is unknown: its definition must be in the type store')
        self._connections[topic] = added

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
        self.written += 1
        self.bytes += len(data)

    def write_message(self, topic: str, message_type: str, time: int, message: Any) -> None:
        """Append one message made from :func:`robust_pvos_ros.bags.definitions.message_types`."""
        self.write(topic, message_type, time, serialise(message, message_type))

    def flush(self) -> None:
        """Bring everything written so far to the disk, where :mod:`robust_pvos_ros.bags.recovery` finds it."""
        storage = self._storage
        if storage.chunk.msgs:
            storage.close_chunk()
        storage.bio.flush()
        os.fsync(storage.bio.fileno())

    def close(self) -> None:
        """Write the index and the metadata, and move the bag to its place.

        Raises:
            BagError: if it cannot be written; nothing lies under the final name then.
        """
        try:
            self._writer.close()
            (self._partial / self.path.name).rename(self.path)
        except OSError as error:
            raise BagError(f'bag {self.path} cannot be written: {error}') from error
        shutil.rmtree(self._partial, ignore_errors=True)

    def leave(self) -> None:
        """Stop writing and leave the unfinished bag where it is."""
        self._writer.abort()

    def discard(self) -> None:
        """Stop writing and remove the unfinished bag."""
        self.leave()
        shutil.rmtree(self._partial, ignore_errors=True)
