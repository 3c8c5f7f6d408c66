"""The launch files, run for real where ROS's launch is installed."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
LAUNCH_FILES = sorted((ROOT / 'launch').glob('*.launch.py'))
PROFILE = 'FASTRTPS_DEFAULT_PROFILES_FILE'
RANGE, OLD_RANGE = 'ROS_AUTOMATIC_DISCOVERY_RANGE', 'ROS_LOCALHOST_ONLY'

if not (importlib.util.find_spec('launch_ros') and importlib.util.find_spec('rclpy')):
    pytest.skip('launch_ros is not installed: it comes with ROS 2 from apt, not from PyPI', allow_module_level=True)

# What `ros2 launch FILE ARGUMENT:=VALUE` does, for machines that have launch but not ros2cli.
LAUNCHER = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
arguments = [tuple(text.split(':=', 1)) for text in sys.argv[2:]]
included = IncludeLaunchDescription(PythonLaunchDescriptionSource(sys.argv[1]), launch_arguments=arguments)
service = LaunchService(noninteractive=True)
service.include_launch_description(LaunchDescription([included]))
sys.exit(service.run())
"""


def description_of(path: Path) -> Any:
    """The launch description that a file generates."""
    spec = importlib.util.spec_from_file_location(path.name.split('.')[0], path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.generate_launch_description()


@contextmanager
def launched(path: Path, log: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A running launch; it gets SIGINT at the end and must then end by itself."""
    command = [sys.executable, '-c', LAUNCHER, str(path), *arguments]
    with log.open('wb') as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise


def parameters_of(node_name: str, names: list[str], timeout: float = 60.0) -> list[Any]:
    """Values of a running node's parameters."""
    import rclpy
    from rcl_interfaces.srv import GetParameters
    from rclpy.parameter import parameter_value_to_python

    context = rclpy.Context()
    rclpy.init(context=context)
    try:
        node = rclpy.create_node('launch_test', context=context)
        executor = rclpy.executors.SingleThreadedExecutor(context=context)
        executor.add_node(node)
        client = node.create_client(GetParameters, f'{node_name}/get_parameters')
        assert client.wait_for_service(timeout), f'{node_name} did not appear within {timeout:.0f} s'
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            future = client.call_async(GetParameters.Request(names=names))
            executor.spin_until_future_complete(future, timeout_sec=5.0)
            if future.done():
                return [parameter_value_to_python(value) for value in future.result().values]
        raise AssertionError(f'{node_name} did not tell its parameters within {timeout:.0f} s')
    finally:
        context.shutdown()


@pytest.mark.parametrize('path', LAUNCH_FILES, ids=lambda path: path.name)
def test_every_argument_is_described(path: Path) -> None:
    arguments = description_of(path).get_launch_arguments()
    assert arguments
    for argument in arguments:
        assert argument.description != 'no description given', argument.name
        assert argument.default_value is not None, f'{argument.name} has no default'


@pytest.mark.parametrize('users, expected', [(None, 'fastdds_large.xml'), ('/etc/hosts', 'hosts')])
def test_dds_profile_is_set_unless_the_user_has_one(
    monkeypatch: pytest.MonkeyPatch, users: str | None, expected: str
) -> None:
    from launch import LaunchContext  # type: ignore[attr-defined]
    from launch.actions import SetEnvironmentVariable

    monkeypatch.delenv(PROFILE) if users is None else monkeypatch.setenv(PROFILE, users)
    context = LaunchContext()
    actions = [
        entity
        for entity in description_of(ROOT / 'launch' / 'segmentation.launch.py').entities
        if isinstance(entity, SetEnvironmentVariable)
    ]
    for action in actions:
        action.execute(context)
    profile = Path(context.environment[PROFILE])
    assert profile.name == expected
    assert profile.is_file()


@pytest.mark.parametrize('environment, given, expected', [
    ({}, None, 'LOCALHOST'),
    ({}, 'SUBNET', 'SUBNET'),
    ({RANGE: 'SUBNET'}, None, 'SUBNET'),
    ({RANGE: 'SUBNET'}, 'OFF', 'OFF'),
    ({OLD_RANGE: '0'}, None, None),
])  # fmt: skip
def test_nobody_beyond_the_machine_finds_the_node_unless_asked_for(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], given: str | None, expected: str | None
) -> None:
    from launch import LaunchContext  # type: ignore[attr-defined]
    from launch.actions import DeclareLaunchArgument
    from launch.utilities import perform_substitutions
    from launch_ros.actions import Node

    for name in (RANGE, OLD_RANGE):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    entities = description_of(ROOT / 'launch' / 'segmentation.launch.py').entities
    context = LaunchContext()
    if given is not None:
        context.launch_configurations['discovery_range'] = given
    for entity in entities:
        if isinstance(entity, DeclareLaunchArgument) and entity.name == 'discovery_range':
            entity.execute(context)
    [node] = [entity for entity in entities if isinstance(entity, Node)]
    added = {
        perform_substitutions(context, name): perform_substitutions(context, value)
        for name, value in node.process_description.additional_env or []
    }
    assert added == ({} if expected is None else {RANGE: expected})


def test_segmentation_takes_parameters_namespace_and_time(tmp_path: Path) -> None:
    overrides = tmp_path / 'overrides.yaml'
    overrides.write_text('/**:\n  ros__parameters:\n    lost_after: 7\n    autostart: false\n')
    log = tmp_path / 'log.txt'
    path = ROOT / 'launch' / 'segmentation.launch.py'
    with launched(path, log, f'params_file:={overrides}', 'namespace:=front', 'use_sim_time:=true') as process:
        values = parameters_of('/front/robust_pvos', ['lost_after', 'autostart', 'use_sim_time', 'camera.image_topic'])
    assert values == [7, False, True, 'camera/image_raw']
    assert process.returncode == 0, log.read_text()
    assert 'process has finished cleanly' in log.read_text()


def test_a_console_comes_along_and_lets_prompts_reach_back(tmp_path: Path) -> None:
    overrides = tmp_path / 'overrides.yaml'
    overrides.write_text('/watched/web_console:\n  ros__parameters:\n    port: 0\n')
    path, log = ROOT / 'launch' / 'segmentation.launch.py', tmp_path / 'log.txt'
    with launched(path, log, f'params_file:={overrides}', 'namespace:=watched', 'console:=true') as process:
        assert parameters_of('/watched/web_console', ['port', 'host']) == [0, '127.0.0.1']
        assert parameters_of('/watched/robust_pvos', ['history_frames']) == [90]
    assert process.returncode == 0, log.read_text()


def test_image_topic_is_remapped_from_the_default_of_the_node() -> None:
    from robust_pvos_ros.parameters import camera_specs

    arguments = description_of(ROOT / 'launch' / 'segmentation.launch.py').get_launch_arguments()
    given = {argument.name: argument.default_value for argument in arguments}
    topic = {spec.name: spec.default for spec in camera_specs('camera')}['camera.image_topic']
    assert ''.join(part.text for part in given['image_topic']) == topic


def test_image_topic_reaches_the_subscription(tmp_path: Path) -> None:
    import rclpy

    arguments = ('image_topic:=/front/image_raw', 'namespace:=mapped')
    context = rclpy.Context()
    with launched(ROOT / 'launch' / 'segmentation.launch.py', tmp_path / 'log.txt', *arguments):
        rclpy.init(context=context)
        try:
            node = rclpy.create_node('launch_test', context=context)
            end = time.monotonic() + 60
            while not node.get_subscriptions_info_by_topic('/front/image_raw') and time.monotonic() < end:
                time.sleep(0.1)
            names = [info.node_name for info in node.get_subscriptions_info_by_topic('/front/image_raw')]
        finally:
            context.shutdown()
    assert names == ['robust_pvos'], (tmp_path / 'log.txt').read_text()


def test_segmentation_runs_with_the_shipped_configuration(tmp_path: Path) -> None:
    from robust_pvos_ros.parameters import node_specs

    with launched(ROOT / 'launch' / 'segmentation.launch.py', tmp_path / 'log.txt', 'namespace:=plain'):
        shipped = parameters_of('/plain/robust_pvos', [spec.name for spec in node_specs()])
    assert shipped == [spec.default for spec in node_specs()]


@pytest.mark.slow
def test_demo_runs_on_a_video_and_records_it(tmp_path: Path) -> None:
    from rosbags.highlevel import AnyReader

    pictures = tmp_path / 'pictures'
    pictures.mkdir()
    ground = cv2.resize(
        np.random.default_rng(0).integers(60, 190, (12, 16, 3), np.uint8), (320, 240), interpolation=cv2.INTER_CUBIC
    )
    for index in range(40):
        picture = cv2.circle(ground.copy(), (60 + 4 * index, 120), 30, (30, 200, 240), -1)
        cv2.imwrite(str(pictures / f'{index:03}.png'), picture)
    log, bag = tmp_path / 'log.txt', tmp_path / 'bag'
    with launched(ROOT / 'launch' / 'demo.launch.py', log, f'video:={pictures}', f'bag:={bag}') as process:
        process.wait(120)
    assert process.returncode == 0, log.read_text()
    with AnyReader([bag]) as reader:
        counts = {connection.topic: connection.msgcount for connection in reader.connections}
    assert counts['/camera/image_raw'] == 40, log.read_text()
    assert counts['/robust_pvos/camera/objects'] > 0
    assert counts['/robust_pvos/prompts'] == 1
