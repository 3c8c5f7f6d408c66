"""Random numbers and interpolation in whole numbers: the same bytes on every processor.

Floating-point functions differ in their last bit between libraries and vector units, and a pixel that lies on the edge
between two levels then differs by one.  Everything that touches a pixel is integer arithmetic here, on tensors of
any device; the few numbers that come from ``math`` are rounded to whole ones first.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

_FIRST, _SECOND = 0x21F0AAAD, 0x735A2D97  # multipliers of a 32-bit mixing function with low bias (C. Wellons, 2018)


def stream_key(*parts: int | str) -> int:
    """A 32-bit key from numbers and texts, the same in every process."""
    text = '\x1f'.join(f'{type(part).__name__}:{part}' for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), 'little')


def _signed(value: int) -> int:
    return value - (1 << 32) if value & (1 << 31) else value


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int32."""
    return (x >> bits) & ((1 << (32 - bits)) - 1)


def random_words(shape: tuple[int, ...], key: int, device: torch.device | str = 'cpu') -> Tensor:
    """Uniform int32 words, a hash of each element's position and ``key``."""
    count = 1
    for side in shape:
        count *= side
    x = torch.arange(count, dtype=torch.int32, device=device)
    x ^= _signed(key)
    x ^= _shift(x, 16)
    x *= _signed(_FIRST)
    x += _signed(key)  # streams of two keys are not shifted copies of each other
    x ^= _shift(x, 15)
    x *= _signed(_SECOND)
    x ^= _shift(x, 15)
    return x.view(shape)


def bell_noise(shape: tuple[int, ...], key: int, device: torch.device | str = 'cpu') -> Tensor:
    """Nearly normal int16 of mean 0 and standard deviation 148: the sum of the four bytes of a word, less 510."""
    words = random_words(shape, key, device)
    total = (words & 0x00FF00FF) + ((words >> 8) & 0x00FF00FF)
    return ((total & 0xFFFF) + (total >> 16) - 510).to(torch.int16)


BELL_DEVIATION = 148
"""Standard deviation of :func:`bell_noise`, rounded."""


def stretch(image: Tensor, height: int, width: int) -> Tensor:
    """Bilinear enlargement of int (..., h, w) to (..., height, width) in steps of 1/256; values below 2**15."""
    return _stretch_last(_stretch_last(image.transpose(-1, -2), height).transpose(-1, -2), width)


def _stretch_last(image: Tensor, side: int) -> Tensor:
    small = image.shape[-1]
    if small == side:
        return image.to(torch.int32)
    place = torch.arange(side, dtype=torch.int64, device=image.device)
    position = ((2 * place + 1) * small * 256 // (2 * side) - 128).clamp_(0, (small - 1) * 256)
    low, share = position >> 8, (position & 255).to(torch.int32)
    image = image.to(torch.int32)
    near, far = image.index_select(-1, low), image.index_select(-1, (low + 1).clamp_(max=small - 1))
    return near + ((far - near) * share + 128 >> 8)


def shrink(image: Tensor, height: int, width: int) -> Tensor:
    """Rounded means over boxes, int (..., H, W) to (..., height, width); boxes differ where a side does not divide."""
    return _shrink_last(_shrink_last(image.transpose(-1, -2), height).transpose(-1, -2), width)


def _shrink_last(image: Tensor, side: int) -> Tensor:
    large = image.shape[-1]
    if large == side:
        return image.to(torch.int32)
    edges = torch.arange(side + 1, dtype=torch.int64, device=image.device) * large // side
    sums = torch.nn.functional.pad(image.to(torch.int32).cumsum(-1, dtype=torch.int32), (1, 0))
    count = (edges[1:] - edges[:-1]).to(torch.int32)
    total = sums.index_select(-1, edges[1:]) - sums.index_select(-1, edges[:-1])
    return torch.div(total + count // 2, count, rounding_mode='floor')


def smooth_noise(height: int, width: int, cell: int, key: int, device: torch.device | str = 'cpu') -> Tensor:
    """Value noise int32 (height, width) in 0 .. 255: random values every ``cell`` pixels, three octaves, stretched."""
    total = torch.zeros(height, width, dtype=torch.int32, device=device)
    for octave, weight in enumerate((4, 2, 1)):
        step = max(2, cell >> octave)
        shape = (-(-height // step) + 1, -(-width // step) + 1)
        coarse = random_words(shape, key + octave * 0x9E3779B1 & 0xFFFFFFFF, device) & 255
        total += weight * stretch(coarse, height, width)
    return total // 7
