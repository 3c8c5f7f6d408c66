"""The last frames of a stream, kept so that a prompt can be applied to the frame it was drawn on."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from robust_pvos_ros.tracking.encoder import EncoderOutput
from robust_pvos_ros.tracking.memory import ObjectMemory
from robust_pvos_ros.tracking.model import Decoded
from robust_pvos_ros.tracking.motion import Motion
from robust_pvos_ros.tracking.pieces import Waypoint
from robust_pvos_ros.tracking.recovery import Sighting, Whole
from robust_pvos_ros.tracking.types import PromptError, seconds_text


@dataclass
class ObjectRow:
    """One row of the object table.

    Invariant: ``decoded`` (batch 1) belongs to frame ``mask_index``, for a row of the tracker's table the newest unless
    the object waits for its turn, and ``memory`` holds that frame if it is remembered.

    Attributes:
        prompt_frame: index of the frame that ``points`` were given on, -1 before the first prompt.
        points, point_labels: (1, P, 2) in pixels of the model image and (1, P); a box is two of them.
        last_seen_frame: index of the newest frame on which it was present.
        mask_index, mask_stamp: index and stamp, nanoseconds, of the frame that ``decoded`` belongs to.
        present: whether it is TRACKING there.
        last_box: where its mask was when it was last present, (x0, y0, x1, y1) as fractions of the image's sides.
        whole: as it was when it was last seen whole; None before the first unprompted frame.
        keepsake: the memory of ``whole`` where it is not present; None where it is.
        sighting: what the last second look for it said; None where it is present or was not found.
        motion: the track of its mask; None before the first one.
        trail: that track as it was in the last seconds, oldest first.
        shares: IDs of objects that it may share pixels with, since their masks overlapped when it was prompted.
    """

    object_id: int
    label: str
    memory: ObjectMemory
    decoded: Decoded
    prompt_frame: int
    points: Tensor
    point_labels: Tensor
    last_seen_frame: int
    mask_index: int = -1
    mask_stamp: int = 0
    present: bool = True
    last_box: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    motion: Motion | None = None
    trail: tuple[Waypoint, ...] = ()
    whole: Whole | None = None
    keepsake: ObjectMemory | None = None
    sighting: Sighting | None = None
    shares: frozenset[int] = frozenset()

    def memories(self) -> Iterator[ObjectMemory]:
        """All that is remembered of the object, what is kept aside included."""
        yield self.memory
        if self.whole is not None:
            yield self.whole.memory
        if self.keepsake is not None:
            yield self.keepsake

    def show(self, decoded: Decoded, frame: StreamFrame, present: bool) -> None:
        """Take over the mask of a frame."""
        self.decoded, self.mask_index, self.mask_stamp = decoded, frame.index, frame.stamp
        self.present = present
        if present:
            self.last_seen_frame = frame.index

    def last_box_in(self, frame: StreamFrame) -> tuple[float, float, float, float]:
        """``last_box`` in pixels of a frame."""
        x0, y0, x1, y1 = self.last_box
        return x0 * frame.width, y0 * frame.height, x1 * frame.width, y1 * frame.height

    def take_prompt(self, prompted: ObjectRow, frame: StreamFrame, clear_recent: bool) -> None:
        """Become what another row of this object is, which was prompted on ``frame``, the one that both belong to."""
        memory = next(m for m in prompted.memory.conditioning if m.frame_index == prompted.prompt_frame)
        self.memory.remember_prompt(memory, clear_recent)
        self.show(prompted.decoded, frame, prompted.present)
        self.prompt_frame, self.motion, self.shares = prompted.prompt_frame, prompted.motion, prompted.shares
        self.keepsake = self.sighting = self.whole = None
        self.trail = prompted.trail
        self.points, self.point_labels = prompted.points, prompted.point_labels

    def snapshot(self) -> ObjectRow:
        """A row that later frames do not change."""
        return replace(self, memory=self.memory.copy())


@dataclass(frozen=True)
class StreamFrame:
    """A processed frame: stamp, nanoseconds; index, counted from 0; size of the image; its feature maps."""

    stamp: int
    index: int
    height: int
    width: int
    features: EncoderOutput


@dataclass(frozen=True)
class PastFrame:
    """A frame and the table as it was when the next one came, by object ID."""

    frame: StreamFrame
    rows: dict[int, ObjectRow]


class FrameHistory:
    """The ``capacity`` frames before the newest one, oldest first."""

    def __init__(self, capacity: int) -> None:
        self._frames: deque[PastFrame] = deque(maxlen=capacity)

    def push(self, frame: StreamFrame, rows: dict[int, ObjectRow]) -> None:
        """Keep a frame that is about to be followed by another one."""
        if self._frames.maxlen:
            self._frames.append(PastFrame(frame, {number: row.snapshot() for number, row in rows.items()}))

    def limit(self, capacity: int) -> None:
        """Keep at most ``capacity`` frames, the newest ones."""
        self._frames = deque(self._frames, maxlen=capacity)

    def clear(self) -> None:
        """Forget all frames."""
        self._frames.clear()

    def find(self, stamp: int, newest: StreamFrame) -> PastFrame:
        """The newest past frame with exactly this stamp.

        Raises:
            PromptError: if there is none, with the stamps that could be taken.
        """
        for past in reversed(self._frames):
            if past.frame.stamp == stamp:
                return past
        oldest = self.oldest_stamp(newest)
        if stamp > newest.stamp:
            reason = 'is newer than the newest processed frame'
        elif stamp < oldest:
            reason = 'is older than the frames that are kept'
        else:
            reason = 'is that of no processed frame'
        raise PromptError(
            f'stamp {seconds_text(stamp)} {reason}: give the stamp of a frame from {seconds_text(oldest)} to '
            f'{seconds_text(newest.stamp)}, or zero for the newest'
        )

    def nearest(self, stamp: int, newest: StreamFrame, tolerance: int) -> int:
        """Stamp of the frame, a past one or ``newest``, that was taken closest to ``stamp``.

        Raises:
            PromptError: if it was taken more than ``tolerance`` nanoseconds before or after.
        """
        kept = [newest.stamp, *(past.frame.stamp for past in self._frames)]
        best = min(kept, key=lambda taken: abs(taken - stamp))
        if abs(best - stamp) > tolerance:
            raise PromptError(
                f'stamp {seconds_text(stamp)} is {abs(best - stamp) / 1e9:.3f} s away from the nearest frame that is '
                f'kept, {seconds_text(best)}: it must be within {tolerance / 1e9:.3f} s of one'
            )
        return best

    def oldest_stamp(self, newest: StreamFrame) -> int:
        """Of the oldest kept frame; that of ``newest`` where none is kept."""
        return self._frames[0].frame.stamp if self._frames else newest.stamp

    def after(self, past: PastFrame) -> Iterator[PastFrame]:
        """The kept frames that follow ``past``, oldest first."""
        return (later for later in self._frames if later.frame.index > past.frame.index)

    def nbytes(self) -> int:
        """Bytes of the feature maps and of what objects remembered of these frames, the newest of which they share."""
        tensors = [x for past in self._frames for x in past.frame.features]
        for past in self._frames:
            for row in past.rows.values():
                newest = [frames[-1] for frames in (row.memory.conditioning, row.memory.recent) if frames]
                own = [m for m in newest if m.frame_index == past.frame.index]
                tensors += [x for m in own for x in (m.keys, m.values, m.pointer) if x is not None]
        return sum(x.numel() * x.element_size() for x in tensors)
