"""Names, types and meaning of everything the segmentation node reads, publishes and serves.  No ROS.

The node takes its names from here and ``docs/interface.md`` its tables.  ``NAME`` stands for a camera, ``ID`` for an
object.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

NODE = '/robust_pvos'
"""Full name of the node where its launch files start it."""


def resolved(name: str, node: str = NODE) -> str:
    """Full name of a node's private topic or service."""
    return name.replace('~', node, 1)


class Topic(NamedTuple):
    """A topic: private names begin with ``~/``; ``direction`` is ``in`` or ``out``."""

    name: str
    direction: str
    type: str
    what: str

    def of(self, camera: str = '', object_id: int = 0) -> str:
        """The topic's name for one camera and object."""
        return self.name.replace('object_ID', f'object_{object_id}').replace('NAME', camera)


class Service(NamedTuple):
    """A service."""

    name: str
    type: str
    what: str


IMAGE = Topic(
    'NAME/image_raw', 'in', 'sensor_msgs/Image', 'camera images; the parameter `NAME.image_topic` names another topic'
)
LABEL_IMAGE = Topic(
    '~/NAME/label_image', 'out', 'sensor_msgs/Image', '16UC1, pixel = object ID, 0 = background; the highest logit wins'
)
PAST_LABEL_IMAGE = Topic(
    '~/NAME/past_label_image',
    'out',
    'sensor_msgs/Image',
    'as `label_image`, of a past frame under its stamp, each time a prompt was applied to it',
)
OBJECTS = Topic(
    '~/NAME/objects',
    'out',
    'robust_pvos_interfaces/TrackedObjects',
    'every object on every frame, also when there are none; the last message of a frame',
)
MASK = Topic('~/NAME/object_ID/mask', 'out', 'sensor_msgs/Image', 'mono8, 0 or 255; exists as long as its object')
OVERLAY = Topic('~/NAME/overlay', 'out', 'sensor_msgs/Image', 'bgr8, for people')
DETECTIONS = Topic(
    '~/NAME/detections',
    'out',
    'vision_msgs/Detection2DArray',
    'objects that are TRACKING, `id` = object ID; only where vision_msgs is installed',
)
PROMPT = Topic(
    '~/prompt',
    'in',
    'robust_pvos_interfaces/Prompt',
    'prompts from other nodes; one that shows a tracked object starts no second one, but brings it back if it was lost',
)
PROMPTS = Topic(
    '~/prompts',
    'out',
    'robust_pvos_interfaces/Prompt',
    'every accepted prompt with the ID it got and the header of its frame',
)
DECISIONS = Topic(
    '~/decisions',
    'out',
    'robust_pvos_interfaces/Decision',
    'what each request that could change the objects came to, refusals too, also of prompts and detections by topic',
)
STATUS = Topic('~/status', 'out', 'std_msgs/String', 'one readable line a second')
DIAGNOSTICS = Topic(
    '/diagnostics',
    'out',
    'diagnostic_msgs/DiagnosticArray',
    'once a second: rates, p50 and p99 of each stage, image age, counters, memory, model, silent cameras',
)
TOPICS = (
    IMAGE, LABEL_IMAGE, PAST_LABEL_IMAGE, OBJECTS, MASK, OVERLAY, DETECTIONS, PROMPT, PROMPTS, DECISIONS, STATUS,
    DIAGNOSTICS,
)  # fmt: skip

ADD_OBJECT = Service(
    '~/add_object',
    'robust_pvos_interfaces/AddObject',
    'start an object from points, a box or a mask; replies with its ID, score and area once the mask is computed',
)
REFINE_OBJECT = Service(
    '~/refine_object', 'robust_pvos_interfaces/RefineObject', 'correct the mask of an object; replies like add_object'
)
REMOVE_OBJECT = Service('~/remove_object', 'robust_pvos_interfaces/RemoveObject', 'stop tracking one object')
SET_LABEL = Service('~/set_label', 'robust_pvos_interfaces/SetLabel', "change one object's label")
LIST_OBJECTS = Service(
    '~/list_objects', 'robust_pvos_interfaces/ListObjects', 'the object table as of the newest frame'
)
RESET = Service('~/reset', 'robust_pvos_interfaces/Reset', 'forget every object; IDs go on counting')
SERVICES = (ADD_OBJECT, REFINE_OBJECT, REMOVE_OBJECT, SET_LABEL, LIST_OBJECTS, RESET)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table without trailing newline."""
    lines = [header, ['---'] * len(header), *rows]
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)
