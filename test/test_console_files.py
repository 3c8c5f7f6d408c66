"""The layouts for Foxglove and RViz, and the reference of the console's parameters."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from robust_pvos_ros import interface

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / 'config'
KNOWN = {topic.of('camera').replace('~', '/robust_pvos', 1) for topic in interface.TOPICS} | {'/camera/image_raw'}


def leaves(layout: Any) -> list[str]:
    """Panels of a Foxglove mosaic."""
    return [layout] if isinstance(layout, str) else leaves(layout['first']) + leaves(layout['second'])


def test_foxglove_shows_camera_overlay_and_masks_of_topics_that_exist() -> None:
    layout = json.loads((CONFIG / 'console.foxglove.json').read_text())
    panels = layout['configById']
    assert sorted(leaves(layout['layout'])) == sorted(panels)
    pictures = {panel['imageMode']['imageTopic'] for name, panel in panels.items() if name.startswith('Image!')}
    assert pictures == {'/camera/image_raw', '/robust_pvos/camera/overlay', '/robust_pvos/camera/label_image'}
    paths = [panel['topicPath'].partition('.')[0] for name, panel in panels.items() if name.startswith('RawMessages!')]
    paths += [panel['topicToRender'] for name, panel in panels.items() if name.startswith('DiagnosticSummary!')]
    assert len(paths) == 3 and {*paths, *pictures} <= KNOWN


def test_rviz_shows_camera_overlay_and_masks_of_topics_that_exist() -> None:
    displays = yaml.safe_load((CONFIG / 'robust_pvos.rviz').read_text())['Visualization Manager']['Displays']
    topics = {display['Name']: display['Topic']['Value'] for display in displays}
    assert topics.keys() == {'Camera', 'Overlay', 'Masks'}
    assert set(topics.values()) <= KNOWN
    assert all(display['Enabled'] for display in displays)


def test_the_reference_of_the_parameters_is_complete() -> None:
    pytest.importorskip('rclpy', reason='no ROS: rclpy is not installed')
    from robust_pvos_ros.console.parameters import console_specs

    text = (ROOT / 'docs' / 'console.md').read_text()
    rows = dict(re.findall(r'^\| `(\w+)` \| (\S+) \|', text, re.MULTILINE))
    expected = {spec.name: f'`{spec.default}`' if spec.default != '' else '(empty)' for spec in console_specs()}
    assert rows == expected


def test_a_console_makes_prompts_reach_back_for_seconds() -> None:
    (node, content), = yaml.safe_load((CONFIG / 'console.yaml').read_text()).items()
    assert node == '/**'
    assert content['ros__parameters']['history_frames'] > 15
