"""ROS messages to the tracker's value types and back.

What the fields hold is decided in :mod:`robust_pvos_ros.message_core`, without ROS; this module gives it the classes of
rclpy.  Every function that builds an output takes the header of the input image and hands it on unchanged.
"""

from __future__ import annotations

import array
from collections.abc import Mapping
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from geometry_msgs.msg import Point
from robust_pvos_interfaces.msg import Decision as DecisionMsg
from robust_pvos_interfaces.msg import Prompt as PromptMsg
from robust_pvos_interfaces.msg import TrackedObject as TrackedObjectMsg
from robust_pvos_interfaces.msg import TrackedObjects
from sensor_msgs.msg import Image, RegionOfInterest
from std_msgs.msg import Header

from robust_pvos_ros.message_core import (
    LABEL_ENCODING,
    Decision,
    MessageTypes,
    check_detections,
    detections_to_prompts,
    make_decision,
    make_image,
    make_mask,
    make_object,
    make_objects,
    make_prompt,
    make_time,
    nanoseconds,
    prompt_from_message,
)
from robust_pvos_ros.tracking.types import FrameResult, ObjectState, Prompt, TrackedObject

try:
    import vision_msgs.msg as vision_msgs
except ImportError:
    vision_msgs = None

__all__ = [
    'TYPES', 'Decision', 'check_detections', 'decision_message', 'detections_message', 'detections_to_prompts',
    'diagnostic_status', 'image_message', 'label_message', 'mask_message', 'nanoseconds', 'object_message',
    'objects_message', 'overlay_message', 'prompt_from_message', 'prompt_message', 'time_message',
]  # fmt: skip

def _octets(values: np.ndarray) -> array.array[int]:
    # What is an array.array already, rclpy does not check byte by byte.
    data = array.array('B')
    data.frombytes(values.data)
    return data


TYPES = MessageTypes(
    Time, Header, Point, RegionOfInterest, Image, PromptMsg, TrackedObjectMsg, TrackedObjects, DecisionMsg, _octets
)
"""The classes of rclpy."""


def time_message(stamp: int) -> Time:
    """Integer nanoseconds as a stamp."""
    return make_time(TYPES, stamp)


def prompt_message(prompt: Prompt, header: Header, camera: str, object_id: int) -> PromptMsg:
    """An accepted prompt as published on ``~/prompts``; see :func:`robust_pvos_ros.message_core.make_prompt`."""
    return make_prompt(TYPES, prompt, header, camera, object_id)


def decision_message(decision: Decision, header: Header) -> DecisionMsg:
    """``~/decisions``; ``header`` is that of the newest frame."""
    return make_decision(TYPES, decision, header)


def object_message(tracked: TrackedObject) -> TrackedObjectMsg:
    """One object of a result."""
    return make_object(TYPES, tracked)


def objects_message(objects: tuple[TrackedObject, ...], header: Header, camera: str) -> TrackedObjects:
    """``~/NAME/objects``."""
    return make_objects(TYPES, objects, header, camera)


def image_message(pixels: np.ndarray, encoding: str, header: Header) -> Image:
    """Image message from uint8 (H, W), (H, W, 3) or uint16 (H, W) pixels."""
    return make_image(TYPES, pixels, encoding, header)


def label_message(result: FrameResult, header: Header) -> Image:
    """``~/NAME/label_image``: 16UC1, object ID at each pixel."""
    return make_image(TYPES, result.label_image, LABEL_ENCODING, header)


def mask_message(mask: np.ndarray, header: Header) -> Image:
    """``~/NAME/object_ID/mask``: mono8 of 0 and 255 from bool (H, W)."""
    return make_mask(TYPES, mask, header)


def overlay_message(bgr: np.ndarray, header: Header) -> Image:
    """``~/NAME/overlay``: bgr8 from uint8 (H, W, 3)."""
    return make_image(TYPES, bgr, 'bgr8', header)


def detections_message(objects: tuple[TrackedObject, ...], header: Header) -> Any:
    """``~/NAME/detections``: ``vision_msgs/Detection2DArray`` of the objects that are TRACKING, ``id`` = object ID.

    The box's centre is in pixels with the centre of the top-left pixel at (0, 0); ``class_id`` is the label.  Needs
    ``vision_msgs``.
    """
    message = vision_msgs.Detection2DArray(header=header)
    for tracked in objects:
        if tracked.state != ObjectState.TRACKING:
            continue
        x0, y0, x1, y1 = tracked.box
        detection = vision_msgs.Detection2D(header=header, id=str(tracked.object_id))
        detection.bbox.center.position.x = (x0 + x1 - 1) / 2
        detection.bbox.center.position.y = (y0 + y1 - 1) / 2
        detection.bbox.size_x = float(x1 - x0)
        detection.bbox.size_y = float(y1 - y0)
        hypothesis = vision_msgs.ObjectHypothesisWithPose()
        hypothesis.hypothesis.class_id = tracked.label
        hypothesis.hypothesis.score = float(tracked.object_score)
        detection.results.append(hypothesis)
        message.detections.append(detection)
    return message


def diagnostic_status(
    name: str, level: bytes, text: str, hardware: str, values: Mapping[str, object]
) -> DiagnosticStatus:
    """One entry of ``/diagnostics``; floats are written with two decimals."""
    pairs = [
        KeyValue(key=key, value=f'{value:.2f}' if isinstance(value, float) else str(value))
        for key, value in values.items()
    ]
    return DiagnosticStatus(name=name, level=level, message=text, hardware_id=hardware, values=pairs)
