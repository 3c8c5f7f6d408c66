"""Parameters: one default each, described, bounded, and refused with a sentence."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import rclpy
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter

from robust_pvos_ros import reference
from robust_pvos_ros.node_parameters import NodeParameters
from robust_pvos_ros.parameters import (
    CHOICES,
    MAX_TEXT,
    CameraConfig,
    NodeConfig,
    ParameterError,
    camera_specs,
    node_specs,
)
from robust_pvos_ros.tracking import checkpoints, types
from robust_pvos_ros.tracking.types import ModelConfig, TrackerConfig

DOCUMENT = Path(__file__).resolve().parent.parent / 'docs' / 'interface.md'


class World:
    """A node with the parameters, as far as they are concerned."""

    def __init__(self, overrides: dict[str, Any]) -> None:
        self.context = Context()
        rclpy.init(context=self.context)
        self.node = Node(
            'parameters_under_test',
            context=self.context,
            parameter_overrides=[Parameter(name, value=value) for name, value in overrides.items()],
            automatically_declare_parameters_from_overrides=True,
        )
        self.configured = False
        self.changed: list[dict[str, Any]] = []
        self.parameters = NodeParameters(self.node, lambda: self.configured, self.changed.append)

    def set(self, **values: Any) -> str:
        """The reason of the refusal, or nothing."""
        found = [Parameter(name, value=value) for name, value in values.items()]
        result = self.parameters.set_atomically(found, self.node.set_parameters_atomically)
        return '' if result.successful else result.reason


@pytest.fixture
def world():
    worlds = []

    def create(**overrides: Any) -> World:
        worlds.append(World({name.replace('__', '.'): value for name, value in overrides.items()}))
        return worlds[-1]

    yield create
    for each in worlds:
        each.node.destroy_node()
        each.context.try_shutdown()


def test_every_field_of_the_configuration_is_a_described_and_bounded_parameter():
    specs = {spec.name: spec for spec in [*node_specs(), *camera_specs('front')]}
    names = [f.name for config in (NodeConfig, ModelConfig, TrackerConfig) for f in dataclasses.fields(config)]
    names += [f'front.{field.name}' for field in dataclasses.fields(CameraConfig)]
    assert sorted(specs) == sorted(names)
    for spec in specs.values():
        assert len(spec.description) > 10, spec.name
        assert spec.problem(spec.default) is None, spec.name
        if isinstance(spec.default, (int, float)) and not isinstance(spec.default, bool):
            assert spec.limits, f'{spec.name} has no range'


def test_choices_are_those_of_the_tracker():
    assert CHOICES['model'] == checkpoints.MODEL_NAMES
    assert CHOICES['memory_policy'] == types.MEMORY_POLICIES


def test_without_overrides_the_defaults_of_the_dataclasses_come_back(world):
    configuration = world().parameters.read()
    assert configuration.model == ModelConfig()
    assert configuration.tracker == TrackerConfig()
    assert configuration.node == NodeConfig()
    assert configuration.cameras == {'camera': CameraConfig(image_topic='camera/image_raw')}


def test_overrides_are_used_also_those_of_a_camera(world):
    given = {'cameras': ['front'], 'front__image_topic': '/front/image', 'max_objects': 3, 'device': 'cpu'}
    configuration = world(**given).parameters.read()
    assert configuration.cameras == {'front': CameraConfig(image_topic='/front/image')}
    assert configuration.tracker.max_objects == 3
    assert configuration.model.device == 'cpu'


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    'text for a number': ({'max_objects': 'many'}, "max_objects must be an integer from 1 to 64, got 'many'"),
    'float for a number': ({'max_objects': 3.5}, 'max_objects must be an integer from 1 to 64, got 3.5'),
    'bool for a number': ({'lost_after': True}, 'lost_after must be an integer from 1 to 100000, got true'),
    'too large': ({'threads': 1000}, 'threads must be an integer from 0 to 256, got 1000'),
    'too small': ({'queue_depth': 0}, 'queue_depth must be an integer from 1 to 1000, got 0'),
    'bare yes': ({'model': True}, 'got true (YAML reads an unquoted yes'),
    'unknown model': ({'model': 'huge'}, 'model must be one of compact, sam2.1_tiny'),
    'unknown policy': ({'time_jump_policy': 'shrug'}, 'must be one of remove_objects, keep'),
    'number for a text': ({'device': 0}, 'device must be a text, got 0'),
    'text for a bool': ({'autostart': 'maybe'}, "autostart must be true or false, got 'maybe'"),
    'text for a list': ({'cameras': 'camera'}, "a list of names such as [camera], got 'camera'"),
    'no camera': ({'cameras': []}, 'a list of 1 to 8 different names'),
    'nine cameras': ({'cameras': list('abcdefghi')}, 'a list of 1 to 8 different names'),
    'one camera twice': ({'cameras': ['a', 'a']}, 'a list of 1 to 8 different names'),
    'camera name': ({'cameras': ['1st']}, 'begin with a letter'),
    'numbers for names': ({'cameras': [1]}, 'a list of names such as [camera], got [1]'),
    'topic name': ({'camera__image_topic': 'no spaces please'}, 'camera.image_topic must be a topic name'),
    'transport': ({'camera__transport': 'theora'}, "transport must be one of raw, compressed, got 'theora'"),
    'detections topic': ({'camera__detections_topic': 'no spaces'}, 'camera.detections_topic must be a topic name'),
    'text for a float': ({'association_iou': 'half'}, "association_iou must be a number from 0.05 to 1.0, got 'half'"),
    'too large a float': ({'presence_margin': 0.6}, 'presence_margin must be a number from 0.0 to 0.5, got 0.6'),
    'no number': ({'silence_timeout': float('nan')}, 'silence_timeout must be a number from 0.1 to 3600.0, got nan'),
    'bool for a float': ({'forward_jump': True}, 'forward_jump must be a number from 0.05 to 86400.0, got true'),
    'unknown batching': ({'batch_cameras': 'maybe'}, 'batch_cameras must be one of auto, true, false'),
}


@pytest.mark.parametrize('case', WRONG)
def test_a_wrong_value_at_start_fails_reading_until_it_is_corrected(world, case):
    overrides, problem = WRONG[case]
    one = world(**overrides)
    with pytest.raises(ParameterError) as error:
        one.parameters.read()
    assert problem in str(error.value)
    (name,) = (name.replace('__', '.') for name in overrides)
    default = next(spec.default for spec in [*node_specs(), *camera_specs('camera')] if spec.name == name)
    if name == 'autostart':
        return
    assert one.set(**{name: default}) == ''
    one.parameters.read()


def test_all_problems_are_named_at_once(world):
    with pytest.raises(ParameterError) as error:
        world(max_objects=0, model='x').parameters.read()
    assert 'max_objects' in str(error.value) and 'model' in str(error.value)


@pytest.mark.parametrize('case', [case for case, (values, _) in WRONG.items() if 'autostart' not in values])
def test_a_wrong_value_at_run_time_is_refused_and_the_old_one_kept(world, case):
    values, _ = WRONG[case]
    one = world()
    before = one.parameters.read()
    assert one.set(**{name.replace('__', '.'): value for name, value in values.items()})
    assert one.parameters.read() == before


def test_a_corrected_camera_takes_its_overrides(world):
    one = world(cameras=['a', '2'], a__image_topic='/a/image')
    assert one.set(cameras=['a']) == ''
    assert one.parameters.read().cameras == {'a': CameraConfig(image_topic='/a/image')}


def test_parameters_of_a_camera_are_declared_as_long_as_it_is_listed(world):
    one = world(rear__transport='carrier pigeon', front__image_topic='/front/image')
    assert one.set(cameras=['front', 'rear']) == ''
    assert one.node.get_parameter('front.image_topic').value == '/front/image'
    assert one.set(**{'front.transport': 'compressed'}) == ''
    with pytest.raises(ParameterError, match=r"rear\.transport must be one of raw, compressed, got 'carrier pigeon'"):
        one.parameters.read()
    assert one.set(cameras=['front']) == '', 'what is wrong with a camera matters as long as it is listed'
    assert one.parameters.read().cameras == {'front': CameraConfig(image_topic='/front/image', transport='compressed')}
    assert not one.node.has_parameter('rear.transport') and not one.node.has_parameter('camera.image_topic')


def test_a_request_waits_while_the_parameters_are_read(world):
    one, refusals = world(), []
    request = threading.Thread(target=lambda: refusals.append(one.set(model='sam2.1_tiny')))
    with one.parameters.lock:
        configuration = one.parameters.read()
        request.start()
        request.join(0.2)
        assert request.is_alive()
        one.configured = True
    request.join(10)
    assert 'only while the node is unconfigured' in refusals[0]
    assert one.node.get_parameter('model').value == configuration.model.model


@pytest.mark.parametrize('values', [
    {'model': 'x' * 5000}, {'device': 'x' * 5000}, {'camera.image_topic': 'no spaces' * 1000},
    {'cameras': ['x' * 5000] * 300}, {'cameras': list(range(5000))}, {'max_objects': 'x' * 5000},
    {'max_objects': [0.5] * 5000},
])  # fmt: skip
def test_what_is_refused_is_echoed_in_part(world, values):
    reason = world().set(**values)
    assert reason and len(reason) < 1000 and '\n' not in reason


def test_a_text_may_be_as_long_as_a_path(world):
    assert world().set(checkpoint='x' * MAX_TEXT) == ''
    assert f'at most {MAX_TEXT} characters, got {MAX_TEXT + 1}' in world().set(checkpoint='x' * (MAX_TEXT + 1))


def test_once_configured_only_live_parameters_change_and_all_or_none(world):
    one = world()
    one.configured = True
    assert 'only while the node is unconfigured' in one.set(lost_after=3, model='sam2.1_tiny')
    assert one.parameters.read().tracker.lost_after == TrackerConfig().lost_after
    assert one.changed == []
    assert one.set(lost_after=3, max_objects=2) == ''
    assert one.changed == [{'lost_after': 3, 'max_objects': 2}]


def test_ranges_and_descriptions_can_be_read_by_tools(world):
    descriptor = world().node.describe_parameter('max_objects')
    assert (descriptor.integer_range[0].from_value, descriptor.integer_range[0].to_value) == (1, 64)
    assert descriptor.description == 'most objects in the table at once.'
    assert 'an integer from 1 to 64' in descriptor.additional_constraints


def test_ranges_of_numbers_can_be_read_too(world):
    descriptor = world().node.describe_parameter('association_iou')
    assert (descriptor.floating_point_range[0].from_value, descriptor.floating_point_range[0].to_value) == (0.05, 1.0)


def test_what_yaml_reads_as_another_type_is_taken(world):
    one = world(silence_timeout=3, batch_cameras=True)
    assert one.parameters.read().node.silence_timeout == 3.0
    assert one.parameters.read().node.batch_cameras == 'true'
    given = [Parameter('forward_jump', value=5), Parameter('batch_cameras', value=False), Parameter('threads', value=2)]
    given = one.parameters.coerced(given)
    assert one.node.set_parameters_atomically(given).successful
    assert one.parameters.read().node.forward_jump == 5.0
    assert one.parameters.read().node.batch_cameras == 'false'


def test_several_cameras_have_parameters_of_their_own(world):
    one = world(cameras=['front', 'rear'], rear__transport='compressed', rear__image_topic='/rear/image')
    assert one.parameters.read().cameras == {
        'front': CameraConfig(image_topic='front/image_raw'),
        'rear': CameraConfig(image_topic='/rear/image', transport='compressed'),
    }


def test_an_unknown_parameter_is_reported_with_the_nearest_name(world, capfd):
    world(max_object=3)
    assert 'max_object is unknown and ignored; did you mean max_objects?' in capfd.readouterr().err


def test_the_document_shows_the_tables_of_the_code():
    text = DOCUMENT.read_text(encoding='utf-8')
    assert text == reference.with_reference(text), (
        'docs/interface.md is not as the code: run python -m robust_pvos_ros.reference --write docs/interface.md'
    )


def test_the_tables_can_be_printed_and_written(tmp_path):
    command = [sys.executable, '-m', 'robust_pvos_ros.reference']
    printed = subprocess.run([*command, '--markdown'], capture_output=True, text=True, check=True).stdout
    for line in ('### Parameters', '| `max_objects` | `16` |', '| `~/add_object` |', '| `~/NAME/label_image` |'):
        assert line in printed
    document = tmp_path / 'document.md'
    marks = ('<!-- interface tables: begin; by a tool -->', '<!-- interface tables: end -->')
    document.write_text('a\n' + '\nstale\n'.join(marks) + '\nz\n', encoding='utf-8')
    subprocess.run([*command, '--write', str(document)], check=True)
    text = document.read_text(encoding='utf-8')
    assert printed.strip() in text
    assert text.startswith('a\n') and text.endswith('\nz\n') and 'stale' not in text
