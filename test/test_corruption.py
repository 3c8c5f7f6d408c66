"""The eight corruptions: the same bytes everywhere, stronger with severity, slow over time, clear about bad input."""

from __future__ import annotations

import hashlib
from itertools import pairwise

import numpy as np
import pytest
import torch

from robust_pvos_ros.corruption.corruption import (
    KINDS,
    ClipCorruption,
    CorruptionError,
    CorruptionSpec,
    parse_corruptions,
)
from robust_pvos_ros.corruption.integers import BELL_DEVIATION, bell_noise, shrink, stream_key, stretch
from robust_pvos_ros.corruption.modulation import HIGHEST, LOWEST, Severity, from_table

GOLDEN = {
    'colour_jitter': '2e5a329ac2bd8905',
    'gaussian_noise': '51f9856189a1c1b0',
    'iso_noise': '86d98f0387bf81cb',
    'motion_blur': '8edb1a77835042cc',
    'resampling_blur': 'df3a2f46b02d1ac4',
    'fog': '1e881a11a1fc6ecb',
    'rain': '47939dbe4109c3a0',
    'snow': 'f47e463ecfb69d06',
}


def picture(height: int = 90, width: int = 160) -> torch.Tensor:
    """Ramps, stripes and squares in whole numbers, uint8 (3, H, W)."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing='ij')
    return torch.stack([x * 255 // width, y * 255 // height, (x // 11 + y // 7) % 2 * 180 + 40]).to(torch.uint8)


def distance(first: torch.Tensor, second: torch.Tensor) -> float:
    return float((first.int() - second.int()).abs().float().mean())


def corrupt(
    kind: str, severity: float, index: int = 5, modulated: bool = False, clip: str = 'a', large: bool = False
) -> torch.Tensor:
    frame = picture(240, 426) if large else picture()
    return ClipCorruption([CorruptionSpec(kind, severity)], 7, clip, modulated)(frame, index)


@pytest.mark.parametrize('kind', KINDS)
def test_bytes_are_those_of_every_other_machine(kind: str) -> None:
    clip = ClipCorruption([CorruptionSpec(kind, 3)], 7, 'golden')
    frames = torch.stack([clip(picture(), index) for index in (0, 1, 40)])
    assert hashlib.sha256(frames.numpy().tobytes()).hexdigest()[:16] == GOLDEN[kind]


@pytest.mark.parametrize('kind', KINDS)
def test_a_frame_depends_on_seed_clip_and_index_alone(kind: str) -> None:
    again = ClipCorruption([CorruptionSpec(kind, 3)], 7, 'a', modulated=False)
    for index in (9, 2):
        again(picture(), index)
    assert torch.equal(again(picture(), 5), corrupt(kind, 3)), 'frames may come in any order'
    others = [corrupt(kind, 3, clip='b'), ClipCorruption([CorruptionSpec(kind, 3)], 8, 'a', False)(picture(), 5)]
    if kind != 'resampling_blur':  # which has nothing random but its severity
        assert not any(torch.equal(other, corrupt(kind, 3)) for other in others)


@pytest.mark.parametrize('kind', KINDS)
def test_severity_tells(kind: str) -> None:
    original, levels = picture(240, 426), (1, 2, 3, 4, 5)
    changes = [np.mean([distance(original, corrupt(kind, s, i, large=True)) for i in (0, 20, 45)]) for s in levels]
    assert changes[0] > 0.5 and all(a < b for a, b in pairwise(changes)), changes
    assert corrupt(kind, 5).dtype == torch.uint8 and corrupt(kind, 5).shape == picture().shape


@pytest.mark.parametrize('kind', ['colour_jitter', 'motion_blur', 'fog'])
def test_slow_effects_change_little_from_frame_to_frame(kind: str) -> None:
    frames = [corrupt(kind, 4, index, modulated=True, large=True) for index in range(40)]
    steps = [distance(a, b) for a, b in pairwise(frames)]
    assert max(steps) < 0.5 * max(distance(frames[0], frame) for frame in frames)


@pytest.mark.parametrize('kind', ['rain', 'snow'])
def test_what_falls_moves_down_and_keeps_its_shape(kind: str) -> None:
    black = torch.zeros(3, 120, 200, dtype=torch.uint8)
    clip = ClipCorruption([CorruptionSpec(kind, 3)], 1, 'x', modulated=False)
    before, after = (clip(black, index)[0].float() for index in (10, 11))
    before, after = before - before.mean(), after - after.mean()
    spectrum = torch.fft.rfft2(after) * torch.fft.rfft2(before).conj()
    surface = torch.fft.irfft2(spectrum, s=before.shape)
    row = int(surface.flatten().argmax()) // before.shape[1]
    assert 0 < row < 40 and float(surface.max() / before.square().sum()) > 0.3


@pytest.mark.parametrize('kind', ['gaussian_noise', 'iso_noise'])
def test_noise_is_new_on_every_frame(kind: str) -> None:
    grey = torch.full((3, 60, 80), 128, dtype=torch.uint8)
    clip = ClipCorruption([CorruptionSpec(kind, 3)], modulated=False)
    first, second = (clip(grey, index).float().flatten() for index in (0, 1))
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.05


def test_fog_hides_the_far_more_than_the_near() -> None:
    original = picture()
    foggy = corrupt('fog', 3)
    contrast = [float(part[2].float().std()) for part in (foggy[:, :30], foggy[:, -30:], original[:, :30])]
    assert contrast[0] < 0.75 * contrast[1] < contrast[2]


def test_composition_applies_weather_first() -> None:
    one = ClipCorruption(parse_corruptions('gaussian_noise:2+fog:4'), 3, 'c')
    other = ClipCorruption(parse_corruptions('fog:4+gaussian_noise:2'), 3, 'c')
    assert torch.equal(one(picture(), 4), other(picture(), 4))
    fog, noise = (ClipCorruption(parse_corruptions(text), 3, 'c') for text in ('fog:4', 'gaussian_noise:2'))
    assert torch.equal(one(picture(), 4), noise(fog(picture(), 4), 4))
    assert torch.equal(ClipCorruption(parse_corruptions(''))(picture(), 0), picture())


@pytest.mark.parametrize('size', [(1, 1), (2, 7), (33, 40), (480, 854)])
@pytest.mark.parametrize('kind', KINDS)
def test_any_size_goes(kind: str, size: tuple[int, int]) -> None:
    frame = torch.full((3, *size), 90, dtype=torch.uint8)
    assert ClipCorruption([CorruptionSpec(kind, 5)])(frame, 3).shape == frame.shape


def test_images_of_the_camera_side() -> None:
    clip = ClipCorruption(parse_corruptions('snow:2'), 1, 'd')
    image = picture().movedim(0, -1).contiguous().numpy()
    before = image.copy()
    assert np.array_equal(clip.rgb(image, 3), clip(picture(), 3).movedim(0, -1).numpy())
    assert np.array_equal(image, before), 'the original is left as it is'


@pytest.mark.parametrize(
    ('text', 'said'),
    [
        ('hail:2', "no corruption 'hail'; it must be one of colour_jitter"),
        ('fog:9', 'severity of fog must lie between 1 and 5, got 9'),
        ('fog:much', "'much' of 'fog' is no number"),
    ],
)
def test_wrong_specifications_are_explained(text: str, said: str) -> None:
    with pytest.raises(CorruptionError, match=said):
        parse_corruptions(text)


@pytest.mark.parametrize(
    'frame', [torch.zeros(3, 4, 4), torch.zeros(4, 4, 3, dtype=torch.uint8), torch.zeros(3, 0, 4, dtype=torch.uint8)]
)
def test_wrong_frames_are_refused(frame: torch.Tensor) -> None:
    with pytest.raises(CorruptionError, match=r'uint8 \(3, H, W\)'):
        ClipCorruption(parse_corruptions('fog'))(frame, 0)


def test_severity_stays_within_bounds_and_means_what_it_says() -> None:
    values = [Severity(3.0, stream_key('x', i), 0.4)(t) for i in range(40) for t in range(0, 200, 7)]
    assert LOWEST <= min(values) < 2.5 and 3.5 < max(values) <= HIGHEST
    assert np.mean(values) == pytest.approx(3.0, abs=0.1)
    assert from_table((0.0, 1.0, 3.0), 1.5) == 2.0 and from_table((0.0, 1.0, 3.0), 2.5) == 4.0


def test_whole_number_tools() -> None:
    noise = bell_noise((200, 300), 5).float()
    assert abs(float(noise.mean())) < 2 and float(noise.std()) == pytest.approx(BELL_DEVIATION, rel=0.02)
    kurtosis = float(((noise - noise.mean()) ** 4).mean() / noise.var() ** 2)
    assert 2.5 < kurtosis < 3.2
    ramp = torch.arange(0, 240, 2, dtype=torch.int32).view(1, 12, 10)
    assert torch.equal(stretch(ramp, 12, 10), ramp) and torch.equal(shrink(ramp, 12, 10), ramp)
    assert float(shrink(ramp, 6, 5).float().mean()) == pytest.approx(float(ramp.float().mean()), abs=0.6)
    large = stretch(ramp, 24, 20)
    assert large.min() >= ramp.min() and large.max() <= ramp.max() and (large.diff(dim=-1) >= 0).all()
