"""What cameras of a bag are called: as in the node whose messages lie beside their images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bag_files import messages, picture, stamp_at, truth

from robust_pvos_ros.bags.definitions import IMAGE, PROMPT, BagError, interface_typestore, message_types
from robust_pvos_ros.bags.frames import find_cameras
from robust_pvos_ros.bags.reader import BagReader
from robust_pvos_ros.bags.replay import RunOptions, run_bag
from robust_pvos_ros.bags.runner import DIAGNOSTICS
from robust_pvos_ros.bags.writer import BagWriter
from robust_pvos_ros.message_core import make_header, make_prompt
from robust_pvos_ros.tracking.model import Sam2Model
from robust_pvos_ros.tracking.types import Prompt

pytest_plugins = ('bag_fixtures',)

FRONT, REAR = '/front/image_raw', '/rear/image_raw'
PROMPTS = '/robust_pvos/prompts'


def diagnostics(values: Sequence[Mapping[str, str]]) -> Any:
    types = interface_typestore().types
    pair, status = types['diagnostic_msgs/msg/KeyValue'], types['diagnostic_msgs/msg/DiagnosticStatus']
    listed = [
        status(0, 'somebody', '', '', [pair(key=key, value=value) for key, value in one.items()]) for one in values
    ]
    return types[DIAGNOSTICS](header=make_header(message_types(), stamp_at(0), ''), status=listed)


def write_drive(
    bag: Path, topics: Sequence[str], asked: Sequence[str] = (), said: Sequence[Mapping[str, str]] = (),
    truths: Sequence[str] = (),
) -> Path:  # fmt: skip
    """Three frames on each of ``topics``, a prompt for each camera in ``asked``, and diagnostics that hold ``said``."""
    types = message_types()
    with BagWriter(bag) as writer:
        if said:
            writer.write_message('/diagnostics', DIAGNOSTICS, stamp_at(0), diagnostics(said))
        for index in range(3):
            for topic in topics:
                writer.write(topic, IMAGE, stamp_at(index), picture(index))
            for topic in truths:
                writer.write(topic, IMAGE, stamp_at(index), truth(index))
        for number, camera in enumerate(asked, 1):
            prompt = Prompt(box=np.array([2, 4, 22, 24], np.float32))
            message = make_prompt(types, prompt, make_header(types, stamp_at(0), 'frame'), camera, number)
            writer.write_message(PROMPTS, PROMPT, stamp_at(0) + 1, message)
    return bag


def names(bag: Path, chosen: Sequence[str] = ()) -> dict[str, str]:
    with BagReader(bag) as reader:
        return {camera.topic: camera.name for camera in find_cameras(reader, chosen)}


def test_one_camera_is_called_as_its_prompts_call_it(tmp_path: Path) -> None:
    bag = write_drive(tmp_path / 'bag', [FRONT], ['camera', 'camera'])
    assert names(bag) == {FRONT: 'camera'}
    assert names(bag, [f'eye={FRONT}']) == {FRONT: 'eye'}
    assert names(write_drive(tmp_path / 'two', [FRONT], ['camera', 'other'])) == {FRONT: 'front'}
    assert names(write_drive(tmp_path / 'none', [FRONT])) == {FRONT: 'front'}


def test_the_diagnostics_say_which_camera_is_which(tmp_path: Path) -> None:
    other = {'camera': 'engine', 'temperature': '90'}
    said = [other, {'camera': 'a', 'image_topic': f'{REAR}/compressed'}, {'camera': 'b', 'image_topic': FRONT}]
    bag = write_drive(tmp_path / 'bag', [FRONT, REAR], ['a', 'b'], said)
    assert names(bag) == {FRONT: 'b', REAR: 'a'}
    assert names(bag, [FRONT]) == {FRONT: 'b'}


def test_a_name_on_which_two_nodes_differ_is_not_taken(tmp_path: Path) -> None:
    said = [{'camera': name, 'image_topic': FRONT} for name in ('a', 'b')]
    assert names(write_drive(tmp_path / 'bag', [FRONT], ['a'], said)) == {FRONT: 'front'}


def test_a_drive_on_any_topic_runs_again_from_its_prompts(
    model: Sam2Model, options: RunOptions, tmp_path: Path
) -> None:
    """The default camera of the node is called ``camera``, whatever topic it reads."""
    bag = write_drive(tmp_path / 'drive', [FRONT], ['camera'])
    run_bag(bag, tmp_path / 'out', model, replace(options, prompts_from_truth=''), quiet=True)
    listed = messages(tmp_path / 'out', '/robust_pvos/camera/objects')
    assert [[tracked.id for tracked in message.objects] for message in listed] == [[1]] * 3


def test_truth_under_the_name_of_the_topic_is_found_and_kept(
    model: Sam2Model, options: RunOptions, tmp_path: Path
) -> None:
    bag = write_drive(tmp_path / 'drive', [FRONT], ['camera'], truths=['/front/truth'])
    run_bag(bag, tmp_path / 'out', model, options, quiet=True)
    kept, given = messages(tmp_path / 'out', '/camera/truth'), messages(bag, '/front/truth')
    assert [np.asarray(m.data).tobytes() for m in kept] == [np.asarray(m.data).tobytes() for m in given]


def test_prompts_of_a_camera_that_is_not_there_are_named(
    model: Sam2Model, options: RunOptions, tmp_path: Path
) -> None:
    bag = write_drive(tmp_path / 'drive', [FRONT, REAR], ['camera'])
    with pytest.raises(BagError, match=r'camera camera has no image here.* front, rear; name it with --camera camera='):
        run_bag(bag, tmp_path / 'out', model, replace(options, prompts_from_truth=''), quiet=True)
    assert not (tmp_path / 'out').exists()
