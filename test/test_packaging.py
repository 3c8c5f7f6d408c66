"""What gets installed: versions, entry points, data files, and comments on every field of every message."""

from __future__ import annotations

import ast
import importlib
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import yaml

import robust_pvos_ros

ROOT = Path(__file__).resolve().parent.parent
INTERFACES = sorted((ROOT / 'robust_pvos_interfaces').glob('msg/*.msg')) + sorted(
    (ROOT / 'robust_pvos_interfaces').glob('srv/*.srv')
)


@pytest.fixture(scope='module')
def metadata() -> dict[str, Any]:
    """What ``setup.py`` gives to ``setup``."""
    import setuptools

    given: dict[str, Any] = {}
    original = setuptools.setup
    setuptools.setup = lambda **arguments: given.update(arguments)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(ROOT)
            exec(compile((ROOT / 'setup.py').read_text(), 'setup.py', 'exec'), {'__name__': '__main__'})
    finally:
        setuptools.setup = original
    return given


def manifest(folder: Path) -> ElementTree.Element:
    return ElementTree.parse(folder / 'package.xml').getroot()


def test_versions_agree(metadata: dict[str, Any]) -> None:
    versions = {
        'setup.py': metadata['version'],
        'package.xml': manifest(ROOT).findtext('version'),
        'robust_pvos_interfaces/package.xml': manifest(ROOT / 'robust_pvos_interfaces').findtext('version'),
        '__init__.py': robust_pvos_ros.__version__,
    }
    assert len(set(versions.values())) == 1, versions


@pytest.mark.parametrize('key, tag', [('name', 'name'), ('license', 'license'), ('description', 'description')])
def test_setup_and_manifest_agree(metadata: dict[str, Any], key: str, tag: str) -> None:
    assert metadata[key] == manifest(ROOT).findtext(tag)


def test_every_entry_point_can_be_called(metadata: dict[str, Any]) -> None:
    pytest.importorskip('rclpy', reason='no ROS: rclpy is not installed')
    for line in metadata['entry_points']['console_scripts']:
        module, _, function = line.partition('=')[2].strip().partition(':')
        assert callable(getattr(importlib.import_module(module), function)), line


def test_scripts_are_installed_where_ros_looks() -> None:
    """``ros2 run`` and launch look into lib/PACKAGE of the installation prefix."""
    folder = Path(sys.prefix) / 'lib' / 'robust_pvos_ros'
    if not folder.is_dir():
        pytest.skip('robust_pvos_ros is not installed under the prefix of this Python')
    for name in ('segmentation_node', 'demo', 'demo_camera', 'demo_client', 'demo_recorder', 'pvos_bag', 'web_console'):
        assert (folder / name).is_file(), name


def test_packages_are_those_of_the_node_alone(metadata: dict[str, Any]) -> None:
    assert all(name.split('.')[0] == 'robust_pvos_ros' for name in metadata['packages'])
    folders = {path.parent for path in (ROOT / 'robust_pvos_ros').rglob('__init__.py')}
    assert set(metadata['packages']) == {'.'.join(folder.relative_to(ROOT).parts) for folder in folders}


def test_every_file_that_is_no_module_is_package_data(metadata: dict[str, Any]) -> None:
    installed = {
        path
        for package, patterns in metadata['package_data'].items()
        for pattern in patterns
        for path in (ROOT / Path(*package.split('.'))).glob(pattern)
    }
    present = {
        path
        for path in (ROOT / 'robust_pvos_ros').rglob('*')
        if path.is_file() and path.suffix not in ('.py', '.pyc') and not path.name.startswith('.')
    }
    assert not present - installed, sorted(str(path.relative_to(ROOT)) for path in present - installed)


def test_the_shipped_model_is_there() -> None:
    weights = ROOT / 'robust_pvos_ros' / 'tracking' / 'weights'
    assert (weights / 'MODEL_CARD.md').is_file()
    assert list(weights.glob('*.safetensors'))


