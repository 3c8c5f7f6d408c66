"""What the client does in the street scene, and when.  No ROS."""

from __future__ import annotations

from dataclasses import dataclass

from robust_pvos_ros.procedural.street_script import scene_objects


@dataclass(frozen=True)
class Action:
    """One request of the client.

    Attributes:
        time: seconds of the scene; it waits longer if the object is hidden.
        verb: ``add``, ``refine`` or ``remove``.
        label: of the object, as the scene calls it.
        how: of a new object: ``point``, ``points``, ``box`` or ``mask``.
    """

    time: float
    verb: str
    label: str
    how: str = ''


PLAN = (
    Action(2.4, 'add', 'red car', 'box'),
    Action(4.0, 'add', 'yellow jacket', 'mask'),
    Action(6.0, 'add', 'blue coat', 'points'),
    Action(7.5, 'refine', 'blue coat'),
    Action(11.8, 'add', 'second red car', 'box'),
    Action(12.4, 'add', 'white van', 'box'),
    Action(13.0, 'remove', 'yellow jacket'),
)

# Seconds of the scene that the contact sheet shows: prompts, the look-alike's pass, the red car behind the van, rain.
SHEET_TIMES = (1.0, 3.0, 5.0, 7.8, 10.0, 12.7, 14.2, 16.0, 17.4, 19.5, 21.8, 24.0)


def truth_ids() -> dict[str, int]:
    """Label -> ID in the truth image, for every object of the scene."""
    return {scene_object.label: scene_object.id for scene_object in scene_objects()}
