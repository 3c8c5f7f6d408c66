"""Value types of the tracker: prompts in, frame results out, configuration and errors.  NumPy only.

Pixel coordinates are those of the original camera image: x to the right, y down, the centre of the top-left pixel
at (0, 0), as in ``sam2``'s prompt encoder.  Boxes are ``(x0, y0, x1, y1)``.  Times are integer nanoseconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property

import numpy as np

MAX_LABEL_LENGTH = 128
MAX_POINTS = 64
MAX_IMAGE_PIXELS = 1 << 25  # 8192 x 4096, a little more than 8K UHD
MEMORY_POLICIES = ('stock', 'selective')
LONGEST_ECHO = 40


def seconds_text(stamp: int) -> str:
    """Nanoseconds in the form in which ``ros2 topic echo`` shows a stamp, for messages to people."""
    seconds, rest = divmod(stamp, 1_000_000_000)
    return f'{seconds}.{rest:09d}'


def shown(text: str) -> str:
    """A text from outside, quoted and cut to a length that fits into a sentence."""
    return repr(text) if len(text) <= LONGEST_ECHO else f'{text[:LONGEST_ECHO]!r}... ({len(text)} characters)'


class PvosError(Exception):
    """Base of every error this package raises on purpose; its text is one sentence fit for a service reply."""


class PromptError(PvosError):
    """A prompt that cannot be applied; the tracker is unchanged."""


class FrameError(PvosError):
    """An image that cannot be processed; the tracker is unchanged."""


class ModelError(PvosError):
    """A model, checkpoint or adapter that cannot be loaded."""


class ObjectState(IntEnum):
    """What is known of an object on a frame; the values equal those of ``TrackedObject.msg``."""

    TRACKING = 0
    OCCLUDED = 1
    LOST = 2


@dataclass(frozen=True, eq=False)
class Prompt:
    """What a user points at on one frame.  At least one of ``points``, ``box`` and ``mask``; a mask stands alone.

    Attributes:
        object_id: 0 starts a new object, otherwise the ID of the object to refine.
        label: free text carried to the outputs; on a refinement the empty string keeps the old label.
        points: float32 (P, 2), pixels (x, y).
        point_labels: int32 (P,), 1 foreground, 0 background.
        box: float32 (4,), pixels (x0, y0, x1, y1), or None.
        mask: bool (H, W) at the size of the image, or None.

    Raises:
        PromptError: if the parts are malformed or contradict one another.
    """

    object_id: int = 0
    label: str = ''
    points: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    point_labels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    box: np.ndarray | None = None
    mask: np.ndarray | None = None

    def __post_init__(self) -> None:
        set_field = object.__setattr__
        points = np.asarray(self.points, np.float32)
        set_field(self, 'points', points.reshape(0, 2) if points.size == 0 else points)
        set_field(self, 'point_labels', np.asarray(self.point_labels, np.int32))
        if self.box is not None:
            set_field(self, 'box', np.asarray(self.box, np.float32))
        if self.mask is not None:
            set_field(self, 'mask', np.asarray(self.mask, bool))
        self._check_parts()

    def _check_parts(self) -> None:
        if self.object_id < 0:
            raise PromptError(f'object_id must be 0 (new object) or a positive ID, got {self.object_id}')
        if len(self.label) > MAX_LABEL_LENGTH:
            raise PromptError(f'label must have at most {MAX_LABEL_LENGTH} characters, got {len(self.label)}')
        if self.points.ndim != 2 or self.points.shape[1] != 2:
            raise PromptError(f'points must have shape (P, 2), got {self.points.shape}')
        if self.point_labels.shape != (len(self.points),):
            raise PromptError(
                f'there must be one label for each point, got {len(self.points)} points '
                f'and {self.point_labels.size} labels'
            )
        if len(self.points) > MAX_POINTS:
            raise PromptError(f'a prompt takes at most {MAX_POINTS} points, got {len(self.points)}')
        if not np.isin(self.point_labels, (0, 1)).all():
            raise PromptError('point labels must be 1 (foreground) or 0 (background)')
        if self.box is not None and self.box.shape != (4,):
            raise PromptError(f'box must be (x0, y0, x1, y1), got shape {self.box.shape}')
        if self.mask is not None and self.mask.ndim != 2:
            raise PromptError(f'mask must have shape (H, W), got {self.mask.shape}')
        if self.mask is not None and (len(self.points) or self.box is not None):
            raise PromptError('a mask stands alone: give either a mask, or points and/or a box')
        if self.mask is None and self.box is None and not len(self.points):
            raise PromptError('the prompt is empty: give at least one point, a box or a mask')
        if self.object_id == 0 and self.mask is None and self.box is None and not self.point_labels.any():
            raise PromptError('a new object needs at least one foreground point, a box or a mask')

    def check_against(self, height: int, width: int) -> None:
        """Check that every part lies in an image of ``height`` x ``width`` pixels.

        Raises:
            PromptError: naming the part that does not fit and the range that would.
        """
        if len(self.points):
            inside = (self.points >= 0).all(1) & (self.points[:, 0] < width) & (self.points[:, 1] < height)
            if not inside.all():  # NaN compares false and lands here too
                x, y = self.points[~inside][0]
                raise PromptError(
                    f'point ({x:g}, {y:g}) is outside the image: x must be in [0, {width}) and y in [0, {height})'
                )
        if self.box is not None:
            x0, y0, x1, y1 = (float(v) for v in self.box)
            if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
                raise PromptError(
                    f'box ({x0:g}, {y0:g})-({x1:g}, {y1:g}) must have positive size and lie in '
                    f'the {width}x{height} image'
                )
        if self.mask is not None:
            if self.mask.shape != (height, width):
                raise PromptError(
                    f'mask is {self.mask.shape[1]}x{self.mask.shape[0]} pixels, but the image is {width}x{height}'
                )
            if not self.mask.any():
                raise PromptError('the mask is empty: at least one pixel must be set')


@dataclass(frozen=True)
class TrackedObject:
    """One object on one frame.

    Attributes:
        object_id: the ID, from 1, never reused.
        label: free text from the prompt.
        state: see :class:`ObjectState`.
        object_score: probability in [0, 1] that the object is visible in the frame (sigmoid of SAM 2's object score).
        predicted_iou: the mask decoder's own estimate of the mask's IoU, in [0, 1].
        box: (x0, y0, x1, y1) pixels, half-open, of the mask; all 0 where it is empty.
        centroid: (x, y) pixels, mean of the mask's pixel centres; (0, 0) where it is empty.
        area_px: number of mask pixels in the original image.
        frames_since_seen: processed frames since it was last TRACKING; 0 when it is.
        mask_stamp: nanoseconds, stamp of the image the mask was computed on; older than the frame's where the object
            waits for its turn, see ``TrackerConfig.object_budget``.
    """

    object_id: int
    label: str
    state: ObjectState
    object_score: float
    predicted_iou: float
    box: tuple[int, int, int, int]
    centroid: tuple[float, float]
    area_px: int
    frames_since_seen: int
    mask_stamp: int


@dataclass(frozen=True, eq=False)
class FrameResult:
    """Everything the tracker knows about one frame.

    Attributes:
        stamp: nanoseconds, of the input image.
        frame_index: count of processed frames, from 0.
        height, width: pixels of the input image.
        objects: one entry for every object of the table, in ascending ID, also those not visible.
        mask_logits: float32 (N, h, w), low-resolution logits aligned with ``objects`` (h = w = image_size / 4).
        masks: bool (N, H, W) at the input's size, aligned with ``objects``; masks of several objects may overlap.
        label_image: uint16 (H, W), object ID at each pixel, 0 background; the highest logit wins an overlap.
        prompted: IDs of the prompts of this call, in their order.
    """

    stamp: int
    frame_index: int
    height: int
    width: int
    objects: tuple[TrackedObject, ...]
    mask_logits: np.ndarray
    masks: np.ndarray
    label_image: np.ndarray
    prompted: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.objects)
        if self.masks.shape != (count, self.height, self.width):
            raise ValueError(f'masks: expected {(count, self.height, self.width)}, got {self.masks.shape}')
        if self.label_image.shape != (self.height, self.width):
            raise ValueError(f'label_image: expected {(self.height, self.width)}, got {self.label_image.shape}')
        if len(self.mask_logits) != count:
            raise ValueError(f'mask_logits: expected {count} objects, got {len(self.mask_logits)}')

    @cached_property
    def index_of(self) -> dict[int, int]:
        """Object ID -> row in ``objects``, ``masks`` and ``mask_logits``."""
        return {tracked.object_id: row for row, tracked in enumerate(self.objects)}

    def mask(self, object_id: int) -> np.ndarray:
        """bool (H, W) mask of one object.  Raises ``KeyError`` for an unknown ID."""
        return self.masks[self.index_of[object_id]]


@dataclass(frozen=True)
class ModelConfig:
    """Which network runs, and where.

    Attributes:
        model: ``compact`` (shipped), or ``sam2.1_tiny``, ``sam2.1_small``, ``sam2.1_base_plus``, ``sam2.1_large``.
        checkpoint: path of the weights; empty takes the shipped file (``compact`` only).
        image_size: side of the square that the network sees, pixels, a multiple of 32; 0 takes that of the weights, the
            only one for SAM 2.1.  A larger one sees smaller things and takes longer.
        adapter: path of an adapter file (safetensors), ``none`` (or empty) for stock SAM 2, or ``shipped`` for the one
            that belongs to the shipped weights of ``compact``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``float32``, ``bfloat16`` or ``auto``: bfloat16 on a GPU and on a CPU that multiplies it natively.
        threads: CPU threads of torch; on a CPU 0 takes all cores but one, which the middleware needs.
        encoder: what runs the image encoder: ``torch``, ``onnx`` (ONNX Runtime, on a CPU), ``tensorrt`` (on a GPU) or
            ``auto``: the fastest that works here.
        compile: compile the network for groups of 1, 2, 4, 8 and 16 objects when the node is configured, which takes
            minutes; CUDA only.
    """

    model: str = 'compact'
    checkpoint: str = ''
    image_size: int = 0
    adapter: str = 'none'
    device: str = 'auto'
    precision: str = 'auto'
    threads: int = 0
    encoder: str = 'auto'
    compile: bool = False


@dataclass(frozen=True)
class TrackerConfig:
    """How the object table and the memories behave.

    Attributes:
        max_objects: most objects in the table at once.
        max_conditioning_frames: most prompted frames remembered per object; the first is never evicted.
        memory_policy: ``stock`` writes a memory on every frame as SAM 2 does, ``selective`` skips frames on which the
            object is absent.
        clear_memory_on_refine: forget the object's recent unprompted frames when it is re-prompted, so that the
            correction sticks; the official predictor's default is not to.
        lost_after: frames without being TRACKING after which OCCLUDED becomes LOST.
        history_frames: past frames that a prompt may still be given for; their feature maps are kept.
        object_budget: most objects that are tracked into each frame of a camera, in turns where there are more, so that
            time per frame stays bounded; 0 tracks all.
        presence_score: an object is TRACKING only while its object score is at least this.
        presence_iou: an object is TRACKING only while the predicted IoU of its mask is at least this.
        presence_margin: what an object that is OCCLUDED or LOST must have above ``presence_score`` and
            ``presence_iou`` to be TRACKING again, so that its state does not flicker.
        exclusive_memory: IoU of two objects' masks above which both claim the same pixels; the one with the lower
            object score then writes no memory of the frame, so that look-alikes are not mixed up; 1 is never.
        contest_overlap: share of the smaller of two objects' masks from which on both claim the same pixels and are
            told apart by the way they were moving; 1 is never.  Objects whose masks overlapped when they were prompted
            may overlap.
        stray_cover: share of a piece of an object's mask that lies where the object was heading a second ago, up to
            which the piece is taken away if another one does lie there; 0 is never.
        recovery_score: object score with which an object that is not TRACKING is found again, on three frames of at
            most five, by what it remembered when it was last seen whole; 1 is never.

    Raises:
        ValueError: if a field is out of range.
    """

    max_objects: int = 16
    max_conditioning_frames: int = 4
    memory_policy: str = 'stock'
    clear_memory_on_refine: bool = True
    lost_after: int = 90
    history_frames: int = 15
    object_budget: int = 0
    presence_score: float = 0.5
    presence_iou: float = 0.1
    presence_margin: float = 0.1
    exclusive_memory: float = 1.0
    contest_overlap: float = 0.3
    stray_cover: float = 0.15
    recovery_score: float = 0.9

    def __post_init__(self) -> None:
        if self.memory_policy not in MEMORY_POLICIES:
            raise ValueError(f'memory_policy must be one of {MEMORY_POLICIES}, got {self.memory_policy!r}')
        if self.max_objects < 1 or self.lost_after < 1:
            raise ValueError('max_objects and lost_after must be at least 1')
        if self.history_frames < 0 or self.object_budget < 0:
            raise ValueError('history_frames and object_budget must be 0 or positive')
        if self.max_conditioning_frames < 2:
            raise ValueError('max_conditioning_frames must be at least 2: the first prompt and a correction')
        shares = ('presence_score', 'presence_iou', 'presence_margin', 'exclusive_memory', 'contest_overlap')
        for name in (*shares, 'stray_cover', 'recovery_score'):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f'{name} must be in [0, 1], got {getattr(self, name)}')

    @property
    def skips_frames(self) -> bool:
        """Whether some frames are kept out of an object's memory on purpose."""
        return self.memory_policy == 'selective' or self.object_budget > 0 or self.exclusive_memory < 1
