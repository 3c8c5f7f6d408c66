"""J, F and their conventions: hand-made cases, and the numbers of the DAVIS toolkit on masks drawn here."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from robust_pvos_ros.evaluation.davis import AnnotatedFrame
from robust_pvos_ros.evaluation.metrics import (
    EvaluationError,
    ObjectScore,
    Statistics,
    boundary_map,
    contour_accuracy,
    mean_score,
    region_similarity,
    scored_frames,
    statistics,
    swapped_ids,
)
from robust_pvos_ros.evaluation.protocol import evaluate_sequence

FIXTURE = Path(__file__).parent / 'fixtures' / 'davis_toolkit_scores.json'
SIZES = ((480, 854), (360, 480), (97, 131), (40, 33), (7, 5), (720, 1280))


def ellipse(shape: tuple[int, int], centre: tuple[int, int], axes: tuple[int, int]) -> np.ndarray:
    """bool (H, W) in whole-number arithmetic: the same on every machine."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    a, b = axes
    return (b * (x - centre[0])) ** 2 + (a * (y - centre[1])) ** 2 <= (a * b) ** 2


def test_swapped_ids_are_those_that_changed_places() -> None:
    truth = np.zeros((8, 12), np.uint16)
    truth[2:6, 1:4], truth[2:6, 5:8], truth[2:6, 9:12] = 1, 7, 300
    assert swapped_ids(truth, truth) == []
    assert swapped_ids(truth, np.zeros_like(truth)) == []
    exchanged = truth.copy()
    exchanged[truth == 1], exchanged[truth == 300] = 300, 1
    assert swapped_ids(truth, exchanged) == [(1, 300)]
    merged = truth.copy()
    merged[truth == 7] = 1  # one mask that covers both is no swap
    assert swapped_ids(truth, merged) == []
    wandered = np.zeros_like(truth)
    wandered[truth == 7] = 1  # one mask on the other object, which has none itself
    assert swapped_ids(truth, wandered) == []
    with pytest.raises(EvaluationError, match='shape'):
        swapped_ids(truth, truth[:4])


