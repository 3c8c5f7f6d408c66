"""The state of a tracker as plain tensors and numbers, so that a killed run can go on where it was."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from torch import Tensor

from robust_pvos_ros.tracking.history import ObjectRow
from robust_pvos_ros.tracking.memory import MemoryFrame, ObjectMemory
from robust_pvos_ros.tracking.model import Decoded


def _kept(value: Any) -> Any:
    """A tensor of its own: a view would drag the batch that it was cut from into the file."""
    return value.clone() if isinstance(value, Tensor) else value


def pack_memory(memory: ObjectMemory) -> dict[str, Any]:
    """Dictionaries, lists, numbers and tensors, as ``torch.load(weights_only=True)`` reads them."""
    packed = {entry.name: getattr(memory, entry.name) for entry in fields(ObjectMemory)}
    for part in ('conditioning', 'recent'):
        packed[part] = [
            {entry.name: _kept(getattr(frame, entry.name)) for entry in fields(MemoryFrame)} for frame in packed[part]
        ]
    return packed


def unpack_memory(packed: dict[str, Any]) -> ObjectMemory:
    """The inverse of :func:`pack_memory`."""
    lists = {part: [MemoryFrame(**frame) for frame in packed[part]] for part in ('conditioning', 'recent')}
    return ObjectMemory(**{**packed, **lists})


def pack_row(row: ObjectRow) -> dict[str, Any]:
    """A row of the object table in the same form."""
    values = {part.name: _kept(getattr(row, part.name)) for part in fields(ObjectRow)}
    return {**values, 'memory': pack_memory(row.memory), 'decoded': [_kept(tensor) for tensor in row.decoded]}


def unpack_row(packed: dict[str, Any]) -> ObjectRow:
    """The inverse of :func:`pack_row`."""
    return ObjectRow(**{**packed, 'memory': unpack_memory(packed['memory']), 'decoded': Decoded(*packed['decoded'])})
