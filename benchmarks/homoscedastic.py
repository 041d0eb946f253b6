"""A network with one noise scale for all pixels, with which heteroscedastic networks are compared."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sfumato.models import UNet


class Homoscedastic(nn.Module):
    """A U-Net for locations, and one learned log scale for all pixels of all images.

    Args:
        channels_out: 2 D output channels, of a Gaussian or a Laplace likelihood for D values.
        **unet: Further arguments of :class:`sfumato.models.UNet`.
    """

    def __init__(self, channels_out: int, **unet: Any) -> None:
        super().__init__()
        self.location = UNet(channels_out // 2, **unet)
        self.log_scale = nn.Parameter(torch.zeros(channels_out // 2, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Locations, and the same log scale at each pixel, (B, 2 D, H, W)."""
        location = self.location(image)
        return torch.cat([location, self.log_scale.expand_as(location)], 1)