def test_launch_files_configuration_and_manifest_are_installed(metadata: dict[str, Any]) -> None:
    files = {Path(name) for _, names in metadata['data_files'] for name in names}
    wanted = [ROOT / 'package.xml', ROOT / 'resource' / 'robust_pvos_ros']
    wanted += [path for folder in ('launch', 'config') for path in (ROOT / folder).iterdir() if path.is_file()]
    assert not {path.relative_to(ROOT) for path in wanted} - files


def test_every_ros_package_that_is_imported_is_declared() -> None:
    declared = {entry.text for tag in ('depend', 'exec_depend') for entry in manifest(ROOT).iter(tag)}
    imported = {
        name.split('.')[0]
        for tree in ('robust_pvos_ros', 'launch')
        for path in (ROOT / tree).rglob('*.py')
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ''])
    }
    of_ros = re.compile('_(msgs|srvs|interfaces)$|^(rclpy|launch|launch_ros|cv_bridge)$')
    ros = {name for name in imported if of_ros.search(name)}
    assert ros >= {'rclpy', 'sensor_msgs', 'robust_pvos_interfaces'}
    assert ros <= declared, ros - declared


@pytest.mark.parametrize('path', sorted((ROOT / 'config').glob('*.yaml')), ids=lambda path: path.name)
def test_configuration_is_of_the_form_ros_reads(path: Path) -> None:
    for node, content in yaml.safe_load(path.read_text()).items():
        assert set(content) == {'ros__parameters'}, f'{path.name}: {node}'


def test_dds_profile_is_well_formed() -> None:
    space = '{http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles}'
    root = ElementTree.parse(ROOT / 'config' / 'fastdds_large.xml').getroot()
    defined = {entry.text for entry in root.iter(f'{space}transport_id')}
    assert root.tag == f'{space}dds'
    assert defined == {'pvos_shared_memory', 'pvos_udp'}
    assert root.find(f'.//{space}participant').get('is_default_profile') == 'true'  # type: ignore[union-attr]


@pytest.mark.parametrize('path', INTERFACES, ids=lambda path: path.name)
def test_every_field_of_every_message_is_commented(path: Path) -> None:
    lines = [line.strip() for line in path.read_text().splitlines()]
    assert lines[0].startswith('# '), f'{path.name} does not begin with what it is for'
    constant = re.compile(r'^\S+\s+[A-Z][A-Z0-9_]*\s*=')
    fields = [line for line in lines if line and line != '---' and not line.startswith('#')]
    for line in fields:
        # Constants without a comment of their own must say everything with their name.
        assert '# ' in line or constant.match(line), f'{path.name}: "{line}" has no comment'


def test_every_message_is_generated() -> None:
    listed = set(re.findall(r'"((?:msg|srv)/\w+\.\w+)"', (ROOT / 'robust_pvos_interfaces/CMakeLists.txt').read_text()))
    assert listed == {f'{path.parent.name}/{path.name}' for path in INTERFACES}


def test_installed_messages_are_those_of_the_source() -> None:
    """A stale build of the interfaces fails here, by name, and not somewhere in a node."""
    pytest.importorskip('robust_pvos_interfaces', reason='robust_pvos_interfaces is not built')
    for path in INTERFACES:
        module = importlib.import_module(f'robust_pvos_interfaces.{path.parent.name}')
        if path.suffix != '.msg':
            assert hasattr(module, path.stem)
            continue
        fields = [
            match.group(1)
            for line in path.read_text().splitlines()
            if (match := re.match(r'^[\w/<>=\[\]]+\s+([a-z]\w*)\b(?!\s*=)', line.strip()))
        ]
        assert list(getattr(module, path.stem).get_fields_and_field_types()) == fields


def test_source_is_of_the_oldest_supported_python() -> None:
    """Humble runs Python 3.10."""
    for tree in ('robust_pvos_ros', 'launch'):
        for path in (ROOT / tree).rglob('*.py'):
            ast.parse(path.read_text(), feature_version=(3, 10))
