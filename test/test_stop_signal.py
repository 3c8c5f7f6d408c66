"""What catches SIGINT and SIGTERM holds until the interpreter is gone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = """
import os, signal, sys, time
from robust_pvos_ros.stop_signal import StopSignal

class Module:
    # Stands for a library that takes its time to go; names are kept, since globals are gone by then.
    def __init__(self, number):
        self.kill, self.sleep, self.number, self.pid = os.kill, time.sleep, number, os.getpid()

    def __del__(self):
        self.kill(self.pid, self.number)
        self.sleep(0.05)

stop = StopSignal()
os.kill(os.getpid(), signal.SIGINT)
stop.wait()
module = Module(getattr(signal, sys.argv[1]))
sys.exit(int(sys.argv[2]))
"""


@pytest.mark.parametrize('number', ['SIGINT', 'SIGTERM'])
@pytest.mark.parametrize('code', [0, 3])
def test_a_second_signal_does_not_kill_a_program_that_is_ending(number: str, code: int) -> None:
    command = [sys.executable, '-c', PROGRAM, number, str(code)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (code, '')
