"""A small network that takes two images."""

import torch
from torch import Tensor, nn


class ToyStereoNet(nn.Module):
    """Convolutions over both images, side by side as six channels.

    Args:
        channels_out: Output channels, ``likelihood.channels``.
        width: Channels inside.
    """

    def __init__(self, channels_out: int, width: int = 16) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(6, width, 5, padding=2), nn.ReLU(), nn.Conv2d(width, width, 5, padding=2), nn.ReLU()
        )
        self.head = nn.Conv2d(width, channels_out, 1)

    def forward(self, image: Tensor, right: Tensor) -> Tensor:
        """Outputs (B, channels_out, H, W)."""
        return self.head(self.body(torch.cat([image, right], 1)))
