"""Corruptions that lie between the scene and the camera: fog, rain and snow.

Each keeps its geometry over the clip: fog has a depth, rain and snow fall in layers of their own size and speed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robust_pvos_ros.corruption.integers import random_words, smooth_noise, stream_key, stretch
from robust_pvos_ros.corruption.modulation import FourierSeries, from_table


def _veil(frame: Tensor, share: Tensor | int, colour: int) -> Tensor:
    """int32 (3, H, W): ``share`` of 256 parts of a grey level over the frame."""
    values = frame.to(torch.int32)
    return values + (((colour - values) * share + 128) >> 8)


class Fog:
    """Light scattered on the way to the camera: what is far fades into grey, by the exponential of its depth.

    Depth grows upwards to a horizon and has hills; banks of fog drift through it.
    """

    _density = (0.0, 0.7, 1.15, 1.7, 2.4, 3.3)

    def __init__(self, key: int) -> None:
        self._key = key
        self._light = FourierSeries(stream_key(key, 'light'), 90.0)
        self._wind = 1 + (stream_key(key, 'wind') & 3)
        self._fields: dict[tuple[int, int, torch.device], tuple[Tensor, Tensor]] = {}

    def _field(self, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Depth and banks at a quarter of the size, int32 (h, w) in 0 .. 255; the banks are twice as wide and wrap."""
        place = (height, width, device)
        if place not in self._fields:
            rows, columns = -(-height // 4), -(-width // 4)
            line = torch.arange(rows, dtype=torch.int32, device=device)[:, None]
            slope = 255 - (line * 200 + rows // 2) // rows  # the top of the picture is far
            hills = smooth_noise(rows, columns, max(4, columns // 3), stream_key(self._key, 'hills'), device)
            depth = (slope * 3 + hills) >> 2
            half = smooth_noise(rows, columns, max(4, columns // 4), stream_key(self._key, 'banks'), device)
            banks = torch.cat([half, half.flip(-1)], -1)
            self._fields = {place: (depth, banks)}
        return self._fields[place]

    def __call__(self, frame: Tensor, severity: float, index: int) -> Tensor:
        """See ``optics.Effect``."""
        _, height, width = frame.shape
        depth, banks = self._field(height, width, frame.device)
        drift = banks.roll(self._wind * index // 2, -1)[:, : depth.shape[1]]
        thickness = (depth * (160 + drift)) >> 8  # 0 .. 413
        density = from_table(self._density, severity)
        table = [min(255, round(256 * (1 - math.exp(-density * step / 255)))) for step in range(416)]
        share = torch.tensor(table, dtype=torch.int32, device=frame.device)[thickness]
        light = round(205 + 25 * self._light(index))
        return _veil(frame, stretch(share, height, width), light).clamp_(0, 255).to(torch.uint8)


def _scatter(height: int, width: int, count: int, key: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, columns and random bytes of ``count`` things on a tile."""
    words = random_words((3, count), key, device) & 0x7FFFFFFF
    return words[0] % height, words[1] % width, (words[2] & 255).to(torch.int32)


def _stamp(height: int, width: int, places: tuple[Tensor, Tensor], strength: Tensor) -> Tensor:
    """int32 (height, width) with the largest ``strength`` at each of the ``places`` of its shape, which wrap around."""
    canvas = torch.zeros(height * width, dtype=torch.int32, device=strength.device)
    index = ((places[0] % height) * width + places[1] % width).flatten().to(torch.int64)
    return canvas.scatter_reduce_(0, index, strength.flatten(), 'amax').view(height, width)


class Rain:
    """Streaks in four layers, from near, long and fast to far, short and slow, slanted by the wind; and a haze."""

    _amount = (0.0, 0.6, 1.1, 1.7, 2.4, 3.3)  # relative to the streaks that are prepared, ``_most``
    _haze = (0.0, 0.09, 0.16, 0.24, 0.33, 0.43)
    _layers = ((0.16, 0.150, 150), (0.10, 0.105, 120), (0.06, 0.070, 95), (0.035, 0.045, 75))  # length, speed, opacity
    _most = 3.5

    def __init__(self, key: int) -> None:
        self._key = key
        self._slant = ((stream_key(key, 'slant') & 0xFF) / 255 - 0.5) * 0.7
        self._gust = FourierSeries(stream_key(key, 'gust'), 30.0)
        self._tiles: dict[tuple[int, int, torch.device], list[tuple[Tensor, float]]] = {}

    def _build(self, height: int, width: int, device: torch.device) -> list[tuple[Tensor, float]]:
        """For each layer its streaks, rank and opacity of each pixel packed into one word, and its speed."""
        place = (height, width, device)
        if place not in self._tiles:
            layers = []
            for number, (length, speed, opacity) in enumerate(self._layers):
                count = max(1, round(self._most * 480 * width / 1000 * 0.25 * (number + 1)))
                rows, columns, rank = _scatter(height, width, count, stream_key(self._key, number), device)
                steps = torch.arange(max(2, round(length * height)), dtype=torch.int32, device=device)
                fade = 255 - torch.div((2 * steps - len(steps)).abs() * 200, len(steps), rounding_mode='floor')
                lean = torch.div(steps * round(256 * self._slant), 256, rounding_mode='floor')
                cover = torch.div(fade[None] * opacity, 255, rounding_mode='floor')
                packed = ((255 - rank[:, None]) << 8) + cover  # where streaks cross the one that comes first is seen
                places = (rows[:, None] + steps, columns[:, None] + lean)
                layers.append((_stamp(height, width, places, packed), speed))
            self._tiles = {place: layers}
        return self._tiles[place]

    def __call__(self, frame: Tensor, severity: float, index: int) -> Tensor:
        """See ``optics.Effect``."""
        _, height, width = frame.shape
        haze = round(256 * from_table(self._haze, severity))
        values = _veil(frame, haze, 150)
        share = from_table(self._amount, severity) / self._most
        way = index + 2.5 * self._gust(index)  # frames of even fall that would bring the streaks to where they are
        total = torch.zeros(height, width, dtype=torch.int32, device=frame.device)
        for packed, speed in self._build(height, width, frame.device):
            fall = speed * height * way
            shown = packed.roll((round(fall), round(self._slant * fall)), (0, 1))
            total += torch.where((shown >> 8) > 255 - round(255 * min(1.0, share)), shown & 255, 0)
        values += ((225 - values) * total.clamp_(max=200) + 128) >> 8
        return values.clamp_(0, 255).to(torch.uint8)


class Snow:
    """Flakes in four layers, near ones large and soft, that fall and sway; the scene pales."""

    _amount = (0.0, 0.3, 0.5, 0.75, 1.05, 1.4)
    _pale = (0.0, 0.08, 0.15, 0.23, 0.32, 0.42)
    _layers = ((0.020, 0.034, 20, 120), (0.011, 0.022, 80, 175), (0.006, 0.014, 260, 215), (0.0035, 0.009, 700, 235))
    """Radius, speed, flakes and opacity of each."""
    _most = 1.6

    def __init__(self, key: int) -> None:
        self._key = key
        self._wind = ((stream_key(key, 'wind') & 0xFF) / 255 - 0.5) * 0.02
        self._sway = [FourierSeries(stream_key(key, 'sway', number), 36.0) for number in range(len(self._layers))]
        self._tiles: dict[tuple[int, int, torch.device], list[Tensor]] = {}

    def _build(self, height: int, width: int, device: torch.device) -> list[Tensor]:
        place = (height, width, device)
        if place not in self._tiles:
            layers = []
            for number, (radius, _, flakes, opacity) in enumerate(self._layers):
                reach = max(1, round(radius * height))
                count = max(1, round(self._most * flakes * width / height))
                rows, columns, rank = _scatter(height, width, count, stream_key(self._key, number), device)
                line = torch.arange(-reach, reach + 1, dtype=torch.int32, device=device)
                square = (line[:, None] ** 2 + 2 * line**2).flatten()  # longer than wide, as they blur while they fall
                soft = (opacity - torch.div(square * opacity, reach * reach + 1, rounding_mode='floor')).clamp_(min=0)
                dy, dx = line.repeat_interleave(len(line)), line.repeat(len(line))
                packed = torch.where(soft > 0, ((255 - rank[:, None]) << 8) + soft, 0)
                places = (rows[:, None] + dy, columns[:, None] + dx)
                layers.append(_stamp(height, width, places, packed))
            self._tiles = {place: layers}
        return self._tiles[place]

    def __call__(self, frame: Tensor, severity: float, index: int) -> Tensor:
        """See ``optics.Effect``."""
        _, height, width = frame.shape
        values = _veil(frame, round(256 * from_table(self._pale, severity)), 215)
        least = 255 - round(255 * min(1.0, from_table(self._amount, severity) / self._most))
        total = torch.zeros(height, width, dtype=torch.int32, device=frame.device)
        layers = self._build(height, width, frame.device)
        for packed, sway, (radius, speed, *_) in zip(layers, self._sway, self._layers, strict=True):
            moved = round(3 * radius * width * sway(index))
            shown = packed.roll((round(speed * height * index), round(self._wind * width * index) + moved), (0, 1))
            total += torch.where((shown >> 8) > least, shown & 255, 0)
        values += ((248 - values) * total.clamp_(max=235) + 128) >> 8
        return values.clamp_(0, 255).to(torch.uint8)

