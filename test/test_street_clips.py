"""Clips of the street for choices between models."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from benchmarks.robustness import clips_of, settings_of
from benchmarks.street_clips import RATE, SECONDS, street_frames, street_names


def test_clips_are_no_scene_of_the_demo_and_differ() -> None:
    names = street_names(9)
    assert len(set(names)) == 9 and not any(name.startswith('street_0_') for name in names)
    assert names[:2] == street_names(2)


def test_objects_of_the_first_frame_are_followed() -> None:
    [name] = street_names(1)
    frames = list(street_frames(name))
    again = next(iter(street_frames(name)))
    assert [frame.index for frame in frames] == list(range(round(SECONDS * RATE)))
    assert np.array_equal(frames[0].rgb, again.rgb) and np.array_equal(frames[0].labels, again.labels)
    known = set(np.unique(frames[0].labels)) - {0}
    assert len(known) >= 3 and all(set(np.unique(frame.labels)) <= known | {0} for frame in frames)
    assert not np.array_equal(frames[0].labels, frames[-1].labels)


def test_both_kinds_of_rendered_clips_can_be_asked_for() -> None:
    options = argparse.Namespace(
        held_out=1, street=2, frames=2, data=Path('davis'), checkpoint='', model='compact', prompt='mask',
        scored_frames='interior',
    )  # fmt: skip
    assert [name.partition('_')[0] for name in clips_of(options)] == ['rendered', 'street', 'street']
    assert settings_of(options)['clips'] == '1 rendered, 2 frames, 2 of the street'
