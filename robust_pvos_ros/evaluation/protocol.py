"""Semi-supervised evaluation of one clip: each object is given once, on its first frame, and then followed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, get_args

import cv2
import numpy as np

from robust_pvos_ros.evaluation.davis import AnnotatedFrame
from robust_pvos_ros.evaluation.metrics import (
    EvaluationError,
    MeanScore,
    ObjectScore,
    ScoredFrames,
    contour_accuracy,
    mean_score,
    region_similarity,
    scored_frames,
    statistics,
    swapped_ids,
)
from robust_pvos_ros.tracking.types import Prompt

if TYPE_CHECKING:
    from robust_pvos_ros.tracking.encoder import EncoderOutput
    from robust_pvos_ros.tracking.tracker import VideoTracker

PromptKind = Literal['mask', 'point', 'box']


class Segmenter(Protocol):
    """Anything that follows objects through a video, one frame at a time."""

    def step(self, rgb: np.ndarray, masks: Mapping[int, np.ndarray]) -> np.ndarray:
        """Take the next frame, uint8 (H, W, 3), and the true masks, bool (H, W) by object ID, of the objects that
        start on it; return the object ID at each pixel, an integer (H, W), 0 background."""


class TrackerSegmenter:
    """A :class:`VideoTracker` prompted with the mask, one click or the box of each object.

    Output is the tracker's label image, what a DAVIS submission holds: the highest logit wins where masks overlap.
    ``encode`` computes the feature maps of a frame in the tracker's stead (:mod:`robust_pvos_ros.evaluation.encoding`).
    """

    def __init__(
        self,
        tracker: VideoTracker,
        prompt: PromptKind = 'mask',
        frame_ns: int = 33_333_333,
        encode: Callable[[np.ndarray], EncoderOutput] | None = None,
    ) -> None:
        self._tracker = tracker
        self._encode = encode
        self._prompt = prompt
        self._frame_ns = frame_ns
        self._stamp = 0
        self._ids: dict[int, int] = {}

    def step(self, rgb: np.ndarray, masks: Mapping[int, np.ndarray]) -> np.ndarray:
        """See :class:`Segmenter`.  Raises PromptError and FrameError as the tracker does."""
        prompts = [make_prompt(mask, self._prompt) for mask in masks.values()]
        features = None if self._encode is None else self._encode(rgb)
        result = self._tracker.step(rgb, self._stamp, prompts, features)
        self._stamp += self._frame_ns
        self._ids.update(zip(result.prompted, masks))
        table = np.zeros(int(max(self._ids, default=0)) + 1, np.uint16)
        for tracked, truth in self._ids.items():
            table[tracked] = truth
        return table[result.label_image]


def make_prompt(mask: np.ndarray, kind: PromptKind) -> Prompt:
    """A prompt for a new object from its true mask, bool (H, W) with at least one pixel.

    ``mask`` is the mask itself, ``point`` one click on :func:`innermost_point`, ``box`` the tight box around it.

    Raises:
        EvaluationError: if ``kind`` is none of these or the mask is empty.
    """
    if kind not in get_args(PromptKind):
        raise EvaluationError(f'a prompt must be one of {", ".join(get_args(PromptKind))}, got {kind!r}')
    if not mask.any():
        raise EvaluationError('cannot make a prompt from an empty mask')
    if kind == 'mask':
        return Prompt(mask=mask)
    if kind == 'point':
        return Prompt(points=np.array([innermost_point(mask)], np.float32), point_labels=np.array([1], np.int32))
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return Prompt(box=np.array([x, y, x + width, y + height], np.float32))


def innermost_point(mask: np.ndarray) -> tuple[int, int]:
    """(x, y) of the pixel of a mask, bool (H, W), that is farthest from anything outside it, the image border too."""
    padded = np.pad(mask.astype(np.uint8), 1)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    y, x = np.unravel_index(int(distance.argmax()), distance.shape)
    return int(x), int(y)


@dataclass(frozen=True)
class SequenceScore:
    """Scores of one method on one clip.

    Attributes:
        name: of the clip.
        objects: one entry per object, in the order of their appearance.
        frames: number of frames of the clip.
        ms_per_frame: mean wall time of a step, milliseconds; the first step, which only starts objects, is left out.
        median_ms_per_frame: median of the same.
        swapped: frames on which two objects have taken each other's place, see :func:`swapped_ids`.
    """

    name: str
    objects: tuple[ObjectScore, ...]
    frames: int
    ms_per_frame: float
    median_ms_per_frame: float
    swapped: int = 0

    @property
    def mean(self) -> MeanScore:
        """Mean over the objects of the clip."""
        return mean_score(self.objects)


@dataclass
class Track:
    """One object's scores, frame by frame.

    Attributes:
        first: index of the frame that it is given on, which has no score.
        region, contour: J and F of each frame after that.
        visible: whether the truth shows the object there.
    """

    first: int
    region: list[float] = field(default_factory=list)
    contour: list[float] = field(default_factory=list)
    visible: list[bool] = field(default_factory=list)


class ClipScorer:
    """Scores one method on one clip, a frame at a time; keeps nothing but scores.

    Args:
        name: of the clip.
        convention: frames that count, see :data:`ScoredFrames`.

    Attributes:
        tracks: object ID -> scores so far, in the order of appearance.
        frames: number of frames so far.
        swapped: of these, frames with two objects in each other's place; ``switches`` counts how often that began.

    Raises:
        EvaluationError: if ``convention`` is unknown.
    """

    def __init__(self, name: str, convention: ScoredFrames = 'interior') -> None:
        scored_frames(0, frames=convention)
        self.name, self._convention = name, convention
        self.tracks: dict[int, Track] = {}
        self.frames = self.swapped = self.switches = 0
        self._swaps: set[tuple[int, int]] = set()
        self._seconds: list[float] = []

    def add(self, truth: np.ndarray, predicted: np.ndarray, starting: Iterable[int], seconds: float) -> None:
        """Score the next frame.

        Args:
            truth, predicted: integer (H, W) object IDs, 0 background.
            starting: objects that are given on this frame and scored from the next one on.
            seconds: that the method took.

        Raises:
            EvaluationError: if the sizes differ.
        """
        if predicted.shape != truth.shape:
            raise EvaluationError(f'{self.name}: labels are {predicted.shape}, but the truth is {truth.shape}')
        for object_id, track in self.tracks.items():
            pair = truth == object_id, predicted == object_id
            track.region.append(region_similarity(*pair))
            track.contour.append(contour_accuracy(*pair))
            track.visible.append(bool(pair[0].any()))
        swaps = set(swapped_ids(truth, predicted))
        self.swapped += bool(swaps)
        self.switches += len(swaps - self._swaps)
        self._swaps = swaps
        self.tracks.update((object_id, Track(self.frames)) for object_id in starting)
        self._seconds.append(seconds)
        self.frames += 1

    def score(self) -> SequenceScore:
        """Summary of all frames so far.  Raises ``EvaluationError`` if there were none."""
        if not self.frames:
            raise EvaluationError(f'{self.name} has no frames')
        objects = []
        for object_id, track in self.tracks.items():
            kept = len(scored_frames(self.frames, track.first, self._convention))
            region, contour = statistics(track.region[:kept]), statistics(track.contour[:kept])
            objects.append(ObjectScore(object_id, region, contour, kept))
        milliseconds = 1e3 * np.asarray(self._seconds[1:] or self._seconds)
        mean, median = float(milliseconds.mean()), float(np.median(milliseconds))
        return SequenceScore(self.name, tuple(objects), self.frames, mean, median, self.swapped)


FrameCallback = Callable[[AnnotatedFrame, Mapping[str, np.ndarray]], None]


def evaluate_sequence(
    name: str,
    frames: Iterable[AnnotatedFrame],
    methods: Mapping[str, Segmenter],
    convention: ScoredFrames = 'interior',
    on_frame: FrameCallback | None = None,
) -> dict[str, SequenceScore]:
    """Run methods side by side over one clip and score every object from the frame after the one it is given on.

    Objects that enter later are given on the first frame that shows them, as in YouTube-VOS; in DAVIS all are there
    from the start.  Nothing but scores is kept, so clips may be of any length.

    Args:
        name: of the clip, for the result.
        frames: read once, in order.
        methods: name -> fresh segmenter.
        convention: frames that count, see :data:`ScoredFrames`.
        on_frame: called after each frame with the (H, W) labels of every method.

    Returns:
        The score of every method.

    Raises:
        EvaluationError: if the clip has no frames or a method returns labels of a wrong size.
    """
    scorers = {method: ClipScorer(name, convention) for method in methods}
    seen: set[int] = set()
    for frame in frames:
        starting = {
            int(value): frame.labels == value for value in np.unique(frame.labels) if value and value not in seen
        }
        seen.update(starting)
        labels = {}
        for method, segmenter in methods.items():
            start = time.perf_counter()
            labels[method] = segmenter.step(frame.rgb, starting)
            seconds = time.perf_counter() - start
            if labels[method].shape != frame.labels.shape:
                raise EvaluationError(f'{method} returned {labels[method].shape} for a {frame.labels.shape} frame')
            scorers[method].add(frame.labels, labels[method], starting, seconds)
        if on_frame is not None:
            on_frame(frame, labels)
    return {method: scorer.score() for method, scorer in scorers.items()}
