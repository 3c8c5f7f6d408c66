"""Who may import whom: the rules of the rooms, read off the source and tried with ROS blocked."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = 'robust_pvos_ros'
TREES = (PACKAGE, 'training', 'benchmarks')

# Room -> what it may import of the project.  A room is a folder or a module; the longest name that fits counts.
ALLOWED: dict[str, set[str]] = {
    f'{PACKAGE}.tracking': {f'{PACKAGE}.tracking'},
    f'{PACKAGE}.corruption': {f'{PACKAGE}.corruption'},
    f'{PACKAGE}.procedural': {f'{PACKAGE}.procedural'},
    f'{PACKAGE}.export': {f'{PACKAGE}.{room}' for room in ('export', 'tracking', 'corruption', 'procedural')},
    f'{PACKAGE}.evaluation': {f'{PACKAGE}.{room}' for room in ('evaluation', 'tracking', 'corruption', 'procedural')},
    'training': {'training', *(f'{PACKAGE}.{room}' for room in ('tracking', 'corruption', 'procedural'))},
    f'{PACKAGE}.bags': {
        f'{PACKAGE}.{room}'
        for room in (
            'bags', 'tracking', 'corruption', 'evaluation', 'image_codec', 'interface', 'message_core', 'overlay',
            'video_file',
        )
    },
    # what listens and talks is loaded when it is asked for
    f'{PACKAGE}.bags.cli': {
        f'{PACKAGE}.{room}' for room in ('bags', 'live', 'tracking', 'corruption', 'evaluation', 'interface')
    },
    f'{PACKAGE}.live': {
        f'{PACKAGE}.{room}'
        for room in (
            'live', 'bags', 'corruption', 'interface', 'message_core', 'messages', 'node_process', 'stop_signal',
            'tracking.types',
        )
    },
    # it reaches the node by topics and services alone
    f'{PACKAGE}.console': {
        f'{PACKAGE}.{room}'
        for room in (
            'console', 'bags.places', 'image_codec', 'interface', 'message_core', 'messages', 'node_process', 'overlay',
            'parameters', 'stop_signal', 'tracking.types',
        )
    },
    f'{PACKAGE}.video_file': {f'{PACKAGE}.tracking.types'},
    'training.evaluate': {'training', 'benchmarks', f'{PACKAGE}.evaluation'},  # scores as the benchmark does
    f'{PACKAGE}.messages': {f'{PACKAGE}.tracking.types', f'{PACKAGE}.message_core'},
    f'{PACKAGE}.message_core': {f'{PACKAGE}.tracking.types', f'{PACKAGE}.image_codec'},
    f'{PACKAGE}.parameters': {f'{PACKAGE}.tracking.types', f'{PACKAGE}.interface'},
    f'{PACKAGE}.reference': {f'{PACKAGE}.parameters', f'{PACKAGE}.interface', f'{PACKAGE}.image_codec'},
    f'{PACKAGE}.image_codec': {f'{PACKAGE}.tracking.types'},
    f'{PACKAGE}.interface': set(),
    f'{PACKAGE}.relief': {f'{PACKAGE}.tracking', f'{PACKAGE}.export'},
    f'{PACKAGE}.worker': {f'{PACKAGE}.tracking.types'},
    f'{PACKAGE}.detections': {f'{PACKAGE}.tracking.types'},
    f'{PACKAGE}.throttle': set(),
    f'{PACKAGE}.camera_watch': {f'{PACKAGE}.{room}' for room in ('diagnostics', 'throttle', 'tracking.types')},
}
# The node, its parts and its neighbours: the only places where ROS may appear.  A benchmark of the node is its client.
ROS_ROOMS = (
    'benchmarks.node',
    *(f'{PACKAGE}.node_{part}' for part in (
        'camera', 'main', 'output', 'parameters', 'process', 'prompts', 'report', 'services',
    )),
    *(f'{PACKAGE}.{part}' for part in (
        'segmentation_node', 'messages', 'parameter_services', 'parameters', 'reference', 'live', 'demo',
    )),
    *(f'{PACKAGE}.console.{part}' for part in ('feed', 'main', 'node', 'parameters')),
)
ROS_PACKAGES = {
    'ament_index_python', 'builtin_interfaces', 'cv_bridge', 'launch', 'launch_ros', 'message_filters',
    'rcl_interfaces', 'rclpy', 'robust_pvos_interfaces', 'rosbag2_py', 'rosidl_runtime_py', 'std_srvs', 'tf2_ros',
}
LAZY_PACKAGES = {'onnx', 'onnxruntime', 'pycuda', 'tensorrt', 'tensorrt_rtx'}


class Import(NamedTuple):
    """One imported name; ``lazy`` inside a function."""

    module: str
    line: int
    lazy: bool


def imports_of(source: str, module: str, is_package: bool = False) -> list[Import]:
    """Every module that ``source`` imports anywhere, ``from a import b`` as ``a`` and as ``a.b``."""
    tree = ast.parse(source)
    inside_functions = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.walk(node)
    }
    return [
        Import(name, getattr(node, 'lineno', 0), id(node) in inside_functions)
        for node in ast.walk(tree)
        for name in _names_imported_by(node, module, is_package)
    ]


def _names_imported_by(node: ast.AST, module: str, is_package: bool) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ''
        if node.level:
            parents = module.split('.')
            kept = parents[: len(parents) - node.level + is_package]
            base = '.'.join([*kept, *([base] if base else [])])
        yield base
        yield from (f'{base}.{alias.name}' for alias in node.names)
    elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, 'id', '')
        if called in ('import_module', '__import__') and isinstance(node.args[0].value, str):
            yield node.args[0].value


def is_within(module: str, room: str) -> bool:
    return module == room or module.startswith(f'{room}.')


def is_ros(module: str) -> bool:
    top = module.split('.')[0]
    return top in ROS_PACKAGES or top.endswith('_msgs')


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def source_imports(*trees: str) -> Iterator[tuple[str, Path, Import]]:
    """(importing module, its file, import) over the source tree."""
    for tree in trees:
        for path in sorted((ROOT / tree).rglob('*.py')):
            module = module_name(path)
            for imported in imports_of(path.read_text(), module, path.name == '__init__.py'):
                yield module, path.relative_to(ROOT), imported


def modules(*trees: str) -> list[str]:
    return [module_name(path) for tree in trees for path in sorted((ROOT / tree).rglob('*.py'))]


def test_every_form_of_import_is_seen() -> None:
    source = textwrap.dedent("""
        import a.b as c, d
        from e import f
        from . import g
        from ..h import i
        def later():
            import rclpy
            importlib.import_module('torchvision')
    """)
    found = imports_of(source, 'p.q.r')
    assert {entry.module for entry in found} == {
        'a.b', 'd', 'e', 'e.f', 'p.q', 'p.q.g', 'p.h', 'p.h.i', 'rclpy', 'torchvision',
    }
    assert {entry.module for entry in found if entry.lazy} == {'rclpy', 'torchvision'}
    assert {entry.module for entry in imports_of('from .x import y', 'p.q', is_package=True)} == {'p.q.x', 'p.q.x.y'}


def test_rooms_import_only_what_they_may() -> None:
    wrong = []
    for module, path, imported in source_imports(*TREES):
        room = max((name for name in ALLOWED if is_within(module, name)), key=len, default=None)
        if room is None or not any(is_within(imported.module, tree) for tree in TREES):
            continue
        allowed = ALLOWED[room]
        # `from package import part` also names the package itself, whose __init__ holds only the version.
        if imported.module == PACKAGE or any(is_within(imported.module, name) for name in allowed):
            continue
        if any(is_within(name, imported.module) for name in allowed):
            continue
        wrong.append(f'{path}:{imported.line}: {module} imports {imported.module}')
    assert not wrong, '\n'.join(wrong)


def test_ros_appears_only_in_its_rooms() -> None:
    wrong = [
        f'{path}:{imported.line}: {imported.module}'
        for module, path, imported in source_imports(*TREES)
        if is_ros(imported.module) and not any(is_within(module, room) for room in ROS_ROOMS)
    ]
    assert not wrong, '\n'.join(wrong)


def test_nothing_but_its_executable_imports_the_node() -> None:
    node, executable = f'{PACKAGE}.segmentation_node', f'{PACKAGE}.node_main'
    wrong = [
        f'{path}:{imported.line}'
        for module, path, imported in source_imports(*TREES, 'tools')
        if is_within(imported.module, node) and module not in (node, executable)
    ]
    assert not wrong, '\n'.join(wrong)


def test_the_package_itself_imports_nothing() -> None:
    assert not imports_of((ROOT / PACKAGE / '__init__.py').read_text(), PACKAGE, is_package=True)


def test_torchvision_is_imported_nowhere() -> None:
    wrong = [
        f'{path}:{imported.line}'
        for _, path, imported in source_imports(*TREES, 'tools', 'test', 'launch')
        if is_within(imported.module, 'torchvision')
    ]
    assert not wrong, '\n'.join(wrong)


def test_engines_are_imported_where_they_are_used() -> None:
    wrong = [
        f'{path}:{imported.line}: {imported.module} at the top of the module'
        for _, path, imported in source_imports(*TREES)
        if imported.module.split('.')[0] in LAZY_PACKAGES and not imported.lazy
    ]
    assert not wrong, '\n'.join(wrong)


BLOCKED_IMPORTER = """
import importlib, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        top = name.split('.')[0]
        if top.endswith('_msgs'):
            raise ModuleNotFoundError(f'{name} is blocked', name=name)

