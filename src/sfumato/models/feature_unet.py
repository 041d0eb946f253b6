"""A U-Net decoder on the features of any encoder, such as one that was trained on ImageNet."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sfumato.errors import ConfigError, out_of_memory
from sfumato.methods.base import evaluating
from sfumato.models.padding import padded
from sfumato.models.unet import Rise, enlarged, unit
from sfumato.sections import one_line

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCH_NORMS = {"train": None, "slow": 0.01, "frozen": None}
DETAIL = 8  # channels at full resolution
TRIED = 128  # side of the image that an encoder is tried on, pixels


class FeatureUNet(nn.Module):
    """A decoder with skip connections on the feature pyramid of an encoder, with the dropout of Bayesian SegNet.

    It takes images (B, 3, H, W) of any size, standardized as the encoder expects, and returns (B, channels_out, H, W).
    A run standardizes images by :attr:`input_normalization`. The last layer is the 1 × 1 convolution ``head``.

    Args:
        channels_out: Number of output channels, ``likelihood.channels``.
        encoder: A module that maps images (B, 3, H, W) to features of several strides: a list, a tuple, a dict, or an
            object with ``feature_maps``. Such are ``timm.create_model(…, features_only=True)``, torchvision's
            ``create_feature_extractor``, encoders of segmentation_models_pytorch and backbones of transformers.
            Features of stride 1 and features without channels are not used.
        widths: Numbers of channels of the decoder at each stride but the largest, from fine to coarse. Empty for half
            of the encoder's channels, at least 16 and at most 96. Default empty.
        dropout: Probability in [0, 1) that a feature is dropped: of the coarsest features of the encoder and after the
            two coarsest blocks of the decoder. Default 0.2.
        mean: Mean that the encoder expects to be subtracted from the colors in [0, 1]. Empty for what the encoder says
            (timm's ``pretrained_cfg``), else that of ImageNet. Default empty.
        std: Standard deviation that the colors are divided by. As ``mean``. Default empty.
        batch_norm: What batch normalization of the encoder does in training: ``train`` uses the statistics of the
            batch, ``slow`` does and keeps a running mean with a momentum of 0.01, ``frozen`` uses the stored ones.
            Default ``train``.

    Attributes:
        stride: The largest stride. Images are padded to multiples of it.
        strides: The strides of the features that are used, from fine to coarse.
        encoder_rate: 0.2, the share of the learning rate with which a run trains the encoder.

    Raises:
        ConfigError: If the encoder fails on an image, its features are no pyramid, or an argument makes no sense.

    Source: Ronneberger et al. (2015), U-Net; Kendall et al. (2015), Bayesian SegNet, for the places of dropout.

    >>> class Encoder(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.fine, self.coarse = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 8, 3, 2, 1)
    ...     def forward(self, image):
    ...         fine = self.fine(image)
    ...         return [fine, self.coarse(fine)]
    >>> network = FeatureUNet(11, Encoder()).eval()
    >>> network.strides, network(torch.zeros(1, 3, 17, 1)).shape
    ((2, 4), torch.Size([1, 11, 17, 1]))
    """

    encoder_rate = 0.2

    def __init__(
        self,
        channels_out: int,
        encoder: nn.Module,
        widths: Sequence[int] = (),
        dropout: float = 0.2,
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
        batch_norm: str = "train",
    ) -> None:
        super().__init__()
        if batch_norm not in BATCH_NORMS:
            raise ConfigError(f"batch_norm is {batch_norm!r}, expected train, slow or frozen")
        self.encoder, self.batch_norm = encoder, batch_norm
        self.input_normalization = {
            "mean": tuple(mean) or expected_colors(encoder, "mean", IMAGENET_MEAN),
            "std": tuple(std) or expected_colors(encoder, "std", IMAGENET_STD),
        }
        channels, self.strides = _pyramid(encoder)
        self.stride = self.strides[-1]
        widths = tuple(widths) or tuple(min(96, max(16, count // 2)) for count in channels[:-1])
        if len(widths) != len(channels) - 1 or min(widths) < 1:
            raise ConfigError(
                f"widths is {widths}, expected {len(channels) - 1} numbers of channels, one for each of the strides "
                f"{', '.join(map(str, self.strides[:-1]))}"
            )
        if momentum := BATCH_NORMS[batch_norm]:
            for norm in _norms(encoder):
                norm.momentum = momentum
        deepest = len(widths)
        self.center = nn.Dropout(dropout)
        self.detail = unit(3, DETAIL)
        self.decoder = nn.ModuleList(
            Rise(below, skip, width, dropout if level >= deepest - 1 else 0.0, coarse // fine)
            for level, (below, skip, width, (fine, coarse)) in enumerate(
                zip((*widths[1:], channels[-1]), channels, widths, pairwise(self.strides)), start=1
            )
        )
        self.sharpen = unit(widths[0] + DETAIL, max(16, widths[0] // 2))
        self.head = nn.Conv2d(max(16, widths[0] // 2), channels_out, 1)

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode. Frozen batch normalization stays in evaluation mode."""
        super().train(mode)
        if self.batch_norm == "frozen":
            for norm in _norms(self.encoder):
                norm.eval()
        return self

    def forward(self, image: Tensor) -> Tensor:
        """Outputs (B, channels_out, H, W) for standardized images (B, 3, H, W)."""
        height, width = image.shape[-2:]
        image = padded(image, self.stride)
        *skips, deepest = used_features(feature_maps(self.encoder(image)), image)
        x = self.center(deepest)
        for rise in reversed(self.decoder):
            x = rise(x, skips.pop())
        x = self.sharpen(torch.cat([self.detail(image), enlarged(x, self.strides[0])], 1))
        return self.head(x)[..., :height, :width]


def feature_maps(found: object) -> list[Tensor]:
    """The tensors (B, C, H, W) in what an encoder returns, in its order.

    >>> feature_maps({"fine": torch.zeros(1, 2, 4, 4), "names": "x"})[0].shape
    torch.Size([1, 2, 4, 4])
    """
    found = getattr(found, "feature_maps", found)
    if isinstance(found, Mapping):
        found = list(found.values())
    elif dataclasses.is_dataclass(found):
        found = [getattr(found, each.name) for each in dataclasses.fields(found)]
    values = found if isinstance(found, list | tuple) else [found]
    return [value for value in values if isinstance(value, Tensor) and value.ndim == 4]


def used_features(maps: Sequence[Tensor], image: Tensor) -> list[Tensor]:
    """The features below full resolution that have channels, from fine to coarse."""
    kept = [each for each in maps if each.shape[1] and each.shape[-1] < image.shape[-1]]
    return sorted(kept, key=lambda each: -each.shape[-1])


def _pyramid(encoder: nn.Module) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Channels and strides of the features that are used, from fine to coarse.

    Raises:
        ConfigError: If the encoder fails, or there are no two features whose strides are multiples of one another.
    """
    parameter = next(encoder.parameters(), torch.zeros(()))
    image = torch.zeros(1, 3, TRIED, TRIED, device=parameter.device, dtype=parameter.dtype)
    try:
        with torch.no_grad(), evaluating(encoder):
            maps = used_features(feature_maps(encoder(image)), image)
    except Exception as error:  # the code of an encoder may fail in any way
        if out_of_memory(error):
            raise
        raise ConfigError(
            f"the encoder {type(encoder).__name__} failed on an image of {TRIED} × {TRIED} pixels: "
            f"{type(error).__name__}: {one_line(error)}"
        ) from error
    strides = tuple(TRIED // each.shape[-1] for each in maps)
    exact = all(each.shape[-2:] == (TRIED // s, TRIED // s) and TRIED % s == 0 for each, s in zip(maps, strides))
    if len(maps) < 2 or not exact or any(coarse == fine or coarse % fine for fine, coarse in pairwise(strides)):
        sizes = ", ".join(f"{each.shape[-2]} × {each.shape[-1]}" for each in maps) or "none"
        raise ConfigError(
            f"the encoder {type(encoder).__name__} returns no feature pyramid: for an image of {TRIED} × {TRIED} "
            f"pixels its features are {sizes}, expected at least two of different sizes such as 64 × 64 and 32 × 32. "
            "With timm, pass features_only=True"
        )
    return tuple(each.shape[1] for each in maps), strides


def _norms(encoder: nn.Module) -> list[_BatchNorm]:
    return [module for module in encoder.modules() if isinstance(module, _BatchNorm)]


def expected_colors(encoder: nn.Module, name: str, usual: tuple[float, ...]) -> tuple[float, ...]:
    """What timm's description of the encoder's weights says about its input."""
    described = getattr(encoder, "pretrained_cfg", None) or getattr(encoder, "default_cfg", None) or {}
    found = described.get(name) if isinstance(described, Mapping) else None
    return tuple(float(number) for number in found) if found is not None else usual
