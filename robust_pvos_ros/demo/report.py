"""Reads a bag of the demo back and says what happened: rates, latency, objects, and scores where the truth is known.

No ROS is needed.  Figures come from the bag alone: an image counts as processed if a ``TrackedObjects`` message bears
its stamp; latency runs from an image's stamp to the arrival of that message at the recorder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from robust_pvos_ros.bags.definitions import BagError
from robust_pvos_ros.bags.reader import BagReader
from robust_pvos_ros.demo import names
from robust_pvos_ros.image_codec import image_to_rgb, labels_of
from robust_pvos_ros.message_core import nanoseconds, tracked_from_message
from robust_pvos_ros.tracking.types import ObjectState, PvosError, TrackedObject

LEAST_VISIBLE = 100  # pixels; an object that shows less counts as hidden
KEPT_IMAGES = 90  # images that wait for their result


class ReportError(PvosError):
    """A bag from which no report can be made."""


@dataclass(frozen=True, eq=False)
class ReplayedFrame:
    """One processed frame as recorded.

    Attributes:
        stamp: nanoseconds.
        rgb: uint8 (H, W, 3).
        labels: uint16 (H, W), object IDs.
        truth: uint16 (H, W), IDs of the scene, or None.
        objects: as published with the frame.
        latency_ms: from the image's stamp to the arrival of its objects.
    """

    stamp: int
    rgb: np.ndarray
    labels: np.ndarray
    truth: np.ndarray | None
    objects: tuple[TrackedObject, ...]
    latency_ms: float


@dataclass
class ObjectReport:
    """What is known of one object at the end.

    Attributes:
        mean_iou: over the processed frames on which the scene shows the object, the frame of its prompt included; None
            without truth.
        hidden_frames, hidden_and_empty: frames on which the scene hides it, and those of them with an empty mask.
        astray_frames: frames on which more than half of its mask lies on another object of the scene.
    """

    object_id: int
    label: str
    state: str = 'TRACKING'
    removed: bool = False
    frames: int = 0
    seen_frames: int = 0
    mean_iou: float | None = None
    visible_frames: int = 0
    hidden_frames: int = 0
    hidden_and_empty: int = 0
    astray_frames: int = 0
    ious: list[float] = field(default_factory=list, repr=False)


@dataclass
class Summary:
    """Figures of one run; times in milliseconds, rates in Hz."""

    duration_s: float
    images: int
    processed: int
    dropped: int
    camera_hz: float
    output_hz: float
    latency_p50_ms: float
    latency_p99_ms: float
    prompts: int
    ids_stable: bool
    objects: list[ObjectReport]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        values = asdict(self)
        for entry in values['objects']:
            entry.pop('ious')
        return values


def read_frames(bag: Path) -> Iterator[ReplayedFrame]:
    """Every processed frame once, in order, as it was last published.

    Raises:
        ReportError: if the bag cannot be read.
    """
    images: dict[int, Any] = {}
    labels: dict[int, Any] = {}
    truths: dict[int, Any] = {}
    pending: tuple[Any, float] | None = None
    for topic, time, message in _messages(bag, (names.IMAGE, names.TRUTH, names.LABELS, names.OBJECTS)):
        stamp = nanoseconds(message.header.stamp)
        if topic != names.OBJECTS:
            store = {names.IMAGE: images, names.TRUTH: truths}.get(topic, labels)
            store[stamp] = message
            while len(store) > KEPT_IMAGES:
                del store[next(iter(store))]
            continue
        if pending is not None and nanoseconds(pending[0].header.stamp) != stamp:
            yield from _assemble(*pending, images, labels, truths)
            pending = None
        latency = (time - stamp) / 1e6 if pending is None else pending[1]
        pending = (message, latency)
    if pending is not None:
        yield from _assemble(*pending, images, labels, truths)


def _assemble(
    message: Any, latency: float, images: dict[int, Any], labels: dict[int, Any], truths: dict[int, Any],
) -> Iterator[ReplayedFrame]:
    stamp = nanoseconds(message.header.stamp)
    if stamp not in images or stamp not in labels:
        return
    truth = labels_of(truths[stamp]) if stamp in truths else None
    objects = tuple(tracked_from_message(entry) for entry in message.objects)
    yield ReplayedFrame(stamp, image_to_rgb(images[stamp]), labels_of(labels[stamp]), truth, objects, latency)


def _messages(bag: Path, topics: tuple[str, ...]) -> Iterator[tuple[str, int, Any]]:
    try:
        with BagReader(bag) as reader:
            present = [topic for topic in topics if topic in reader.topics]
            for entry in reader.messages(present) if present else ():
                yield entry.topic, entry.time, entry.message
    except BagError as error:
        raise ReportError(str(error)) from error


def intersection_over_union(first: np.ndarray, second: np.ndarray) -> float:
    """IoU of two bool masks; 1 if both are empty."""
    union = int(np.count_nonzero(first | second))
    return int(np.count_nonzero(first & second)) / union if union else 1.0


class Bookkeeper:
    """Gathers the figures while frames go by.

    Args:
        truth_ids: label -> ID in the truth image; labels that are missing are not scored.
    """

    def __init__(self, truth_ids: Mapping[str, int]) -> None:
        self._truth_ids = truth_ids
        self._reports: dict[int, ObjectReport] = {}
        self._labels: dict[int, set[str]] = {}
        self._latencies: list[float] = []
        self._stamps: list[int] = []
        self._newest: tuple[TrackedObject, ...] = ()

    def add(self, frame: ReplayedFrame) -> None:
        """Count one frame."""
        self._stamps.append(frame.stamp)
        self._latencies.append(frame.latency_ms)
        self._newest = frame.objects
        for tracked in frame.objects:
            report = self._reports.setdefault(tracked.object_id, ObjectReport(tracked.object_id, tracked.label))
            self._labels.setdefault(tracked.object_id, set()).add(tracked.label)
            report.state = tracked.state.name
            report.frames += 1
            report.seen_frames += tracked.state == ObjectState.TRACKING
            if frame.truth is not None and tracked.label in self._truth_ids:
                self._score(report, frame.labels == tracked.object_id, frame.truth, self._truth_ids[tracked.label])

    @staticmethod
    def _score(report: ObjectReport, mask: np.ndarray, truth: np.ndarray, truth_id: int) -> None:
        wanted = truth == truth_id
        area = np.count_nonzero(mask)
        if np.count_nonzero(wanted) >= LEAST_VISIBLE:
            report.visible_frames += 1
            report.ious.append(intersection_over_union(mask, wanted))
        else:
            report.hidden_frames += 1
            report.hidden_and_empty += int(area < LEAST_VISIBLE)
        below = np.bincount(truth[mask].astype(np.int64))
        elsewhere = np.delete(below, [index for index in (0, truth_id) if index < len(below)])
        report.astray_frames += bool(elsewhere.size and elsewhere.max() > area / 2)

    def summary(self, image_stamps: list[int], prompts: int) -> Summary:
        """All figures.

        Args:
            image_stamps: nanoseconds, of every recorded image.
            prompts: number of accepted prompts.

        Raises:
            ReportError: if no frame was processed.
        """
        if not self._stamps or not image_stamps:
            raise ReportError('no frame was processed: the log of the segmentation node says why')
        present = {tracked.object_id for tracked in self._newest}
        for report in self._reports.values():
            report.removed = report.object_id not in present
            report.mean_iou = float(np.mean(report.ious)) if report.ious else None
        labels = [next(iter(texts)) for texts in self._labels.values()]
        named = [label for label in labels if label in self._truth_ids]  # the scene's names are unique
        stable = all(len(texts) == 1 for texts in self._labels.values()) and len(set(named)) == len(named)
        duration = max((max(image_stamps) - min(image_stamps)) / 1e9, 1e-9)
        return Summary(
            duration, len(image_stamps), len(self._stamps), len(image_stamps) - len(self._stamps),
            (len(image_stamps) - 1) / duration, (len(self._stamps) - 1) / duration,
            float(np.percentile(self._latencies, 50)), float(np.percentile(self._latencies, 99)), prompts, stable,
            [self._reports[key] for key in sorted(self._reports)],
        )


def count_inputs(bag: Path) -> tuple[list[int], int]:
    """(stamps of all recorded images in nanoseconds, number of accepted prompts).  Raises ``ReportError``."""
    stamps: list[int] = []
    prompts = 0
    for topic, _, message in _messages(bag, (names.IMAGE, names.PROMPTS)):
        if topic == names.IMAGE:
            stamps.append(nanoseconds(message.header.stamp))
        else:
            prompts += 1
    return stamps, prompts


def as_text(summary: Summary) -> str:
    """One screen for people."""
    lines = [
        f'{summary.duration_s:.1f} s of video at {summary.camera_hz:.1f} Hz; masks at {summary.output_hz:.1f} Hz',
        f'frames: {summary.images} in, {summary.processed} processed, {summary.dropped} dropped for newer ones',
        f'latency, image stamp to masks: p50 {summary.latency_p50_ms:.0f} ms, p99 {summary.latency_p99_ms:.0f} ms',
        f'prompts accepted: {summary.prompts}; '
        + ('every ID kept its object name throughout' if summary.ids_stable else 'AN ID CHANGED ITS OBJECT NAME'),
        '',
        f'{"ID":>3}  {"label":<18} {"state":<10} {"frames":>6} {"seen":>5}  {"mean IoU":>8}  {"hidden: empty":>13}  '
        'astray',
    ]
    for report in summary.objects:
        state = 'removed' if report.removed else report.state
        score = '-' if report.mean_iou is None else f'{report.mean_iou:.3f}'
        hidden = f'{report.hidden_frames}: {report.hidden_and_empty}' if report.mean_iou is not None else '-'
        astray = str(report.astray_frames) if report.mean_iou is not None else '-'
        lines.append(f'{report.object_id:>3}  {report.label[:18]:<18} {state:<10} {report.frames:>6} '
                     f'{report.seen_frames:>5}  {score:>8}  {hidden:>13}  {astray:>6}')
    scored = [report.mean_iou for report in summary.objects if report.mean_iou is not None]
    if scored:
        lines.append(f'mean IoU over objects: {np.mean(scored):.3f} (against the truth of the scene)')
    return '\n'.join(lines)
