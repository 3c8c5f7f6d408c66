"""Small bags for tests: drawn frames in every storage and encoding, a tiny random model, ways to damage files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from dataset_folders import LENGTH, draw
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from tiny_model import TINY as TINY
from tiny_model import write_weights as write_weights

from robust_pvos_ros.bags.definitions import (
    COMPRESSED_IMAGE,
    IMAGE,
    OBJECTS,
    compressed_message,
    interface_typestore,
    jpeg_of,
    message_types,
    serialise,
)
from robust_pvos_ros.bags.replay import ABOUT
from robust_pvos_ros.bags.writer import BagWriter
from robust_pvos_ros.message_core import make_header, make_image, make_objects
from robust_pvos_ros.tracking.types import ObjectState, TrackedObject

SECOND = 1_000_000_000
LABELS, OBJECTS_TOPIC = '/robust_pvos/camera/label_image', '/robust_pvos/camera/objects'
LATENCY = SECOND // 25
PERIOD = SECOND // 10


def stamp_at(index: int) -> int:
    return 5 * SECOND + index * PERIOD


@contextmanager
def open_writer(
    path: Path, storage: StoragePlugin = StoragePlugin.MCAP, compression: CompressionMode = CompressionMode.NONE
) -> Iterator[Writer]:
    writer = Writer(path, version=9, storage_plugin=storage)
    writer.set_compression(compression, CompressionFormat.ZSTD)
    with writer:
        yield writer


def picture(index: int, topic_type: str = IMAGE) -> bytes:
    """Serialised image of frame ``index``, drawn as in the datasets of the tests, over and over."""
    rgb, _ = draw(index % LENGTH)
    header = make_header(message_types(), stamp_at(index), 'camera')
    if topic_type == COMPRESSED_IMAGE:
        return compressed_message(jpeg_of(rgb, 95), 'jpeg', header)
    return serialise(make_image(message_types(), rgb, 'rgb8', header), IMAGE)


def truth(index: int) -> bytes:
    header = make_header(message_types(), stamp_at(index), 'camera')
    return serialise(make_image(message_types(), draw(index % LENGTH)[1].astype(np.uint16), '16UC1', header), IMAGE)


def write_bag(
    path: Path,
    topics: Sequence[tuple[str, str]] = (('/camera/image_raw', IMAGE),),
    storage: StoragePlugin = StoragePlugin.MCAP,
    compression: CompressionMode = CompressionMode.NONE,
    frames: int = LENGTH,
    old_names: bool = False,
) -> Path:
    """A bag as somebody else's recorder makes it, with truth where a topic ends so."""
    with open_writer(path, storage, compression) as writer:
        connections = [writer.add_connection(*topic, typestore=interface_typestore()) for topic in topics]
        for index in range(frames):
            for (topic, kind), connection in zip(topics, connections):
                data = truth(index) if topic.endswith('/truth') else picture(index, kind)
                writer.write(connection, stamp_at(index), data)
    if old_names:
        _rename_types(path)
    return path


def _rename_types(path: Path) -> None:
    """Give the types in a sqlite3 bag the names that the first ROS 2 bags had."""
    import sqlite3

    (file,) = path.glob('*.db3')
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE topics SET type = replace(type, '/msg/', '/')")
    connection.close()
    (path / 'metadata.yaml').unlink()


def storage_file(bag: Path) -> Path:
    (found,) = [path for path in bag.iterdir() if path.suffix in ('.mcap', '.db3')]
    return found


def contents(folder: Path) -> list[str]:
    """Names under a folder, sorted."""
    return sorted(str(path.relative_to(folder)) for path in folder.iterdir())


def messages(bag: Path, topic: str) -> list[Any]:
    from robust_pvos_ros.bags.reader import BagReader

    with BagReader(bag) as reader:
        return [entry.message for entry in reader.messages([topic])]


def write_run(
    path: Path, change=lambda index, ids: ids, adapter: str | None = '', corruption: str = '',
    missing: tuple[int, ...] = (),
) -> Path:  # fmt: skip
    """A run whose masks are the truth, as ``change`` alters them; ``adapter`` None makes it a live drive with IDs of
    its own."""
    about = {'sequence': 'drive'}
    if adapter is not None:
        settings = {'adapter': adapter, 'corruption': corruption, 'prompts_from_truth': True}
        about[ABOUT] = json.dumps(settings)
    types = message_types()
    with BagWriter(path, about=about) as writer:
        for index in range(LENGTH):
            stamp = stamp_at(index)
            writer.write('/camera/image_raw', IMAGE, stamp, picture(index))
            writer.write('/camera/truth', IMAGE, stamp, truth(index))
            if index in missing:
                continue
            ids = change(index, draw(index)[1].astype(np.uint16))
            header = make_header(types, stamp, 'camera')
            writer.write_message(LABELS, IMAGE, stamp + 1, make_image(types, ids, '16UC1', header))
            tracked = tuple(
                TrackedObject(int(v), f'thing {v}', ObjectState.TRACKING, 1, 1, (0, 0, 9, 9), (4, 4), 9, 0, stamp)
                for v in np.unique(ids[ids > 0])
            )
            listed = make_objects(types, tracked, header, 'camera')
            writer.write_message(OBJECTS_TOPIC, OBJECTS, stamp + LATENCY, listed)
    return path