def draw_blob(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """A few ellipses, some cut out of the others, some across the border of the image."""
    mask = np.zeros(shape, bool)
    for _ in range(int(rng.integers(1, 6))):
        centre = int(rng.integers(0, shape[1])), int(rng.integers(0, shape[0]))
        axes = int(rng.integers(1, shape[1] // 3 + 2)), int(rng.integers(1, shape[0] // 3 + 2))
        part = ellipse(shape, centre, axes)
        mask = mask & ~part if rng.integers(0, 4) == 0 else mask | part
    return mask


def draw_pairs(seed: int = 0, count: int = 48) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
    """(truth, predicted, void): shifted, unrelated, speckled, empty and full masks of several sizes."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        shape = SIZES[number % len(SIZES)]
        truth = draw_blob(rng, shape)
        kind = number % 5
        if kind == 0:
            predicted = np.roll(truth, (int(rng.integers(-6, 7)), int(rng.integers(-6, 7))), (0, 1))
        elif kind == 1:
            predicted = truth ^ (rng.integers(0, 40, shape) == 0)
        elif kind == 2:
            predicted = draw_blob(rng, shape)
        elif kind == 3:
            predicted = truth | draw_blob(rng, shape)
        else:
            predicted = np.full(shape, bool(number % 2))
        if number % 11 == 10:
            truth = np.zeros(shape, bool)
        yield truth, predicted, draw_blob(rng, shape) if number % 3 == 2 else None


def draw_clip(length: int = 15, shape: tuple[int, int] = (120, 160)) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (T, H, W) true and predicted labels of three objects: one drifts off, one hides, one is never found."""
    truth, predicted = np.zeros((2, length, *shape), np.uint8)
    for t in range(length):
        truth[t][ellipse(shape, (30 + 6 * t, 40), (20, 14))] = 1
        predicted[t][ellipse(shape, (30 + 5 * t, 40 + t), (20, 14))] = 1
        if not 5 <= t < 8:
            truth[t][ellipse(shape, (120 - 3 * t, 85), (11, 18))] = 2
        predicted[t][ellipse(shape, (120 - 3 * t, 86), (12, 17))] = 2
        truth[t][ellipse(shape, (30, 95), (9, 9))] = 3
    return truth, predicted


def checksum(masks: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(masks).view(np.uint8).tobytes())


class Replay:
    """A segmenter that returns labels computed beforehand."""

    def __init__(self, labels: np.ndarray) -> None:
        self._labels = iter(labels)

    def step(self, rgb: np.ndarray, masks: object) -> np.ndarray:
        return next(self._labels)


def frames_of(labels: np.ndarray) -> list[AnnotatedFrame]:
    return [AnnotatedFrame(t, np.zeros((*frame.shape, 3), np.uint8), frame) for t, frame in enumerate(labels)]


@pytest.fixture(scope='module')
def toolkit() -> dict:
    return json.loads(FIXTURE.read_text(encoding='utf-8'))


def square(top: int, left: int, side: int = 20, shape: tuple[int, int] = (100, 120)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_pairs_score_as_in_the_toolkit(toolkit):
    pairs = list(draw_pairs())
    assert len(pairs) == len(toolkit['pairs'])
    for (truth, predicted, void), expected in zip(pairs, toolkit['pairs']):
        assert checksum(np.stack([truth, predicted])) == expected['checksum'], 'the generator draws other masks'
        assert region_similarity(truth, predicted, void) == pytest.approx(expected['J'], abs=1e-6)
        assert contour_accuracy(truth, predicted, void) == pytest.approx(expected['F'], abs=1e-6)


def test_fixture_covers_the_range(toolkit):
    for measure in ('J', 'F'):
        values = np.array([pair[measure] for pair in toolkit['pairs']])
        assert len(np.unique(values)) > 25
        assert values.min() == 0 and values.max() > 0.9


def test_clip_scores_as_in_the_toolkit(toolkit):
    truth, predicted = draw_clip()
    assert checksum(np.stack([truth, predicted])) == toolkit['clip']['checksum'], 'the generator draws other masks'
    score = evaluate_sequence('clip', frames_of(truth), {'method': Replay(predicted)})['method']
    assert [entry.object_id for entry in score.objects] == [1, 2, 3]
    for entry, expected in zip(score.objects, toolkit['clip']['objects']):
        for ours, name in ((entry.region, 'J'), (entry.contour, 'F')):
            assert [ours.mean, ours.recall, ours.decay] == pytest.approx(expected[name], abs=1e-6)
    assert score.mean.mean == pytest.approx(toolkit['clip']['J&F'], abs=1e-6)


def test_identical_masks_score_one():
    mask = square(10, 30)
    assert region_similarity(mask, mask) == 1
    assert contour_accuracy(mask, mask) == 1


def test_empty_masks():
    empty, mask = np.zeros((100, 120), bool), square(10, 30)
    assert region_similarity(empty, empty) == contour_accuracy(empty, empty) == 1
    for pair in ((empty, mask), (mask, empty)):
        assert region_similarity(*pair) == contour_accuracy(*pair) == 0


def test_region_of_a_shifted_square():
    assert region_similarity(square(10, 30), square(10, 40)) == pytest.approx(200 / 600)


def test_contour_within_and_beyond_the_tolerance():
    """On 100 x 120 pixels the tolerance is ceil(0.008 * 156.2) = 2 pixels."""
    truth = square(40, 40)
    assert contour_accuracy(truth, square(40, 42)) == 1
    # Of a ring of 80 pixels one side misses (21), and the opposite one but for two pixels at either end (15).
    assert contour_accuracy(truth, square(40, 43)) == pytest.approx(44 / 80)
    assert contour_accuracy(truth, square(40, 43), tolerance=3) == 1


def test_contour_of_a_square_by_hand():
    contour = boundary_map(square(1, 1, 2, (4, 4)).astype(np.uint8))
    assert contour.tolist() == [[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0]]


def test_image_border_is_no_contour():
    full = np.ones((20, 30), bool)
    assert not boundary_map(full.astype(np.uint8)).any()
    assert contour_accuracy(full, np.zeros((20, 30), bool)) == 1, 'neither has a contour'


def test_void_pixels_count_for_nothing():
    truth, predicted = square(10, 30), square(10, 30) | square(60, 70)
    assert region_similarity(truth, predicted) == pytest.approx(0.5)
    assert region_similarity(truth, predicted, void=square(60, 70)) == 1
    assert contour_accuracy(truth, predicted, void=square(60, 70)) == 1


def test_dtypes_and_views_agree():
    truth, predicted = square(10, 30), square(13, 33)
    expected = region_similarity(truth, predicted), contour_accuracy(truth, predicted)
    assert 0 < expected[0] < 1 and 0 < expected[1] < 1
    for convert in (lambda m: m.astype(np.uint8) * 255, lambda m: m.astype(float), lambda m: np.asfortranarray(m)):
        pair = convert(truth), convert(predicted)
        assert (region_similarity(*pair), contour_accuracy(*pair)) == expected
    wide = np.zeros((100, 240), bool)
    wide[:, ::2] = truth
    assert (region_similarity(wide[:, ::2], predicted), contour_accuracy(wide[:, ::2], predicted)) == expected


def test_different_shapes_are_refused():
    for metric in (region_similarity, contour_accuracy):
        with pytest.raises(EvaluationError, match=r'\(5, 6\).*\(5, 5\)'):
            metric(np.zeros((5, 5), bool), np.zeros((5, 6), bool))
        with pytest.raises(EvaluationError, match='void'):
            metric(np.zeros((5, 5), bool), np.zeros((5, 5), bool), np.zeros((5, 6), bool))
        with pytest.raises(EvaluationError, match=r'\(H, W\)'):
            metric(np.zeros((1, 5, 5), bool), np.zeros((1, 5, 5), bool))


def test_frames_that_count():
    assert list(scored_frames(5)) == [1, 2, 3]
    assert list(scored_frames(5, frames='after_first')) == [1, 2, 3, 4]
    assert list(scored_frames(5, first=2)) == [3]
    assert list(scored_frames(5, first=4)) == []
    with pytest.raises(EvaluationError, match='interior, after_first'):
        scored_frames(5, frames='all')  # type: ignore[arg-type]


def test_last_frame_counts_only_where_asked():
    truth, predicted = draw_clip()
    truth, predicted = truth.copy(), truth.copy()
    predicted[-1] = 0
    interior, after_first = (
        evaluate_sequence('clip', frames_of(truth), {'m': Replay(predicted)}, convention)['m'].objects[0]
        for convention in ('interior', 'after_first')
    )
    assert (interior.frames, interior.region.mean) == (13, 1)
    assert (after_first.frames, after_first.region.mean) == (14, pytest.approx(13 / 14))


def test_object_that_enters_later_is_given_once_and_scored_from_the_next_frame():
    truth = np.zeros((6, 40, 40), np.uint8)
    truth[:, :10, :10] = 1
    truth[3:, 20:30, 20:30] = 7
    given: list[dict[int, np.ndarray]] = []

    class Forgetful:
        def step(self, rgb, masks):
            given.append(dict(masks))
            labels = np.zeros((40, 40), np.uint16)
            labels[:10, :10] = 1
            return labels

    score = evaluate_sequence('late', frames_of(truth), {'m': Forgetful()}, 'after_first')['m']
    assert [sorted(masks) for masks in given] == [[1], [], [], [7], [], []]
    assert given[3][7].sum() == 100
    first, late = score.objects
    assert (first.frames, first.mean) == (5, 1)
    assert (late.object_id, late.frames, late.mean) == (7, 2, 0)
    assert score.mean.mean == 0.5


def test_statistics_by_hand():
    scores = statistics([1, 1, 1, 1, 0.5, 0.25, 0, 0])
    assert scores.mean == pytest.approx(4.75 / 8)
    assert scores.recall == pytest.approx(0.5)
    assert scores.decay == pytest.approx(1 - 0.25 / 3)
    assert math.isnan(statistics([]).mean)


def test_mean_weighs_objects_alike_and_leaves_out_unscored_ones():
    def entry(region: float, contour: float, frames: int) -> ObjectScore:
        return ObjectScore(1, Statistics(region, 0, 0), Statistics(contour, 0, 0), frames)

    mean = mean_score([entry(1.0, 0.5, 10), entry(0.5, 0.5, 90), entry(math.nan, math.nan, 0)])
    assert (mean.region, mean.contour, mean.mean) == pytest.approx((0.75, 0.5, 0.625))
    assert math.isnan(mean_score([]).mean)


def test_labels_of_a_wrong_size_are_refused():
    truth, predicted = draw_clip()
    with pytest.raises(EvaluationError, match='method returned'):
        evaluate_sequence('clip', frames_of(truth), {'method': Replay(predicted[:, 1:])})
    with pytest.raises(EvaluationError, match='no frames'):
        evaluate_sequence('clip', [], {'method': Replay(predicted)})
