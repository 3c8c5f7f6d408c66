"""What the parameters of the segmentation node are and may be, from the configuration dataclasses.

A field's default and its line in the docstring are the parameter's default and description; what it may be is in the
tables below.
"""

from __future__ import annotations

import array
import dataclasses
import inspect
import re
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidTopicNameException
from rclpy.validate_topic_name import validate_topic_name

from robust_pvos_ros.tracking.types import MEMORY_POLICIES, ModelConfig, PvosError, TrackerConfig, shown

CAMERA_NAME = re.compile(r'[A-Za-z][A-Za-z0-9_]{0,63}')
MAX_CAMERAS = 8
MAX_TEXT = 4096
"""Characters of a text, which may be a path."""
Value = bool | int | float | str | list


class ParameterError(PvosError):
    """A parameter that the node cannot run with."""


@dataclass(frozen=True)
class NodeConfig:
    """How the node runs.

    Attributes:
        autostart: configure and activate the node at start; otherwise a lifecycle manager does.
        cameras: names of the cameras, 1 to 8; each has its own objects, all share one model.
        batch_cameras: encode the frames of several cameras that wait at the same time in one batch: ``true``,
            ``false``, or ``auto``: on a GPU where the encoder takes batches.  Encoders of a fixed size (onnx, tensorrt)
            take one image at a time.
        encode_ahead: encode the next frame while objects are tracked into this one: ``true``, ``false``, or ``auto``:
            on a CPU where ``threads`` is at most half of the cores (with ``threads`` 0: on two cores).
        overload_policy: ``latest`` drops the oldest waiting frame when frames arrive faster than they are processed
            (live, best effort); ``every`` processes all in order (replay, reliable).
        queue_depth: frames that may wait under ``every``; a player must keep fewer of them unanswered.
        time_jump_policy: what happens when image stamps jump backwards: ``remove_objects`` or ``keep``.
        forward_jump: seconds between the stamps of two images of a camera above which a jump forward is counted and
            logged; objects stay.
        silence_timeout: seconds without an image after which an active camera is reported as WARN on ``/diagnostics``;
            after three times as many it is an ERROR.
        association_iou: least overlap of a detection with a tracked object at which it is taken for that object and
            not for a new one.
        detection_tolerance: seconds between the image of a detection and the nearest processed frame within which it is
            taken for that frame, since under overload most images are not processed; 0 takes those of processed images
            alone.
    """

    autostart: bool = True
    cameras: tuple[str, ...] = ('camera',)
    batch_cameras: str = 'auto'
    encode_ahead: str = 'auto'
    overload_policy: str = 'latest'
    queue_depth: int = 32
    time_jump_policy: str = 'remove_objects'
    forward_jump: float = 2.0
    silence_timeout: float = 2.0
    association_iou: float = 0.5
    detection_tolerance: float = 0.15


@dataclass(frozen=True)
class CameraConfig:
    """One camera.

    Attributes:
        image_topic: topic of the camera's images, relative to the node's namespace.
        transport: how images arrive: ``raw`` is ``sensor_msgs/Image`` on ``image_topic``, ``compressed`` is
            ``sensor_msgs/CompressedImage`` (JPEG or PNG) on ``image_topic`` with ``/compressed`` after it, as
            image_transport names it.
        detections_topic: topic of ``vision_msgs/Detection2DArray`` whose boxes start objects and bring back those that
            were lost; empty reads none.
    """

    image_topic: str = '{camera}/image_raw'
    transport: str = 'raw'
    detections_topic: str = ''


@dataclass(frozen=True)
class Configuration:
    """Every parameter, read and checked at once."""

    model: ModelConfig
    tracker: TrackerConfig
    node: NodeConfig
    cameras: dict[str, CameraConfig]


