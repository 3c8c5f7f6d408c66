"""Streaming tracker of many prompted objects: one verb a frame, bounded memory, objects batched."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from robust_pvos_ros.tracking.association import Scene
from robust_pvos_ros.tracking.contest import sharing
from robust_pvos_ros.tracking.encoder import EncoderOutput
from robust_pvos_ros.tracking.history import FrameHistory, ObjectRow, PastFrame, StreamFrame
from robust_pvos_ros.tracking.inputs import check_rgb
from robust_pvos_ros.tracking.memory import nbytes
from robust_pvos_ros.tracking.model import Sam2Model
from robust_pvos_ros.tracking.output import build_result, note_place
from robust_pvos_ros.tracking.snapshot import pack_row, unpack_row
from robust_pvos_ros.tracking.steps import ObjectSteps
from robust_pvos_ros.tracking.types import (
    MAX_LABEL_LENGTH,
    FrameResult,
    Prompt,
    PromptError,
    TrackedObject,
    TrackerConfig,
)


class VideoTracker:
    """Tracks prompted objects through a stream of frames of one camera.

    IDs come from ``ids`` in ascending order and are never reused; trackers that share the iterator give IDs that are
    unique among them.  Not thread-safe: all calls belong on one thread.

    Args:
        model: the network, which several trackers may share.
        config: limits and policies.
        ids: source of fresh object IDs, counting from 1 by default.
        elsewhere: number of objects that other trackers hold; they count for ``max_objects``.
    """

    def __init__(
        self,
        model: Sam2Model,
        config: TrackerConfig | None = None,
        ids: Iterator[int] | None = None,
        elsewhere: Callable[[], int] = lambda: 0,
    ) -> None:
        self.model = model
        self.config = config or TrackerConfig()
        self._ids = itertools.count(1) if ids is None else ids
        self._elsewhere = elsewhere
        self._table: dict[int, ObjectRow] = {}
        self._frame: StreamFrame | None = None
        self._cut = False
        self._next_index = 0
        self._served = 0
        self._history = FrameHistory(self.config.history_frames)
        self.last_result: FrameResult | None = None
        self._steps = ObjectSteps(model)

    # ---------------------------------------------------------------------------------------------- the streaming verbs

    def step(
        self,
        rgb: np.ndarray,
        stamp: int,
        prompts: Sequence[Prompt] = (),
        features: EncoderOutput | None = None,
    ) -> FrameResult:
        """Process the next frame: encode once; for each group of objects condition, decode, remember; apply prompts.

        Without prompts every object of the table is tracked into the frame, or ``object_budget`` of them whose turn it
        is.  A prompt for a new object makes it appear on this frame and be tracked from the next one; a prompt for a
        tracked object corrects its mask on this frame.

        Args:
            rgb: uint8 (H, W, 3); the size may change from frame to frame.
            stamp: nanoseconds, copied to the result.
            prompts: in pixels of this frame.
            features: of ``rgb``, where they are computed already; see ``Sam2Model.encode_batch``.

        Raises:
            FrameError: if the image is malformed.
            PromptError: if a prompt cannot be applied.  In both cases nothing has changed.
        """
        check_rgb(rgb)
        height, width = rgb.shape[:2]
        self._check_prompts(prompts, height, width)
        self._steps.begin()
        if features is None:
            with self._steps.timed('encode'):
                features = self.model.encode(rgb)
        frame = StreamFrame(stamp, self._next_index, height, width, features)
        due = self._due()
        tracked = self._steps.track(frame, due, self.config)
        if self._frame is not None and not self._cut:
            self._history.push(self._frame, self._table)
        self._frame, self._cut = frame, False
        self._next_index += 1
        for one in tracked:
            self._steps.commit(one, frame, self.config)
        self._served = due[-1].object_id if due else 0
        return self._finish(self._apply_now(prompts, frame))

    def apply(self, prompts: Sequence[Prompt], stamp: int | None = None) -> FrameResult:
        """Apply prompts to a processed frame, from its cached features.

        On a past frame a prompt has the effect that it would have had in time: the object is followed through the
        frames that came since, so that it is up to date on the newest one.  Two things differ: with ``object_budget``
        it is followed through every one of these frames and not only those on which it would have had its turn, and
        other objects keep masks and memories of frames on which they would have contested pixels with it.

        Args:
            prompts: in pixels of that frame.
            stamp: of the frame they were drawn on, one of the last ``history_frames`` or the newest; None for the
                newest.

        Returns:
            the newest frame.

        Raises:
            PromptError: if there is no such frame or a prompt cannot be applied; nothing has changed.
        """
        newest, past = self._find(stamp)
        frame = newest if past is None else past.frame
        self._check_prompts(prompts, frame.height, frame.width)
        self._steps.begin()
        if past is None:
            return self._finish(self._apply_now(prompts, frame))
        return self._finish(self._apply_late(prompts, past, newest))

    def nearest(self, stamp: int, tolerance: int) -> int:
        """Stamp of the frame that can be prompted and was taken closest to ``stamp``; all in nanoseconds.

        Raises:
            PromptError: if there is no frame, or none within ``tolerance``.
        """
        newest, _ = self._find(None)
        return self._history.nearest(stamp, newest, tolerance)

    def result_at(self, stamp: int) -> FrameResult:
        """What is known of a frame that can be prompted, without objects that only came after it.

        Args:
            stamp: of the frame, as in :meth:`apply`.

        Raises:
            PromptError: if there is no such frame.
        """
        newest, past = self._find(stamp)
        if past is None:
            return self._build_result(self._table, newest)
        return self._build_result({n: row for n, row in past.rows.items() if n in self._table}, past.frame)

    def scene(self, stamp: int | None = None) -> Scene:
        """The objects of the table on a frame that can be prompted, for matching detections with them.

        Args:
            stamp: of the frame, as in :meth:`apply`.

        Raises:
            PromptError: if there is no such frame.
        """
        newest, past = self._find(stamp)
        frame = newest if past is None else past.frame
        rows = self._table if past is None else {n: past.rows.get(n, row) for n, row in self._table.items()}
        result = self.last_result
        if past is not None or result is None:
            result = self._build_result(rows, frame)
        return Scene(result, {number: row.last_box_in(frame) for number, row in rows.items()})

    @property
    def timings(self) -> dict[str, float]:
        """Milliseconds that the last verb spent in each of ``STAGES``."""
        return self._steps.timings

    # ------------------------------------------------------------------------------------------------ the object table

    def remove(self, object_id: int) -> None:
        """Forget one object.  Raises ``PromptError`` for an unknown ID."""
        self._lookup(object_id)
        del self._table[object_id]
        self._refresh()

    def set_label(self, object_id: int, label: str) -> None:
        """Change one object's label.  Raises ``PromptError`` for an unknown ID or too long a label."""
        entry = self._lookup(object_id)
        if len(label) > MAX_LABEL_LENGTH:
            raise PromptError(f'label must have at most {MAX_LABEL_LENGTH} characters, got {len(label)}')
        entry.label = label
        self._refresh()

    def reset(self) -> int:
        """Forget every object and past frame and return how many objects there were.

        IDs go on counting, and the newest frame can be prompted.
        """
        removed = len(self._table)
        self._table.clear()
        self._history.clear()
        self._refresh()
        return removed

    def cut(self) -> None:
        """Forget every past frame and take no prompt for the newest: the next one does not follow it in time.

        Objects and what they remember stay.
        """
        self._history.clear()
        self._cut = True

    @property
    def objects(self) -> tuple[TrackedObject, ...]:
        """Every object as of the newest frame, in ascending ID."""
        return self.last_result.objects if self.last_result is not None else ()

    def pointers(self) -> dict[int, Tensor]:
        """The object pointer (C,) of each object's newest remembered frame, by object ID."""
        newest = {}
        for object_id, entry in self._table.items():
            frames = [*entry.memory.conditioning, *entry.memory.recent]
            newest[object_id] = max(frames, key=lambda memory: memory.frame_index).pointer
        return newest

    def limit_history(self, frames: int) -> bool:
        """Forget all past frames but the last ``frames``, and keep no more from now on; False if that changes nothing.

        Raises:
            ValueError: if ``frames`` is negative.
        """
        if frames >= self.config.history_frames:
            return False
        self.config = replace(self.config, history_frames=frames)
        self._history.limit(frames)
        return True

    def stamps(self) -> tuple[int, int] | None:
        """Stamps of the oldest and the newest frame that can be prompted; None before the first frame."""
        if self._frame is None or self._cut:
            return None
        return self._history.oldest_stamp(self._frame), self._frame.stamp

    def history_bytes(self) -> int:
        """Bytes held by past frames: feature maps, and what objects remembered of them."""
        return self._history.nbytes()

    def memory_bytes(self) -> int:
        """Bytes held by the memories of all objects."""
        return nbytes(memory for row in self._table.values() for memory in row.memories())

    def state(self) -> dict[str, Any]:
        """All that later frames depend on but the source of IDs: numbers and tensors for ``torch.save``.

        Past frames are not in it: a prompt for one of them is refused after :meth:`restore`.
        """
        objects = [pack_row(row) for row in self._table.values()]
        return {'next_index': self._next_index, 'served': self._served, 'objects': objects}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state` of a tracker with the same model and configuration; ``step`` must be next."""
        self._next_index, self._frame, self.last_result = int(state['next_index']), None, None
        self._served, self._cut = int(state.get('served', 0)), False
        self._history.clear()
        self._table = {row.object_id: row for row in map(unpack_row, state['objects'])}

    # ----------------------------------------------------------------------------------------------------------- inside

    def _due(self) -> list[ObjectRow]:
        """The objects whose turn it is: all, or as many as the budget allows after the one that was served last."""
        rows = list(self._table.values())
        budget = self.config.object_budget
        if not budget or len(rows) <= budget:
            return rows
        start = next((place for place, row in enumerate(rows) if row.object_id > self._served), 0)
        return [rows[(start + place) % len(rows)] for place in range(budget)]

    def _apply_now(self, prompts: Sequence[Prompt], frame: StreamFrame) -> tuple[int, ...]:
        """Prompt objects on the newest frame; nothing has changed if that fails midway."""
        draft = {p.object_id: self._table[p.object_id].snapshot() for p in prompts if p.object_id}
        prompted = self._apply(prompts, frame, draft, self._table)
        self._table.update(draft)
        return prompted

    def _apply(
        self,
        prompts: Sequence[Prompt],
        frame: StreamFrame,
        table: dict[int, ObjectRow],
        beside: Mapping[int, ObjectRow],
    ) -> tuple[int, ...]:
        """Prompt objects of ``table`` on ``frame``, beside all others on it; new ones are added to ``table``."""
        prompted = []
        for prompt in prompts:
            if prompt.object_id:
                entry = table[prompt.object_id]
            else:
                entry = self._steps.new_object(next(self._ids), prompt.label, frame, self.config)
            if prompt.object_id and entry.mask_index != frame.index:
                # it waited for its turn: a correction must build on its mask of this very frame
                for one in self._steps.track(frame, [entry], self.config):
                    self._steps.commit(one, frame, self.config)
            with self._steps.timed('prompt'):
                self._steps.prompt(entry, prompt, frame, self.config)
            entry.label = prompt.label or entry.label
            table[entry.object_id] = entry
            entry.shares = sharing(entry, {**beside, **table}.values(), self.config.contest_overlap)
            prompted.append(entry.object_id)
        return tuple(prompted)

    def _apply_late(self, prompts: Sequence[Prompt], past: PastFrame, newest: StreamFrame) -> tuple[int, ...]:
        """Prompt objects on a past frame and follow them to the newest one."""
        born_later = [p.object_id for p in prompts if p.object_id and p.object_id not in past.rows]
        if born_later:
            raise PromptError(f'object {born_later[0]} did not exist on the frame of this prompt: give a later stamp')
        table = {p.object_id: past.rows[p.object_id].snapshot() for p in prompts if p.object_id}
        prompted = self._apply(prompts, past.frame, table, past.rows)
        written = [(past.rows, _as_of(past.frame, table))]  # once nothing can fail any more
        followers = [*self._history.after(past), PastFrame(newest, dict(self._table))]
        for later in followers:
            others = [row for number, row in later.rows.items() if number not in table]
            beside = [row for row in others if row.mask_index == later.frame.index]
            for one in self._steps.track(later.frame, list(table.values()), self.config, beside):
                known = later.rows.get(one.entry.object_id)
                if known is not None and known.prompt_frame == later.frame.index:
                    one.entry.take_prompt(known, later.frame, clear_recent=self.config.clear_memory_on_refine)
                else:
                    self._steps.commit(one, later.frame, self.config)
            written.append((later.rows, _as_of(later.frame, table)))
        for rows, snapshots in written:
            rows.update(snapshots)
        given = {number: prompt.label for number, prompt in zip(prompted, prompts, strict=True) if prompt.label}
        for number, row in table.items():
            if number in self._table:
                row.label = given.get(number, self._table[number].label)  # it may have been renamed since
            self._table[number] = row
        return prompted

    def _finish(self, prompted: tuple[int, ...]) -> FrameResult:
        with self._steps.timed('output'):
            result = self._build_result(self._table, self._current(), prompted)
        self.last_result = result
        return result

    def _refresh(self) -> None:
        if self._frame is not None:
            self.last_result = self._build_result(self._table, self._frame)

    def _build_result(
        self, rows: Mapping[int, ObjectRow], frame: StreamFrame, prompted: tuple[int, ...] = ()
    ) -> FrameResult:
        entries = [rows[object_id] for object_id in sorted(rows)]
        return build_result(entries, frame, self.model.image_size // 4, self.config.lost_after, prompted)

    def _check_prompts(self, prompts: Sequence[Prompt], height: int, width: int) -> None:
        fresh = 0
        for prompt in prompts:
            if prompt.object_id:
                self._lookup(prompt.object_id)
            else:
                fresh += 1
            prompt.check_against(height, width)
        held = len(self._table) + self._elsewhere()
        if fresh and held + fresh > self.config.max_objects:
            raise PromptError(
                f'the object table is full: it holds {held} of at most {self.config.max_objects} objects; '
                f'remove one first or raise max_objects'
            )

    def _lookup(self, object_id: int) -> ObjectRow:
        if object_id not in self._table:
            known = ', '.join(str(known_id) for known_id in sorted(self._table)) or 'none'
            raise PromptError(f'there is no object {object_id}; tracked IDs: {known}')
        return self._table[object_id]

    def _find(self, stamp: int | None) -> tuple[StreamFrame, PastFrame | None]:
        """The newest frame, and the past one with a stamp; None where that is the newest.  Raises ``PromptError``."""
        newest = self._frame
        if newest is None or self._cut:
            since = ' since the jump of time' if self._cut else ''
            raise PromptError(f'no frame has been processed yet{since}: a prompt needs an image to be drawn on')
        past = None if stamp is None or stamp == newest.stamp else self._history.find(stamp, newest)
        return newest, past

    def _current(self) -> StreamFrame:
        if self._frame is None:
            raise RuntimeError('no frame has been processed yet')
        return self._frame


def _as_of(frame: StreamFrame, table: Mapping[int, ObjectRow]) -> dict[int, ObjectRow]:
    """Snapshots of rows whose masks belong to ``frame``, with the places where they were seen."""
    for row in table.values():
        note_place(row, frame)
    return {number: row.snapshot() for number, row in table.items()}
