"""How sure a depth camera is of each pixel."""

from __future__ import annotations

import torch
from torch import Tensor

from sfumato.errors import DataError
from sfumato.predictions import ValuePrediction

BASE, GROWTH, NEAREST = 0.0012, 0.0019, 0.4  # m, 1/m, m: a first Kinect that looks straight at a wall


def depth_camera(
    depth: Tensor, valid: Tensor, image: Tensor | None = None, pixel: float = 1.0
) -> tuple[ValuePrediction, Tensor]:
    """A prediction of depth from what a depth camera of structured light has measured.

    ``σ² = (0.0012 + 0.0019 (Z − 0.4)²)² + (pixel · |∇Z|)²``, in meters. The first part is the noise of the camera. The
    second part is what an error of its direction, or of its pose, by ``pixel`` pixels does where the depth changes from
    pixel to pixel: at edges, and where a surface is seen from the side.

    Args:
        depth: Depth along the optical axis (B, 1, H, W), meters. Any number where it is not valid.
        valid: Where it was measured (B, H, W) bool.
        image: Color (B, 3, H, W) in [0, 1]. Default: none.
        pixel: Error of the direction, px, ≥ 0. Default 1.

    Returns:
        The prediction, all of it aleatoric, and where it is valid: also not where a measured depth is 0 or less.

    Raises:
        DataError: If sizes differ.

    Source: Nguyen, Izadi and Lovell (2012), "Modeling Kinect sensor noise for improved 3D reconstruction and tracking".
    Pitfall: Errors of the depth itself that many frames share, as those of the calibration, are not in it.

    >>> found, _ = depth_camera(torch.full((1, 1, 3, 3), 2.4), torch.ones(1, 3, 3, dtype=torch.bool))
    >>> round(found.std[0, 0, 1, 1].item(), 4)  # 0.0012 + 0.0019 · 4
    0.0088
    """
    if depth.ndim != 4 or depth.shape[1] != 1 or valid.shape != (depth.shape[0], *depth.shape[2:]):
        raise DataError(
            f"depth has the shape {tuple(depth.shape)} and its mask {tuple(valid.shape)}: expected (B, 1, H, W) and "
            "(B, H, W)"
        )
    valid = valid & depth[:, 0].isfinite() & (depth[:, 0] > 0)
    known = depth.where(valid[:, None], 0)
    steepness = torch.hypot(_slope(known, valid, -1), _slope(known, valid, -2))
    noise = BASE + GROWTH * (known - NEAREST).square()
    variance = noise.square() + (pixel * steepness).square()
    return ValuePrediction(known, variance, torch.zeros_like(variance), "m", image=image), valid


def _slope(depth: Tensor, valid: Tensor, axis: int) -> Tensor:
    """The larger change (B, 1, H, W) of the depth to the two neighbors along an axis; 0 to a neighbor without depth."""
    change = depth.diff(dim=axis).abs()
    mask = valid[:, None]
    size = depth.shape[axis]
    both = mask.narrow(axis, 1, size - 1) & mask.narrow(axis, 0, size - 1)
    change = change.where(both, 0)
    edge = torch.zeros_like(depth.narrow(axis, 0, 1))
    return torch.maximum(torch.cat([edge, change], axis), torch.cat([change, edge], axis))
