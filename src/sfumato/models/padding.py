"""Sizes that a network takes."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def padded(x: Tensor, stride: int) -> Tensor:
    """Maps (B, C, H, W) whose height and width are multiples of ``stride``: last row and column are repeated."""
    height, width = x.shape[-2:]
    return F.pad(x, (0, -width % stride, 0, -height % stride), mode="replicate")
