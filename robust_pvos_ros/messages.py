"""ROS messages to the tracker's value types and back.

Pictures become arrays in :mod:`robust_pvos_ros.image_codec`; here are requests -> :class:`Prompt`, and
:class:`FrameResult` -> messages.  Every function that builds an output takes the header of the input image and hands
it on unchanged.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from geometry_msgs.msg import Point
from robust_pvos_interfaces.msg import Prompt as PromptMsg
from robust_pvos_interfaces.msg import TrackedObject as TrackedObjectMsg
from robust_pvos_interfaces.msg import TrackedObjects
from sensor_msgs.msg import Image, RegionOfInterest
from std_msgs.msg import Header

from robust_pvos_ros.image_codec import rows_of
from robust_pvos_ros.tracking.types import FrameResult, Prompt, PromptError, TrackedObject

try:
    import vision_msgs.msg as vision_msgs
except ImportError:
    vision_msgs = None

MASK_ENCODINGS = ('mono8', '8UC1')
NANOSECONDS = 1_000_000_000


def nanoseconds(stamp: Time) -> int:
    """Stamp as integer nanoseconds."""
    return stamp.sec * NANOSECONDS + stamp.nanosec


def time_message(stamp: int) -> Time:
    """Integer nanoseconds as a stamp."""
    seconds, rest = divmod(stamp, NANOSECONDS)
    return Time(sec=seconds, nanosec=rest)


def prompt_from_message(message: PromptMsg) -> Prompt:
    """Prompt of a request, checked in itself; whether it fits the picture is checked where the picture is known.

    Raises:
        PromptError: if the parts are malformed or contradict one another.
    """
    box = None
    if message.has_box:
        x, y = message.box.x_offset, message.box.y_offset
        box = np.array([x, y, x + message.box.width, y + message.box.height], np.float32)
    points = np.array([(point.x, point.y) for point in message.points], np.float32).reshape(-1, 2)
    if not np.isfinite(points).all():
        x, y = points[~np.isfinite(points).all(1)][0]
        raise PromptError(f'point ({x}, {y}) is not finite: x and y must be pixels of the camera image')
    return Prompt(
        object_id=int(message.object_id),
        label=message.label,
        points=points,
        point_labels=np.array(list(message.point_labels), np.int32),
        box=box,
        mask=_mask_from_message(message.mask),
    )


def _mask_from_message(image: Image) -> np.ndarray | None:
    if image.width == 0 and image.height == 0 and len(image.data) == 0:
        return None
    if image.encoding not in MASK_ENCODINGS:
        raise PromptError(f'mask encoding must be {" or ".join(MASK_ENCODINGS)}, got {image.encoding!r}')
    if image.width == 0 or image.height == 0:
        raise PromptError(f'mask is {image.width}x{image.height} pixels but has {len(image.data)} bytes of data')
    if image.step < image.width or len(image.data) != image.step * image.height:
        raise PromptError(
            f'mask of {image.width}x{image.height} pixels needs step >= {image.width} and step * {image.height} bytes '
            f'of data, got step {image.step} and {len(image.data)} bytes'
        )
    return rows_of(image, image.height, 1) != 0


def prompt_message(prompt: Prompt, header: Header, camera: str, object_id: int) -> PromptMsg:
    """An accepted prompt as published on ``~/prompts``.

    Args:
        prompt: as applied.
        header: of the image it was applied to.
        camera: name of the camera.
        object_id: the ID that the prompt got (a new object) or named (a refinement).
    """
    message = PromptMsg(header=header, camera=camera, object_id=object_id, label=prompt.label)
    message.points = [Point(x=float(x), y=float(y)) for x, y in prompt.points]
    message.point_labels = [int(label) for label in prompt.point_labels]
    if prompt.box is not None:
        message.has_box = True
        message.box = _region(*(round(float(v)) for v in prompt.box))
    if prompt.mask is not None:
        message.mask = mask_message(prompt.mask, header)
    return message


def _region(x0: int, y0: int, x1: int, y1: int) -> RegionOfInterest:
    return RegionOfInterest(x_offset=int(x0), y_offset=int(y0), width=int(x1 - x0), height=int(y1 - y0))


def object_message(tracked: TrackedObject) -> TrackedObjectMsg:
    """One object of a result."""
    x, y = tracked.centroid
    return TrackedObjectMsg(
        id=int(tracked.object_id),
        label=tracked.label,
        state=int(tracked.state),
        object_score=float(tracked.object_score),
        predicted_iou=float(tracked.predicted_iou),
        box=_region(*tracked.box),
        centroid=Point(x=float(x), y=float(y)),
        area_px=int(tracked.area_px),
        frames_since_seen=int(tracked.frames_since_seen),
        mask_stamp=time_message(int(tracked.mask_stamp)),
    )


def objects_message(objects: tuple[TrackedObject, ...], header: Header, camera: str) -> TrackedObjects:
    """``~/NAME/objects``."""
    return TrackedObjects(header=header, camera=camera, objects=[object_message(tracked) for tracked in objects])


def image_message(pixels: np.ndarray, encoding: str, header: Header) -> Image:
    """Image message from uint8 (H, W), (H, W, 3) or uint16 (H, W) pixels."""
    pixels = np.ascontiguousarray(pixels)
    message = Image(header=header, height=pixels.shape[0], width=pixels.shape[1], encoding=encoding)
    message.step = pixels.strides[0]
    message.is_bigendian = int(sys.byteorder == 'big')
    # Appending to the message's own array is what rclpy does not check byte by byte.
    message.data.frombytes(pixels.reshape(-1).view(np.uint8).data)
    return message


def label_message(result: FrameResult, header: Header) -> Image:
    """``~/NAME/label_image``: 16UC1, object ID at each pixel."""
    return image_message(result.label_image, '16UC1', header)


def mask_message(mask: np.ndarray, header: Header) -> Image:
    """``~/NAME/object_ID/mask``: mono8 of 0 and 255 from bool (H, W)."""
    return image_message(mask.view(np.uint8) * np.uint8(255), 'mono8', header)


def overlay_message(bgr: np.ndarray, header: Header) -> Image:
    """``~/NAME/overlay``: bgr8 from uint8 (H, W, 3)."""
    return image_message(bgr, 'bgr8', header)


def detections_message(objects: tuple[TrackedObject, ...], header: Header) -> Any:
    """``~/NAME/detections``: ``vision_msgs/Detection2DArray`` of the visible objects, ``id`` = object ID.

    The box's centre is in pixels with the centre of the top-left pixel at (0, 0); ``class_id`` is the label.  Needs
    ``vision_msgs``.
    """
    message = vision_msgs.Detection2DArray(header=header)
    for tracked in objects:
        if not tracked.area_px:
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
