"""Scores of runs from their bags: masks against truth, speed from the recorded times."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from robust_pvos_ros.bags.definitions import BagError
from robust_pvos_ros.bags.exporter import LabelTopic, find_labels
from robust_pvos_ros.bags.frames import find_cameras, has_labels, join, stamp_of
from robust_pvos_ros.bags.frames import truth_topic as truth_topic_of
from robust_pvos_ros.bags.reader import BagReader, Entry, picture_of
from robust_pvos_ros.bags.replay import ABOUT
from robust_pvos_ros.bags.runner import timing_topic, timings_of
from robust_pvos_ros.evaluation.metrics import ScoredFrames, region_similarity
from robust_pvos_ros.evaluation.protocol import ClipScorer, SequenceScore, Track
from robust_pvos_ros.image_codec import labels_of

CLEAN = 'clean'
LEAST_OVERLAP = 0.1
"""J from which on a fresh track is taken for a true object."""


@dataclass(frozen=True)
class Timing:
    """Speed as recorded; times in milliseconds.

    Attributes:
        fps: of a run without clock, the frames it could do in a second; of a live one, results in a second.
        mean, p50, p99: of a run without clock, time of a frame; of a live one, from the image's stamp to its result.
        live: whether the bag was recorded live.
    """

    fps: float
    mean: float
    p50: float
    p99: float
    live: bool


@dataclass(frozen=True)
class ScoredClip:
    """One run of one clip.

    Attributes:
        method, corruption, sequence, camera: what it is; ``corruption`` is ``clean`` where there is none.
        path: of its bag.
        score: of all objects.
        tracks: object ID -> scores frame by frame.
        labels: object ID -> free text, where there is one.
        stamps: (T,) nanoseconds of the frames.
        timing: None where the bag does not tell.
        untracked: true objects that no track ever lay on; they are not scored.
        without_result: frames with truth that have no label image.
        ids: tracked ID -> true ID.
        about: settings of the run; empty for live drives.
    """

    method: str
    corruption: str
    sequence: str
    camera: str
    path: Path
    score: SequenceScore
    tracks: dict[int, Track]
    labels: dict[int, str]
    stamps: np.ndarray
    timing: Timing | None
    untracked: tuple[int, ...]
    without_result: int
    switches: int
    ids: dict[int, int]
    about: dict[str, Any] = field(repr=False)

    @property
    def seconds_per_frame(self) -> float:
        """Median time between frames, seconds."""
        return float(np.median(np.diff(self.stamps))) / 1e9 if len(self.stamps) > 1 else 0.0

    def seconds_at(self, frame: int) -> float:
        """Seconds from the first frame to another one; NaN where there is none."""
        return float(self.stamps[frame] - self.stamps[0]) / 1e9 if frame < len(self.stamps) else math.nan


@dataclass(frozen=True, eq=False)
class ScoredFrame:
    """Truth and labels of a frame under the same IDs, uint16 (H, W), and its picture, uint8 (H, W, 3) or None."""

    stamp: int
    truth: np.ndarray
    labels: np.ndarray
    image: Entry | None

    def rgb(self) -> np.ndarray:
        """The picture; grey where the bag has none.  Raises ``FrameError`` if it is malformed."""
        if self.image is None:
            return np.full((*self.truth.shape, 3), 96, np.uint8)
        return picture_of(self.image.message, self.image.type)


def settings_of(reader: BagReader) -> dict[str, Any]:
    """Settings of the run that made a bag; empty for others."""
    try:
        about = json.loads(reader.about.get(ABOUT, '{}'))
    except json.JSONDecodeError:
        return {}
    return about if isinstance(about, dict) else {}


def method_of(about: dict[str, Any]) -> str:
    """Name of the method of a run: of its adapter, else ``base``; ``recorded`` for live drives."""
    return str(about.get('adapter') or 'base') if about else 'recorded'


class _Parts(NamedTuple):
    """The messages of one frame."""

    stamp: int
    labels: Entry
    truth: Entry
    objects: Entry | None
    image: Entry | None
    timing: Entry | None


@dataclass(frozen=True)
class Source:
    """Where the frames of one camera of one run come from.

    Attributes:
        reader: of the run.
        labels: topic of the run's labels.
        truth: bag with the truth, and its topic.
    """

    reader: BagReader
    labels: LabelTopic
    truth: tuple[BagReader, str]

    def joined(self) -> Iterator[_Parts]:
        """Every frame with labels and truth, as it was last published."""
        objects = self.labels.topic.removesuffix('label_image') + 'objects'
        image = self._image_topic()
        timing = timing_topic(self.labels.camera)
        sides = [topic for topic in (objects, image, timing) if topic in self.reader.topics]
        truth_reader, truth_topic = self.truth
        if truth_reader is self.reader:
            sides.append(truth_topic)
        frames = join(self.reader.messages([self.labels.topic, *sides]), {self.labels.topic: sides})
        others = _Follower(truth_reader, truth_topic) if truth_reader is not self.reader else None
        pending = None
        for frame in frames:
            truth = others.at(frame.stamp) if others is not None else frame.sides.get(truth_topic)
            if pending is not None and pending.stamp != frame.stamp:
                yield pending
            pending = None
            if truth is not None:
                rest = (frame.sides.get(topic) for topic in (objects, image, timing))
                pending = _Parts(frame.stamp, frame.entry, truth, *rest)
        if pending is not None:
            yield pending

    def _image_topic(self) -> str:
        try:
            cameras = find_cameras(self.reader)
        except BagError:
            return ''
        matching = [camera for camera in cameras if camera.name == self.labels.camera]
        matching = matching or (cameras if len(cameras) == 1 else [])
        return matching[0].topic if matching else ''


class _Follower:
    """Truth of another bag by ascending stamps."""

    def __init__(self, reader: BagReader, topic: str) -> None:
        self._entries = reader.messages([topic])
        self._entry = next(self._entries, None)

    def at(self, stamp: int) -> Entry | None:
        while self._entry is not None and stamp_of(self._entry.message) < stamp:
            self._entry = next(self._entries, None)
        if self._entry is None or stamp_of(self._entry.message) != stamp:
            return None
        return self._entry


class _Matcher:
    """Renames tracked IDs to true ones.

    Runs that were prompted from the truth have the true IDs.  Elsewhere a track belongs to the true object that its
    first mask overlaps most, if no other track has it.
    """

    def __init__(self, by_id: bool) -> None:
        self._by_id = by_id
        self._waiting: dict[int, int] = {}
        self.ids: dict[int, int] = {}
        self.seen: list[int] = []

    def starting(self, truth: np.ndarray, labels: np.ndarray) -> list[int]:
        """True objects that are given on this frame."""
        fresh = [int(value) for value in np.unique(truth) if value and value not in self.seen]
        self.seen += fresh
        if self._by_id:
            self.ids.update((value, value) for value in fresh)
            return fresh
        found = []
        for tracked in (int(value) for value in np.unique(labels) if value and value not in self.ids):
            free = [value for value in np.unique(truth) if value and value not in self.ids.values()]
            overlaps = [(region_similarity(truth == value, labels == tracked), int(value)) for value in free]
            best, value = max(overlaps, default=(0.0, 0))
            if best >= LEAST_OVERLAP:
                self.ids[tracked] = value
                found.append(value)
        return found

    def renamed(self, labels: np.ndarray) -> np.ndarray:
        """Labels with true IDs; tracks that belong to no true object are background."""
        table = np.zeros(int(labels.max()) + 1, np.uint16)
        for tracked, value in self.ids.items():
            if tracked < len(table):
                table[tracked] = value
        return table[labels]


def open_source(reader: BagReader, truth: BagReader | None, labels: LabelTopic, truth_topic: str = '') -> Source:
    """Find the truth of a run.

    Raises:
        BagError: if there is none.
    """
    topic = truth_topic or truth_topic_of(labels.camera)
    holder = truth if truth is not None else reader
    if not has_labels(holder, topic):
        listed = ', '.join(holder.topics) or 'none'
        raise BagError(
            f'bag {holder.path} has no truth on {topic}: name a bag that has it with --truth, or the topic with '
            f'--truth-topic; its topics are {listed}'
        )
    return Source(reader, labels, (holder, topic))


def score_source(source: Source, convention: ScoredFrames = 'interior', method: str = '') -> ScoredClip:
    """Score one camera of one run.

    Args:
        source: of the frames.
        convention: frames that count.
        method: name for the run; empty takes that of its adapter.

    Raises:
        BagError: if no frame has both labels and truth, or no track lies on a true object.
        EvaluationError: if labels and truth differ in size.
    """
    about = settings_of(source.reader)
    sequence = source.reader.about.get('sequence', source.reader.name)
    scorer = ClipScorer(sequence, convention)
    matcher = _Matcher(bool(about.get('prompts_from_truth')))
    stamps: list[int] = []
    finished: list[int] = []
    took: list[float] = []
    labels_by_id: dict[int, str] = {}
    for parts in source.joined():
        truth, labels = labels_of(parts.truth.message), labels_of(parts.labels.message)
        starting = matcher.starting(truth, labels)
        seconds = None
        if parts.timing is not None:
            seconds = timings_of(parts.timing.message).get('total', 0.0) / 1e3
        elif parts.objects is not None:
            seconds = (parts.objects.time - parts.stamp) / 1e9
        if parts.objects is not None:
            finished.append(parts.objects.time)
            labels_by_id.update((int(entry.id), entry.label) for entry in parts.objects.message.objects if entry.label)
        if seconds is not None:
            took.append(seconds)
        scorer.add(truth, matcher.renamed(labels), starting, seconds or 0.0)
        stamps.append(parts.stamp)
    if not scorer.frames:
        raise BagError(f'bag {source.reader.path} has no frame with both labels and truth: their stamps do not agree')
    if not scorer.tracks:
        raise BagError(f'in bag {source.reader.path} no mask lies on a true object: nothing can be scored')
    total = source.truth[0].topics[source.truth[1]].messages
    return ScoredClip(
        method=method or method_of(about),
        corruption=str(about.get('corruption') or CLEAN),
        sequence=sequence,
        camera=source.labels.camera,
        path=source.reader.path,
        score=scorer.score(),
        tracks=scorer.tracks,
        labels={value: labels_by_id[key] for key, value in matcher.ids.items() if key in labels_by_id},
        stamps=np.array(stamps, np.int64),
        timing=_timing(took, finished, live=not about),
        untracked=tuple(value for value in sorted(matcher.seen) if value not in scorer.tracks),
        without_result=max(0, total - scorer.frames),
        switches=scorer.switches,
        ids=dict(matcher.ids),
        about=about,
    )


def _timing(took: Sequence[float], finished: Sequence[int], live: bool) -> Timing | None:
    if not took:
        return None
    # The first frame of a run warms up.
    milliseconds = 1e3 * np.asarray(took[1:] or took)
    mean = float(milliseconds.mean())
    p50, p99 = (float(value) for value in np.percentile(milliseconds, (50, 99)))
    fps = 1e3 / mean if mean > 0 else 0.0
    if live:
        span = (max(finished) - min(finished)) / 1e9
        fps = (len(finished) - 1) / span if span > 0 else 0.0
    return Timing(fps, mean, p50, p99, live)


def scored_frames_of(source: Source, clip: ScoredClip) -> Iterator[ScoredFrame]:
    """The frames of a clip once more, under the true IDs, for pictures."""
    matcher = _Matcher(False)
    matcher.ids = dict(clip.ids)
    for parts in source.joined():
        labels = matcher.renamed(labels_of(parts.labels.message))
        yield ScoredFrame(parts.stamp, labels_of(parts.truth.message), labels, parts.image)


def sources_of(reader: BagReader, truth: BagReader | None, truth_topic: str = '') -> list[Source]:
    """Every camera of a run.  Raises ``BagError`` as :func:`open_source`."""
    return [open_source(reader, truth, labels, truth_topic) for labels in find_labels(reader)]
