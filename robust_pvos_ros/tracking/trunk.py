"""A convolutional trunk for the compact model, in the place of Hiera.

Pre-activation residual blocks (He et al. 2016) with layer norms over channels.  Dense 3 x 3 convolutions learn local
features from little data, reach the bfloat16 peak of CPUs and GPUs alike and export without special operators.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (B, C, H, W); on channels-last memory no copy is made."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ResidualBlock(nn.Module):
    """``x + conv(relu(norm(conv(relu(norm(x))))))``; a 1 x 1 convolution on the shortcut where sizes change.

    Args:
        channels, width: input and output channels; stride: of the first convolution.
    """

    def __init__(self, channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.norm1, self.norm2 = ChannelNorm(channels), ChannelNorm(width)
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1)
        self.shortcut = nn.Conv2d(channels, width, 1) if channels != width or stride != 1 else None
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, width, H / stride, W / stride)."""
        branch = self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(x))))))
        if self.shortcut is not None:
            x = self.shortcut(F.avg_pool2d(x, self.stride) if self.stride > 1 else x)
        return x + branch


class ConvTrunk(nn.Module):
    """Feature maps at strides 4, 8, 16 and 32, with the interface of ``sam2``'s Hiera.

    Args:
        widths: channels of the four stages; depths: residual blocks of each.
    """

    def __init__(self, widths: tuple[int, ...], depths: tuple[int, ...]) -> None:
        super().__init__()
        self.channel_list = list(widths[::-1])
        self.stem = nn.Conv2d(3, widths[0], 7, 4, 3)
        stages, channels = [], widths[0]
        for index, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            blocks = [
                ResidualBlock(channels if b == 0 else width, width, 2 if b == 0 and index else 1) for b in range(depth)
            ]
            stages.append(nn.Sequential(*blocks))
            channels = width
        self.stages = nn.ModuleList(stages)
        self.norms = nn.ModuleList(ChannelNorm(width) for width in widths)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode='fan_out', nonlinearity='relu')
            elif isinstance(module, ResidualBlock):
                nn.init.normal_(module.conv2.weight, std=0.3 * module.conv2.weight[0].numel() ** -0.5)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, S, S) -> four maps (B, widths[i], S / 2**(i + 2), S / 2**(i + 2))."""
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        maps = []
        for stage, norm in zip(self.stages, self.norms):
            x = stage(x)
            maps.append(norm(x))
        return maps
