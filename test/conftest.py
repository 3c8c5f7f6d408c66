"""What all tests share: the environment of ROS processes, and skips with their reasons.

The environment is set when this file is read, which is before any test imports ``rclpy``; child processes inherit it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = ROOT.parent / 'shared' / 'data'
MAX_THREADS = 2

_for_the_session = contextlib.ExitStack()


def _choose_domain_id() -> int:
    """A ROS domain that no other test process of this machine uses; it stays reserved for the session."""
    try:
        from domain_coordinator import domain_id
    except ImportError:
        return os.getpid() % 100 + 1
    return _for_the_session.enter_context(domain_id())


def _set_ros_environment() -> None:
    os.environ['ROS_DOMAIN_ID'] = str(_choose_domain_id())
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    os.environ['ROS_PYTHON_CHECK_FIELDS'] = '1'
    os.environ['FASTRTPS_DEFAULT_PROFILES_FILE'] = str(ROOT / 'config' / 'fastdds_large.xml')
    os.environ['ROS_LOG_DIR'] = _for_the_session.enter_context(tempfile.TemporaryDirectory(prefix='pvos_test_log_'))
    os.environ['XDG_CACHE_HOME'] = _for_the_session.enter_context(tempfile.TemporaryDirectory(prefix='pvos_cache_'))
    if (Path(sys.prefix) / 'share' / 'ament_index').is_dir():
        os.environ.setdefault('AMENT_PREFIX_PATH', sys.prefix)


_set_ros_environment()
os.environ.setdefault('OMP_NUM_THREADS', str(MAX_THREADS))


def pytest_unconfigure() -> None:
    """Give the domain and the log folder back."""
    _for_the_session.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run."""
    if not SHARED_DATA.is_dir():
        reason = f'no evaluation data: {SHARED_DATA} does not exist'
        for item in items:
            if item.get_closest_marker('shared'):
                item.add_marker(pytest.mark.skip(reason=reason))
    on_gpu = [item for item in items if item.get_closest_marker('gpu')]
    if on_gpu:
        import torch

        if not torch.cuda.is_available():
            for item in on_gpu:
                item.add_marker(pytest.mark.skip(reason='no CUDA device'))


@pytest.fixture(scope='session', autouse=True)
def _few_threads() -> None:
    """Keep torch from taking all cores, also where OMP_NUM_THREADS says otherwise."""
    if 'torch' in sys.modules:
        torch = sys.modules['torch']
        torch.set_num_threads(min(MAX_THREADS, torch.get_num_threads()))


@pytest.fixture(scope='session')
def shared_data() -> Path:
    """Folder of the evaluation data; the test is skipped where it is missing."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f'no evaluation data: {SHARED_DATA} does not exist')
    return SHARED_DATA
