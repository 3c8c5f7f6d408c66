"""Message definitions without ROS, and the error of this package."""

from __future__ import annotations

import importlib.util
import io
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from robust_pvos_ros.message_core import MessageTypes
from robust_pvos_ros.tracking.types import PvosError

INTERFACES = 'robust_pvos_interfaces'
IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED_IMAGE = 'sensor_msgs/msg/CompressedImage'
PROMPT = f'{INTERFACES}/msg/Prompt'
OBJECTS = f'{INTERFACES}/msg/TrackedObjects'
DECISION = f'{INTERFACES}/msg/Decision'


class BagError(PvosError):
    """A bag that cannot be read, written, run or scored."""


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


@lru_cache(maxsize=1)
def interface_typestore() -> Typestore:
    """Type store of ROS 2 Jazzy together with the messages of ``robust_pvos_interfaces``.  Raises ``BagError``."""
    store = get_typestore(Stores.ROS2_JAZZY)
    for path in sorted(interface_folder().glob('*.msg')):
        store.register(get_types_from_msg(path.read_text(), f'{INTERFACES}/msg/{path.stem}'))
    return store


def modern_name(message_type: str) -> str:
    """``sensor_msgs/Image``, as ROS 1 and the first ROS 2 bags name it, becomes ``sensor_msgs/msg/Image``."""
    package, _, name = message_type.partition('/')
    return message_type if '/' in name or not name else f'{package}/msg/{name}'


@lru_cache(maxsize=1)
def message_types() -> MessageTypes:
    """Message classes of ``rosbags``, for :mod:`robust_pvos_ros.message_core`.  Raises ``BagError``."""
    types = interface_typestore().types
    return MessageTypes(
        time=types['builtin_interfaces/msg/Time'],
        header=types['std_msgs/msg/Header'],
        point=types['geometry_msgs/msg/Point'],
        region=types['sensor_msgs/msg/RegionOfInterest'],
        image=types[IMAGE],
        prompt=types[PROMPT],
        tracked_object=types[f'{INTERFACES}/msg/TrackedObject'],
        tracked_objects=types[OBJECTS],
        decision=types[DECISION],
        octets=np.ascontiguousarray,
    )


def serialise(message: Any, message_type: str) -> bytes:
    """CDR of a message made from :func:`message_types`."""
    return bytes(interface_typestore().serialize_cdr(message, message_type))


def jpeg_of(rgb: np.ndarray, quality: int = 90) -> bytes:
    """JPEG file of uint8 (H, W, 3)."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, 'JPEG', quality=quality)
    return buffer.getvalue()


def compressed_message(data: bytes, image_format: str, header: Any) -> bytes:
    """``sensor_msgs/CompressedImage`` with the content of an image file, serialised."""
    make = interface_typestore().types[COMPRESSED_IMAGE]
    message = make(header=header, format=image_format, data=np.frombuffer(data, np.uint8))
    return serialise(message, COMPRESSED_IMAGE)
