"""Which objects claim the same pixels of a frame, and what each of them gets."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from sam2.modeling.sam2_base import NO_OBJ_SCORE

from robust_pvos_ros.tracking.history import ObjectRow
from robust_pvos_ros.tracking.model import Decoded
from robust_pvos_ros.tracking.motion import GROWN, Motion, covers, has_taken, tell_apart
from robust_pvos_ros.tracking.presence import Evidence, evidence_of

ALIKE = 0.4
"""Size of the smaller of two objects over that of the larger from which on one may pass for the other."""
ABSENT = -10.0
"""Object score logit of an object that is denied what it claims."""


class Claim(NamedTuple):
    """An object's row as of an earlier frame, and its mask, batch 1, and evidence on this one."""

    row: ObjectRow
    decoded: Decoded
    evidence: Evidence


class Settled(NamedTuple):
    """What an object gets: its mask, and its track on the frame."""

    decoded: Decoded
    motion: Motion | None


def sharing(row: ObjectRow, others: Iterable[ObjectRow], threshold: float) -> frozenset[int]:
    """IDs of the objects whose masks overlap with that of ``row`` on its frame, so that both may have these pixels.

    Args:
        row: an object that was just prompted.
        others: the objects of the table.
        threshold: share of the smaller mask.
    """
    near = [other for other in others if other.mask_index == row.mask_index and other.object_id != row.object_id]
    evidence, shared = evidence_of([row.decoded, *(other.decoded for other in near)])
    claims = [Claim(*pair, one) for pair, one in zip([(r, r.decoded) for r in (row, *near)], evidence, strict=True)]
    overlapping = _overlapping(claims, shared, threshold)[0]
    return frozenset(claim.row.object_id for claim, flag in zip(claims[1:], overlapping[1:], strict=True) if flag)


def _may_contend(a: ObjectRow, b: ObjectRow) -> bool:
    if a.motion is None or b.motion is None or b.object_id in a.shares or a.object_id in b.shares:
        return False
    small, large = sorted((a.motion.area, b.motion.area))
    return small >= ALIKE * large


def _is_fresh(claim: Claim, stamp: int) -> bool:
    return claim.row.motion is not None and claim.row.motion.is_fresh(stamp)


def _overlapping(claims: Sequence[Claim], shared: np.ndarray, threshold: float) -> np.ndarray:
    """bool (N, N): which masks share more than ``threshold`` of the smaller one."""
    area = np.array([claim.evidence.cells.area for claim in claims])
    return shared > threshold * np.maximum(1, np.minimum(area[:, None], area))


def _is_odd(claim: Claim, stamp: int) -> bool:
    """Whether a mask is not where its track leads, or has grown: only then can it lie on the place of another one."""
    motion, cells = claim.row.motion, claim.evidence.cells
    if motion is None or not cells.area:
        return False
    return cells.area >= GROWN * motion.area or math.dist(cells.centre, motion.at(stamp).centre) > motion.radius


def _confused(a: Claim, b: Claim, stamp: int) -> bool:
    """Whether the mask of one lies on the place of the other."""
    for one, other in ((a, b), (b, a)):
        own, there, cells = one.row.motion, other.row.motion, one.evidence.cells
        if own is None or there is None:
            return False
        if has_taken(cells, own, there, stamp):
            return True
        if cells.area >= GROWN * own.area and covers(one.decoded.logits[0, 0].cpu().numpy(), there, stamp):
            return True
    return False


def settle(claims: Sequence[Claim], shared: np.ndarray, stamp: int, threshold: float) -> dict[int, Settled]:
    """Tell objects apart that claim the same pixels.

    An object that was not seen for a while does not come back on the pixels of one that is tracked.

    Args:
        claims: all objects on a frame.
        shared: (N, N) cells that two of their masks share.
        stamp: nanoseconds, of the frame.
        threshold: share of the smaller mask above which the same pixels are claimed.

    Returns:
        by place in ``claims``, what objects get that others contest; the rest keep what they have.
    """
    group, confused = list(range(len(claims))), set[int]()
    settled: dict[int, Settled] = {}
    overlapping, odd = _overlapping(claims, shared, threshold), np.array([_is_odd(one, stamp) for one in claims])
    for i, j in np.argwhere(np.tril(overlapping | odd[:, None] | odd, -1)).tolist():
        a, b = claims[i], claims[j]
        fresh = _is_fresh(a, stamp), _is_fresh(b, stamp)
        if not any(fresh) or not _may_contend(a.row, b.row):
            continue
        if not all(fresh):
            late = j if fresh[0] else i
            if overlapping[i, j]:
                settled[late] = Settled(_absent(claims[late].decoded), claims[late].row.motion)
            continue
        mixed = _confused(a, b, stamp)
        if overlapping[i, j] or mixed:
            group = [group[j] if number == group[i] else number for number in group]
        if mixed:
            confused |= {i, j}
    for number in set(group):
        places = [place for place, own in enumerate(group) if own == number and place not in settled]
        if len(places) > 1:
            settled.update(_share(places, claims, stamp, exchange=not confused.isdisjoint(places)))
    return settled


def _absent(decoded: Decoded) -> Decoded:
    score = torch.full_like(decoded.score, ABSENT)
    return decoded._replace(logits=torch.full_like(decoded.logits, NO_OBJ_SCORE), score=score)


def _share(places: Sequence[int], claims: Sequence[Claim], stamp: int, exchange: bool) -> dict[int, Settled]:
    motions = [motion for place in places if (motion := claims[place].row.motion) is not None]
    logits = [claims[place].decoded.logits[0, 0].cpu().numpy() for place in places]
    surest = torch.stack([claims[place].decoded.score for place in places]).amax(0)
    found = {}
    for place, share in zip(places, tell_apart(logits, motions, stamp, exchange)):
        decoded = claims[place].decoded
        part = torch.from_numpy(share.logits)[None, None].to(decoded.logits)
        # as sure as whoever took these pixels for its own
        score = surest if exchange else decoded.score
        found[place] = Settled(decoded._replace(logits=part, score=score), share.motion)
    return found
