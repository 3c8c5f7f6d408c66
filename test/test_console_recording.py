"""The record button's child process, with a recorder that is a few lines of Python."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from robust_pvos_ros.console import recording
from robust_pvos_ros.console.recording import Recording, RecordingError

# Grows in PATH.partial and completes PATH on SIGINT, as `pvos_bag record` does.
WELL = """
import pathlib, signal, sys, time
path, partial = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[1] + '.partial')
assert sys.argv[2:] == ['--node', '/robust_pvos'], sys.argv
ended = []
signal.signal(signal.SIGINT, lambda *_: ended.append(1))
begun = path.with_name('begun')
begun.mkdir(parents=True)
(begun / 'data').write_bytes(bytes(5000))
begun.rename(partial)
while not ended:
    time.sleep(0.01)
partial.rename(path)
"""
NEVER = "import sys; sys.exit('bag cannot be made: the disk is a toaster')"
FAILS = """
import pathlib, sys, time
pathlib.Path(sys.argv[1] + '.partial').mkdir(parents=True)
time.sleep(0.3)
sys.exit(3)
"""


def with_recorder(folder: Path, program: str) -> Recording:
    return Recording(folder, '/robust_pvos', ('-c', program))


def test_a_recording_begins_grows_and_becomes_a_bag(tmp_path: Path) -> None:
    recorder = with_recorder(tmp_path / 'new' / 'bags', WELL)
    assert not recorder.state()['on']
    assert 'Recording console_' in recorder.start()
    state = recorder.state()
    assert state['on'] and state['bytes'] == 5000 and state['name'] == recorder.path.name
    with pytest.raises(RecordingError, match='a recording runs already'):
        recorder.start()
    text = recorder.stop()
    assert recorder.path.is_dir()
    assert re.fullmatch(rf'Recorded {recorder.path.name}: \d s, 0\.0 MB\.', text), text
    assert recorder.state() == {'on': False, 'name': '', 'seconds': 0, 'bytes': 0, 'problem': ''}
    with pytest.raises(RecordingError, match='no recording runs'):
        recorder.stop()


def test_two_recordings_of_one_second_get_two_names(tmp_path: Path) -> None:
    recorder = with_recorder(tmp_path, WELL)
    for _ in range(3):
        recorder.start()
        recorder.stop()
    assert len(list(tmp_path.iterdir())) == 3


def test_a_recorder_that_does_not_start_says_why(tmp_path: Path) -> None:
    recorder = with_recorder(tmp_path, NEVER)
    with pytest.raises(RecordingError, match='did not start: bag cannot be made: the disk is a toaster'):
        recorder.start()
    assert not recorder.state()['on']


def test_a_recorder_that_dies_is_noticed(tmp_path: Path) -> None:
    recorder = with_recorder(tmp_path, FAILS)
    recorder.start()
    end = time.monotonic() + 20
    while recorder.state()['on']:
        assert time.monotonic() < end
        time.sleep(0.05)
    problem = recorder.state()['problem']
    assert 'ended by itself with code 3' in problem and 'pvos_bag recover' in problem


def test_a_full_disk_is_said_before_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, 'LEAST_FREE', 1 << 62)
    with pytest.raises(RecordingError, match='recording needs'):
        with_recorder(tmp_path, WELL).start()


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('')
    with pytest.raises(RecordingError, match='cannot be used for bags'):
        with_recorder(tmp_path / 'file' / 'bags', WELL).start()


def test_closing_ends_what_runs(tmp_path: Path) -> None:
    recorder = with_recorder(tmp_path, WELL)
    recorder.start()
    recorder.close()
    assert recorder.path.is_dir()
    recorder.close()
