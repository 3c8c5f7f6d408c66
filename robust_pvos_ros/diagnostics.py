"""Numbers about a running camera: rates, latencies, counters and the process's memory.  No ROS."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from pathlib import Path

import numpy as np

HISTORY = 300
RATE_WINDOW = 3.0
COUNTERS = (
    'received', 'processed', 'dropped', 'malformed', 'failed', 'time_jumps', 'forward_jumps', 'associated', 'refused',
)  # fmt: skip


def resident_megabytes() -> float:
    """Resident memory of this process; NaN where the system has no ``/proc``."""
    try:
        pages = int(Path('/proc/self/statm').read_text(encoding='ascii').split()[1])
    except OSError:
        return float('nan')
    return pages * os.sysconf('SC_PAGE_SIZE') / 2**20


class FrameStatistics:
    """Counters and recent timings of one camera; every method may be called from any thread.

    Every image is counted once as ``received`` and, as soon as its fate is known, once as ``processed``, ``dropped`` (a
    newer one took its place, or the camera was deactivated), ``malformed`` or ``failed``.  ``associated`` and
    ``refused`` count detections: known already, and those that came to nothing.
    """

    def __init__(self) -> None:
        self._last_arrival = time.monotonic()
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._reported: Counter[str] = Counter()
        self._times: dict[str, deque[float]] = {}
        self._finished: deque[float] = deque(maxlen=HISTORY)
        self._arrived: deque[float] = deque(maxlen=HISTORY)

    def count(self, what: str, times: int = 1) -> int:
        """Count events of :data:`COUNTERS`; returns how many there have been."""
        with self._lock:
            self._counts[what] += times
            if what == 'received':
                self._last_arrival = time.monotonic()
                self._arrived.append(self._last_arrival)
            return self._counts[what]

    def begin(self) -> None:
        """From here on images are expected."""
        with self._lock:
            self._last_arrival = time.monotonic()

    def silent_for(self) -> float:
        """Seconds since the last image, or since images are expected."""
        with self._lock:
            return time.monotonic() - self._last_arrival

    def frame(self, milliseconds: Mapping[str, float]) -> None:
        """Count a processed frame with its timings by stage."""
        with self._lock:
            self._counts['processed'] += 1
            self._finished.append(time.monotonic())
            for stage, value in milliseconds.items():
                self._times.setdefault(stage, deque(maxlen=HISTORY)).append(value)

    def counts(self) -> dict[str, int]:
        """All counters."""
        with self._lock:
            return {name: self._counts[name] for name in COUNTERS}

    def new_faults(self) -> Counter[str]:
        """Malformed images and failed frames since the last call."""
        with self._lock:
            now = Counter({name: self._counts[name] for name in ('malformed', 'failed')})
            fresh = now - self._reported
            self._reported = now
        return fresh

    def rates(self) -> tuple[float, float]:
        """Frames a second that arrived and that were processed, over the last seconds."""
        with self._lock:
            return _rate(self._arrived), _rate(self._finished)

    def percentiles(self) -> dict[str, tuple[float, float]]:
        """Stage -> (p50, p99) in milliseconds over the last frames."""
        with self._lock:
            times = {stage: np.fromiter(values, float) for stage, values in self._times.items()}
        return {stage: tuple(np.percentile(values, (50, 99)).tolist()) for stage, values in times.items()}


def _rate(moments: deque[float]) -> float:
    """Events a second over the window; 0 once fewer than two lie in it."""
    start = time.monotonic() - RATE_WINDOW
    recent = [moment for moment in moments if moment > start]
    return (len(recent) - 1) / max(recent[-1] - recent[0], 1e-6) if len(recent) > 1 else 0.0
