"""The pinhole camera: pixels with depth to points and back, and points from one camera to another.

Axes of a camera: x to the right, y down, z forward. Pixel (x, y) has its center at (x, y). A pose ``world_from_camera``
(4, 4) maps points of the camera to points of the world.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sfumato.errors import DataError
from sfumato.geometry.pose import check_poses, inverse

NEAREST = 1e-3
"""Points nearer than this along the optical axis, or behind the camera, count as this near when they are projected."""


def check_intrinsics(intrinsics: Tensor, size: tuple[int, int], beyond: tuple[int, int] = (0, 0)) -> None:
    """Check that camera matrices can be those of images of a size.

    Args:
        intrinsics: Camera matrices (B, 3, 3), px.
        size: Height and width of the images, px.
        beyond: How far the principal point may lie outside, down and across, px: what a crop has left out. Default 0.

    Raises:
        DataError: If one is not finite, has no focal length above 0 or a last row that is not (0, 0, 1), or if its
            principal point lies outside of the image, as that of an image at another size.
    """
    if intrinsics.ndim != 3 or intrinsics.shape[-2:] != (3, 3):
        raise DataError(f"intrinsics have the shape {tuple(intrinsics.shape)}, expected (B, 3, 3)")
    matrices = intrinsics.detach().double().cpu()
    last = matrices.new_tensor([0.0, 0.0, 1.0])
    for matrix in matrices:
        focal = matrix.diagonal()[:2]
        if not bool(matrix.isfinite().all()) or bool((focal <= 0).any()) or not torch.equal(matrix[2], last):
            raise DataError(
                f"intrinsics are {matrix.tolist()}: expected [[fx, skew, cx], [0, fy, cy], [0, 0, 1]] with focal "
                "lengths above 0, in pixels"
            )
        (height, width), (down, across) = size, beyond
        x, y = float(matrix[0, 2]), float(matrix[1, 2])
        if not (-across - 0.5 <= x <= width - 0.5 + across and -down - 0.5 <= y <= height - 0.5 + down):
            raise DataError(
                f"the principal point ({x:.1f}, {y:.1f}) of the intrinsics lies outside of images of {height} × "
                f"{width} pixels (height × width): scale the intrinsics with the images"
            )


def pixel_grid(size: tuple[int, int], like: Tensor) -> Tensor:
    """The pixels (2, H, W) as (x, y), with the type and the device of ``like``.

    >>> pixel_grid((1, 2), torch.zeros(())).tolist()
    [[[0.0, 1.0]], [[0.0, 0.0]]]
    """
    height, width = size
    y = torch.arange(height, dtype=like.dtype, device=like.device)
    x = torch.arange(width, dtype=like.dtype, device=like.device)
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)])


def unproject(depth: Tensor, intrinsics: Tensor) -> Tensor:
    """Points of the camera: ``z K⁻¹ (x, y, 1)``.

    Args:
        depth: Depth along the optical axis (B, 1, H, W), in any unit.
        intrinsics: Camera matrices (B, 3, 3), px.

    Returns:
        Points (B, 3, H, W) in the unit of the depth.
    """
    x, y = pixel_grid((depth.shape[-2], depth.shape[-1]), depth)
    fx, skew, cx, fy, cy = _numbers(intrinsics.to(depth))
    down = (y - cy) / fy
    across = (x - cx - skew * down) / fx
    return depth * torch.stack([across, down, torch.ones_like(down)], 1)


def _numbers(intrinsics: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """fx, skew, cx, fy and cy (B, 1, 1). Products of matrices would be rounded to 10 bits on a GPU that uses TF32."""
    rows = intrinsics[..., None, None]
    return rows[:, 0, 0], rows[:, 0, 1], rows[:, 0, 2], rows[:, 1, 1], rows[:, 1, 2]


def transform(points: Tensor, other_from_camera: Tensor) -> Tensor:
    """Points (B, 3, H, W) in the axes of another camera, by rigid motions (B, 4, 4)."""
    motion = other_from_camera.to(points)[..., None, None]
    return (motion[:, :3, :3] * points[:, None]).sum(2) + motion[:, :3, 3]


def project(points: Tensor, intrinsics: Tensor) -> tuple[Tensor, Tensor]:
    """The pixels at which a camera sees points.

    Args:
        points: Points (B, 3, H, W) in the axes of the camera.
        intrinsics: Camera matrices (B, 3, 3), px.

    Returns:
        Pixels (B, 2, H, W) as (x, y), and depth along the optical axis (B, 1, H, W). Where that is 0 or less the point
        is behind the camera and its pixel means nothing, but is finite.
    """
    depth = points[:, 2:]
    across, down, _ = (points / depth.clamp_min(NEAREST)).unbind(1)
    fx, skew, cx, fy, cy = _numbers(intrinsics.to(points))
    return torch.stack([fx * across + skew * down + cx, fy * down + cy], 1), depth


def camera_from_camera(world_from_camera: Tensor, world_from_other: Tensor) -> Tensor:
    """``other_from_camera = world_from_other⁻¹ world_from_camera`` (B, 4, 4), from two poses (B, 4, 4).

    Raises:
        DataError: If a pose is no rotation and translation, see :func:`check_poses`.
    """
    first, second = check_poses(world_from_camera, "a pose"), check_poses(world_from_other, "a pose")
    return (inverse(second) @ first).to(world_from_camera)
