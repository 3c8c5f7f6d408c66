"""The tracker's value types to message fields and back, for the message classes of any library.  NumPy, no ROS.

The node gives the classes of rclpy, a bag those of ``rosbags``: both get the same values from here.  Pictures become
arrays in :mod:`robust_pvos_ros.image_codec`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from robust_pvos_ros.image_codec import rows_of
from robust_pvos_ros.tracking.types import (
    MAX_IMAGE_PIXELS,
    MAX_LABEL_LENGTH,
    MAX_POINTS,
    ObjectState,
    Prompt,
    PromptError,
    TrackedObject,
    shown,
)

MASK_ENCODINGS = ('mono8', '8UC1')
LABEL_ENCODING = '16UC1'
NANOSECONDS = 1_000_000_000
MAX_DETECTIONS = 256


@dataclass(frozen=True)
class Decision:
    """What a request came to.

    Attributes:
        service: ``add_object``, ``refine_object``, ``remove_object``, ``set_label`` or ``reset``; ``prompt`` or
            ``detections`` for one that came by topic.
        camera: its name, or empty.
        object_id: the object concerned; 0 for none.
        label: as requested.
        success: whether anything may have changed.
        message: the reply's.
    """

    service: str
    camera: str = ''
    object_id: int = 0
    label: str = ''
    success: bool = True
    message: str = ''


@dataclass(frozen=True)
class MessageTypes:
    """Constructors of messages, which take every field by name.

    Attributes:
        octets: makes the value of a ``uint8[]`` field from contiguous uint8 (N,).
    """

    time: Callable[..., Any]
    header: Callable[..., Any]
    point: Callable[..., Any]
    region: Callable[..., Any]
    image: Callable[..., Any]
    prompt: Callable[..., Any]
    tracked_object: Callable[..., Any]
    tracked_objects: Callable[..., Any]
    decision: Callable[..., Any]
    octets: Callable[[np.ndarray], Any]


def nanoseconds(stamp: Any) -> int:
    """A stamp (``sec``, ``nanosec``) as integer nanoseconds."""
    return int(stamp.sec) * NANOSECONDS + int(stamp.nanosec)


# ---------------------------------------------------------------------------------------------------- fields to values


def prompt_from_message(message: Any) -> Prompt:
    """Prompt of a request, checked in itself; whether it fits the picture is checked where the picture is known.

    Args:
        message: fields of ``robust_pvos_interfaces/Prompt``.

    Raises:
        PromptError: if the parts are malformed or contradict one another.
    """
    box = None
    if message.has_box:
        x, y = message.box.x_offset, message.box.y_offset
        box = np.array([x, y, x + message.box.width, y + message.box.height], np.float32)
    # before anything is built from them: a message may hold millions
    if max(len(message.points), len(message.point_labels)) > MAX_POINTS:
        raise PromptError(
            f'a prompt takes at most {MAX_POINTS} points, got {len(message.points)} points and '
            f'{len(message.point_labels)} labels'
        )
    with np.errstate(over='ignore'):  # what is too large becomes infinite, and is refused as that
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


def _mask_from_message(image: Any) -> np.ndarray | None:
    if image.width == 0 and image.height == 0 and len(image.data) == 0:
        return None
    if image.encoding not in MASK_ENCODINGS:
        raise PromptError(f'mask encoding must be {" or ".join(MASK_ENCODINGS)}, got {shown(image.encoding)}')
    if image.width == 0 or image.height == 0:
        raise PromptError(f'mask is {image.width}x{image.height} pixels but has {len(image.data)} bytes of data')
    if image.width * image.height > MAX_IMAGE_PIXELS:
        raise PromptError(
            f'mask is {image.width}x{image.height} pixels: it must be of the size of the camera image, at most '
            f'{MAX_IMAGE_PIXELS} pixels'
        )
    if image.step < image.width or len(image.data) != image.step * image.height:
        raise PromptError(
            f'mask of {image.width}x{image.height} pixels needs step >= {image.width} and step * {image.height} bytes '
            f'of data, got step {image.step} and {len(image.data)} bytes'
        )
    return rows_of(image, image.height, 1) != 0


def detections_to_prompts(message: Any, width: int, height: int) -> tuple[list[Prompt], list[str]]:
    """Prompts for the boxes of a detector, as if each were a new object; its best hypothesis is the label.

    A box that is turned is replaced by the upright one around it, and what lies outside the image is cut off.

    Args:
        message: fields of ``vision_msgs/Detection2DArray``, in pixels with the centre of the top-left one at (0, 0).
        width, height: of the image, pixels.

    Returns:
        the prompts, and one sentence for each detection that makes none.

    Raises:
        PromptError: if there are more than ``MAX_DETECTIONS``.
    """
    check_detections(message)
    prompts, refused = [], []
    for number, detection in enumerate(message.detections):
        try:
            prompts.append(Prompt(label=_best_class(detection), box=_upright_box(detection.bbox, width, height)))
        except PromptError as error:
            refused.append(f'detection {number}: {error}')
    return prompts, refused


def check_detections(message: Any) -> None:
    """Look at the size of a ``vision_msgs/Detection2DArray`` before anything else is done with it.

    Raises:
        PromptError: if there are more than ``MAX_DETECTIONS``.
    """
    if len(message.detections) > MAX_DETECTIONS:
        raise PromptError(
            f'a message takes at most {MAX_DETECTIONS} detections, got {len(message.detections)}: let the detector '
            f'suppress weak ones'
        )


def _best_class(detection: Any) -> str:
    hypotheses = [result.hypothesis for result in detection.results[:MAX_DETECTIONS]]
    return max(hypotheses, key=lambda hypothesis: hypothesis.score).class_id if hypotheses else ''


def _upright_box(bbox: Any, width: int, height: int) -> np.ndarray:
    x, y, theta = bbox.center.position.x, bbox.center.position.y, bbox.center.theta
    parts = np.array([x, y, theta, bbox.size_x, bbox.size_y])
    if not np.isfinite(parts).all() or min(bbox.size_x, bbox.size_y) <= 0:
        raise PromptError(f'the box must have finite numbers and a positive size, got {parts.tolist()}')
    cosine, sine = abs(math.cos(theta)), abs(math.sin(theta))
    across, down = bbox.size_x * cosine + bbox.size_y * sine, bbox.size_x * sine + bbox.size_y * cosine
    left, top = x - (across - 1) / 2, y - (down - 1) / 2
    box = np.array([left, top, left + across, top + down])
    box = np.clip(box, 0, (width, height, width, height)).astype(np.float32)
    if box[0] >= box[2] or box[1] >= box[3]:
        raise PromptError(f'the box around ({x:g}, {y:g}) lies outside the {width}x{height} image')
    return box


def tracked_from_message(message: Any) -> TrackedObject:
    """One object of ``robust_pvos_interfaces/TrackedObjects``."""
    box = message.box
    return TrackedObject(
        object_id=int(message.id),
        label=message.label,
        state=ObjectState(message.state),
        object_score=float(message.object_score),
        predicted_iou=float(message.predicted_iou),
        box=(box.x_offset, box.y_offset, box.x_offset + box.width, box.y_offset + box.height),
        centroid=(message.centroid.x, message.centroid.y),
        area_px=int(message.area_px),
        frames_since_seen=int(message.frames_since_seen),
        mask_stamp=nanoseconds(message.mask_stamp),
    )


def decision_from_message(message: Any) -> Decision:
    """Fields of ``robust_pvos_interfaces/Decision``."""
    return Decision(
        service=message.service,
        camera=message.camera,
        object_id=int(message.object_id),
        label=message.label,
        success=bool(message.success),
        message=message.message,
    )


# ---------------------------------------------------------------------------------------------------- values to fields


def make_time(types: MessageTypes, stamp: int) -> Any:
    """Integer nanoseconds as a stamp."""
    seconds, rest = divmod(stamp, NANOSECONDS)
    return types.time(sec=seconds, nanosec=rest)


def make_header(types: MessageTypes, stamp: int, frame_id: str) -> Any:
    """``std_msgs/Header`` of nanoseconds."""
    return types.header(stamp=make_time(types, stamp), frame_id=frame_id)


def make_image(types: MessageTypes, pixels: np.ndarray, encoding: str, header: Any) -> Any:
    """``sensor_msgs/Image`` from uint8 (H, W), (H, W, 3) or uint16 (H, W) pixels."""
    pixels = np.ascontiguousarray(pixels)
    return types.image(
        header=header,
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=int(sys.byteorder == 'big'),
        step=pixels.strides[0],
        data=types.octets(pixels.reshape(-1).view(np.uint8)),
    )


def make_mask(types: MessageTypes, mask: np.ndarray, header: Any) -> Any:
    """mono8 of 0 and 255 from bool (H, W)."""
    return make_image(types, mask.view(np.uint8) * np.uint8(255), 'mono8', header)


def make_region(types: MessageTypes, x0: int, y0: int, x1: int, y1: int) -> Any:
    """``sensor_msgs/RegionOfInterest`` of a half-open box in pixels."""
    return types.region(
        x_offset=int(x0), y_offset=int(y0), height=int(y1 - y0), width=int(x1 - x0), do_rectify=False
    )


def make_prompt(types: MessageTypes, prompt: Prompt, header: Any, camera: str, object_id: int) -> Any:
    """An accepted prompt as published on ``~/prompts``.

    Args:
        types: of the message.
        prompt: as applied.
        header: of the image it was applied to.
        camera: name of the camera.
        object_id: the ID that the prompt got (a new object) or named (a refinement).
    """
    box = (0, 0, 0, 0) if prompt.box is None else tuple(round(float(v)) for v in prompt.box)
    if prompt.mask is None:
        nothing = np.zeros(0, np.uint8)
        mask = types.image(
            header=make_header(types, 0, ''), height=0, width=0, encoding='', is_bigendian=0, step=0,
            data=types.octets(nothing),
        )  # fmt: skip
    else:
        mask = make_mask(types, prompt.mask, header)
    return types.prompt(
        header=header,
        camera=camera,
        object_id=object_id,
        label=prompt.label,
        points=[types.point(x=float(x), y=float(y), z=0.0) for x, y in prompt.points],
        point_labels=types.octets(prompt.point_labels.astype(np.uint8)),
        has_box=prompt.box is not None,
        box=make_region(types, *box),
        mask=mask,
    )


def make_object(types: MessageTypes, tracked: TrackedObject) -> Any:
    """``robust_pvos_interfaces/TrackedObject``."""
    x, y = tracked.centroid
    return types.tracked_object(
        id=int(tracked.object_id),
        label=tracked.label,
        state=int(tracked.state),
        object_score=float(tracked.object_score),
        predicted_iou=float(tracked.predicted_iou),
        box=make_region(types, *tracked.box),
        centroid=types.point(x=float(x), y=float(y), z=0.0),
        area_px=int(tracked.area_px),
        frames_since_seen=int(tracked.frames_since_seen),
        mask_stamp=make_time(types, int(tracked.mask_stamp)),
    )


def make_objects(types: MessageTypes, objects: tuple[TrackedObject, ...], header: Any, camera: str) -> Any:
    """``~/NAME/objects``."""
    return types.tracked_objects(
        header=header, camera=camera, objects=[make_object(types, tracked) for tracked in objects]
    )


def make_decision(types: MessageTypes, decision: Decision, header: Any) -> Any:
    """``~/decisions``; ``header`` is that of the newest frame.  Names and labels are cut to what a label may have."""
    return types.decision(
        header=header,
        service=decision.service,
        camera=decision.camera[:MAX_LABEL_LENGTH],
        object_id=int(decision.object_id),
        label=decision.label[:MAX_LABEL_LENGTH],
        success=decision.success,
        message=decision.message,
    )
