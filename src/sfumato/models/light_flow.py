"""A small network of optical flow that trains on a CPU."""

from __future__ import annotations

import math
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
SHARPNESS, PENALTY = 20.0, 0.3  # at the start: the factor of cosines, and what is subtracted for an offset of a pixel


def layer(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    """A 3 × 3 convolution and a leaky ReLU."""
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 3, stride, 1), nn.LeakyReLU(0.1))


def finer_to_coarser(channels_in: int, channels_out: int) -> nn.Sequential:
    """Features of half the resolution, which two convolutions compute.

    They are normalized in groups of 8 channels and end without an activation, so that their mean is near 0: cosines of
    features that are all positive are all near 1.
    """
    norm = nn.GroupNorm(max(1, channels_out // 8), channels_out)
    return nn.Sequential(layer(channels_in, channels_out, 2), nn.Conv2d(channels_out, channels_out, 3, 1, 1), norm)


def patches(image: Tensor, times: int) -> Tensor:
    """The brightness of the 5 × 5 pixels around each pixel of a shrunk image, without its mean, as unit vectors.

    They say where a place is before anything has been learned, and in images unlike those of the training too.

    Args:
        image: Images (B, C, H, W), whose sides are multiples of ``times``.
        times: How often the image is shrunk.

    Returns:
        Vectors (B, 25, H / times, W / times).
    """
    gray = image.mean(1, keepdim=True)
    small = F.avg_pool2d(gray, times) if times > 1 else gray
    each = torch.eye(25, dtype=small.dtype, device=small.device).view(25, 1, 5, 5)  # one pixel of the surroundings
    around = F.conv2d(F.pad(small, (2, 2, 2, 2), mode="replicate"), each)
    return unit_vectors(around - around.mean(1, keepdim=True))


def unit_vectors(features: Tensor) -> Tensor:
    """Features (B, C, H, W) divided by their length, and shorter ones where the length is less than 0.001."""
    # Not by its own length where that is next to 0: the gradient grows with one over the length.
    return F.normalize(features, dim=1, eps=1e-3)


def correlation(first: Tensor, second: Tensor, radius: int) -> Tensor:
    """The product of the vector of each pixel with those of the pixels around it in a second map.

    Args:
        first: Vectors (B, C, H, W).
        second: Vectors (B, C, H, W). Beyond their border they are 0.
        radius: How far from its place a pixel is looked for in both directions, pixels.

    Returns:
        Products (B, (2 radius + 1)², H, W), row after row of offsets. Those of unit vectors are cosines.

    >>> correlation(torch.ones(1, 2, 1, 1), torch.ones(1, 2, 1, 1), 1).flatten().tolist()[3:6]
    [0.0, 2.0, 0.0]
    """
    height, width, reach = *first.shape[-2:], 2 * radius + 1
    second = F.pad(second, (radius,) * 4)
    rows = []
    for down in range(reach):
        row = torch.stack([second[..., down : down + height, x : x + width] for x in range(reach)], 2)
        rows.append((first[:, :, None] * row).sum(1))
    return torch.cat(rows, 1)


class Match(nn.Module):
    """Where the pixels of the first image are in the second one, as far as they lie near a flow that is known.

    The second image is warped by the flow and correlated with the first. The softmax of the cosines is a distribution
    of offsets, with a penalty that grows with their square. Its mean is added to the flow. Its covariance says how sure
    the match is, and in which direction: along an edge it is not.

    Args:
        radius: How far an offset reaches, pixels.
    """

    offsets: Tensor

    def __init__(self, radius: int) -> None:
        super().__init__()
        self.radius = radius
        self.log_sharpness = nn.Parameter(torch.tensor(math.log(SHARPNESS)))
        self.log_penalty = nn.Parameter(torch.tensor(math.log(PENALTY)))
        side = torch.arange(-radius, radius + 1).float()
        down, across = torch.meshgrid(side, side, indexing="ij")
        parts = [across, down, across.square(), down.square(), across * down]
        self.register_buffer("offsets", torch.stack(parts).flatten(1), persistent=False)

    def forward(self, first: Tensor, second: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and moments (B, (2 radius + 1)² + 3, H, W), and the mean offset (B, 2, H, W) px.

        The moments are the variances of x and y and their covariance, px². ``first`` and ``second`` are unit vectors.
        """
        places = flow + pixel_grid((flow.shape[-2], flow.shape[-1]), flow)
        moved = sample_at(second.float(), places)[0]  # in half precision a place is known to an eighth of a pixel
        similar = correlation(first.float(), moved, self.radius)
        far = (self.offsets[2:4].sum(0) * self.log_penalty.exp()).view(1, -1, 1, 1)
        law = (similar * self.log_sharpness.exp() - far).softmax(1)
        mean, square = torch.einsum("co,bohw->bchw", self.offsets, law).split([2, 3], 1)
        own = torch.cat([mean.square(), mean[:, :1] * mean[:, 1:]], 1)
        return torch.cat([similar, square - own], 1), mean


class Level(nn.Module):
    """One step from coarse to fine: match both images near the flow so far, and improve what was found.

    Args:
        channels: Number of channels of the features.
        context: Number of channels that come from the coarser level, 0 for the coarsest.
        width: Number of channels of the result.
        radius: Radius of the match, pixels.
    """

    def __init__(self, channels: int, context: int, width: int, radius: int) -> None:
        super().__init__()
        self.match = Match(radius)
        read = (2 * radius + 1) ** 2 + 3 + channels + context + 4
        self.body = nn.Sequential(layer(read, 2 * width), layer(2 * width, width), layer(width, width))
        self.step = nn.Conv2d(width, 2, 3, padding=1)
        nn.init.zeros_(self.step.weight)
        nn.init.zeros_(self.step.bias)  # pyright: ignore[reportArgumentType]

    def forward(
        self, features: Sequence[Tensor], around: Sequence[Tensor], flow: Tensor, context: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The flow (B, 2, H, W) in pixels of this level, and features (B, width, H, W).

        ``features`` and ``around`` are the features and the patches of both images, each (B, …, H, W).
        """
        # Both have the length 1.
        both = [torch.cat([unit_vectors(f), p], 1) * 0.5**0.5 for f, p in zip(features, around, strict=True)]
        similar, offset = self.match(*both, flow)
        found = [similar, features[0], flow / SHRINK, offset]
        x = self.body(torch.cat(found if context is None else [*found, context], 1))
        return flow + offset + self.step(x).float(), x


class LightFlow(nn.Module):
    """Optical flow from coarse to fine: a pyramid of features, warping, and correlation with the pixels around.

    It takes two images (B, 3, H, W) in [0, 1] of any size and returns (B, channels_out, H, W). Vectors are estimated at
    1/16, 1/8, 1/4 and 1/2 of the resolution. Each level warps the second image by the flow so far and matches learned
    features and small patches of both images; convolutions improve what is found. At full resolution patches are
    matched once more. The last layer is the 1 × 1 convolution ``head``. It reads features of full resolution beside the
    vectors, which its first two output channels equal before training. With the default arguments it has 0.4 M
    parameters.

    Args:
        channels_out: Number of output channels, ``likelihood.channels``, at least 2.
        widths: Numbers of channels of the features at 1/2, 1/4, 1/8, … of the resolution, at least 2 of them.
            Multiples of 8. Default (16, 24, 32, 48).
        width: Number of channels of each level's result. Default 32.
        radius: Radius of the match at each level, pixels. Default 3, which reaches 90 px at full resolution.
        dropout: Probability in [0, 1) that a feature is dropped, of the finest level before the last layers.
            Default 0.1.

    Attributes:
        predicts_in_units: True: vectors are in pixels, so targets are not standardized in training.

    Raises:
        ConfigError: If there are fewer than 2 output channels or widths.

    Source: Sun et al. (2018), "PWC-Net: CNNs for optical flow using pyramid, warping, and cost volume". Patches, the
    mean offset of the softmax and the penalty are our own additions: training is short, and begins with a matcher.
    Pitfall: A coarse level cannot see an object that is smaller than its pixels and moves further than the radius of
    the finer levels.

    >>> LightFlow(4).eval()(torch.zeros(1, 3, 17, 1), torch.zeros(1, 3, 17, 1)).shape
    torch.Size([1, 4, 17, 1])
    """

    predicts_in_units = True

    def __init__(
        self,
        channels_out: int,
        widths: Sequence[int] = (16, 24, 32, 48),
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
            Level(channels, 0 if level == 0 else width, width, radius)
            for level, channels in enumerate(reversed(widths))
        )
        self.match, self.detail = Match(1), layer(3, DETAIL)
        self.drop, self.narrow = nn.Dropout(dropout), nn.Conv2d(width, 2 * DETAIL, 1)
        self.sharpen = nn.Sequential(layer(3 * DETAIL + 2 + 9 + 3, 2 * DETAIL), layer(2 * DETAIL, 2 * DETAIL))
        self.head = nn.Conv2d(2 * DETAIL + 2, channels_out, 1)
        with torch.no_grad():  # so that training starts from the vectors that are found
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
        # One after the other and not side by side in one batch, which ensembles in one network divide among members.
        pair = padded(image, self.stride), padded(next, self.stride)
        x, features = pair, []
        for block in self.pyramid:
            x = tuple(block(F.leaky_relu(each, 0.1) if features else each) for each in x)
            features.append(x)
        flow, context = x[0].new_zeros(image.shape[0], 2, *x[0].shape[-2:], dtype=torch.float32), None
        for number, level in enumerate(self.levels):
            coarse = len(self.levels) - number  # this level has 1 / 2^coarse of the resolution
            if context is not None:
                flow, context = 2 * enlarged(flow), enlarged(context)
            around = tuple(patches(each, 2**coarse) for each in pair)
            flow, context = level(features[coarse - 1], around, flow, context)
        assert context is not None
        flow = 2 * enlarged(flow)
        similar, offset = self.match(*(patches(each, 1) for each in pair), flow)
        flow = (flow + offset) / SHRINK
        detail = self.detail(pair[0])
        x = self.sharpen(torch.cat([enlarged(self.narrow(self.drop(context))), detail, flow, similar], 1))
        return self._exact(torch.cat([x.float(), flow], 1))[..., :height, :width]

    def _exact(self, x: Tensor) -> Tensor:
        """The output in full precision also where mixed precision is used: bfloat16 has steps of 1/8 px at 20 px."""
        if not torch.is_autocast_enabled(x.device.type):
            return self.head(x)
        with torch.autocast(x.device.type, enabled=False):
            return self.head(x)
