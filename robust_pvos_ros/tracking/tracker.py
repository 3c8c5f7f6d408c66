"""Streaming tracker of many prompted objects: one verb a frame, bounded memory, objects batched."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from robust_pvos_ros.tracking.history import FrameHistory, ObjectRow, PastFrame, StreamFrame
from robust_pvos_ros.tracking.memory import MemoryFrame, ObjectMemory, group_by_key
from robust_pvos_ros.tracking.model import BOX_LABELS, Decoded, Sam2Model
from robust_pvos_ros.tracking.output import describe, render_masks
from robust_pvos_ros.tracking.snapshot import pack_row, unpack_row
from robust_pvos_ros.tracking.types import (
    MAX_LABEL_LENGTH,
    MAX_POINTS,
    FrameError,
    FrameResult,
    Prompt,
    PromptError,
    TrackedObject,
    TrackerConfig,
)

MEMORY_POLICIES = ('stock', 'selective')
LOGIT_LIMIT = 32.0  # of previous mask logits fed back to the decoder, as in SAM2VideoPredictor.add_new_points_or_box


class VideoTracker:
    """Tracks prompted objects through a stream of frames of one camera.

    IDs come from ``ids`` in ascending order and are never reused; trackers that share the iterator give IDs that are
    unique among them.  Not thread-safe: all calls belong on one thread.

    Args:
        model: the network, which several trackers may share.
        config: limits and policies.
        ids: source of fresh object IDs, counting from 1 by default.

    Raises:
        ValueError: if the configuration is out of range.
    """

    def __init__(
        self, model: Sam2Model, config: TrackerConfig | None = None, ids: Iterator[int] | None = None
    ) -> None:
        self.model = model
        self.config = config or TrackerConfig()
        if self.config.memory_policy not in MEMORY_POLICIES:
            raise ValueError(f'memory_policy must be one of {MEMORY_POLICIES}, got {self.config.memory_policy!r}')
        if self.config.max_objects < 1 or self.config.lost_after < 1:
            raise ValueError('max_objects and lost_after must be at least 1')
        if self.config.history_frames < 0:
            raise ValueError('history_frames must be 0 or positive')
        if self.config.max_conditioning_frames < 2:
            raise ValueError('max_conditioning_frames must be at least 2: the first prompt and a correction')
        self._ids = itertools.count(1) if ids is None else ids
        self._table: dict[int, ObjectRow] = {}
        self._frame: StreamFrame | None = None
        self._next_index = 0
        self._history = FrameHistory(self.config.history_frames)
        self.last_result: FrameResult | None = None
        self.timings: dict[str, float] = {}

    # ---------------------------------------------------------------------------------------------- the streaming verbs

    def step(self, rgb: np.ndarray, stamp: int, prompts: Sequence[Prompt] = ()) -> FrameResult:
        """Process the next frame: encode once; for each group of objects condition, decode, remember; apply prompts.

        Without prompts every object of the table is tracked into the frame.  A prompt for a new object makes it appear
        on this frame and be tracked from the next one; a prompt for a tracked object corrects its mask on this frame.

        Args:
            rgb: uint8 (H, W, 3); the size may change from frame to frame.
            stamp: nanoseconds, copied to the result.
            prompts: in pixels of this frame.

        Raises:
            FrameError: if the image is malformed.
            PromptError: if a prompt cannot be applied.  In both cases nothing has changed.
        """
        _check_image(rgb)
        height, width = rgb.shape[:2]
        self._check_prompts(prompts, height, width)
        self.timings = dict.fromkeys(('encode', 'condition', 'decode', 'remember', 'prompt', 'output'), 0.0)
        with self._timed('encode'):
            features = self.model.encode(rgb)
        frame = StreamFrame(stamp, self._next_index, height, width, features)
        tracked = self._track(frame, list(self._table.values()))
        if self._frame is not None:
            self._history.push(self._frame, self._table)
        self._frame = frame
        self._next_index += 1
        for entry, decoded, memory in tracked:
            self._commit(entry, decoded, memory)
        return self._finish(self._apply(prompts, frame, self._table))

    def apply(self, prompts: Sequence[Prompt], stamp: int | None = None) -> FrameResult:
        """Apply prompts to a processed frame, from its cached features.

        On a past frame a prompt has the effect that it would have had in time: the object is followed through the
        frames that came since, so that it is up to date on the newest one.

        Args:
            prompts: in pixels of that frame.
            stamp: of the frame they were drawn on, one of the last ``history_frames`` or the newest; None for the
                newest.

        Returns:
            the newest frame.

        Raises:
            PromptError: if there is no such frame or a prompt cannot be applied; nothing has changed.
        """
        newest = self._frame
        if newest is None:
            raise PromptError('no frame has been processed yet: a prompt needs an image to be drawn on')
        past = None if stamp is None or stamp == newest.stamp else self._history.find(stamp, newest)
        frame = newest if past is None else past.frame
        self._check_prompts(prompts, frame.height, frame.width)
        self.timings = dict.fromkeys(('encode', 'condition', 'decode', 'remember', 'prompt', 'output'), 0.0)
        if past is None:
            return self._finish(self._apply(prompts, frame, self._table))
        return self._finish(self._apply_late(prompts, past, newest))

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

    def stamps(self) -> tuple[int, int] | None:
        """Stamps of the oldest and the newest frame that can be prompted; None before the first frame."""
        return None if self._frame is None else (self._history.oldest_stamp(self._frame), self._frame.stamp)

    def history_bytes(self) -> int:
        """Bytes held by past frames: feature maps, and what objects remembered of them."""
        return self._history.nbytes()

    def memory_bytes(self) -> int:
        """Bytes held by the memories of all objects."""
        return sum(entry.memory.nbytes() for entry in self._table.values())

    def state(self) -> dict[str, Any]:
        """All that later frames depend on but the source of IDs: numbers and tensors for ``torch.save``.

        Past frames are not in it: a prompt for one of them is refused after :meth:`restore`.
        """
        return {'next_index': self._next_index, 'objects': [pack_row(row) for row in self._table.values()]}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state` of a tracker with the same model and configuration; ``step`` must be next."""
        self._next_index, self._frame, self.last_result = int(state['next_index']), None, None
        self._history.clear()
        self._table = {row.object_id: row for row in map(unpack_row, state['objects'])}

    # ----------------------------------------------------------------------------------------------------------- inside

    def _track(
        self, frame: StreamFrame, entries: Sequence[ObjectRow]
    ) -> list[tuple[ObjectRow, Decoded, MemoryFrame]]:
        tracked = []
        for group in group_by_key([entry.memory for entry in entries], frame.index):
            members = [entries[position] for position in group]
            with self._timed('condition'):
                fused = self.model.condition(frame.features, [m.memory for m in members], frame.index)
            with self._timed('decode'):
                decoded = self.model.track(frame.features, fused)
            with self._timed('remember'):
                memories = self.model.remember(frame.features, decoded, frame.index)
            parts = (Decoded(*(x[row : row + 1] for x in decoded)) for row in range(len(members)))
            tracked += list(zip(members, parts, memories, strict=True))
        return tracked

    def _commit(self, entry: ObjectRow, decoded: Decoded, memory: MemoryFrame) -> None:
        entry.decoded = decoded
        if self.config.memory_policy == 'stock' or bool(decoded.score > 0):
            entry.memory.remember(memory)

    def _apply(self, prompts: Sequence[Prompt], frame: StreamFrame, table: dict[int, ObjectRow]) -> tuple[int, ...]:
        """Prompt objects of ``table`` on ``frame``, which its rows belong to; new ones are added to it."""
        prompted = []
        with self._timed('prompt'):
            for prompt in prompts:
                entry = self._new_object(prompt.label, frame) if prompt.object_id == 0 else table[prompt.object_id]
                self._prompt(entry, prompt, frame)
                entry.label = prompt.label or entry.label
                table[entry.object_id] = entry
                prompted.append(entry.object_id)
        return tuple(prompted)

    def _apply_late(self, prompts: Sequence[Prompt], past: PastFrame, newest: StreamFrame) -> tuple[int, ...]:
        """Prompt objects on a past frame and follow them to the newest one."""
        born_later = [p.object_id for p in prompts if p.object_id and p.object_id not in past.rows]
        if born_later:
            raise PromptError(f'object {born_later[0]} did not exist on the frame of this prompt: give a later stamp')
        table = {p.object_id: past.rows[p.object_id].snapshot() for p in prompts if p.object_id}
        prompted = self._apply(prompts, past.frame, table)
        past.rows.update({number: row.snapshot() for number, row in table.items()})
        followers = [*self._history.after(past), PastFrame(newest, dict(self._table))]
        for later in followers:
            for entry, decoded, memory in self._track(later.frame, list(table.values())):
                known = later.rows.get(entry.object_id)
                if known is not None and known.prompt_frame == later.frame.index:
                    entry.take_prompt(known, clear_recent=self.config.clear_memory_on_refine)
                else:
                    self._commit(entry, decoded, memory)
                if bool((entry.decoded.logits > 0).any()):
                    entry.last_seen_frame = later.frame.index
            later.rows.update({number: row.snapshot() for number, row in table.items()})
        given = {number: prompt.label for number, prompt in zip(prompted, prompts, strict=True) if prompt.label}
        for number, row in table.items():
            if number in self._table:
                row.label = given.get(number, self._table[number].label)  # it may have been renamed since
            self._table[number] = row
        return prompted

    def _new_object(self, label: str, frame: StreamFrame) -> ObjectRow:
        sam = self.model.sam
        memory = ObjectMemory(
            sam.num_maskmem,
            sam.max_obj_ptrs_in_encoder,
            self.config.max_conditioning_frames,
            by_rank=self.config.memory_policy == 'selective',
        )
        absent = self.model.absent_logits()
        zero = absent.new_zeros
        return ObjectRow(
            object_id=next(self._ids),
            label=label,
            memory=memory,
            decoded=Decoded(absent, zero(1, 1), zero(1), zero(1, sam.hidden_dim)),
            prompt_frame=-1,
            points=zero(1, 0, 2),
            point_labels=zero(1, 0, dtype=torch.int32),
            last_seen_frame=frame.index,
        )

    def _prompt(self, entry: ObjectRow, prompt: Prompt, frame: StreamFrame) -> None:
        """One object's mask on a frame from a prompt; its memory becomes a conditioning frame."""
        points: Tensor | None = None
        labels: Tensor | None = None
        if prompt.mask is not None:
            decoded = self.model.decode_mask(frame.features, self._model_mask(prompt.mask))
        else:
            points, labels = self._model_points(entry, prompt, frame)
            earlier = entry.memory.before(frame.index)
            first = not earlier.conditioning
            if first:
                fused = self.model.unconditioned(frame.features)
            else:
                fused = self.model.condition(frame.features, [earlier], frame.index)
            known = entry.prompt_frame == frame.index or not first
            previous = entry.decoded.logits.clamp(-LOGIT_LIMIT, LOGIT_LIMIT) if known else None
            decoded = self.model.decode(frame.features, fused, (points, labels), previous, first)
        memory = self.model.remember(frame.features, decoded, frame.index, prompted=True)[0]
        entry.decoded = decoded
        entry.memory.remember_prompt(memory, clear_recent=self.config.clear_memory_on_refine)
        entry.prompt_frame = frame.index
        entry.points = points if points is not None else entry.points[:, :0]
        entry.point_labels = labels if labels is not None else entry.point_labels[:, :0]

    def _model_points(self, entry: ObjectRow, prompt: Prompt, frame: StreamFrame) -> tuple[Tensor, Tensor]:
        """Points and box in pixels of the model image; clicks on the same frame add up until a box starts anew."""
        coordinates, labels = prompt.points, prompt.point_labels
        if prompt.box is not None:
            coordinates = np.concatenate([prompt.box.reshape(2, 2), coordinates])
            labels = np.concatenate([np.array(BOX_LABELS, np.int32), labels])
        scale = np.array([self.model.image_size / frame.width, self.model.image_size / frame.height], np.float32)
        points = torch.from_numpy(coordinates * scale)[None].to(self.model.device)
        point_labels = torch.from_numpy(labels)[None].to(self.model.device)
        if prompt.box is None and entry.prompt_frame == frame.index:
            points = torch.cat([entry.points, points], dim=1)
            point_labels = torch.cat([entry.point_labels, point_labels], dim=1)
        corners = 2 if bool((point_labels[:, :1] == BOX_LABELS[0]).any()) else 0  # a box stays when old clicks go
        kept = [*range(corners), *range(max(corners, points.shape[1] - MAX_POINTS), points.shape[1])]
        return points[:, kept], point_labels[:, kept]

    def _model_mask(self, mask: np.ndarray) -> Tensor:
        """bool (H, W) -> float32 (1, 1, S, S) of 0 and 1, as ``SAM2VideoPredictor.add_new_mask``."""
        size = (self.model.image_size, self.model.image_size)
        full = torch.from_numpy(np.ascontiguousarray(mask)).to(self.model.device).float()[None, None]
        if mask.shape == size:
            return full
        small = F.interpolate(full, size=size, mode='bilinear', align_corners=False, antialias=True) >= 0.5
        if not bool(small.any()):
            # An object thinner than a model pixel would vanish; its densest pixel stands for it.
            small = F.adaptive_max_pool2d(full, size) > 0
        return small.float()

    def _finish(self, prompted: tuple[int, ...]) -> FrameResult:
        with self._timed('output'):
            result = self._build_result(prompted)
        self.last_result = result
        return result

    def _refresh(self) -> None:
        if self._frame is not None:
            self.last_result = self._build_result(())

    def _build_result(self, prompted: tuple[int, ...]) -> FrameResult:
        frame = self._current()
        entries = [self._table[object_id] for object_id in sorted(self._table)]
        side = self.model.image_size // 4
        logits = np.zeros((0, side, side), np.float32)
        scores = ious = np.zeros(0, np.float32)
        if entries:
            logits = torch.cat([entry.decoded.logits[:, 0] for entry in entries]).cpu().numpy()
            scores = torch.cat([entry.decoded.score[:, 0] for entry in entries]).sigmoid().cpu().numpy()
            ious = torch.cat([entry.decoded.iou for entry in entries]).cpu().numpy()
        masks, labels = render_masks(logits, [entry.object_id for entry in entries], frame.height, frame.width)
        objects = tuple(
            describe(entry, mask, float(score), float(iou), frame, self.config.lost_after)
            for entry, mask, score, iou in zip(entries, masks, scores, ious, strict=True)
        )
        return FrameResult(
            frame.stamp, frame.index, frame.height, frame.width, objects, logits, masks, labels, prompted
        )

    def _check_prompts(self, prompts: Sequence[Prompt], height: int, width: int) -> None:
        fresh = 0
        for prompt in prompts:
            if prompt.object_id:
                self._lookup(prompt.object_id)
            else:
                fresh += 1
            prompt.check_against(height, width)
        if len(self._table) + fresh > self.config.max_objects:
            raise PromptError(
                f'the object table is full: it holds {len(self._table)} of at most {self.config.max_objects} objects; '
                f'remove one first or raise max_objects'
            )

    def _lookup(self, object_id: int) -> ObjectRow:
        if object_id not in self._table:
            known = ', '.join(str(known_id) for known_id in sorted(self._table)) or 'none'
            raise PromptError(f'there is no object {object_id}; tracked IDs: {known}')
        return self._table[object_id]

    def _current(self) -> StreamFrame:
        if self._frame is None:
            raise RuntimeError('no frame has been processed yet')
        return self._frame

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if self.model.device.type == 'cuda':
            torch.cuda.synchronize(self.model.device)
        self.timings[stage] += (time.perf_counter() - start) * 1e3


def _check_image(rgb: np.ndarray) -> None:
    if not isinstance(rgb, np.ndarray) or rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        got = f'{rgb.dtype} {rgb.shape}' if isinstance(rgb, np.ndarray) else type(rgb).__name__
        raise FrameError(f'an image must be a uint8 array of shape (H, W, 3), got {got}')
    if 0 in rgb.shape:
        raise FrameError(f'an image must have at least one pixel, got {rgb.shape[1]}x{rgb.shape[0]}')
