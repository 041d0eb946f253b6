"""GC-Net: stereo by 3-d convolutions over a volume of concatenated features."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from sfumato.geometry import check_views, concatenation
from sfumato.models.cost_volume import PlaneHead, over_volume
from sfumato.models.padding import padded
from sfumato.models.unet import unit


class _Block(nn.Module):
    """Two convolutions whose result is added to what they read."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = unit(width, width), unit(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x))


def _units(channels_in: int, channels_out: int, count: int, stride: int = 1) -> nn.Sequential:
    """So many 3-d convolutions, the first with the stride, each with batch normalization and ReLU."""
    layers: list[nn.Module] = []
    for number in range(count):
        layers += [
            nn.Conv3d(channels_out if number else channels_in, channels_out, 3, 1 if number else stride, 1, bias=False),
            nn.BatchNorm3d(channels_out),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


def _rise(below: int, above: int) -> nn.Sequential:
    """A transposed 3-d convolution to twice the size, batch normalization and ReLU."""
    rise = nn.ConvTranspose3d(below, above, 3, 2, 1, 1, bias=False)
    return nn.Sequential(rise, nn.BatchNorm3d(above), nn.ReLU(inplace=True))


class GCNet(nn.Module):
    """GC-Net as published: shared features at half resolution, a volume of both views' features, 37 layers.

    Layers 1 to 18 are the features (one 5 × 5 convolution of stride 2, eight residual blocks, one plain convolution),
    19 to 36 an encoder and a decoder over the volume with four levels, 37 the transposed convolution that gives a cost
    to each disparity and pixel. The softmin of these costs is the distribution over disparities.

    Not as published: a 1 × 1 convolution ``out.head`` over the planes follows layer 37. Before training it multiplies
    by −1, so that the output are scores of the likelihood ``planes``, whose softmax is the softmin of the costs. It
    also makes the outputs of other likelihoods, see :class:`PlaneHead`. And features of the deepest level may be
    dropped, for MC dropout.

    It takes two views (B, 3, H, W) of any one size, and returns (B, channels_out, H, W). With the default arguments it
    has 2.8 M parameters, and 0.04 M more in ``out.head``.

    Args:
        channels_out: Number of output channels, ``likelihood.channels``.
        planes: Number of planes ≥ 2, one for each whole disparity from 0. ``fit`` fills in as many as the task has. The
            work is that of the next multiple of 32. Default 192.
        width: Number F of features. Default 32.
        blocks: Number of residual blocks. Default 8.
        dropout: Probability in [0, 1) that a feature of the deepest level is dropped. 0 as published. Default 0.1.

    Raises:
        ConfigError: If ``planes`` is less than 2.
        DataError: When called, if the views differ in size.

    Source: Kendall et al. (2017), "End-to-end learning of geometry and context for deep stereo regression", table 1.
    Pitfall: It takes about a hundred times the work of :class:`LightStereo`.

    >>> import torch
    >>> view = torch.zeros(1, 3, 33, 50)
    >>> GCNet(16, planes=16, width=4, blocks=1).eval()(view, view).shape
    torch.Size([1, 16, 33, 50])
    """

    stride = 32

    def __init__(
        self, channels_out: int, planes: int = 192, width: int = 32, blocks: int = 8, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.planes = planes
        self.features = nn.Sequential(
            unit(3, width, 5, 2), *[_Block(width) for _ in range(blocks)], nn.Conv2d(width, width, 3, padding=1)
        )
        widths = (width, 2 * width, 2 * width, 2 * width, 4 * width)
        self.enter = _units(2 * width, width, 2)
        # Each level reads what the level above has read at its stride: the volume, then layers 21, 24 and 27.
        self.down = nn.ModuleList(
            [
                _units(2 * width if level == 0 else above, below, 1, 2)
                for level, (above, below) in enumerate(pairwise(widths))
            ]
        )
        self.encoder = nn.ModuleList([_units(below, below, 2) for below in widths[1:]])
        self.drop = nn.Dropout(dropout)
        self.up = nn.ModuleList([_rise(below, above) for above, below in pairwise(widths)])
        self.cost = nn.ConvTranspose3d(width, 1, 3, 2, 1, 1)
        self.out = PlaneHead(planes, channels_out, sign=-1.0)  # the last one, so that it is the last layer

    def forward(self, image: Tensor, right: Tensor) -> Tensor:
        """Outputs (B, channels_out, H, W) for the left and the right view (B, 3, H, W)."""
        check_views(image, right)
        height, width = image.shape[-2:]
        left_features, right_features = (self.features(padded(view, self.stride)) for view in (image, right))
        volume = concatenation(left_features, right_features, 16 * -(-self.planes // 32))
        return self.out(over_volume(self.costs, volume)[:, 0, : self.planes, :height, :width])

    def costs(self, x: Tensor) -> Tensor:
        """Costs (B, 1, 2 planes, 2 h, 2 w) from a volume (B, 2 F, planes, h, w): layers 19 to 37."""
        skips = [self.enter(x)]
        for down, encode in zip(self.down, self.encoder):
            x = down(x)
            skips.append(encode(x))
        x = self.drop(skips.pop())
        for up in reversed(self.up):
            x = up(x) + skips.pop()
        return self.cost(x)
