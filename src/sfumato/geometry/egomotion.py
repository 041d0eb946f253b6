"""The motion of a camera between two images, from flow and depth with their uncertainties."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sfumato.errors import DataError
from sfumato.geometry.pnp import Motion, solve_pnp
from sfumato.geometry.project import check_intrinsics, pixel_grid, unproject

POINTS = 5000  # pixels that are used, on a regular grid: neighbors have nearly the same error
SMALLEST = 0.05  # px; no flow is known better, whatever its distribution says


def camera_motion(
    flow: Tensor,
    depth: Tensor,
    intrinsics: Tensor,
    *,
    valid: Tensor | None = None,
    flow_covariance: Tensor | None = None,
    depth_variance: Tensor | None = None,
    seed: int = 0,
) -> Motion:
    """The motion of a camera by :func:`solve_pnp` on about 5000 pixels of a grid.

    Args:
        flow: Vectors (2, H, W) from the first image to the second, px.
        depth: Depth (1, H, W) of the first image along the optical axis, meters. Pixels with 0, NaN or infinity are
            left out.
        intrinsics: Camera matrix (3, 3) of both images, px.
        valid: (H, W) bool, pixels that may be used. None for all. Default None.
        flow_covariance: (2, 2, H, W) of the flow, px². None for the same in all pixels. Default None.
        depth_variance: (1, H, W) of the depth, m². None for an exact depth. Default None.
        seed: Seed of the samples of points. Default 0.

    Returns:
        The motion from the first camera to the second. Its ``inliers`` are of the pixels that were used.

    Raises:
        DataError: If shapes do not fit, fewer than 8 pixels can be used, or they do not determine the motion.

    Pitfall: The depth, the flow and the matrix must belong to one camera. A depth camera beside a color camera has
    other rays.
    """
    size = (depth.shape[-2], depth.shape[-1])
    shapes = {"flow": (flow, (2, *size)), "depth": (depth, (1, *size)), "valid": (valid, size)}
    shapes |= {"flow_covariance": (flow_covariance, (2, 2, *size)), "depth_variance": (depth_variance, (1, *size))}
    for name, (value, shape) in shapes.items():
        if value is not None and value.shape != shape:
            raise DataError(f"{name} has the shape {tuple(value.shape)}, expected {shape} as the depth")
    check_intrinsics(intrinsics[None], size)
    step = max(1, round(math.sqrt(size[0] * size[1] / POINTS)))
    rows, columns = slice(step // 2, None, step), slice(step // 2, None, step)
    known = (depth[0] > 0) & depth[0].isfinite() & flow.isfinite().all(0)
    known = (known if valid is None else known & valid)[rows, columns]

    def picked(values: Tensor) -> Tensor:
        """Values (N, …) of the pixels that are used, from maps (…, H, W)."""
        return values.detach().double()[..., rows, columns][..., known].movedim(-1, 0)

    points = picked(unproject(depth[None].double(), intrinsics[None].double())[0])
    ends = picked(flow.double() + pixel_grid(size, flow.double()))
    noise = spread = None
    if flow_covariance is not None:
        noise = picked(flow_covariance) + SMALLEST**2 * torch.eye(2, dtype=torch.float64, device=flow_covariance.device)
    if depth_variance is not None:  # along the ray
        rays = points / points[:, 2:]
        spread = picked(depth_variance)[..., None] * rays[:, :, None] * rays[:, None]
    return solve_pnp(points, ends, intrinsics, pixel_covariance=noise, point_covariance=spread, seed=seed)
