"""What is asked of the tracker in a replay: prompts recorded in the bag, written in a file or made from the truth, and
the recorded decisions that changed its objects in other ways."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import yaml

from robust_pvos_ros.bags.definitions import DECISION, PROMPT, BagError
from robust_pvos_ros.bags.frames import CameraTopic, stamp_of
from robust_pvos_ros.bags.reader import BagReader, Entry
from robust_pvos_ros.evaluation.davis import read_annotation
from robust_pvos_ros.evaluation.metrics import EvaluationError
from robust_pvos_ros.evaluation.protocol import PromptKind, make_prompt
from robust_pvos_ros.message_core import Decision, decision_from_message, prompt_from_message
from robust_pvos_ros.tracking.types import Prompt, PromptError, seconds_text

KEYS = {'camera', 'frame', 'stamp', 'object_id', 'label', 'points', 'point_labels', 'box', 'mask'}
CHANGES = ('remove_object', 'set_label', 'reset')
"""Services that change the objects without a prompt."""
Request = Prompt | Decision
"""A prompt, or an accepted request to one of ``CHANGES``."""


@dataclass(frozen=True, eq=False)
class FrameKey:
    """A frame that may be prompted.

    Attributes:
        camera: its name.
        index: count of the camera's frames, from 0.
        stamp: nanoseconds, of its header.
        time: nanoseconds at which it was recorded.
        truth: uint16 (H, W) object IDs, or None.
    """

    camera: str
    index: int
    stamp: int
    time: int
    truth: np.ndarray | None = None


class PromptSource(Protocol):
    """Where prompts come from.  ``object_id`` of a prompt is the ID the object is to have; 0 leaves that open."""

    def due(self, frame: FrameKey) -> list[Request]:
        """The requests of a frame, in their order; called once for every frame."""

    def wanted_ids(self) -> list[int]:
        """IDs that are known to be asked for."""

    def finish(self) -> None:
        """Called after the last frame.  Raises ``BagError`` for prompts that fitted none."""

    def state(self) -> Any:
        """What :meth:`restore` needs, in numbers, texts and lists."""

    def restore(self, state: Any) -> None:
        """Go on from :meth:`state`."""


class TruthPrompts:
    """Each object is given once, on the first frame that shows it, as in ``evaluation.protocol``; it keeps its ID."""

    def __init__(self, kind: PromptKind) -> None:
        self._kind = kind
        self._seen: dict[str, list[int]] = {}

    def due(self, frame: FrameKey) -> list[Request]:
        """See :class:`PromptSource`."""
        if frame.truth is None:
            return []
        seen = self._seen.setdefault(frame.camera, [])
        starting = [int(value) for value in np.unique(frame.truth) if value and value not in seen]
        seen += starting
        return [replace(make_prompt(frame.truth == value, self._kind), object_id=value) for value in starting]

    def wanted_ids(self) -> list[int]:
        """See :class:`PromptSource`."""
        return []

    def finish(self) -> None:
        """See :class:`PromptSource`."""
        if not any(self._seen.values()):
            raise BagError('no prompt could be made from the truth: no frame has a true mask under its own stamp')

    def state(self) -> Any:
        """See :class:`PromptSource`."""
        return self._seen

    def restore(self, state: Any) -> None:
        """See :class:`PromptSource`."""
        self._seen = {str(camera): list(ids) for camera, ids in state.items()}


@dataclass(frozen=True, eq=False)
class Planned:
    """A request and its frame: ``index``, or ``stamp``, or the first frame recorded at ``time`` or later.

    ``camera`` may be empty where there is only one.
    """

    request: Request
    camera: str
    where: str
    index: int | None = None
    stamp: int | None = None
    time: int | None = None

    def is_of(self, frame: FrameKey) -> bool:
        """Whether the request belongs to a frame."""
        if self.camera not in ('', frame.camera):
            return False
        if self.index is not None:
            return frame.index == self.index
        if self.stamp is not None:
            return frame.stamp == self.stamp
        return self.time is not None and frame.time >= self.time

    def is_missed_by(self, frame: FrameKey) -> bool:
        """Whether a frame shows that the request's own frame is not in the bag."""
        if self.stamp is None or self.camera not in ('', frame.camera):
            return False
        return frame.stamp > self.stamp and (self.time is None or frame.time > self.time)


class PlannedPrompts:
    """Prompts that are known beforehand."""

    def __init__(self, planned: Sequence[Planned]) -> None:
        self._planned = list(planned)
        self._open = list(range(len(self._planned)))

    def __len__(self) -> int:
        return len(self._planned)

    def checked(self, cameras: Sequence[CameraTopic]) -> PlannedPrompts:
        """These prompts; raises ``BagError``, naming the cameras, if one is of none of ``cameras``."""
        names = {camera.name for camera in cameras}
        for planned in self._planned:
            if planned.camera not in names | {''}:
                raise BagError(
                    f'{planned.where} has no frame: camera {planned.camera} has no image here, where the cameras are '
                    f'{", ".join(sorted(names))}; name it with --camera {planned.camera}=TOPIC'
                )
        return self

    def due(self, frame: FrameKey) -> list[Request]:
        """See :class:`PromptSource`.  Raises ``BagError`` where a prompt's own frame is missing."""
        found = [number for number in self._open if self._planned[number].is_of(frame)]
        self._open = [number for number in self._open if number not in found]
        missed = [self._planned[number] for number in self._open if self._planned[number].is_missed_by(frame)]
        if missed:
            raise self._unfit(missed[0])
        return [self._planned[number].request for number in found]

    def wanted_ids(self) -> list[int]:
        """See :class:`PromptSource`."""
        return [p.request.object_id for p in self._planned if isinstance(p.request, Prompt) and p.request.object_id]

    def finish(self) -> None:
        """See :class:`PromptSource`."""
        if self._open:
            raise self._unfit(self._planned[self._open[0]])

    def _unfit(self, planned: Planned) -> BagError:
        wanted = 'after it'
        if planned.index is not None:
            wanted = f'number {planned.index}'
        elif planned.stamp is not None:
            wanted = f'with the stamp {seconds_text(planned.stamp)}'
        return BagError(f'{planned.where} has no frame: camera {planned.camera or "(any)"} has no image {wanted}')

    def state(self) -> Any:
        """See :class:`PromptSource`."""
        return self._open

    def restore(self, state: Any) -> None:
        """See :class:`PromptSource`."""
        self._open = [int(number) for number in state]


