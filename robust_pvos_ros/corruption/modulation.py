"""How the severity of a corruption changes over a clip, and other slow functions of time."""

from __future__ import annotations

import math
import random

LOWEST, HIGHEST = 0.25, 5.5
"""Bounds of a modulated severity; severities themselves are 1 to 5."""


class FourierSeries:
    """A smooth random function of time with values about -1 to 1: a Fourier series with random amplitudes and phases.

    Args:
        key: of the function.
        period: frames of the slowest wave.
        terms: number of waves; wave k has k times the frequency and 1 / k of the amplitude of the first.
    """

    def __init__(self, key: int, period: float = 48.0, terms: int = 4) -> None:
        generator = random.Random(key)
        self._waves = [
            (generator.uniform(0.4, 1.0) / k, 2 * math.pi * k / period, generator.uniform(0, 2 * math.pi))
            for k in range(1, terms + 1)
        ]
        self._scale = 1 / sum(amplitude for amplitude, _, _ in self._waves)

    def __call__(self, time: float) -> float:
        """Value at a time in frames."""
        return self._scale * sum(a * math.sin(rate * time + phase) for a, rate, phase in self._waves)


class Severity:
    """Severity over time: ``mean * (1 + depth * series(time))`` within bounds.

    Args:
        mean: 1 to 5, the severity asked for.
        depth: 0 keeps it constant.
    """

    def __init__(self, mean: float, key: int, depth: float = 0.4) -> None:
        self._mean, self._depth = mean, depth
        self._series = FourierSeries(key)

    def __call__(self, time: float) -> float:
        """Severity at a time in frames."""
        return min(HIGHEST, max(LOWEST, self._mean * (1 + self._depth * self._series(time))))


def from_table(table: tuple[float, ...], severity: float) -> float:
    """Linear interpolation in a table of the values at severities 0 to 5; the last slope goes on beyond 5."""
    low = min(int(severity), len(table) - 2)
    return table[low] + (table[low + 1] - table[low]) * (severity - low)
