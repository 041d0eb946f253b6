"""Maps at another size."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import interpolate


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (B, H, W) or (B, C, H, W) at another size, by bilinear interpolation that averages what it shrinks."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    four = maps if maps.ndim == 4 else maps[:, None]
    return interpolate(four, size=size, mode="bilinear", antialias=True).reshape(*maps.shape[:-2], *size)
