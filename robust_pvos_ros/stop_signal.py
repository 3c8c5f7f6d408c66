"""SIGINT and SIGTERM as something the main thread can wait for.  Standard library only."""

from __future__ import annotations

import atexit
import select
import signal
import socket

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignal:
    """Catches SIGINT and SIGTERM from its construction on.

    rclpy's own handlers end ``spin`` in one of three ways, and Python's raise wherever the main thread happens to be.
    A further signal while the program ends changes nothing, its exit code included.
    """

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, lambda *_: None)
        atexit.register(_ignore_signals)

    def set(self) -> None:
        """As if a signal had come; from any thread."""
        self._writer.send(b'\0')

    def wait(self) -> None:
        """Return once a signal has come."""
        select.select([self._reader], [], [])


def _ignore_signals() -> None:
    # Python takes handlers of its own away before it takes the modules down, which lasts a while with torch and DDS: a
    # terminal's Ctrl-C followed by a launcher's SIGTERM would then kill a program that is ending well.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
