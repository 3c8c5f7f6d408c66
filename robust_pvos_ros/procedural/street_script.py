"""Who is in the street scene and when they move: the script, as data.

Times are seconds from the start of the scene, positions metres (x along the street to the right, z away from the
camera).  Vehicles keep to their lane's axis; people may cross.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from robust_pvos_ros.procedural import street_car_models as cars
from robust_pvos_ros.procedural.street_draw import Colour, Track
from robust_pvos_ros.procedural.street_people import Look, palette

DURATION = 24.0
NEAR_AXIS, FAR_AXIS, NEAR_PARKING, FAR_PARKING = 11.0, 13.45, 8.75, 15.7
CAMERA_PATH = Track(((0, -0.4), (3, -0.2), (7, 0.6), (13, 3.2), (18, 5.6), (21, 6.35), (24, 6.5)))
RAIN = Track(((14.5, 0.0), (16.5, 0.45), (19.0, 1.0)))
CLOUDS = Track(((9.0, 0.0), (15.0, 0.85), (17.0, 1.0)))
LEFT, RIGHT = -1, 1
TOWARDS, TO_THE_LEFT, TO_THE_RIGHT = float(np.pi / 2), float(np.pi), 0.0
RED: Colour = (182, 26, 30)


@dataclass(frozen=True)
class SceneObject:
    """An object with a mask of its own.

    Attributes:
        id: value of its pixels in the truth image, stable over the whole scene.
        kind: ``car``, ``van`` or ``pedestrian``.
        label: unique text.
    """

    id: int
    kind: str
    label: str


@dataclass(frozen=True)
class Vehicle:
    """A vehicle on a lane: ``heading`` is RIGHT or LEFT, ``axis`` the distance of its centre line."""

    who: SceneObject
    model: cars.CarModel
    paint: Colour
    x: Track
    axis: float
    heading: int
    lights: bool = False


@dataclass(frozen=True)
class Walker:
    """A pedestrian; distance walked is |x - x0| + |z - z0|, so the tracks must be monotone."""

    who: SceneObject
    look: Look
    x: Track
    z: Track
    yaw: Track


@dataclass(frozen=True)
class Prop:
    """A thing that only stands in the way: ``kind`` tree, small_tree, lamp, bollard or sign."""

    kind: str
    x: float
    z: float


VEHICLES: tuple[Vehicle, ...] = (
    Vehicle(SceneObject(1, 'car', 'red car'), cars.HATCHBACK, RED,
            Track(((-1, -9.6), (0, -7.0), (1.2, -4.6), (2.3, -3.2), (3.3, -2.8), (9.3, -2.8), (10.4, -2.2), (12, 0.4),
                   (13.6, 3.4), (15, 5.4), (16.5, 7.2), (18, 9.2), (19.6, 10.2), (24, 10.4))), NEAR_AXIS, RIGHT, True),
    Vehicle(SceneObject(2, 'car', 'second red car'), cars.HATCHBACK, RED,
            Track(((8.2, 13.0), (10, 8.2), (11, 6.0), (13, 2.0), (14.2, 0.0), (17, -6.5))), FAR_AXIS, LEFT, True),
    Vehicle(SceneObject(3, 'car', 'blue car'), cars.SALOON, (46, 84, 150),
            Track(((-1, 11.5), (0, 7.4), (1, 3.4), (2, -0.8), (3, -5.2), (4.4, -11.5))), FAR_AXIS, LEFT),
    Vehicle(SceneObject(8, 'van', 'white van'), cars.VAN, (226, 228, 226), Track(((0, 6.4),)), NEAR_PARKING, RIGHT),
    Vehicle(SceneObject(9, 'car', 'green car'), cars.HATCHBACK, (52, 104, 72), Track(((0, -3.3),)), FAR_PARKING, LEFT),
    Vehicle(SceneObject(10, 'car', 'silver car'), cars.SALOON, (172, 176, 180), Track(((0, 8.6),)), FAR_PARKING, LEFT),
    Vehicle(SceneObject(11, 'car', 'yellow taxi'), cars.SALOON, (226, 176, 34),
            Track(((16, 20.0), (18.6, 13.4), (20.5, 9.4), (22.5, 5.2), (24, 2.4))), FAR_AXIS, LEFT, True),
)

WALKERS: tuple[Walker, ...] = (
    Walker(SceneObject(4, 'pedestrian', 'yellow jacket'),
           Look((232, 182, 44), (58, 60, 70), backpack=(44, 96, 88)),
           Track(((8.4, 1.25), (9.4, 0.75), (13.5, -4.2))), Track(((0, 17.6), (0.6, 17.2), (8.6, 7.2), (9.3, 6.95))),
           Track(((8.2, TOWARDS), (9.2, TO_THE_LEFT)))),
    Walker(SceneObject(5, 'pedestrian', 'blue coat'),
           Look((66, 108, 176), (112, 92, 74), hair=(128, 84, 48), long_hair=True),
           Track(((0, -4.6), (5, -0.6), (10, 2.7), (15, 5.6), (19, 7.1), (24, 8.4))), Track(((0, 6.35),)),
           Track(((0, TO_THE_RIGHT),))),
    Walker(SceneObject(6, 'pedestrian', 'grey suit'), Look((96, 98, 108), (62, 62, 70), hair=(60, 60, 62), height=1.84),
           Track(((0, 5.2), (24, -13.0))), Track(((0, 17.7),)), Track(((0, TO_THE_LEFT),))),
    Walker(SceneObject(7, 'pedestrian', 'pink umbrella'),
           Look((92, 124, 104), (60, 48, 62), skirt=True, long_hair=True, umbrella=(204, 52, 104), height=1.7),
           Track(((13.5, 12.6), (24, 1.0))), Track(((0, 6.9),)), Track(((0, TO_THE_LEFT),))),
)

PROPS: tuple[Prop, ...] = (
    Prop('tree', -2.9, 7.45), Prop('tree', 11.2, 7.45), Prop('lamp', 3.6, 7.5), Prop('sign', -0.35, 7.55),
    Prop('bollard', 2.75, 7.5), Prop('bollard', 8.9, 7.5), Prop('small_tree', -6.2, 16.95),
    Prop('small_tree', 4.6, 16.95), Prop('small_tree', 12.4, 16.95), Prop('sign', 3.0, 16.85),
)


def scene_objects() -> tuple[SceneObject, ...]:
    """Every object that has a mask, in ascending ID."""
    everyone = [vehicle.who for vehicle in VEHICLES] + [walker.who for walker in WALKERS]
    return tuple(sorted(everyone, key=lambda who: who.id))


def cast(rng: np.random.Generator) -> tuple[tuple[Vehicle, ...], tuple[Walker, ...]]:
    """Vehicles and walkers, with dyes and paints that vary a little with the seed; look-alikes stay alike."""
    shift = palette(rng, RED, 8.0)
    vehicles = tuple(
        replace(vehicle, paint=shift if vehicle.paint == RED else palette(rng, vehicle.paint)) for vehicle in VEHICLES
    )
    walkers = tuple(
        replace(walker, look=replace(walker.look, shirt=palette(rng, walker.look.shirt),
                                     trousers=palette(rng, walker.look.trousers)))
        for walker in WALKERS
    )
    return vehicles, walkers
