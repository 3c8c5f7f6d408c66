"""Names that the processes of the demo share."""

from __future__ import annotations

from robust_pvos_ros import interface

CAMERA = 'camera'
IMAGE = '/' + interface.IMAGE.of(CAMERA)
TRUTH = f'/{CAMERA}/truth'  # sensor_msgs/Image 16UC1 with the header of its image; the street scene alone has it


def absolute(name: str) -> str:
    """Full name of one of the node's private topics or services for the demo's camera."""
    return interface.resolved(name.replace('NAME', CAMERA))


OBJECTS = absolute(interface.OBJECTS.name)
LABELS = absolute(interface.LABEL_IMAGE.name)
PROMPTS = absolute(interface.PROMPTS.name)
DECISIONS = absolute(interface.DECISIONS.name)
DIAGNOSTICS = interface.DIAGNOSTICS.name
