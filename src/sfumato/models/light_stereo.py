"""A small stereo network that trains on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.errors import ConfigError
from sfumato.geometry import check_views, group_correlation
from sfumato.models.cost_volume import PlaneHead, over_volume
from sfumato.models.padding import padded
from sfumato.models.unet import enlarged, unit

STRIDE = 4  # pixels of the image for each pixel of the cost volume, and disparities for each of its planes
GROUPS = 8


def unit3d(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    """Convolution over planes, rows and columns, batch normalization, ReLU."""
    return nn.Sequential(
        nn.Conv3d(channels_in, channels_out, 3, stride, 1, bias=False), nn.BatchNorm3d(channels_out), nn.ReLU()
    )


class Residual(nn.Module):
    """Two convolutions whose result is added to what they read."""

    def __init__(self, width: int, dilation: int = 1) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(width, width, 3, 1, dilation, dilation, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """Features of the same shape."""
        return (x + self.second(self.first(x))).relu()


class Hourglass(nn.Module):
    """An encoder and a decoder over the cost volume, which spread matches to where there are none.

    Args:
        width: Number of channels.
        dropout: Probability in [0, 1) that a feature is dropped, after each of the two deepest blocks.
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        wide = 2 * width
        self.down = nn.ModuleList([
            nn.Sequential(unit3d(width, wide, 2), unit3d(wide, wide)),
            nn.Sequential(unit3d(wide, wide, 2), unit3d(wide, wide), nn.Dropout(dropout)),
        ])  # fmt: skip
        self.up = nn.ModuleList([
            nn.ConvTranspose3d(wide, wide, 4, 2, 1, bias=False), nn.ConvTranspose3d(wide, width, 4, 2, 1, bias=False),
        ])  # fmt: skip
        self.merge = nn.ModuleList([nn.Sequential(unit3d(wide, wide), nn.Dropout(dropout)), unit3d(width, width)])

    def forward(self, x: Tensor) -> Tensor:
        """A volume of the same shape. Planes, rows and columns are multiples of 4."""
        half = self.down[0](x)
        quarter = self.down[1](half)
        half = self.merge[0](half + self.up[0](quarter))
        return self.merge[1](x + self.up[1](half))


