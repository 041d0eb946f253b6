"""A U-Net with one encoder and a decoder for each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from sfumato.errors import ConfigError
from sfumato.models.unet import UNet


class _Encoder(nn.Module):
    """The encoder of a :class:`UNet`."""

    def __init__(self, whole: UNet) -> None:
        super().__init__()
        self.stride = whole.stride
        self.detail, self.stem, self.encoder = whole.detail, whole.stem, whole.encoder

    forward = UNet.encode


class _Decoder(nn.Module):
    """The decoder of a :class:`UNet`."""

    def __init__(self, whole: UNet) -> None:
        super().__init__()
        self.decoder, self.center, self.sharpen, self.head = whole.decoder, whole.center, whole.sharpen, whole.head

    forward = UNet.decode


class JointUNet(nn.Module):
    """A :class:`UNet` with one encoder for all tasks and a decoder for each task.

    It takes images (B, in_channels, H, W) in [0, 1] of any size and returns a dict of (B, C, H, W) by task.

    Args:
        channels_out: Number of output channels of each task, by its name.
        widths: As in :class:`UNet`.
        in_channels: As in :class:`UNet`.
        dropout: As in :class:`UNet`. The center has its own dropout mask for each decoder.

    Raises:
        ConfigError: If there is no task, or ``widths`` has fewer than 2 entries.

    Source: Kendall, Gal and Cipolla (2018), "Multi-task learning using uncertainty to weigh losses", §4.

    >>> import torch
    >>> found = JointUNet({"classes": 8, "depth": 2}, widths=(4, 8)).eval()(torch.zeros(1, 3, 17, 1))
    >>> {name: tuple(output.shape) for name, output in found.items()}
    {'classes': (1, 8, 17, 1), 'depth': (1, 2, 17, 1)}
    """

    def __init__(
        self,
        channels_out: Mapping[str, int],
        widths: Sequence[int] = (16, 32, 64, 96, 144),
        in_channels: int = 3,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if not channels_out:
            raise ConfigError("channels_out names no task: expected at least one, as in {'classes': 11}")
        wholes = {name: UNet(channels, widths, in_channels, dropout) for name, channels in channels_out.items()}
        self.stride = 2 ** len(widths)
        self.encoder = _Encoder(next(iter(wholes.values())))
        self.decoders = nn.ModuleDict({name: _Decoder(whole) for name, whole in wholes.items()})

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Outputs (B, C, H, W) by task for images (B, in_channels, H, W)."""
        detail, skips = self.encoder(image)
        return {name: decoder(detail, skips, image.shape[-2:]) for name, decoder in self.decoders.items()}
