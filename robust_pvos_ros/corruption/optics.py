"""Corruptions that arise in the camera: colour jitter, Gaussian noise, ISO noise, motion blur, resampling blur.

Each takes frames uint8 (3, H, W) at ``severity`` (about 1 to 5, a real number) and returns the same type and shape.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from robust_pvos_ros.corruption.integers import BELL_DEVIATION, bell_noise, shrink, stream_key, stretch
from robust_pvos_ros.corruption.modulation import FourierSeries, from_table


class Effect(Protocol):
    """One corruption of one clip."""

    def __call__(self, frame: Tensor, severity: float, index: int) -> Tensor:
        """Corrupt frame number ``index``, uint8 (3, H, W)."""


def _to_bytes(values: Tensor) -> Tensor:
    return values.clamp_(0, 255).to(torch.uint8)


class ColourJitter:
    """Brightness, contrast, saturation and hue that drift, as of a camera whose exposure and white balance hunt."""

    _strength = (0.0, 0.12, 0.22, 0.34, 0.46, 0.6)

    def __init__(self, key: int) -> None:
        self._series = [FourierSeries(stream_key(key, name), 40.0) for name in ('light', 'range', 'colour', 'hue')]

    def __call__(self, frame: Tensor, severity: float, index: int) -> Tensor:
        """See :class:`Effect`."""
        strength = from_table(self._strength, severity)
        light, spread, colour, hue = (series(index) * strength for series in self._series)
        matrix = _colour_matrix(math.exp(1.2 * spread), math.exp(1.6 * colour), 1.6 * hue)
        offset = 128 + 150 * light
        weights = [[round(256 * value) for value in row] for row in matrix]
        source = frame.to(torch.int32) - 128
        rows = []
        for row in weights:
            mixed = source[0] * row[0]
            mixed += source[1] * row[1]
            mixed += source[2] * row[2]
            rows.append((mixed >> 8) + round(offset))
        return _to_bytes(torch.stack(rows))


def _colour_matrix(contrast: float, saturation: float, hue: float) -> list[list[float]]:
    """RGB matrix of a contrast, a saturation and a turn around the grey axis by ``hue`` radians."""
    luma = (0.299, 0.587, 0.114)
    third, cos, sin = 1 / 3, math.cos(hue), math.sin(hue) / math.sqrt(3)
    turn = [
        [
            third + cos * (2 * third if i == j else -third) + sin * (0 if i == j else 1 if (j - i) % 3 == 2 else -1)
            for j in range(3)
        ]
        for i in range(3)
    ]
    fade = [[luma[j] + saturation * ((i == j) - luma[j]) for j in range(3)] for i in range(3)]
    return [[contrast * sum(fade[i][k] * turn[k][j] for k in range(3)) for j in range(3)] for i in range(3)]


class GaussianNoise:
    """Independent noise of every pixel and channel, new on every frame."""

    _deviation = (0.0, 10.0, 18.0, 28.0, 40.0, 56.0)  # levels

    def __init__(self, key: int) -> None:
        self._key = key

    def __call__(self, frame: Tensor, severity: float, index: int) -> Tensor:
        """See :class:`Effect`."""
        gain = round(4096 * from_table(self._deviation, severity) / BELL_DEVIATION)
        noise = bell_noise(tuple(frame.shape), stream_key(self._key, index), frame.device).to(torch.int32)
        noise *= gain
        noise += 2048
        noise >>= 12
        noise += frame
        return _to_bytes(noise)


class IsoNoise:
    """Noise of a high ISO setting: less light, shot noise that grows with the root of it, and blotches of colour."""

    _shot = (0.0, 7.0, 12.0, 19.0, 27.0, 38.0)  # levels at full brightness
    _colour = (0.0, 6.0, 10.0, 16.0, 23.0, 32.0)
    _exposure = (1.0, 0.92, 0.84, 0.74, 0.64, 0.54)

    def __init__(self, key: int) -> None:
        self._key = key

    def __call__(self, frame: Tensor, severity: float, index: int) -> Tensor:
        """See :class:`Effect`."""
        exposure, shot = from_table(self._exposure, severity), from_table(self._shot, severity)
        levels = [round(exposure * level) for level in range(256)]
        gains = [round(4096 * shot * math.sqrt(0.12 + level / 255) / BELL_DEVIATION) for level in range(256)]
        table = torch.tensor([levels, gains], dtype=torch.int32, device=frame.device)
        places = frame.to(torch.int32)
        noise = bell_noise(tuple(frame.shape), stream_key(self._key, 'shot', index), frame.device).to(torch.int32)
        noise *= table[1][places]
        noise >>= 12
        noise += table[0][places]
        noise += self._blotches(frame, from_table(self._colour, severity), index)
        return _to_bytes(noise)

    def _blotches(self, frame: Tensor, deviation: float, index: int) -> Tensor:
        """Coarse noise of the colour channels, int32 (3, H, W), whose mean over the channels is near zero."""
        _, height, width = frame.shape
        shape = (3, -(-height // 3), -(-width // 3))
        noise = bell_noise(shape, stream_key(self._key, 'colour', index), frame.device).to(torch.int32)
        noise = noise - torch.div(noise.sum(0, dtype=torch.int32), 3, rounding_mode='floor')
        noise = noise * round(4096 * deviation / BELL_DEVIATION) >> 12
        return noise.repeat_interleave(3, 1)[:, :height].repeat_interleave(3, 2)[:, :, :width]


class MotionBlur:
    """The camera shakes: a straight kernel that turns slowly."""

    _length = (0.0, 0.010, 0.018, 0.027, 0.038, 0.052)  # of the image's longer side
    _samples = 16

    def __init__(self, key: int) -> None:
        self._angle = FourierSeries(stream_key(key, 'angle'), 60.0)
        self._start = math.pi * (stream_key(key, 'start') & 0xFFFF) / 65536

    def __call__(self, frame: Tensor, severity: float, index: int) -> Tensor:
        """See :class:`Effect`."""
        _, height, width = frame.shape
        length = from_table(self._length, severity) * max(height, width)
        angle = self._start + 1.5 * self._angle(index)
        count = min(self._samples, max(2, round(length) + 1))
        shifts = [(k / (count - 1) - 0.5) * length for k in range(count)]
        places = [(round(shift * math.cos(angle)), round(shift * math.sin(angle))) for shift in shifts]
        margin = max(max(abs(dx), abs(dy)) for dx, dy in places)
        padded = _pad_edges(frame, margin).to(torch.int16)
        total = torch.zeros(frame.shape, dtype=torch.int16, device=frame.device)
        for dx, dy in places:
            total += padded[:, margin + dy : margin + dy + height, margin + dx : margin + dx + width]
        return _to_bytes((total.to(torch.int32) * round(65536 / count) + 32768) >> 16)


def _pad_edges(frame: Tensor, margin: int) -> Tensor:
    """uint8 (3, H, W) with its border pixels repeated ``margin`` times on each side."""
    rows, columns = (
        torch.arange(-margin, side + margin, device=frame.device).clamp_(0, side - 1) for side in frame.shape[1:]
    )
    return frame.index_select(1, rows).index_select(2, columns)


class ResamplingBlur:
    """Detail lost by a small intermediate size, as of digital zoom or a thin video link."""

    _factor = (1.0, 1.8, 2.6, 3.6, 5.0, 7.0)

    def __init__(self, key: int) -> None:
        del key  # nothing about it is random

    def __call__(self, frame: Tensor, severity: float, index: int) -> Tensor:
        """See :class:`Effect`."""
        _, height, width = frame.shape
        factor = from_table(self._factor, severity)
        small = shrink(frame, *(min(side, max(2, round(side / factor))) for side in (height, width)))
        return _to_bytes(stretch(small, height, width))

