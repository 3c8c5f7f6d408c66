"""The state of a tracker as plain tensors and numbers, so that a killed run can go on where it was."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from torch import Tensor

from robust_pvos_ros.tracking.history import ObjectRow
from robust_pvos_ros.tracking.memory import MemoryFrame, ObjectMemory
from robust_pvos_ros.tracking.model import Decoded
from robust_pvos_ros.tracking.motion import Motion
from robust_pvos_ros.tracking.pieces import Waypoint
from robust_pvos_ros.tracking.recovery import Sighting, Whole

Kept = dict[int, Tensor]
"""Copies by ``id`` of the tensor: what several memories of an object share is in the file once."""


def _kept(value: Any, copies: Kept) -> Any:
    """A tensor of its own: a view would drag the batch that it was cut from into the file."""
    if not isinstance(value, Tensor):
        return value
    if id(value) not in copies:
        copies[id(value)] = value.clone()
    return copies[id(value)]


def pack_memory(memory: ObjectMemory, copies: Kept) -> dict[str, Any]:
    """Dictionaries, lists, numbers and tensors, as ``torch.load(weights_only=True)`` reads them."""
    packed = {entry.name: getattr(memory, entry.name) for entry in fields(ObjectMemory)}
    for part in ('conditioning', 'recent'):
        packed[part] = [
            {entry.name: _kept(getattr(frame, entry.name), copies) for entry in fields(MemoryFrame)}
            for frame in packed[part]
        ]
    return packed


def unpack_memory(packed: dict[str, Any]) -> ObjectMemory:
    """The inverse of :func:`pack_memory`."""
    lists = {part: [MemoryFrame(**frame) for frame in packed[part]] for part in ('conditioning', 'recent')}
    return ObjectMemory(**{**packed, **lists})


def _pack_motion(motion: Motion | None, copies: Kept) -> list[Any] | None:
    return None if motion is None else [_kept(getattr(motion, part.name), copies) for part in fields(Motion)]


def pack_row(row: ObjectRow) -> dict[str, Any]:
    """A row of the object table in the same form."""
    copies: Kept = {}
    values = {part.name: _kept(getattr(row, part.name), copies) for part in fields(ObjectRow)}
    return {
        **values,
        'memory': pack_memory(row.memory, copies),
        'decoded': [_kept(tensor, copies) for tensor in row.decoded],
        'motion': _pack_motion(row.motion, copies),
        'trail': [[_pack_motion(point.motion, copies), point.spread] for point in row.trail],
        'whole': row.whole and [pack_memory(row.whole.memory, copies), row.whole.area],
        'keepsake': row.keepsake and pack_memory(row.keepsake, copies),
        'sighting': row.sighting and [_kept(part, copies) for part in row.sighting],
        'shares': sorted(row.shares),
    }


def unpack_row(packed: dict[str, Any]) -> ObjectRow:
    """The inverse of :func:`pack_row`; what an older file lacks begins anew."""
    known = {
        'memory': unpack_memory(packed['memory']),
        'decoded': Decoded(*packed['decoded']),
        'motion': Motion(*packed['motion']) if packed.get('motion') else None,
        'trail': tuple(Waypoint(Motion(*motion), spread) for motion, spread in packed.get('trail', ())),
        'whole': Whole(unpack_memory(packed['whole'][0]), packed['whole'][1]) if packed.get('whole') else None,
        'keepsake': unpack_memory(packed['keepsake']) if packed.get('keepsake') else None,
        'sighting': Sighting(*packed['sighting']) if packed.get('sighting') else None,
        'shares': frozenset(packed.get('shares', ())),
    }
    return ObjectRow(**{**packed, **known})
