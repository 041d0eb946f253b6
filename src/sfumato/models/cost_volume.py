"""Layers over a cost volume, and the layer that reads its scores."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sfumato.errors import ConfigError


def soft_argmax(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (B, 1, H, W) of the plane under the softmax of scores (B, planes, H, W), in planes.

    They are computed in float32, because bfloat16 cannot tell plane 129 from plane 130.
    """
    with torch.autocast(scores.device.type, enabled=False):
        law = scores.float().softmax(1)
        place = torch.arange(law.shape[1], device=law.device, dtype=law.dtype).view(-1, 1, 1)
        mean = (law * place).sum(1, keepdim=True)
        variance = (law * (place - mean).square()).sum(1, keepdim=True)
        return mean, (variance + 1e-4).sqrt()


def over_volume(layers: Callable[[Tensor], Tensor], volume: Tensor) -> Tensor:
    """``layers(volume)``, in float32 where a CPU would compute in bfloat16.

    There PyTorch 2.13 reads memory that nothing was written to in the gradients of some 3-d convolutions. Half of them
    are NaN, and no two runs agree.

    Args:
        layers: What is done with a volume, with 3-d convolutions.
        volume: (B, C, planes, H, W).
    """
    if volume.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return layers(volume)
    with torch.autocast("cpu", enabled=False):
        return layers(volume.float())


class PlaneHead(nn.Module):
    """The last layer of a network that has a score for each plane of disparity: one 1 × 1 convolution, ``head``.

    With as many output channels as planes, they are the scores as they are, before training. Their softmax is a
    distribution over disparities, which the likelihood ``planes`` reads. A student has one more channel. With fewer,
    as for the likelihood ``laplace``, the layer also reads the soft-argmax of the scores and its spread. Before
    training the first channel is this disparity, in units of a quarter of the range around its middle, and the others
    are the logarithm of the spread in this unit.

    Args:
        planes: Number of planes, ≥ 2.
        channels_out: Number of output channels, ≥ 1.
        sign: 1 where a larger score is a better match, −1 where it is a cost.

    Raises:
        ConfigError: If a number is too small, or there are more channels than a student has.
    """

    def __init__(self, planes: int, channels_out: int, sign: float = 1.0) -> None:
        super().__init__()
        if planes < 2 or channels_out < 1:
            raise ConfigError(f"planes is {planes} and channels_out {channels_out}, expected at least 2 and 1")
        if channels_out > planes + 1:
            raise ConfigError(
                f"planes is {planes}, but the likelihood has {channels_out} channels: let both have the same number of "
                "planes, or leave planes out"
            )
        self.planes, self.sign, self.law = planes, sign, channels_out >= planes
        self.head = nn.Conv2d(planes if self.law else planes + 2, channels_out, 1)
        with torch.no_grad():
            self.head.bias.zero_()  # pyright: ignore[reportOptionalMemberAccess] it has a bias
            self.head.weight *= 0.01
            if self.law:
                self.head.weight[:planes, :, 0, 0] = sign * torch.eye(planes)
            else:
                self.head.weight[:, planes:] = 0.0
                self.head.weight[0, planes], self.head.weight[1:, planes + 1] = 1.0, 1.0

    def forward(self, scores: Tensor) -> Tensor:
        """The output (B, channels_out, H, W) from scores (B, planes, H, W)."""
        if self.law:
            return self.head(scores)
        mean, std = soft_argmax(self.sign * scores)
        unit = self.planes / 4
        return self.head(torch.cat([scores, ((mean - 2 * unit) / unit).to(scores), (std / unit).log().to(scores)], 1))
