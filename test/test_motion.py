"""Tracks of masks, and pixels that several objects claim."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robust_pvos_ros.tracking.association import mask_iou
from robust_pvos_ros.tracking.contest import ABSENT, Claim, settle, sharing
from robust_pvos_ros.tracking.history import ObjectRow
from robust_pvos_ros.tracking.memory import ObjectMemory
from robust_pvos_ros.tracking.model import Decoded
from robust_pvos_ros.tracking.motion import Cells, Motion, has_taken, tell_apart, track_of
from robust_pvos_ros.tracking.presence import evidence_of

SIDE, RADIUS, STEP = 64, 8.0, 100_000_000


def disc(x: float, y: float, radius: float = RADIUS) -> np.ndarray:
    """Logits float32 (SIDE, SIDE), positive inside."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return (radius - np.hypot(columns - x, rows - y)).astype(np.float32)


def cells(logits: np.ndarray) -> Cells:
    rows, columns = np.nonzero(logits > 0)
    return Cells(float(len(rows)), (float(columns.mean()), float(rows.mean())))


def followed(places: list[tuple[float, float]]) -> Motion:
    """The track of a disc at these places, one every STEP."""
    first = disc(*places[0])
    motion = track_of(cells(first), torch.from_numpy(first), 0)
    for index, place in enumerate(places[1:], 1):
        logits = disc(*place)
        motion = motion.seen(cells(logits), torch.from_numpy(logits), index * STEP)
    return motion


def test_a_track_leads_on_the_way_that_the_object_went() -> None:
    motion = followed([(10 + 2 * index, 30 - index) for index in range(12)])
    assert motion.at(14 * STEP).centre == pytest.approx((38, 16), abs=1.5)
    assert motion.velocity == pytest.approx((20, -10), rel=0.15)
    assert motion.radius == pytest.approx(RADIUS, rel=0.05)


def test_a_track_ends_after_a_second_and_at_a_jump_back_in_time() -> None:
    motion = followed([(10 + 2 * index, 30) for index in range(6)])
    assert motion.is_fresh(motion.stamp + 10**9) and not motion.is_fresh(motion.stamp + 10**9 + 1)
    for stamp in (motion.stamp + 2 * 10**9, motion.stamp - STEP):
        late = motion.at(stamp)
        assert late.centre == motion.centre and late.velocity == (0.0, 0.0) and late.stamp == stamp
        assert motion.found((50.0, 5.0), stamp).centre == (50.0, 5.0)


def test_a_mask_that_is_cut_or_spread_neither_turns_the_track_nor_becomes_the_shape() -> None:
    motion = followed([(10 + 2 * index, 30) for index in range(8)])
    hidden, spread = disc(24, 30), disc(24, 30, 12)
    hidden[:, 20:] = -1
    for logits in (hidden, spread):
        after = motion.seen(cells(logits), torch.from_numpy(logits), 8 * STEP)
        assert after.shape is motion.shape and after.velocity == motion.velocity
        assert after.centre == motion.at(8 * STEP).centre
        assert after.area != motion.area, 'an object that stays larger or smaller must be believed in the end'


def test_an_object_that_comes_back_in_part_is_where_it_is_seen() -> None:
    motion, part = followed([(10 + 2 * index, 30) for index in range(8)]), disc(50, 30)
    part[:, :50] = -1
    after = motion.seen(cells(part), torch.from_numpy(part), motion.stamp + 3 * 10**9)
    assert after.centre == cells(part).centre and after.shape is motion.shape and after.velocity == (0.0, 0.0)


def test_a_shape_at_the_border_does_not_come_in_on_the_other_side() -> None:
    left, right = followed([(3.0, 30.0)] * 10), followed([(14.0, 30.0)] * 10)
    union = np.maximum(disc(1, 30), disc(12, 30))
    for share, x in zip(tell_apart([union, union], [left, right], 10 * STEP, exchange=False), (1, 12), strict=True):
        assert mask_iou(share.logits > 0, disc(x, 30) > 0) > 0.8 and not (share.logits[:, 40:] > 0).any()


def test_a_prompt_keeps_the_velocity_and_sets_the_rest() -> None:
    motion = followed([(10 + 2 * index, 30) for index in range(10)])
    logits = disc(31, 33, 5)
    after = track_of(cells(logits), torch.from_numpy(logits), 10 * STEP, motion)
    assert after.velocity[0] == pytest.approx(20, rel=0.3)
    assert after.centre == after.anchor == pytest.approx((31, 33), abs=0.1) and after.area == cells(logits).area
    assert track_of(cells(logits), torch.from_numpy(logits), 10**10, motion).velocity == (0.0, 0.0)


CROSSING = [(float(x), 30.0) for x in range(10, 30, 2)], [(float(x), 32.0) for x in range(54, 34, -2)]


def test_two_that_the_model_has_made_one_of_go_on_their_ways() -> None:
    motions = [followed(list(places)) for places in CROSSING]
    for index in range(10, 20):
        truth = [disc(10 + 2 * index, 30), disc(54 - 2 * index, 32)]
        union = np.maximum(*truth)  # both masks are the same: of both objects
        shares = tell_apart([union, union], motions, index * STEP, exchange=False)
        motions = [share.motion for share in shares]
        assert all(mask_iou(share.logits > 0, own > 0) > 0.8 for share, own in zip(shares, truth, strict=True))


