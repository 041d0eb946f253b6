"""FC-DenseNet of "the one hundred layers tiramisu"."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sfumato.models.padding import padded


def _unit(channels_in: int, channels_out: int, kernel: int, dropout: float) -> nn.Sequential:
    """Batch normalization, ReLU, convolution, dropout: a layer of a dense block or of a transition down."""
    return nn.Sequential(
        nn.BatchNorm2d(channels_in),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2),
        nn.Dropout(dropout),
    )


class _DenseBlock(nn.Module):
    """Layers that each read the input and all outputs before them. It returns the outputs without the input."""

    def __init__(self, channels_in: int, layers: int, growth: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_unit(channels_in + i * growth, growth, 3, dropout) for i in range(layers))
        self.channels = layers * growth

    def forward(self, x: Tensor) -> Tensor:
        computed = []
        for layer in self.layers:
            computed.append(layer(torch.cat([x, *computed], 1)))
        return torch.cat(computed, 1)


class FCDenseNet(nn.Module):
    """An encoder and a decoder of dense blocks. Blocks of the decoder do not pass on their input.

    Batch normalization uses running statistics for prediction. The paper uses the statistics of the current batch at
    test time too, so that the prediction of an image depends on the other images of the batch. Numbers can differ
    slightly from the paper. It takes images (B, in_channels, H, W) in [0, 1] of any size and returns
    (B, channels_out, H, W). The last layer is the 1 × 1 convolution ``head``.

    Args:
        channels_out: Number of output channels, ``likelihood.channels``.
        layers: Numbers of layers in the blocks of the encoder. The decoder has them in reverse order.
        bottleneck: Number of layers in the block between encoder and decoder.
        growth: Number of channels that each layer adds.
        in_channels: Number of channels of the image. Default 3.
        dropout: Probability in [0, 1) that a feature is dropped after each convolution of a block or of a transition
            down. Default 0.2.

    Source: Jégou et al. (2017), "The one hundred layers tiramisu"; sizes in its table 2.
    Pitfall: Dropout starts in the first block. So the draws of Monte Carlo dropout share almost no computation.
    """

    def __init__(
        self,
        channels_out: int,
        layers: Sequence[int],
        bottleneck: int,
        growth: int,
        in_channels: int = 3,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        channels = 48
        self.stride = 2 ** len(layers)
        self.stem = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        skips = []
        for count in layers:
            self.down.append(_DenseBlock(channels, count, growth, dropout))
            channels += count * growth
            skips.append(channels)
            self.shrink.append(nn.Sequential(_unit(channels, channels, 1, dropout), nn.MaxPool2d(2)))
        self.middle = _DenseBlock(channels, bottleneck, growth, dropout)
        below = self.middle.channels
        self.grow, self.up = nn.ModuleList(), nn.ModuleList()
        for count, skip in zip(reversed(layers), reversed(skips)):
            self.grow.append(nn.ConvTranspose2d(below, below, 3, stride=2, padding=1, output_padding=1))
            self.up.append(_DenseBlock(below + skip, count, growth, dropout))
            channels, below = below + skip + count * growth, count * growth
        self.head = nn.Conv2d(channels, channels_out, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        """Outputs (B, channels_out, H, W) for images (B, in_channels, H, W)."""
        height, width = image.shape[-2:]
        x = self.stem(padded(image, self.stride))
        skips = []
        for block, shrink in zip(self.down, self.shrink):
            skips.append(torch.cat([x, block(x)], 1))
            x = shrink(skips[-1])
        computed = self.middle(x)
        for grow, block in zip(self.grow, self.up):
            x = torch.cat([grow(computed), skips.pop()], 1)
            computed = block(x)
        return self.head(torch.cat([x, computed], 1))[..., :height, :width]


def fc_densenet56(channels_out: int, in_channels: int = 3, dropout: float = 0.2) -> FCDenseNet:
    """FC-DenseNet56: 1.4 M parameters (the paper prints 1.5 M)."""
    return FCDenseNet(channels_out, (4,) * 5, 4, 12, in_channels, dropout)


def fc_densenet67(channels_out: int, in_channels: int = 3, dropout: float = 0.2) -> FCDenseNet:
    """FC-DenseNet67: 3.5 M parameters."""
    return FCDenseNet(channels_out, (5,) * 5, 5, 16, in_channels, dropout)


def fc_densenet103(channels_out: int, in_channels: int = 3, dropout: float = 0.2) -> FCDenseNet:
    """FC-DenseNet103: 9.3 M parameters (the paper prints 9.4 M)."""
    return FCDenseNet(channels_out, (4, 5, 7, 10, 12), 15, 16, in_channels, dropout)
