"""Images sampled at other pixels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import grid_sample


def sample_at(values: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Values at pixels, interpolated bilinearly.

    Args:
        values: Images or other maps (B, C, h, w).
        pixels: Where to read them (B, 2, H, W), as (x, y), px of ``values``.

    Returns:
        The values (B, C, H, W), beyond the border those of the nearest pixel of the border; and where the pixels lie
        within the outermost pixel centers (B, H, W) bool.

    >>> import torch
    >>> sample_at(torch.tensor([[[[0.0, 1.0]]]]), torch.tensor([[[[0.25]], [[0.0]]]]))
    (tensor([[[[0.2500]]]]), tensor([[[True]]]))
    """
    height, width = values.shape[-2:]
    x, y = pixels.unbind(1)
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    # −1 and 1 are the outermost pixel centers. An image of one row has all of its pixels at −1. No tensor is made of
    # the size, because an exported graph would keep that size.
    grid = torch.stack([2 * x / max(width - 1, 1) - 1, 2 * y / max(height - 1, 1) - 1], -1)
    found = grid_sample(values, grid.to(values.dtype), padding_mode="border", align_corners=True)
    return found, inside


def sample_nearest(values: Tensor, pixels: Tensor) -> Tensor:
    """Values (B, H, W) of any type at the nearest pixels, such as labels, which cannot be interpolated.

    Args:
        values: Maps (B, h, w).
        pixels: Where to read them (B, 2, H, W), as (x, y), px of ``values``. Beyond the border the nearest
            pixel counts.

    >>> import torch
    >>> sample_nearest(torch.tensor([[[7, 9]]]), torch.tensor([[[[0.6, -3.0]], [[0.0, 0.0]]]])).tolist()
    [[[9, 7]]]
    """
    height, width = values.shape[-2:]
    x, y = pixels.round().long().unbind(1)
    place = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
    return values.flatten(1).gather(1, place.flatten(1)).view_as(place)


def hidden(pixels: Tensor, depth: Tensor) -> Tensor:
    """Which points another camera does not see, because a nearer one of them is in front: the z-buffer.

    A point is hidden if a point that falls on the same pixel has less than 0.9 of its depth.

    Args:
        pixels: Where the other camera sees each point (B, 2, H, W), as (x, y), px.
        depth: Their depth along the axis of that camera (B, 1, H, W). Points with 0 or less hide nothing.

    Returns:
        (B, H, W) bool, False for points that fall outside of H × W pixels.

    Pitfall: What no point of the first picture shows hides nothing.
    """
    batch, _, height, width = depth.shape
    x, y = pixels.round().unbind(1)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height) & (depth[:, 0] > 0)
    place = (y * width + x).where(inside, 0).long().flatten(1)
    distance = depth[:, 0].where(inside, torch.inf).flatten(1)
    nearest = distance.new_full((batch, height * width), torch.inf).scatter_reduce_(1, place, distance, "amin")
    return (nearest.gather(1, place) < 0.9 * distance).reshape(batch, height, width) & inside
