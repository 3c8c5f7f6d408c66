"""What ``/diagnostics`` says about one segmentation node, as the page's health panel shows it.  No ROS.

Works on the fields of ``diagnostic_msgs/DiagnosticStatus``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

CAMERA_FIGURES = (
    'fps', 'input_fps', 'objects', 'received', 'processed', 'dropped', 'malformed', 'failed', 'time_jumps',
    'object_memory_mb', 'history_mb', 'image_age_p50_ms', 'image_age_p99_ms', 'total_p50_ms', 'total_p99_ms',
)  # fmt: skip
NODE_TEXTS = ('model', 'encoder', 'encoder_reason', 'device', 'precision', 'adapter', 'overload_policy')


@dataclass(frozen=True)
class CameraHealth:
    """One camera of the segmentation node.

    Attributes:
        name: of the camera.
        image_topic: full name.
        text: what the node says about it.
        figures: those of :data:`CAMERA_FIGURES` that the node gives; rates in Hz, times in ms, memory in MB.
    """

    name: str
    image_topic: str
    text: str
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class NodeHealth:
    """A segmentation node.

    Attributes:
        state: label of its lifecycle state.
        text: what it says about itself.
        memory_mb: resident memory.
        texts: those of :data:`NODE_TEXTS` that it gives.
        cameras: by name.
    """

    state: str
    text: str
    memory_mb: float | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    cameras: Mapping[str, CameraHealth] = field(default_factory=dict)


def read_health(statuses: Iterable[Any], node: str) -> NodeHealth | None:
    """Entries of ``/diagnostics`` that belong to a node.

    Args:
        statuses: fields of ``diagnostic_msgs/DiagnosticStatus``.
        node: full name of the segmentation node.

    Returns:
        None if they are another's.
    """
    found: NodeHealth | None = None
    cameras: dict[str, CameraHealth] = {}
    for status in statuses:
        values = {pair.key: pair.value for pair in status.values}
        if values.get('node') != node:
            continue
        if 'camera' in values:
            name = values['camera']
            figures = {key: number for key in CAMERA_FIGURES if (number := _number(values.get(key))) is not None}
            cameras[name] = CameraHealth(name, values.get('image_topic', ''), status.message, figures)
        elif 'state' in values:
            texts = {key: values[key] for key in NODE_TEXTS if key in values}
            memory = _number(values.get('resident_memory_mb'))
            found = NodeHealth(values['state'], status.message, memory, texts)
    if found is None:
        return None
    return NodeHealth(found.state, found.text, found.memory_mb, found.texts, cameras)


def _number(text: str | None) -> float | None:
    """A figure, or None where there is none or it is not finite."""
    try:
        number = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None
