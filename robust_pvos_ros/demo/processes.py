"""Child processes that end together: their output goes to log files, and none outlives its parent.  No ROS."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from robust_pvos_ros.tracking.types import PvosError

GRACE = 15.0  # seconds to end after SIGINT, and again after SIGTERM
TAIL = 25
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class ChildError(PvosError):
    """A child process that ended when it should not have, or with an error."""


class Child:
    """One child process.

    Args:
        name: in messages; its log is ``NAME.log``.
        command: arguments after the Python interpreter.
        environment: of the child.
        folder: of the logs.
        on_line: called on a thread with every line of standard output.
    """

    def __init__(
        self, name: str, command: list[str], environment: dict[str, str], folder: Path,
        on_line: Callable[[str], None] | None = None,
    ) -> None:
        self.name = name
        self.log = folder / f'{name}.log'
        self._on_line = on_line
        with self.log.open('wb') as log:
            # In a session of its own the child does not get the terminal's Ctrl-C: the parent ends all in order.
            self._process = subprocess.Popen(
                [sys.executable, '-u', *command], env=environment, stdin=subprocess.DEVNULL, stderr=log,
                stdout=subprocess.PIPE, start_new_session=True, text=True, errors='replace',
            )
        self._reader = threading.Thread(target=self._read, name=f'{name}-output', daemon=True)
        self._reader.start()

    def _read(self) -> None:
        stream = self._process.stdout
        if stream is None:
            return
        with self.log.open('a') as log:
            for line in stream:
                log.write(line)
                log.flush()
                if self._on_line is not None:
                    self._on_line(line.rstrip('\n'))

    @property
    def code(self) -> int | None:
        """Exit code; None while it runs."""
        return self._process.poll()

    def interrupt(self) -> None:
        """Ask it to end."""
        if self.code is None:
            self._process.send_signal(signal.SIGINT)

    def wait(self, timeout: float) -> bool:
        """Whether it ended within ``timeout`` seconds, its last output included."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        self._reader.join(2)
        return True

    def end(self) -> None:
        """Interrupt, then terminate, then kill; returns when it is gone."""
        self.interrupt()
        if self.wait(GRACE):
            return
        self._process.terminate()
        if self.wait(GRACE):
            return
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def tail(self) -> str:
        """The last lines of its log."""
        return '\n'.join(self.log.read_text(errors='replace').splitlines()[-TAIL:])


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Signals that would end this process are ignored, so that an impatient second Ctrl-C leaves no child behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ENDING_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def interrupt_on_signals() -> None:
    """Let SIGTERM and a closed terminal end this process as Ctrl-C does: by ``KeyboardInterrupt``."""
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.default_int_handler)


class Children:
    """A group of children; leaving the context ends every one of them, the last started first."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self._environment = environment
        self._folder = folder
        self._children: list[Child] = []

    def __enter__(self) -> Children:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _undisturbed():
            for child in self._children:
                child.interrupt()
            for child in reversed(self._children):
                child.end()

    def start(self, name: str, command: list[str], on_line: Callable[[str], None] | None = None) -> Child:
        """Start one."""
        child = Child(name, command, self._environment, self._folder, on_line)
        self._children.append(child)
        return child

    def wait_for(self, awaited: Child, needed: tuple[Child, ...], timeout: float) -> None:
        """Wait until one child has ended well.

        Args:
            awaited: must end with code 0.
            needed: must not end before; one that has code 0 may.
            timeout: seconds.

        Raises:
            ChildError: if a child failed, ended too early, or took too long; with the end of its log.
        """
        end = time.monotonic() + timeout
        while awaited.code is None:
            for child in needed:
                if child.code is not None:
                    raise ChildError(_obituary(child))
            for child in self._children:
                if child.code:
                    raise ChildError(_obituary(child))
            if time.monotonic() > end:
                tail = awaited.tail()
                raise ChildError(f'the {awaited.name} did not end within {timeout:.0f} s; its log ends:\n{tail}')
            time.sleep(0.1)
        awaited.wait(5)
        if awaited.code:
            raise ChildError(_obituary(awaited))


def _obituary(child: Child) -> str:
    child.wait(5)
    return f'the {child.name} ended with code {child.code}; the end of {child.log}:\n{child.tail()}'
