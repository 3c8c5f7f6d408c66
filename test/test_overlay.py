"""The picture for people."""

from __future__ import annotations

import numpy as np
import pytest

from robust_pvos_ros.overlay import PALETTE, colour_of, describe, draw_overlay
from robust_pvos_ros.tracking.types import ObjectState, TrackedObject


def tracked(object_id: int, mask: np.ndarray, label: str = '', state=ObjectState.TRACKING) -> TrackedObject:
    ys, xs = np.nonzero(mask)
    box = (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1) if len(xs) else (0, 0, 0, 0)
    return TrackedObject(object_id, label, state, 0.9, 0.9, box, (0.0, 0.0), int(mask.sum()), 0 if len(xs) else 12, 0)


def square(height: int, width: int, y: int, x: int, side: int) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[y : y + side, x : x + side] = True
    return mask


def simulate_deuteranopia(rgb: tuple[int, int, int]) -> np.ndarray:
    """Viénot, Brettel and Mollon (1999), linear RGB of a viewer without green cones."""
    linear = (np.array(rgb) / 255) ** 2.2
    return np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]]) @ linear


def test_a_colour_belongs_to_an_id_and_its_neighbours_differ():
    assert colour_of(1) == colour_of(1 + len(PALETTE))
    for first in range(1, len(PALETTE) + 1):
        for see in (np.array, simulate_deuteranopia):
            difference = np.abs(see(colour_of(first)) - see(colour_of(first + 1))).max()
            assert difference > (60 if see is np.array else 0.1), (first, first + 1)


def test_the_mask_is_tinted_outlined_and_the_rest_untouched():
    rgb = np.full((240, 320, 3), 120, np.uint8)
    mask = square(240, 320, 100, 100, 80)
    bgr = draw_overlay(rgb, mask[None], [tracked(2, mask, 'car')])
    colour = np.array(colour_of(2)[::-1])
    assert (rgb == 120).all()
    assert np.abs(bgr[140, 140] - (0.55 * 120 + 0.45 * colour)).max() < 2
    assert np.abs(bgr[140, 100] - colour).max() < 30
    assert bgr[140, 98].max() < 40
    assert (bgr[195:, 195:] == 120).all()
    tag = bgr[78:100, 100:140].reshape(-1, 3)
    assert (tag == colour).all(1).mean() > 0.4
    assert (tag.max(1) < 40).any()


def test_objects_out_of_sight_are_listed_with_their_state():
    rgb = np.full((240, 320, 3), 120, np.uint8)
    nothing = np.zeros((240, 320), bool)
    objects = [tracked(1, nothing, 'bus', ObjectState.OCCLUDED), tracked(2, nothing, '', ObjectState.LOST)]
    assert [describe(entry) for entry in objects] == ['1 bus OCCLUDED 12', '2 LOST 12']
    bgr = draw_overlay(rgb, np.stack([nothing, nothing]), objects)
    for entry, row in zip(objects, (4, 30)):
        assert np.array_equal(bgr[row, 1], colour_of(entry.object_id)[::-1])
    assert (bgr[60:] == 120).all()


@pytest.mark.parametrize('size', [(1, 1), (2, 300), (300, 2), (16, 16), (1080, 1920)])
def test_any_size_and_label_can_be_drawn(size):
    mask = np.ones(size, bool)
    label = 'Fußgänger 行人 ' * 5
    bgr = draw_overlay(np.zeros((*size, 3), np.uint8), mask[None], [tracked(7, mask, label)])
    assert (bgr.shape, bgr.dtype) == ((*size, 3), np.uint8)


def test_an_empty_table_leaves_the_picture_as_it_is():
    rgb = np.random.default_rng(0).integers(0, 256, (12, 16, 3)).astype(np.uint8)
    assert np.array_equal(draw_overlay(rgb, np.zeros((0, 12, 16), bool), []), rgb[..., ::-1])