# As if not installed: an import fails, and importlib.util.find_spec, with which packages ask, finds nothing.
sys.modules.update(dict.fromkeys(sys.argv[1].split(',')))
sys.meta_path.insert(0, Blocker())
try:
    import rclpy
except ImportError:
    pass
else:
    sys.exit('the blocker does not block')
failed = []
for name in sys.argv[2:]:
    try:
        importlib.import_module(name)
    except ImportError as error:
        failed.append(f'{name}: {error}')
sys.exit('; '.join(failed) or 0)
"""


def test_all_other_rooms_import_without_ros() -> None:
    """Neither ROS nor an optional engine is needed to use the library from Python."""
    names = [name for name in modules(*TREES) if not any(is_within(name, room) for room in ROS_ROOMS)]
    assert f'{PACKAGE}.tracking.tracker' in names
    blocked = ','.join(sorted({*ROS_PACKAGES, *LAZY_PACKAGES, 'torchvision'}))
    run = subprocess.run(
        [sys.executable, '-c', BLOCKED_IMPORTER, blocked, *names], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert run.returncode == 0, run.stderr[-3000:]


@pytest.mark.parametrize('tree', TREES)
def test_no_folder_of_modules_lacks_its_init(tree: str) -> None:
    """Setuptools leaves folders without ``__init__.py`` out of the installation in silence."""
    folders = {path.parent for path in (ROOT / tree).rglob('*.py')}
    missing = [str(folder.relative_to(ROOT)) for folder in folders if not (folder / '__init__.py').is_file()]
    assert not missing, missing
