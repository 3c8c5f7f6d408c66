"""A node with a raw and a compressed camera, for the tests of one file."""

from __future__ import annotations

import pytest
from node_harness import Harness


@pytest.fixture(scope='module')
def harness():
    cameras = {'cameras': ['camera', 'rear'], 'rear__transport': 'compressed'}
    harness = Harness(threads=1, image_size=128, silence_timeout=0.5, **cameras)
    try:
        harness.wait_active()
        yield harness
    finally:
        harness.close()


@pytest.fixture
def empty_table(harness):
    """No objects at first, and a node that lives at the end, whatever has happened."""
    assert harness.call('reset').success
    harness.frame()
    yield
    assert harness.call('reset').success
    harness.frame()
