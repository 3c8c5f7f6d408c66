"""The record button: `pvos_bag record` as a child process, so that writing costs the console nothing.  No ROS.

Nothing of what a page says reaches the command line: folder and node come from the parameters, the name from the clock.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from robust_pvos_ros.bags.places import partial_of
from robust_pvos_ros.tracking.types import PvosError

LEAST_FREE = 1 << 30
START_TIME = 30.0
STOP_TIME = 60.0
RECORDER = ('-m', 'robust_pvos_ros.bags.cli', 'record')


class RecordingError(PvosError):
    """A recording that cannot begin or did not end well."""


class Recording:
    """At most one recording at a time.  Its methods block for a moment: call them from a worker's thread.

    Args:
        folder: of the bags; it is made when it is needed.
        node: full name of the segmentation node.
        command: what is run, after the Python interpreter and before the path of the bag.
    """

    def __init__(self, folder: Path, node: str, command: tuple[str, ...] = RECORDER) -> None:
        self._folder = folder
        self._node = node
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._path = folder
        self._begun = 0.0
        self._problem = ''

    @property
    def path(self) -> Path:
        """Of the newest bag."""
        return self._path

    def start(self) -> str:
        """Begin; returns a sentence for the operator.

        Raises:
            RecordingError: if one runs already, the disk is full, or the recorder does not start.
        """
        if self._is_running():
            raise RecordingError(f'a recording runs already: {self._path.name}; stop it first')
        self._problem = ''
        self._path = self._new_path()
        with tempfile.TemporaryFile() as errors:
            # In a session of its own it does not get the terminal's Ctrl-C: the console ends it.
            self._process = subprocess.Popen(
                [sys.executable, *self._command, str(self._path), '--node', self._node],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True,
            )  # fmt: skip
            self._begun = time.monotonic()
            while not partial_of(self._path).exists():
                if self._process.poll() is not None or time.monotonic() - self._begun > START_TIME:
                    self._kill()
                    raise RecordingError(f'the recorder did not start: {_last_line(errors) or "it said nothing"}')
                time.sleep(0.05)
        self._begun = time.monotonic()
        return f'Recording {self._path.name}.'

    def stop(self) -> str:
        """End; returns a sentence for the operator.

        Raises:
            RecordingError: if none runs, or the bag could not be completed.
        """
        process = self._process
        if process is None:
            raise RecordingError('no recording runs: there is nothing to stop')
        seconds = time.monotonic() - self._begun
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            code = process.wait(STOP_TIME)
        except subprocess.TimeoutExpired as error:
            self._kill()
            raise RecordingError(
                f'the recorder did not end within {STOP_TIME:.0f} s and was killed: `pvos_bag recover '
                f'{partial_of(self._path)} NAME` makes a bag of what it has written'
            ) from error
        self._process = None
        if code:
            raise RecordingError(f'the recorder ended with code {code}: {self._left()}')
        return f'Recorded {self._path.name}: {seconds:.0f} s, {_size(self._path) / 1e6:.1f} MB.'

    def state(self) -> dict[str, Any]:
        """For the page: ``on``, ``name``, ``seconds``, ``bytes`` and ``problem`` (a sentence, or empty)."""
        running = self._is_running()
        if self._process is not None and not running:
            code, self._process = self._process.returncode, None
            self._problem = f'The recorder ended by itself with code {code}: {self._left()}.'
        path = partial_of(self._path) if running else self._path
        return {
            'on': running,
            'name': self._path.name if running else '',
            'seconds': int(time.monotonic() - self._begun) if running else 0,
            'bytes': _size(path) if running else 0,
            'problem': self._problem,
        }

    def close(self) -> None:
        """End a recording that runs, at the end of the console."""
        if self._is_running():
            self.stop()

    def _is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _new_path(self) -> Path:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self._folder).free
        except OSError as error:
            raise RecordingError(f'{self._folder} cannot be used for bags: {error}') from error
        if free < LEAST_FREE:
            raise RecordingError(
                f'only {free / 1e9:.1f} GB are free in {self._folder}: recording needs {LEAST_FREE / 1e9:.1f} GB'
            )
        name = time.strftime('console_%Y%m%d_%H%M%S')
        path, count = self._folder / name, 1
        while path.exists() or partial_of(path).exists():
            count += 1
            path = self._folder / f'{name}_{count}'
        return path

    def _left(self) -> str:
        partial = partial_of(self._path)
        if partial.exists():
            return f'`pvos_bag recover {partial} NAME` makes a bag of what it has written'
        return f'{self._path.name} is complete' if self._path.exists() else 'nothing was recorded'

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _size(path: Path) -> int:
    """Bytes of the files in a folder; those that vanish meanwhile do not count."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += Path(folder, name).stat().st_size
            except FileNotFoundError:
                continue
    return total


def _last_line(errors: Any) -> str:
    errors.seek(0)
    lines = errors.read().decode(errors='replace').split('\n')
    return next((line.strip() for line in reversed(lines) if line.strip()), '')
