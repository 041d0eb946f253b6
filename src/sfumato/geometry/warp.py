"""Images sampled at other pixels."""

from __future__ import annotations

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
    last = pixels.new_tensor([width - 1, height - 1]).view(1, 2, 1, 1)
    inside = ((pixels >= 0) & (pixels <= last)).all(1)
    # −1 and 1 are the outermost pixel centers. An image of one row has all of its pixels at −1.
    grid = (2 * pixels / last.clamp_min(1) - 1).movedim(1, -1)
    found = grid_sample(values, grid.to(values.dtype), padding_mode="border", align_corners=True)
    return found, inside
