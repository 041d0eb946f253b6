"""A U-Net whose last layer reads the features of all depths."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from sfumato.models import UNet
from sfumato.models.unet import unit

WIDTH = 8  # channels of each depth that the last layer reads


class DeepHeadUNet(UNet):
    """:class:`UNet` whose head also reads 8 projected channels of the coarsest features and of each decoder block."""

    def __init__(
        self, channels_out: int, widths: Sequence[int] = (16, 32, 64, 96, 144), in_channels: int = 3,
        dropout: float = 0.5,
    ) -> None:  # fmt: skip
        super().__init__(channels_out, widths, in_channels, dropout)
        self.depths = nn.ModuleList(unit(width, WIDTH, kernel=1) for width in (widths[-1], *reversed(widths[:-1])))
        self.head = nn.Conv2d(widths[0] + WIDTH * len(self.depths), channels_out, 1)

    def decode(self, detail: Tensor, skips: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """As that of :class:`UNet`."""
        *skips, deepest = skips
        x, found = self.center(deepest), []
        found.append(x)
        for rise in reversed(self.decoder):
            x = rise(x, skips.pop())
            found.append(x)
        whole = detail.shape[-2:]

        def large(features: Tensor) -> Tensor:
            return interpolate(features, whole, mode="bilinear", align_corners=False)

        parts = [large(project(each)) for project, each in zip(self.depths, found, strict=True)]
        x = self.sharpen(torch.cat([detail, large(x)], 1))
        return self.head(torch.cat([x, *parts], 1)[..., : size[0], : size[1]])