class LightStereo(nn.Module):
    """A stereo network with a cost volume of few planes at a quarter of the resolution.

    The views share their features. Features of both views are compared in 8 groups of channels, at every fourth
    disparity with features of stride 4, and at every second with features of stride 2. Each vector of a group has
    length 1, so a comparison does not depend on contrast. 3-d convolutions with an encoder and a decoder give a score
    to each disparity. The scores are enlarged to the size of the image with weights that are learned from the left
    view: it is the distribution over planes that is enlarged, and not the disparity, because between two surfaces the
    mean of both is wrong. The last layer is the 1 × 1 convolution ``out.head``.

    With the default arguments it has 0.3 M parameters. It takes two views (B, 3, H, W) of any one size, and returns
    (B, channels_out, H, W), see :class:`PlaneHead` for what the channels are.

    Args:
        channels_out: Number of output channels, ``likelihood.channels``.
        planes: Number of planes ≥ 2, one for each whole disparity from 0. ``fit`` fills in as many as the task has. The
            work is that of the next multiple of 16. Default 64.
        width: Number of channels of the cost volume. Default 12.
        features: Number of channels of the features, a multiple of 16. Default 32.
        dropout: Probability in [0, 1) that a feature of the volume is dropped, in the middle of it. Default 0.1.

    Raises:
        ConfigError: If ``planes`` is less than 2, or ``features`` is not a multiple of 16.
        DataError: When called, if the views differ in size.

    Source: Guo et al. (2019), "Group-wise correlation stereo network", for the volume; Teed and Deng (2020), "RAFT",
    for the enlargement.
    Pitfall: Disparities of ``planes`` and more cannot be found.

    >>> view = torch.zeros(1, 3, 33, 50)
    >>> LightStereo(16, planes=16).eval()(view, view).shape
    torch.Size([1, 16, 33, 50])
    """

    stride = 16

    def __init__(
        self, channels_out: int, planes: int = 64, width: int = 12, features: int = 32, dropout: float = 0.1
    ) -> None:
        super().__init__()
        if features < 16 or features % 16:
            raise ConfigError(f"features is {features}, expected a multiple of 16")
        self.planes = planes
        self.fine = nn.Sequential(unit(3, 16, stride=2), unit(16, features), Residual(features))
        self.coarse = nn.Sequential(unit(features, features, stride=2), Residual(features), Residual(features, 2))
        self.context = nn.Sequential(unit(features, features, stride=2), Residual(features), Residual(features, 2))
        self.join = unit(2 * features, features)
        self.match_fine = nn.Conv2d(features, features, 1)
        self.match_coarse = nn.Conv2d(features, 2 * features, 1)
        self.enter = nn.Sequential(unit3d(3 * GROUPS, width), unit3d(width, width))
        self.spread = Hourglass(width, dropout)
        self.score = nn.Conv3d(width, STRIDE, 3, 1, 1)
        self.guide = nn.Sequential(unit(features, features), nn.Conv2d(features, 9 * STRIDE**2, 1))
        self.out = PlaneHead(planes, channels_out)  # the last one, so that it is the last layer

    def forward(self, image: Tensor, right: Tensor) -> Tensor:
        """Outputs (B, channels_out, H, W) for the left and the right view (B, 3, H, W)."""
        check_views(image, right)
        height, width = image.shape[-2:]
        (fine, coarse, features), (fine_right, coarse_right, _) = (
            self.features(padded(view, self.stride)) for view in (image, right)
        )
        planes = 4 * -(-self.planes // 16)  # of the volume, whose decoder needs a multiple of 4
        # Two planes of the finer volume for each plane of the coarser one. A block of 2 × 2 pixels has their mean.
        detail = group_correlation(fine, fine_right, 2 * planes, GROUPS)
        detail = detail.unflatten(4, (-1, 2)).unflatten(3, (-1, 2)).mean((4, 6)).unflatten(2, (planes, 2))
        detail = detail.transpose(2, 3).flatten(1, 2)
        volume = torch.cat([group_correlation(coarse, coarse_right, planes, GROUPS), detail], 1)
        scores = over_volume(lambda v: self.score(self.spread(self.enter(v))), volume)  # (B, 4, planes / 4, h, w)
        scores = scores.transpose(1, 2).flatten(1, 2)[:, : self.planes]
        return self.out(self.enlarged(scores, features)[..., :height, :width])

    def features(self, view: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features to compare at strides 2 and 4, each group of length 1, and features at stride 4."""
        fine = self.fine(view)
        coarse = self.coarse(fine)
        joined = self.join(torch.cat([coarse, enlarged(self.context(coarse))], 1))
        return _unit_length(self.match_fine(fine)), _unit_length(self.match_coarse(joined)), joined

    def enlarged(self, scores: Tensor, features: Tensor) -> Tensor:
        """Scores (B, P, 4 h, 4 w) from scores (B, P, h, w): each is a weighted mean of the 3 × 3 scores around it."""
        weights = self.guide(features).unflatten(1, (9, STRIDE**2)).softmax(1)
        height, width = scores.shape[-2:]
        around = F.pad(scores, (1, 1, 1, 1), mode="replicate")
        total: Tensor | None = None
        for place in range(9):
            row, column = divmod(place, 3)
            part = around[..., row : row + height, column : column + width].unsqueeze(2) * weights[:, place, None]
            total = part if total is None else total + part
        assert total is not None
        return F.pixel_shuffle(total.flatten(1, 2), STRIDE)


def _unit_length(features: Tensor) -> Tensor:
    """Features (B, C, H, W) in which each group of channels is scaled so that its mean square is 1."""
    grouped = features.unflatten(1, (GROUPS, -1))
    return (grouped * (grouped.square().mean(2, keepdim=True) + 1e-4).rsqrt()).flatten(1, 2)
