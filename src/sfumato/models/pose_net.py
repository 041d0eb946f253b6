"""Networks for the pose of a camera: the features of an image, averaged over the image, and one vector."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from sfumato.errors import ConfigError
from sfumato.models.efficient_unet import MEAN, STD, EfficientEncoder
from sfumato.models.feature_unet import IMAGENET_MEAN, IMAGENET_STD, expected_colors, feature_maps, used_features
from sfumato.models.padding import padded
from sfumato.models.unet import unit

TRIED = 128  # side of the image that an encoder is tried on, pixels


class PoseNet(nn.Module):
    """One vector for each image: the coarsest features of an encoder, averaged over cells of a grid, and two layers.

    It takes images (B, 3, H, W) of any size and returns (B, channels_out). Dropout is before both layers. The last
    layer is the 1 × 1 convolution ``head``. With the default arguments it has 0.5 M parameters for 28 outputs.

    Args:
        channels_out: Number of outputs, ``likelihood.channels``.
        encoder: A module that maps images (B, 3, H, W) to features of several strides, as that of
            :class:`~sfumato.models.FeatureUNet`. None for convolutions that are trained from scratch. Default None.
        widths: Numbers of channels of the encoder from scratch, at 1/2, 1/4, 1/8, … of the resolution. Default
            (16, 32, 64, 96, 128).
        hidden: Number of features between the two layers. Default 256.
        grid: Cells along each side of the image, ≥ 1. With 1 the place of a feature in the image is lost. Default 2.
        dropout: Probability in [0, 1) that a feature is dropped. Default 0.2.
        mean: Mean that a given encoder expects to be subtracted from the colors in [0, 1]. Empty for what the encoder
            says, else that of ImageNet. Default empty.
        std: Standard deviation that the colors are divided by. As ``mean``. Default empty.

    Attributes:
        stride: The stride of the coarsest features. Images are padded to multiples of it.
        encoder_rate: The share of the learning rate for the encoder: 0.2 for a given one, else 1.

    Raises:
        ConfigError: If an argument makes no sense, or the encoder returns no features.

    Source: Kendall, Grimes and Cipolla (2015), "PoseNet"; Kendall and Cipolla (2016) for its dropout.

    >>> PoseNet(28).eval()(torch.zeros(2, 3, 50, 60)).shape
    torch.Size([2, 28])
    """

    def __init__(
        self,
        channels_out: int,
        encoder: nn.Module | None = None,
        widths: Sequence[int] = (16, 32, 64, 96, 128),
        hidden: int = 256,
        grid: int = 2,
        dropout: float = 0.2,
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
    ) -> None:
        super().__init__()
        if min(hidden, grid, len(widths), *widths) < 1:
            raise ConfigError(f"widths is {widths}, hidden {hidden} and grid {grid}, expected numbers of at least 1")
        self.encoder_rate = 1.0 if encoder is None else 0.2
        if encoder is not None:
            self.input_normalization = {
                "mean": tuple(mean) or expected_colors(encoder, "mean", IMAGENET_MEAN),
                "std": tuple(std) or expected_colors(encoder, "std", IMAGENET_STD),
            }
        self.encoder = _scratch(widths) if encoder is None else encoder
        channels, self.stride = _coarsest(self.encoder)
        self.pool = nn.AdaptiveAvgPool2d(grid)
        self.neck = nn.Sequential(
            nn.Dropout(dropout), nn.Conv2d(channels, hidden, grid), nn.ReLU(), nn.Dropout(dropout)
        )
        self.head = nn.Conv2d(hidden, channels_out, 1)
        if encoder is not None:  # its features may be large: start near the mean pose and a unit covariance
            nn.init.normal_(self.head.weight, std=0.01)
            nn.init.zeros_(self.head.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, image: Tensor) -> Tensor:
        """Outputs (B, channels_out) for images (B, 3, H, W)."""
        image = padded(image, self.stride)
        coarsest = used_features(feature_maps(self.encoder(image)), image)[-1]
        return self.head(self.neck(self.pool(coarsest))).flatten(1)


class EfficientPoseNet(PoseNet):
    """:class:`PoseNet` with EfficientNet-Lite0 as its encoder, from the packages of ``sfumato[pretrained]``.

    Args:
        channels_out: Number of outputs, ``likelihood.channels``.
        pretrained: Whether the encoder starts from ImageNet weights. Default True.
        hidden: As in :class:`PoseNet`. Default 256.
        grid: As in :class:`PoseNet`. Default 2.
        dropout: As in :class:`PoseNet`. Default 0.2.

    Raises:
        MissingDependencyError: Without the packages.
        ConfigError: If an argument makes no sense.
    """

    def __init__(
        self, channels_out: int, pretrained: bool = True, hidden: int = 256, grid: int = 2, dropout: float = 0.2
    ) -> None:
        encoder = EfficientEncoder(pretrained)
        super().__init__(channels_out, encoder, hidden=hidden, grid=grid, dropout=dropout, mean=MEAN, std=STD)
        self.encoder_rate = self.encoder_rate if pretrained else 1.0


def _scratch(widths: Sequence[int]) -> nn.Module:
    return nn.Sequential(*(unit(above, below, stride=2) for above, below in pairwise((3, *widths))))


def _coarsest(encoder: nn.Module) -> tuple[int, int]:
    """Channels and stride of the coarsest features.

    Raises:
        ConfigError: If there are none.
    """
    parameter = next(encoder.parameters(), torch.zeros(()))
    image = torch.zeros(1, 3, TRIED, TRIED, device=parameter.device, dtype=parameter.dtype)
    was = encoder.training
    with torch.no_grad():
        maps = used_features(feature_maps(encoder.eval()(image)), image)
    encoder.train(was)
    if not maps:
        raise ConfigError(f"the encoder {type(encoder).__name__} returns no features that are smaller than the image")
    return maps[-1].shape[1], TRIED // maps[-1].shape[-1]