def test_masks_that_have_traded_places_are_given_back() -> None:
    motions = [followed(list(places)) for places in CROSSING]
    own = [disc(30, 30), disc(34, 32)]
    apart = [disc(40, 30), disc(22, 32)]  # five steps on
    far = [motion.at(14 * STEP) for motion in motions]
    assert has_taken(cells(apart[1]), motions[0], motions[1], 15 * STEP)
    assert not has_taken(cells(own[0]), far[0], far[1], 10 * STEP)
    shares = tell_apart(apart[::-1], motions, 15 * STEP, exchange=True)
    assert all(mask_iou(share.logits > 0, mask > 0) > 0.8 for share, mask in zip(shares, apart, strict=True))


def test_tracks_are_no_guide_where_their_shapes_do_not_fit() -> None:
    motions = [followed(list(places)) for places in CROSSING]
    elsewhere = disc(32, 10, 4)
    assert tell_apart([elsewhere, elsewhere], motions, 10 * STEP, exchange=False) == []


# ------------------------------------------------------------------------------------------------------ rows of objects


def row(number: int, motion: Motion | None, shares: frozenset[int] = frozenset()) -> ObjectRow:
    nothing = torch.zeros(1, 0)
    blank = Decoded(torch.full((1, 1, SIDE, SIDE), -1.0), torch.zeros(1, 1), torch.zeros(1), torch.zeros(1, 4))
    made = ObjectRow(number, '', ObjectMemory(7, 16, 4), blank, 0, nothing, nothing, 0)
    made.motion, made.shares = motion, shares
    return made


def claim(of: ObjectRow, logits: np.ndarray, score: float = 5.0) -> Claim:
    decoded = of.decoded._replace(logits=torch.from_numpy(logits)[None, None], score=torch.tensor([[score]]))
    return Claim(of, decoded, evidence_of([decoded])[0][0])


def settled(claims: list[Claim], stamp: int = 10 * STEP) -> dict[int, np.ndarray]:
    _, shared = evidence_of([one.decoded for one in claims])
    return {place: got.decoded.logits[0, 0].numpy() > 0 for place, got in settle(claims, shared, stamp, 0.3).items()}


def meeting() -> tuple[np.ndarray, np.ndarray]:
    return disc(30, 30), disc(34, 32)


def test_only_objects_that_claim_the_same_pixels_are_told_apart() -> None:
    left, right = (followed(list(places)) for places in CROSSING)
    away = followed([(32.0, 55.0)] * 10)
    union = np.maximum(*meeting())
    found = settled([claim(row(1, left), union), claim(row(2, away), disc(32, 55)), claim(row(3, right), union)])
    assert sorted(found) == [0, 2]
    assert mask_iou(found[0], disc(30, 30) > 0) > 0.8 and mask_iou(found[2], disc(34, 32) > 0) > 0.8
    assert settled([claim(row(1, left), disc(20, 30)), claim(row(2, right), disc(44, 32))]) == {}


@pytest.mark.parametrize('shares', [frozenset({2}), frozenset()])
def test_objects_that_overlapped_when_they_were_prompted_may_overlap(shares: frozenset[int]) -> None:
    left, right = (followed(list(places)) for places in CROSSING)
    union = np.maximum(*meeting())
    found = settled([claim(row(1, left, shares), union), claim(row(2, right), union)])
    assert bool(found) != bool(shares)


def test_a_small_part_of_a_large_thing_is_no_look_alike() -> None:
    large, small = followed([(30.0, 30.0)] * 10), disc(30, 30, 3)
    part = track_of(cells(small), torch.from_numpy(small), 9 * STEP)
    assert settled([claim(row(1, large), disc(30, 30)), claim(row(2, part), small)]) == {}


def test_an_object_does_not_come_back_on_another_ones_pixels() -> None:
    seen, gone = followed([(30.0, 30.0)] * 10), followed([(50.0, 50.0)] * 10)
    late = 9 * STEP + 2 * 10**9
    seen = track_of(cells(disc(30, 30)), torch.from_numpy(disc(30, 30)), late - STEP)
    claims = [claim(row(1, gone), disc(31, 31)), claim(row(2, seen), disc(30, 30))]
    _, shared = evidence_of([one.decoded for one in claims])
    [(place, got)] = settle(claims, shared, late, 0.3).items()
    assert place == 0 and not bool((got.decoded.logits > 0).any()) and float(got.decoded.score) == ABSENT
    assert got.motion is gone


def test_an_object_whose_pixels_another_mask_took_in_gets_them_back() -> None:
    left, right = followed([(16.0, 30.0)] * 10), followed([(46.0, 30.0)] * 10)
    both = np.maximum(disc(16, 30), disc(46, 30))
    found = settle(
        claims := [claim(row(1, left), both), claim(row(2, right), np.full_like(both, -9), score=-9.0)],
        evidence_of([one.decoded for one in claims])[1],
        10 * STEP,
        0.3,
    )
    assert mask_iou(found[0].decoded.logits[0, 0].numpy() > 0, disc(16, 30) > 0) > 0.9
    assert mask_iou(found[1].decoded.logits[0, 0].numpy() > 0, disc(46, 30) > 0) > 0.9
    assert float(found[1].decoded.score) == 5.0


def test_who_shares_pixels_is_known_from_masks_of_one_frame() -> None:
    body, arm, far = row(1, None), row(2, None), row(3, None)
    body.decoded, arm.decoded = claim(body, disc(30, 30)).decoded, claim(arm, disc(30, 24, 4)).decoded
    far.decoded = claim(far, disc(50, 50)).decoded
    assert sharing(arm, [body, arm, far], 0.3) == {1}
    body.mask_index = 5  # of another frame
    assert sharing(arm, [body, arm, far], 0.3) == frozenset()
