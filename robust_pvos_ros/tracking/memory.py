"""The bounded memory of one object, and the grouping of objects into batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from robust_pvos_ros.tracking.attention import CachedMemoryAttention, MemoryBatch


@dataclass(frozen=True)
class MemoryFrame:
    """What one object remembers of one frame.

    Attributes:
        frame_index: count of processed frames.
        keys: (layers, hw, C) cross-attention keys without temporal position; None once only the pointer is of use.
        values: (layers or 1, hw, V); None with ``keys``.
        pointer: (C,) object pointer.
    """

    frame_index: int
    keys: Tensor | None
    values: Tensor | None
    pointer: Tensor


class Slot(NamedTuple):
    """A remembered frame and the row of ``maskmem_tpos_enc`` it is attended with."""

    memory: MemoryFrame
    temporal: int


@dataclass
class ObjectMemory:
    """Conditioning (prompted) frames and the recent frames of one object.

    SAM 2 attends to every conditioning frame, to the last ``num_maskmem - 1`` frames and to the pointers of the last
    ``max_pointers - 1`` frames; keeping just these equals keeping everything.

    Invariants: at most ``max_conditioning`` entries in ``conditioning``, in ascending frame order, the first prompt
    never evicted; at most ``max_pointers - 1`` entries in ``recent``, in ascending order, of which only the last
    ``num_maskmem`` hold keys and values (one more than attended to, because the newest frame may be prompted again
    from the memory it was tracked with); no frame is in both lists.

    Attributes:
        by_rank: take the age of a recent frame from its place in the list instead of its frame index; used where frames
            are skipped on purpose, so that every object keeps the same number of slots.
    """

    num_maskmem: int
    max_pointers: int
    max_conditioning: int
    by_rank: bool = False
    conditioning: list[MemoryFrame] = field(default_factory=list)
    recent: list[MemoryFrame] = field(default_factory=list)

    def remember(self, memory: MemoryFrame) -> None:
        """Append the memory of an unprompted frame and forget what is out of reach."""
        self.recent.append(memory)
        del self.recent[: -(self.max_pointers - 1)]
        aged = len(self.recent) - self.num_maskmem - 1
        if aged >= 0 and self.recent[aged].keys is not None:
            old = self.recent[aged]
            self.recent[aged] = MemoryFrame(old.frame_index, None, None, old.pointer)

    def remember_prompt(self, memory: MemoryFrame, clear_recent: bool) -> None:
        """Store the memory of a prompted frame in place of any memory of the same frame."""
        self.recent = [] if clear_recent else [m for m in self.recent if m.frame_index != memory.frame_index]
        self.conditioning = [m for m in self.conditioning if m.frame_index != memory.frame_index]
        self.conditioning.append(memory)
        if len(self.conditioning) > self.max_conditioning:
            del self.conditioning[1]

    def before(self, frame_index: int) -> ObjectMemory:
        """The memory as it was when frame ``frame_index`` was tracked: without that frame itself."""
        return ObjectMemory(
            self.num_maskmem,
            self.max_pointers,
            self.max_conditioning,
            self.by_rank,
            [m for m in self.conditioning if m.frame_index < frame_index],
            [m for m in self.recent if m.frame_index < frame_index],
        )

    def _ages(self, frame_index: int) -> list[tuple[int, MemoryFrame]]:
        if self.by_rank:
            return [(len(self.recent) - place, m) for place, m in enumerate(self.recent)]
        return [(frame_index - m.frame_index, m) for m in self.recent]

    def spatial(self, frame_index: int) -> list[Slot]:
        """Spatial memories for frame ``frame_index``: conditioning frames at temporal position 0, others by age."""
        slots = [Slot(m, self.num_maskmem - 1) for m in self.conditioning]
        slots += [Slot(m, age - 1) for age, m in self._ages(frame_index) if age < self.num_maskmem]
        return slots

    def pointers(self, frame_index: int) -> list[tuple[int, Tensor]]:
        """(distance in frames, pointer) of every pointer that frame ``frame_index`` attends to."""
        found = [(frame_index - m.frame_index, m.pointer) for m in self.conditioning]
        found += [(age, m.pointer) for age, m in self._ages(frame_index) if age < self.max_pointers]
        return found

    def group_key(self, frame_index: int) -> tuple[int, int]:
        """Objects with equal keys (number of spatial memories, number of pointers) share a batch exactly."""
        return len(self.spatial(frame_index)), len(self.pointers(frame_index))

    def nbytes(self) -> int:
        """Bytes held by the tensors of this memory."""
        frames = self.conditioning + self.recent
        tensors = [t for m in frames for t in (m.keys, m.values, m.pointer) if t is not None]
        return sum(t.numel() * t.element_size() for t in tensors)


def group_by_key(memories: Sequence[ObjectMemory], frame_index: int) -> list[list[int]]:
    """Positions in ``memories`` that can share a batch on frame ``frame_index``, group by group."""
    groups: dict[tuple[int, int], list[int]] = {}
    for position, memory in enumerate(memories):
        groups.setdefault(memory.group_key(frame_index), []).append(position)
    return list(groups.values())


def assemble(
    memories: Sequence[ObjectMemory], frame_index: int, attention: CachedMemoryAttention
) -> MemoryBatch:
    """Keys and values for one group of objects; all must have the same ``group_key``."""
    pointer_lists = [memory.pointers(frame_index) for memory in memories]
    pointers = torch.stack([torch.stack([p for _, p in pairs]) for pairs in pointer_lists])
    distances = torch.tensor([[d for d, _ in pairs] for pairs in pointer_lists], dtype=torch.float32)
    pointer_keys, pointer_values = attention.project_pointers(pointers, distances.to(pointers.device))
    slots = [memory.spatial(frame_index) for memory in memories]
    layers, tokens, dim = attention.temporal_keys.shape[1:]
    spatial = len(slots[0]) * tokens
    batch, total = len(memories), spatial + pointer_keys.shape[2]
    keys = pointer_keys.new_empty(layers, batch, total, dim)
    values = pointer_values.new_empty(pointer_values.shape[1], batch, total, pointer_values.shape[-1])
    keys[:, :, spatial:] = pointer_keys.transpose(0, 1)
    values[:, :, spatial:] = pointer_values.transpose(0, 1)
    for row, row_slots in enumerate(slots):
        for place, (memory, temporal) in enumerate(row_slots):
            at = slice(place * tokens, (place + 1) * tokens)
            if memory.keys is None or memory.values is None:
                raise RuntimeError(f'frame {memory.frame_index} was attended to after its keys were dropped')
            torch.add(memory.keys, attention.temporal_keys[temporal], out=keys[:, row, at])
            values[:, row, at] = memory.values
    value_of_layer = list(values) if len(values) == layers else [values[0]] * layers
    return MemoryBatch(list(keys), value_of_layer, pointers)
