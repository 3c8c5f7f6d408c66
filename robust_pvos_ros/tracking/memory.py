"""The bounded memory of one object, and the grouping of objects into batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from robust_pvos_ros.tracking.adapters import GateBank
from robust_pvos_ros.tracking.attention import CachedMemoryAttention, MemoryBatch
from robust_pvos_ros.tracking.staging import upload


@dataclass
class MemoryFrame:
    """What one object remembers of one frame.

    Attributes:
        frame_index: count of processed frames.
        keys: (layers, hw, C) cross-attention keys without temporal position; None once only the pointer is of use.
        values: (layers or 1, hw, V); None with ``keys``.
        pointer: (C,) object pointer.
        gates: bool (L, R), the pointer's gates of every projection adapted with MoGA.  A function of ``pointer`` alone,
            filled in when the pointer is first attended to; None until then, and always without MoGA.
    """

    frame_index: int
    keys: Tensor | None
    values: Tensor | None
    pointer: Tensor
    gates: Tensor | None = None


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
    never evicted; at most ``max_pointers`` entries in ``recent``, in ascending order, of which only the last
    ``num_maskmem`` hold keys and values (both one more than attended to, because the newest frame may be prompted again
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
        del self.recent[: -self.max_pointers]
        aged = len(self.recent) - self.num_maskmem - 1
        if aged >= 0 and self.recent[aged].keys is not None:
            self.recent[aged] = replace(self.recent[aged], keys=None, values=None)

    def remember_prompt(self, memory: MemoryFrame, clear_recent: bool) -> None:
        """Store the memory of a prompted frame in place of any memory of the same frame."""
        self.recent = [] if clear_recent else [m for m in self.recent if m.frame_index != memory.frame_index]
        self.conditioning = [m for m in self.conditioning if m.frame_index != memory.frame_index]
        self.conditioning.append(memory)
        if len(self.conditioning) > self.max_conditioning:
            del self.conditioning[1]

    def copy(self) -> ObjectMemory:
        """A memory that later frames do not change; it shares the tensors."""
        return replace(self, conditioning=list(self.conditioning), recent=list(self.recent))

    def carried_to(self, frame_index: int) -> ObjectMemory:
        """The memory as if the newest recent frame were the one before ``frame_index``."""
        gap = frame_index - 1 - self.recent[-1].frame_index if self.recent else 0
        recent = [replace(m, frame_index=m.frame_index + gap) for m in self.recent]
        return replace(self, conditioning=list(self.conditioning), recent=recent)

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

    def pointers(self, frame_index: int) -> list[tuple[int, MemoryFrame]]:
        """(distance in frames, memory) of every memory whose pointer frame ``frame_index`` attends to."""
        found = [(frame_index - m.frame_index, m) for m in self.conditioning]
        found += [(age, m) for age, m in self._ages(frame_index) if age < self.max_pointers]
        return found

    def group_key(self, frame_index: int) -> tuple[int, int]:
        """Objects with equal keys (number of spatial memories, number of pointers) share a batch exactly."""
        return len(self.spatial(frame_index)), len(self.pointers(frame_index))

    def tensors(self) -> Iterator[Tensor]:
        """All that it holds."""
        for frame in (*self.conditioning, *self.recent):
            yield from (t for t in (frame.keys, frame.values, frame.pointer, frame.gates) if t is not None)


def nbytes(memories: Iterable[ObjectMemory]) -> int:
    """Bytes held by memories; what several of them share counts once."""
    tensors = {id(tensor): tensor for memory in memories for tensor in memory.tensors()}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def group_by_key(memories: Sequence[ObjectMemory], frame_index: int) -> list[list[int]]:
    """Positions in ``memories`` that can share a batch on frame ``frame_index``, group by group."""
    groups: dict[tuple[int, int], list[int]] = {}
    for position, memory in enumerate(memories):
        groups.setdefault(memory.group_key(frame_index), []).append(position)
    return list(groups.values())


def mean_gates(frames: Sequence[Sequence[MemoryFrame]], bank: GateBank) -> Tensor:
    """Mean gates, float32 (B, L, R), of the pointers of B objects; those met for the first time stay in ``frames``."""
    if not bank.per_pointer:
        return bank.open(torch.stack([torch.stack([m.pointer for m in row]).mean(0) for row in frames])).float()
    fresh = [m for row in frames for m in row if m.gates is None]
    if fresh:
        for memory, gates in zip(fresh, bank.open(torch.stack([m.pointer for m in fresh])), strict=True):
            memory.gates = gates.clone()
    return torch.stack([torch.stack([m.gates for m in row if m.gates is not None]) for row in frames]).float().mean(1)


def assemble(
    memories: Sequence[ObjectMemory], frame_index: int, attention: CachedMemoryAttention, tokens: Tensor
) -> MemoryBatch:
    """What frame ``frame_index`` attends to, for one group of objects; all must have the same ``group_key``.

    Args:
        tokens: (1, hw, C) stride-16 features of the frame, which gates of conditioning ``frame`` depend on.
    """
    pairs = [memory.pointers(frame_index) for memory in memories]
    pointers = torch.stack([torch.stack([m.pointer for _, m in row]) for row in pairs])
    distances = torch.tensor([[d for d, _ in row] for row in pairs], dtype=torch.float32)
    pointer_keys, pointer_values = attention.project_pointers(pointers, upload(distances, pointers.device))
    gates = None
    if attention.gates is not None and attention.gates.per_frame:
        gates = attention.gates.open(tokens.mean(dim=1)).float().expand(len(memories), -1, -1)
    elif attention.gates is not None:
        gates = mean_gates([[m for _, m in row] for row in pairs], attention.gates)
    frames = [[_attended(slot) for slot in memory.spatial(frame_index)] for memory in memories]
    return MemoryBatch(frames, pointer_keys, pointer_values, gates)


def _attended(slot: Slot) -> tuple[Tensor, Tensor, int]:
    memory, temporal = slot
    if memory.keys is None or memory.values is None:
        raise RuntimeError(f'frame {memory.frame_index} was attended to after its keys were dropped')
    return memory.keys, memory.values, temporal
