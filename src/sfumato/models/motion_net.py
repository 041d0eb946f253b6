"""A small network for the motion of a camera between two pictures."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class MotionNet(nn.Module):
    """Strided convolutions over two pictures, averaged over the image: a translation and a rotation vector.

    It takes two images (B, 3, H, W) in [0, 1] and returns (B, channels_out). The output is multiplied by 0.01, so that
    training starts near no motion. With the default arguments it has 0.4 M parameters.

    Args:
        channels_out: Number of outputs, 6 for a motion.
        widths: Numbers of channels at 1/2, 1/4, 1/8, … of the resolution. Default (16, 32, 64, 96, 128).

    Source: Zhou et al. (2017), "Unsupervised learning of depth and ego-motion from video".

    >>> MotionNet(6)(torch.rand(2, 3, 32, 48), torch.rand(2, 3, 32, 48)).shape
    torch.Size([2, 6])
    """

    def __init__(self, channels_out: int, widths: Sequence[int] = (16, 32, 64, 96, 128)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for place, (above, below) in enumerate(pairwise((6, *widths))):
            kernel = 7 if place == 0 else 3
            layers += [nn.Conv2d(above, below, kernel, 2, kernel // 2), nn.ReLU()]
        layers += [nn.Conv2d(widths[-1], widths[-1], 3, padding=1), nn.ReLU(), nn.Conv2d(widths[-1], channels_out, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, image: Tensor, other: Tensor) -> Tensor:
        """The twist (B, 6) of ``other_from_image``: translation, then rotation (radians)."""
        return 0.01 * self.layers(torch.cat([image, other], 1) - 0.45).mean((2, 3))
