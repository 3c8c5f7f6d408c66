"""The rendered street: repeatable, and its truth is the truth."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from robust_pvos_ros.procedural.street import StreetScene
from robust_pvos_ros.procedural.street_draw import Track

WIDTH, HEIGHT = 320, 240
RED_CAR, SECOND_RED_CAR, YELLOW_JACKET, BLUE_COAT, VAN = 1, 2, 4, 5, 8


@pytest.fixture(scope='module')
def scene() -> StreetScene:
    return StreetScene(WIDTH, HEIGHT, seed=0, prepare=False)


def area(labels: np.ndarray, object_id: int) -> int:
    return int(np.count_nonzero(labels == object_id))


def test_same_seed_same_pictures() -> None:
    width, height = 160, 120
    first, again, other = (StreetScene(width, height, seed, prepare=False) for seed in (0, 0, 1))
    again.frame(9.0)  # a frame depends on its time alone
    for time in (20.0, 3.0):
        rgb, labels = first.frame(time)
        assert (rgb.shape, rgb.dtype) == ((height, width, 3), np.uint8)
        assert (labels.shape, labels.dtype) == ((height, width), np.uint16)
        same_rgb, same_labels = again.frame(time)
        np.testing.assert_array_equal(rgb, same_rgb)
        np.testing.assert_array_equal(labels, same_labels)
        other_rgb, other_labels = other.frame(time)
        assert np.abs(rgb.astype(int) - other_rgb).mean() > 5
        # The script does not depend on the seed, so only dyes and houses change.
        assert np.mean(labels != other_labels) < 0.02


def test_objects_are_named_once_and_all_appear(scene: StreetScene) -> None:
    ids = [entry.id for entry in scene.objects]
    assert ids == sorted(set(ids))
    assert min(ids) >= 1
    assert len({entry.label for entry in scene.objects}) == len(ids)
    assert {entry.kind for entry in scene.objects} == {'car', 'van', 'pedestrian'}
    seen = {int(value) for time in np.arange(0, scene.duration, 1.5) for value in np.unique(scene.frame(time)[1])}
    assert seen == {0, *ids}


def test_masks_move_smoothly(scene: StreetScene) -> None:
    """An ID belongs to one thing: between two frames at 30 Hz its mask overlaps itself."""
    before = scene.frame(5.0)[1]
    for step in range(1, 45):
        labels = scene.frame(5.0 + step / 30)[1]
        for object_id in (RED_CAR, YELLOW_JACKET, BLUE_COAT, VAN):
            first, second = before == object_id, labels == object_id
            if min(first.sum(), second.sum()) > 300:
                assert np.count_nonzero(first & second) > 0.55 * np.count_nonzero(first | second), (object_id, step)
        before = labels


@pytest.mark.parametrize(
    'object_id, time, channel', [(RED_CAR, 5.0, 0), (SECOND_RED_CAR, 14.0, 0), (BLUE_COAT, 7.0, 2)]
)
def test_mask_and_picture_agree(scene: StreetScene, object_id: int, time: float, channel: int) -> None:
    """Inside the mask the object's colour prevails, in a ring around it not."""
    rgb, labels = scene.frame(time)
    mask = labels == object_id
    if object_id == BLUE_COAT:  # only the coat is blue
        rows = np.flatnonzero(mask.any(1))
        mask[rows[0] + len(rows) // 2:] = False
        mask[:rows[0] + len(rows) // 5] = False
    ring = cv2.dilate(mask.astype(np.uint8), np.ones((9, 9), np.uint8)).astype(bool) & (labels == 0)
    others = [index for index in range(3) if index != channel]

    def excess(where: np.ndarray) -> float:
        colours = rgb[where].astype(float)
        return float(np.median(colours[:, channel] - colours[:, others].max(1)))

    assert excess(mask) > 15
    assert excess(ring) < 15


def test_red_car_disappears_behind_the_van_and_comes_back(scene: StreetScene) -> None:
    areas = {time: area(scene.frame(time)[1], RED_CAR) for time in (13.0, 15.0, 16.0, 17.0, 20.0)}
    assert areas[13.0] > 2500 and areas[20.0] > 2500
    assert areas[15.0] < areas[13.0] / 2 and areas[17.0] < areas[20.0] / 2
    assert areas[16.0] < 10


def test_pedestrian_crosses_in_front_of_the_red_car(scene: StreetScene) -> None:
    labels = scene.frame(3.0)[1]
    rows, columns = np.nonzero(labels == RED_CAR)
    inside = labels[rows.min():rows.max(), columns.min():columns.max()]
    assert area(inside, BLUE_COAT) > 100


def test_look_alike_is_seen_beside_the_red_car(scene: StreetScene) -> None:
    rgb, labels = scene.frame(11.8)
    first, second = rgb[labels == RED_CAR].mean(0), rgb[labels == SECOND_RED_CAR].mean(0)
    assert min(area(labels, RED_CAR), area(labels, SECOND_RED_CAR)) > 1200
    assert np.abs(first - second).max() < 25
    for object_id in (RED_CAR, SECOND_RED_CAR):
        colours = rgb[labels == object_id].astype(int)
        assert np.median(colours[:, 0] - colours[:, 1:].max(1)) > 25


def test_rain_comes_in_the_last_third(scene: StreetScene) -> None:
    """Rain flickers from frame to frame where nothing moves, and takes light and contrast away."""
    def flicker(time: float) -> float:
        first, second = (scene.frame(time + delay)[0][: HEIGHT // 3].astype(int) for delay in (0.0, 0.1))
        return float(np.mean(np.abs(first - second) > 25))

    dry, wet = scene.frame(4.0)[0].astype(float), scene.frame(22.0)[0].astype(float)
    assert wet.mean() < 0.88 * dry.mean()
    assert wet.std() < 0.8 * dry.std()
    camera_moves_little = 21.2
    assert flicker(camera_moves_little) > 2 * flicker(0.3)


def test_time_outside_the_script_shows_its_ends(scene: StreetScene) -> None:
    np.testing.assert_array_equal(scene.frame(-3.0)[0], scene.frame(0.0)[0])
    np.testing.assert_array_equal(scene.frame(scene.duration + 9)[1], scene.frame(scene.duration)[1])


def test_too_small_a_picture_is_refused() -> None:
    with pytest.raises(ValueError, match='at least 64x48 pixels, got 32x24'):
        StreetScene(32, 24)


def test_track_passes_its_points_and_never_overshoots() -> None:
    track = Track(((0.0, 1.0), (1.0, 4.0), (3.0, 4.0), (4.0, -2.0)))
    for time, value in track.points:
        assert track(time) == pytest.approx(value)
    values = np.array([track(time) for time in np.linspace(-1, 5, 300)])
    assert values.max() <= 4.0 + 1e-9 and values.min() >= -2.0 - 1e-9
    assert track(2.0) == pytest.approx(4.0)
    assert track(-1.0) == 1.0 and track(9.0) == -2.0
    assert track.speed(2.0) == pytest.approx(0.0, abs=1e-6)