def recorded_prompts(reader: BagReader, topic: str, decisions: str = '') -> PlannedPrompts:
    """The accepted prompts in a bag, each for the frame whose stamp it bears; one without a stamp is for the first
    frame recorded after it.

    Args:
        reader: of the bag.
        topic: of the prompts.
        decisions: topic of the decisions, of which those in ``CHANGES`` are taken; it may be missing.

    Raises:
        BagError: if the topic is missing or empty, or a prompt is malformed.
    """
    reader.require(topic, PROMPT)
    topics = [topic]
    if decisions in reader.topics:
        reader.require(decisions, DECISION)
        topics.append(decisions)
    planned = []
    for number, entry in enumerate(reader.messages(topics), 1):
        where = f'{"prompt" if entry.topic == topic else "decision"} {number} on {entry.topic}'
        try:
            request = _request(entry)
        except PromptError as error:
            raise BagError(f'{where} is malformed: {error}') from error
        stamp = stamp_of(entry.message)
        if request is not None:
            planned.append(Planned(request, entry.message.camera, where, stamp=stamp or None, time=entry.time))
    if not any(isinstance(p.request, Prompt) for p in planned):
        raise BagError(f'topic {topic} of bag {reader.path} holds no prompts')
    return PlannedPrompts(planned)


def _request(entry: Entry) -> Request | None:
    if entry.type == PROMPT:
        return prompt_from_message(entry.message)
    decision = decision_from_message(entry.message)
    return decision if decision.success and decision.service in CHANGES else None


def prompts_from_file(path: Path) -> PlannedPrompts:
    """Prompts of a YAML or JSON file: a list, or ``prompts:`` with a list.

    Each entry has ``frame`` (number from 0) or ``stamp`` (seconds), and ``points`` with ``point_labels``, ``box``
    (x0, y0, x1, y1) or ``mask`` (a PNG beside the file, what is not 0 is the object); pixels of the image.  Optional:
    ``camera``, ``label``, ``object_id``; an ID that was prompted before is refined.

    Raises:
        BagError: naming the file and the entry that is wrong.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BagError(f'the prompts {path} cannot be read: {" ".join(str(error).split())}') from error
    entries = content.get('prompts') if isinstance(content, dict) else content
    if not isinstance(entries, list) or not entries:
        raise BagError(f'{path} must hold a list of prompts')
    return PlannedPrompts([_planned(path, number, entry) for number, entry in enumerate(entries, 1)])


def _planned(path: Path, number: int, entry: Any) -> Planned:
    where = f'prompt {number} of {path}'
    if not isinstance(entry, dict) or set(entry) - KEYS:
        raise BagError(f'{where} must have keys of {", ".join(sorted(KEYS))}, got {entry!r}')
    if ('frame' in entry) == ('stamp' in entry):
        raise BagError(f'{where} must name its frame by either frame or stamp')
    try:
        points = np.array(entry.get('points', []), np.float32).reshape(-1, 2)
        prompt = Prompt(
            object_id=int(entry.get('object_id', 0)),
            label=str(entry.get('label', '')),
            points=points,
            point_labels=np.array(entry.get('point_labels', [1] * len(points)), np.int32),
            box=None if 'box' not in entry else np.array(entry['box'], np.float32),
            mask=None if 'mask' not in entry else read_annotation(path.parent / str(entry['mask'])) > 0,
        )
        index = int(entry['frame']) if 'frame' in entry else None
        stamp = int(Decimal(str(entry['stamp'])) * 1_000_000_000) if 'stamp' in entry else None
    except (TypeError, ValueError, InvalidOperation, PromptError, EvaluationError) as error:
        raise BagError(f'{where} is malformed: {error}') from error
    return Planned(prompt, str(entry.get('camera', '')), where, index, stamp)


class IdSource(Iterator[int]):
    """IDs for a tracker: those that are asked for, and otherwise the next one that is free.

    Args:
        wanted: IDs that somebody will ask for, which others must not get.
    """

    def __init__(self, wanted: Sequence[int] = ()) -> None:
        self._reserved = set(wanted)
        self.used: list[int] = []
        self._asked: deque[int] = deque()

    def ask(self, wanted: Sequence[int]) -> None:
        """IDs for the objects that start next, in their order; 0 for any."""
        self._asked = deque(wanted)

    def __next__(self) -> int:
        wanted = self._asked.popleft() if self._asked else 0
        if not wanted:
            taken = self._reserved.union(self.used)
            wanted = next(number for number in range(1, len(taken) + 2) if number not in taken)
        self.used.append(wanted)
        return wanted
