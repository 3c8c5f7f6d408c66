"""SIGINT and SIGTERM as something the main thread can wait for.  Standard library only."""

from __future__ import annotations

import select
import signal
import socket


class StopSignal:
    """Catches SIGINT and SIGTERM from its construction on.

    rclpy's own handlers end ``spin`` in one of three ways, and Python's raise wherever the main thread happens to be.
    """

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)

    def set(self) -> None:
        """As if a signal had come; from any thread."""
        self._writer.send(b'\0')

    def wait(self) -> None:
        """Return once a signal has come."""
        select.select([self._reader], [], [])
