"""A small network of optical flow that trains on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.errors import ConfigError, DataError
from sfumato.geometry import pixel_grid, sample_at
from sfumato.models.padding import padded
from sfumato.models.unet import enlarged

DETAIL = 8  # channels at full resolution
SHRINK = 8.0  # vectors are divided by it where a convolution reads them, so that they are about as large as features


def layer(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    """A 3 × 3 convolution and a leaky ReLU."""
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 3, stride, 1), nn.LeakyReLU(0.1))


def finer_to_coarser(channels_in: int, channels_out: int) -> nn.Sequential:
    """Features of half the resolution, which two convolutions compute. They are normalized in groups of 8 channels."""
    second = nn.Conv2d(channels_out, channels_out, 3, padding=1)
    norm = nn.GroupNorm(max(1, channels_out // 8), channels_out)
    return nn.Sequential(layer(channels_in, channels_out, 2), second, norm, nn.LeakyReLU(0.1))


def correlation(first: Tensor, second: Tensor, radius: int) -> Tensor:
    """The cosine of the angle between the features of each pixel and of the pixels around it in a second map.

    Args:
        first: Features (B, C, H, W).
        second: Features (B, C, H, W). Beyond their border they are 0.
        radius: How far from its place a pixel is looked for in both directions, pixels.

    Returns:
        Cosines (B, (2 radius + 1)², H, W) in [−1, 1], row after row of offsets.

    >>> correlation(torch.ones(1, 2, 1, 1), torch.ones(1, 2, 1, 1), 1).flatten().tolist()[3:6]
    [0.0, 1.0, 0.0]
    """
    height, width, reach = *first.shape[-2:], 2 * radius + 1
    # 1e-6 and not less: the gradient of a normalized vector grows with one over its length.
    first, second = (F.normalize(each, dim=1, eps=1e-6) for each in (first, second))
    second = F.pad(second, (radius,) * 4)
    rows = []
    for down in range(reach):
        row = torch.stack([second[..., down : down + height, x : x + width] for x in range(reach)], 2)
        rows.append((first[:, :, None] * row).sum(1))
    return torch.cat(rows, 1)


class Level(nn.Module):
    """One step from coarse to fine: warp the second image by the flow so far, correlate, and improve the flow.

    Args:
        channels: Number of channels of the features.
        context: Number of channels that come from the coarser level, 0 for the coarsest.
        width: Number of channels of the result.
        radius: Radius of the correlation, pixels.
    """

    def __init__(self, channels: int, context: int, width: int, radius: int) -> None:
        super().__init__()
        self.radius = radius
        read = (2 * radius + 1) ** 2 + channels + context + 2
        self.body = nn.Sequential(layer(read, 2 * width), layer(2 * width, width), layer(width, width))
        self.step = nn.Conv2d(width, 2, 3, padding=1)

    def forward(self, first: Tensor, second: Tensor, flow: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """The flow (B, 2, H, W) in pixels of this level, and features (B, width, H, W)."""
        places = flow + pixel_grid((flow.shape[-2], flow.shape[-1]), flow)
        moved = sample_at(second.float(), places)[0]  # in half precision a place is known to an eighth of a pixel
        found = [correlation(first, moved.to(first.dtype), self.radius), first, flow / SHRINK]
        x = self.body(torch.cat(found if context is None else [*found, context], 1))
        return flow + self.step(x).float(), x


class LightFlow(nn.Module):
    """Optical flow from coarse to fine: a pyramid of features, warping, and correlation with the pixels around.

    It takes two images (B, 3, H, W) in [0, 1] of any size and returns (B, channels_out, H, W). Vectors are estimated at
    1/32, 1/16, 1/8, 1/4 and 1/2 of the resolution, each level from the warped features of the second image. The last
    layer is the 1 × 1 convolution ``head``. It reads features of full resolution beside the vectors, which its first
    two output channels equal before training. With the default arguments it has 0.53 M parameters.

    Args:
        channels_out: Number of output channels, ``likelihood.channels``, at least 2.
        widths: Numbers of channels of the features at 1/2, 1/4, 1/8, … of the resolution, at least 2 of them.
            Multiples of 8. Default (16, 24, 32, 48, 64).
        width: Number of channels of each level's result. Default 32.
        radius: Radius of the correlation at each level, pixels. Default 3.
        dropout: Probability in [0, 1) that a feature is dropped, of the finest level before the last two layers.
            Default 0.1.

    Attributes:
        predicts_in_units: True: vectors are in pixels, so targets are not standardized in training.

    Raises:
        ConfigError: If there are fewer than 2 output channels or widths.

    Source: Sun et al. (2018), "PWC-Net: CNNs for optical flow using pyramid, warping, and cost volume". The features
    are normalized here, and there is no context network.
    Pitfall: A coarse level cannot see an object that is smaller than its pixels and moves further than the radius of
    the finer levels.

    >>> LightFlow(4).eval()(torch.zeros(1, 3, 17, 1), torch.zeros(1, 3, 17, 1)).shape
    torch.Size([1, 4, 17, 1])
    """

    predicts_in_units = True

    def __init__(
        self,
        channels_out: int,
        widths: Sequence[int] = (16, 24, 32, 48, 64),
        width: int = 32,
        radius: int = 3,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if len(widths) < 2 or channels_out < 2:
            raise ConfigError(
                f"widths is {tuple(widths)} and channels_out {channels_out}, expected at least 2 levels such as "
                "(16, 24), and at least the 2 values of a vector"
            )
        self.stride = 2 ** len(widths)
        self.pyramid = nn.ModuleList(finer_to_coarser(above, below) for above, below in pairwise((3, *widths)))
        self.levels = nn.ModuleList(
            Level(channels, 0 if channels is widths[-1] else width, width, radius) for channels in reversed(widths)
        )
        self.detail = layer(3, DETAIL)
        self.drop, self.narrow = nn.Dropout(dropout), nn.Conv2d(width, 2 * DETAIL, 1)
        self.sharpen = nn.Sequential(layer(3 * DETAIL + 2, 2 * DETAIL), layer(2 * DETAIL, 2 * DETAIL))
        self.head = nn.Conv2d(2 * DETAIL + 2, channels_out, 1)
        with torch.no_grad():  # so that training starts from the vectors of the finest level
            self.head.weight.zero_()
            self.head.bias.zero_()  # pyright: ignore[reportOptionalMemberAccess]
            self.head.weight[:2, 2 * DETAIL :, 0, 0] = SHRINK * torch.eye(2)

    def forward(self, image: Tensor, next: Tensor) -> Tensor:
        """Outputs (B, channels_out, H, W) for two images (B, 3, H, W).

        Raises:
            DataError: If the images differ in size.
        """
        if image.shape != next.shape:
            raise DataError(
                f"the two images have shapes {tuple(image.shape)} and {tuple(next.shape)}: expected the same"
            )
        height, width = image.shape[-2:]
        first, second = padded(image, self.stride), padded(next, self.stride)
        detail = self.detail(first)
        pairs = []
        both = torch.cat([first, second])
        for block in self.pyramid:
            both = block(both)
            pairs.append(both.chunk(2))
        context = None
        flow = both.new_zeros(len(image), 2, *both.shape[-2:], dtype=torch.float32)
        for level, pair in zip(self.levels, reversed(pairs)):
            if context is not None:
                flow, context = 2 * enlarged(flow), enlarged(context)
            flow, context = level(*pair, flow, context)
        assert context is not None
        flow = 2 * enlarged(flow) / SHRINK
        x = self.sharpen(torch.cat([enlarged(self.narrow(self.drop(context))), detail, flow], 1))
        return self._exact(torch.cat([x.float(), flow], 1))[..., :height, :width]

    def _exact(self, x: Tensor) -> Tensor:
        """The output in full precision also where mixed precision is used: bfloat16 has steps of 1/8 px at 20 px."""
        if not torch.is_autocast_enabled(x.device.type):
            return self.head(x)
        with torch.autocast(x.device.type, enabled=False):
            return self.head(x)