LIMITS: dict[str, tuple[float, float]] = {
    'threads': (0, 256),
    'image_size': (0, 1024),
    'max_objects': (1, 64),
    'max_conditioning_frames': (2, 16),
    'lost_after': (1, 100_000),
    'history_frames': (0, 300),
    'queue_depth': (1, 1000),
    'object_budget': (0, 64),
    'presence_score': (0.0, 1.0),
    'presence_iou': (0.0, 1.0),
    'presence_margin': (0.0, 0.5),
    'exclusive_memory': (0.1, 1.0),
    'contest_overlap': (0.1, 1.0),
    'stray_cover': (0.0, 0.5),
    'recovery_score': (0.5, 1.0),
    'forward_jump': (0.05, 86_400.0),
    'silence_timeout': (0.1, 3600.0),
    'association_iou': (0.05, 1.0),
    'detection_tolerance': (0.0, 1.0),
}
CHOICES: dict[str, tuple[str, ...]] = {
    'model': ('compact', 'sam2.1_tiny', 'sam2.1_small', 'sam2.1_base_plus', 'sam2.1_large'),
    'precision': ('auto', 'float32', 'bfloat16'),
    'encoder': ('auto', 'torch', 'onnx', 'tensorrt'),
    'batch_cameras': ('auto', 'true', 'false'),
    'encode_ahead': ('auto', 'true', 'false'),
    'memory_policy': MEMORY_POLICIES,
    'overload_policy': ('latest', 'every'),
    'time_jump_policy': ('remove_objects', 'keep'),
    'transport': ('raw', 'compressed'),
}
LIVE = frozenset({
    'max_objects', 'lost_after', 'clear_memory_on_refine', 'time_jump_policy', 'forward_jump', 'silence_timeout',
    'association_iou', 'detection_tolerance', 'presence_score', 'presence_iou', 'presence_margin',
    'recovery_score', 'stray_cover',
})  # fmt: skip
READ_ONLY = frozenset({'autostart'})
TYPE_NAMES = {
    bool: 'true or false', int: 'an integer', float: 'a number', str: 'a text',
    list: 'a list of names such as [camera]',
}  # fmt: skip


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter.

    Attributes:
        name: full name, ``camera.image_topic`` for one of a camera's.
        default: of the parameter's type.
        description: one sentence.
        limits: smallest and largest value of a number, or None.
        choices: allowed texts, empty where any is allowed.
        live: it may be set while the node is configured.
        read_only: it can be given at start only.
    """

    name: str
    default: Value
    description: str
    limits: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()
    live: bool = False
    read_only: bool = False

    @property
    def allowed(self) -> str:
        """What a value may be, to be read after 'must be'."""
        if self.choices:
            return self.choices[0] if len(self.choices) == 1 else f'one of {", ".join(self.choices)}'
        if self.limits:
            return f'{TYPE_NAMES[type(self.default)]} from {self.limits[0]} to {self.limits[1]}'
        return TYPE_NAMES[type(self.default)]

    def coerced(self, value: Any) -> Any:
        """``value`` in the parameter's type where YAML reads another one: ``1`` for a number, ``true`` for a text."""
        if isinstance(self.default, float) and type(value) is int:
            return float(value)
        if isinstance(value, bool) and str(value).lower() in self.choices:
            return str(value).lower()
        return value

    def problem(self, value: object) -> str | None:
        """One sentence if ``value`` does not do."""
        if isinstance(value, (tuple, list, array.array)):
            value = list(value)
        kind = type(self.default)
        ok = type(value) is kind
        if ok and isinstance(value, list):
            ok = all(isinstance(entry, str) for entry in value)
        if ok and self.limits:
            ok = self.limits[0] <= value <= self.limits[1]  # type: ignore[operator]
        if ok and self.choices:
            ok = value in self.choices
        if not ok:
            hint = ''
            if isinstance(value, bool) and kind is str:
                hint = ' (YAML reads an unquoted yes, no, on or off as true or false)'
            return f'parameter {self.name} must be {self.allowed}, got {_shown(value)}{hint}'
        if isinstance(value, str) and len(value) > MAX_TEXT:
            return f'parameter {self.name} must have at most {MAX_TEXT} characters, got {len(value)}'
        return _special_problem(self.name, value)

    def descriptor(self) -> ParameterDescriptor:
        """For ``ros2 param describe``."""
        descriptor = ParameterDescriptor(description=self.description.replace('``', "'"), read_only=self.read_only)
        descriptor.additional_constraints = f'must be {self.allowed}' + ('' if self.live else '; set before configure')
        if self.limits and isinstance(self.default, float):
            descriptor.floating_point_range = [FloatingPointRange(from_value=self.limits[0], to_value=self.limits[1])]
        elif self.limits:
            low, high = (int(limit) for limit in self.limits)
            descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=1)]
        return descriptor


def _shown(value: object) -> str:
    """A value as a sentence can hold it."""
    if isinstance(value, bool):
        return 'true' if value else 'false'
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, list):
        more = f' and {len(value) - MAX_CAMERAS} more' if len(value) > MAX_CAMERAS else ''
        return f'[{", ".join(map(_shown, value[:MAX_CAMERAS]))}]{more}'
    return repr(value)


def _special_problem(name: str, value: Any) -> str | None:
    if name == 'cameras':
        wrong = [camera for camera in value if not CAMERA_NAME.fullmatch(camera)]
        if not 1 <= len(value) <= MAX_CAMERAS or wrong or len(set(value)) != len(value):
            return (
                f'parameter cameras must be a list of 1 to {MAX_CAMERAS} different names of letters, digits and '
                f'underscores that begin with a letter, such as [camera], got {_shown(value)}'
            )
    if name.endswith('.image_topic') or (name.endswith('.detections_topic') and value):
        try:
            validate_topic_name(value)
        except InvalidTopicNameException as error:
            reason = str(error).split(':\n')[0]  # what follows repeats the name, however long it is
            return f'parameter {name} must be a topic name such as camera/image_raw, got {shown(value)}: {reason}'
    return None


def descriptions(config: type) -> dict[str, str]:
    """Field -> text from the ``Attributes`` section of a dataclass's docstring."""
    section = inspect.cleandoc(config.__doc__ or '').split('Attributes:\n')[1]
    entries = re.findall(r'^    (\w+): (.*(?:\n {8}.*)*)', section, re.MULTILINE)
    return {name: ' '.join(text.split()) for name, text in entries}


def _specs(config: type, prefix: str = '', camera: str = '') -> list[ParameterSpec]:
    texts = descriptions(config)
    specs = []
    for field in dataclasses.fields(config):
        default = field.default
        if isinstance(default, tuple):
            default = list(default)
        if isinstance(default, str):
            default = default.format(camera=camera)
        specs.append(
            ParameterSpec(
                prefix + field.name,
                default,  # type: ignore[arg-type]
                texts[field.name],
                LIMITS.get(field.name),
                CHOICES.get(field.name, ()),
                field.name in LIVE,
                field.name in READ_ONLY,
            )
        )
    return specs


def node_specs() -> list[ParameterSpec]:
    """Every parameter that does not belong to a camera."""
    return [spec for config in (NodeConfig, ModelConfig, TrackerConfig) for spec in _specs(config)]


def camera_specs(camera: str) -> list[ParameterSpec]:
    """The parameters of one camera."""
    return _specs(CameraConfig, f'{camera}.', camera)
