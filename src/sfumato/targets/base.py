"""What all kinds of sample entries share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

Size = tuple[int, int]


@dataclass(frozen=True)
class Warp:
    """How augmentation moves the pixels of a batch.

    A zoom by s keeps the focal length, so it shows a scene whose depths are s times smaller.

    Args:
        matrix: (B, 2, 3). It maps the pixel (x, y) before the warp to its place after it.
        zoom: (B,), the factor s > 0.
        flip: (B,), −1 for images that are mirrored left to right, else 1.
        old: Height and width before the warp, pixels.
        new: Height and width after the warp, pixels.
    """

    matrix: Tensor
    zoom: Tensor
    flip: Tensor
    old: Size
    new: Size

    @property
    def identity(self) -> Tensor:
        """(B,) bool: which images stay as they are."""
        same = self.matrix == torch.eye(2, 3, device=self.matrix.device)
        return same.flatten(1).all(1) & (self.old == self.new)


@dataclass(frozen=True, kw_only=True)
class EntryKind:
    """The kind of a sample entry. The base class is a map of values that do not change when pixels move.

    Args:
        partner: Name of the same entry in the other view of a stereo pair. A flip exchanges the two. Default: none.
    """

    partner: str = ""
    is_map: ClassVar[bool] = True  # whether it has one value or vector for each pixel
    smooth: ClassVar[bool] = False  # whether values between pixels are interpolated; else the nearest pixel is taken
    dtype: ClassVar[torch.dtype] = torch.float32

    @property
    def channels(self) -> int:
        """C of (C, H, W); 0 for (H, W)."""
        return 1

    @property
    def movable(self) -> bool:
        """Whether it is known in an image that was zoomed, cut or mirrored."""
        return True

    def resize(self, value: Tensor, old: Size, new: Size) -> Tensor:
        """A value (…, H, W) at another size. Each new pixel takes the old pixel that contains its center."""
        rows, columns = (_nearest(a, b).to(value.device) for a, b in zip(old, new, strict=True))
        return value[..., rows[:, None], columns]

    def warp(self, value: Tensor, warp: Warp) -> Tensor:
        """The values of a batch (B, …) after a warp has moved their pixels."""
        del warp
        return value

    def survives(self, warp: Warp) -> Tensor:
        """(B,) bool: in which images the entry still holds after a warp."""
        return torch.ones_like(warp.zoom, dtype=torch.bool)

    def to_float(self, value: Tensor) -> Tensor:
        """The value as float32, the form in which a network takes it."""
        return value.float()

    def numbers(self, value: Tensor) -> Tensor:
        """The numbers (C, N) of one sample over which mean and standard deviation are taken, channel by channel."""
        return self.to_float(value).reshape(max(self.channels, 1), -1)

    def blank(self, size: Size) -> Tensor:
        """Zeros in the place of a missing value, for an image of this size."""
        shape = (self.channels,) * (self.channels > 0) + (tuple(size) if self.is_map else ())
        return torch.zeros(shape, dtype=self.dtype)

    def blank_mask(self, size: Size) -> Tensor:
        """The mask of a missing value: False everywhere."""
        return torch.zeros(tuple(size) if self.is_map else (), dtype=torch.bool)

    def spread(self) -> EntryKind:
        """The kind of a standard deviation of this entry."""
        return self


def _nearest(old: int, new: int) -> Tensor:
    """For each new pixel, the old pixel that contains its center."""
    return ((torch.arange(new) + 0.5) * (old / new)).long().clamp_max(old - 1)


def per_image(factor: Tensor, value: Tensor) -> Tensor:
    """A number for each image (B,), with the dimensions of a batch (B, …), to be multiplied with it."""
    return factor.view(-1, *[1] * (value.ndim - 1))


def scaled_size(size: Size, factors: tuple[float, float]) -> Size:
    """A size multiplied by factors for height and width, each at least 1 pixel.

    >>> scaled_size((481, 640), (0.5, 0.5))
    (240, 320)
    """
    return max(1, round(size[0] * factors[0])), max(1, round(size[1] * factors[1]))
