"""The eight corruptions by name, on the frames of a clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from robust_pvos_ros.corruption.integers import stream_key
from robust_pvos_ros.corruption.modulation import Severity
from robust_pvos_ros.corruption.optics import (
    ColourJitter,
    Effect,
    GaussianNoise,
    IsoNoise,
    MotionBlur,
    ResamplingBlur,
)
from robust_pvos_ros.corruption.weather import Fog, Rain, Snow

KINDS: dict[str, type[Effect]] = {
    'colour_jitter': ColourJitter,
    'gaussian_noise': GaussianNoise,
    'iso_noise': IsoNoise,
    'motion_blur': MotionBlur,
    'resampling_blur': ResamplingBlur,
    'fog': Fog,
    'rain': Rain,
    'snow': Snow,
}
"""Name of each corruption; those of the weather come last, and are applied first where several are combined."""


class CorruptionError(ValueError):
    """A corruption that does not exist, or a frame that cannot be corrupted."""


@dataclass(frozen=True)
class CorruptionSpec:
    """What is done to a clip.

    Attributes:
        kind: a key of :data:`KINDS`.
        severity: 1 to 5.
    """

    kind: str
    severity: float = 3.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise CorruptionError(f'there is no corruption {self.kind!r}; it must be one of {", ".join(KINDS)}')
        if not 1 <= self.severity <= 5:
            raise CorruptionError(f'the severity of {self.kind} must lie between 1 and 5, got {self.severity:g}')

    def __str__(self) -> str:
        return f'{self.kind}:{self.severity:g}'


def parse_corruptions(text: str) -> tuple[CorruptionSpec, ...]:
    """``fog:3``, ``rain`` (severity 3) or a composition such as ``fog:2+gaussian_noise:4``; empty text is clean.

    Raises:
        CorruptionError: if a name or a number is wrong.
    """
    specs = []
    for part in text.split('+') if text else ():
        kind, colon, number = part.strip().partition(':')
        try:
            severity = float(number) if colon else 3.0
        except ValueError:
            raise CorruptionError(f'severity {number!r} of {kind!r} is no number: write it as in fog:3') from None
        specs.append(CorruptionSpec(kind, severity))
    return tuple(specs)


class ClipCorruption:
    """Corrupts the frames of one clip; a frame's result depends on (specs, seed, clip, index) and its pixels only.

    The result is made in whole numbers and so is equal, byte for byte, on every machine and device.

    Args:
        specs: one corruption or several; weather is applied before what the camera does to the picture.
        seed: of the whole set of clips.
        clip: name of the clip.
        modulated: let the severity swell and ebb over the clip; otherwise it is constant.
    """

    def __init__(
        self, specs: Sequence[CorruptionSpec], seed: int = 0, clip: str = '', modulated: bool = True
    ) -> None:
        order = list(KINDS)
        self._effects: list[tuple[Effect, Severity]] = []
        for spec in sorted(specs, key=lambda spec: -order.index(spec.kind)):
            effect = KINDS[spec.kind](stream_key(seed, clip, spec.kind))  # type: ignore[call-arg]
            severity = Severity(spec.severity, stream_key(seed, clip, spec.kind, 'severity'), 0.4 if modulated else 0.0)
            self._effects.append((effect, severity))

    def __call__(self, frame: Tensor, index: int) -> Tensor:
        """Frame number ``index`` of the clip, uint8 (3, H, W) on any device.

        Raises:
            CorruptionError: if the frame is of another type or shape.
        """
        if frame.dtype != torch.uint8 or frame.ndim != 3 or frame.shape[0] != 3 or min(frame.shape) < 1:
            raise CorruptionError(f'a frame must be uint8 (3, H, W), got {frame.dtype} {tuple(frame.shape)}')
        for effect, severity in self._effects:
            frame = effect(frame, severity(index), index)
        return frame

    def rgb(self, image: np.ndarray, index: int) -> np.ndarray:
        """The same for an image uint8 (H, W, 3)."""
        frame = torch.from_numpy(np.ascontiguousarray(image)).movedim(-1, 0).contiguous()
        return self(frame, index).movedim(0, -1).contiguous().numpy()
