"""Which objects claim the same pixels of a frame, and what each of them gets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from sam2.modeling.sam2_base import NO_OBJ_SCORE

from robust_pvos_ros.tracking.history import ObjectRow
from robust_pvos_ros.tracking.model import Decoded
from robust_pvos_ros.tracking.motion import GROWN, Motion, covers, has_taken, tell_apart
from robust_pvos_ros.tracking.presence import Evidence

GRACE = 500_000_000
"""Nanoseconds for which two objects are told apart after the last frame on which they claimed the same pixels."""
ALIKE = 0.4
"""Size of the smaller of two objects over that of the larger from which on one may pass for the other."""
ABSENT = -10.0
"""Object score logit of an object whose track leads to no pixel that anybody claims."""


class Claim(NamedTuple):
    """An object's row as of an earlier frame, and its mask, batch 1, and evidence on this one."""

    row: ObjectRow
    decoded: Decoded
    evidence: Evidence


class Settled(NamedTuple):
    """What an object gets: mask, track, and the stamps at which it last contested with others, by object ID."""

    decoded: Decoded
    motion: Motion | None
    rivals: dict[int, int]


def _may_contend(a: ObjectRow, b: ObjectRow) -> bool:
    if a.motion is None or b.motion is None or b.object_id in a.shares or a.object_id in b.shares:
        return False
    small, large = sorted((a.motion.area, b.motion.area))
    return small >= ALIKE * large


def _is_fresh(claim: Claim, stamp: int) -> bool:
    return claim.row.motion is not None and claim.row.motion.is_fresh(stamp)


def _overlap(a: Claim, b: Claim, shared: float, threshold: float) -> bool:
    return shared > threshold * max(1.0, min(a.evidence.cells.area, b.evidence.cells.area))


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
    """Tell objects apart that claim the same pixels, or did so half a second ago.

    An object that was not seen for a while does not come back on the pixels of one that is tracked.

    Args:
        claims: all objects on a frame.
        shared: (N, N) cells that two of their masks share.
        stamp: nanoseconds, of the frame.
        threshold: share of the smaller mask above which the same pixels are claimed.

    Returns:
        by place in ``claims``, what objects get that others contest; the rest keep what they have.
    """
    group = list(range(len(claims)))
    settled: dict[int, Settled] = {}
    rivals: list[dict[int, int]] = [
        {number: last for number, last in claim.row.rivals.items() if 0 <= stamp - last <= GRACE} for claim in claims
    ]
    for i, a in enumerate(claims):
        for j, b in enumerate(claims[:i]):
            if not _may_contend(a.row, b.row):
                continue
            overlap, fresh = _overlap(a, b, float(shared[i, j]), threshold), (_is_fresh(a, stamp), _is_fresh(b, stamp))
            if overlap and any(fresh) and not all(fresh):
                late = j if fresh[0] else i
                settled[late] = Settled(_absent(claims[late].decoded), claims[late].row.motion, rivals[late])
            elif all(fresh):
                if overlap or _confused(a, b, stamp):
                    rivals[i][b.row.object_id] = rivals[j][a.row.object_id] = stamp
                if b.row.object_id in rivals[i]:
                    group = [group[j] if number == group[i] else number for number in group]
    for number in set(group):
        places = [place for place, own in enumerate(group) if own == number and place not in settled]
        if len(places) > 1:
            settled.update(_share(places, claims, rivals, stamp))
    return settled


def _absent(decoded: Decoded) -> Decoded:
    score = torch.full_like(decoded.score, ABSENT)
    return decoded._replace(logits=torch.full_like(decoded.logits, NO_OBJ_SCORE), score=score)


def _share(
    places: Sequence[int], claims: Sequence[Claim], rivals: Sequence[dict[int, int]], stamp: int
) -> dict[int, Settled]:
    motions = [motion for place in places if (motion := claims[place].row.motion) is not None]
    logits = [claims[place].decoded.logits[0, 0].cpu().numpy() for place in places]
    surest = torch.stack([claims[place].decoded.score for place in places]).amax(0)
    found = {}
    for place, motion, share in zip(places, motions, tell_apart(logits, motions, stamp), strict=True):
        decoded = claims[place].decoded
        if share is None:
            found[place] = Settled(_absent(decoded), motion, rivals[place])
            continue
        # as sure as whoever took these pixels for its own
        part = torch.from_numpy(share.logits)[None, None].to(decoded.logits)
        found[place] = Settled(decoded._replace(logits=part, score=surest), share.motion, rivals[place])
    return found
