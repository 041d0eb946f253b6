"""Camera poses, and the rays through the pixels of a camera.

Axes: in the world, x points east, y north, z up. In a camera, x points right, y down, z forward. Pixel (x, y) has its
center at (x, y). Poses are ``world_from_camera``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BASELINE = 0.25  # meters from the left to the right camera
FOCAL = 0.9  # widths of the picture
_NORTH = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]], float)  # axes of a level camera that looks north


@dataclass(frozen=True)
class Lens:
    """A family of rays with two numbers (u, v) for each ray: ``origin + t · axes @ (u, v, 1)``.

    Args:
        origin: Where the rays start, (3,) meters.
        axes: (3, 3). Its columns belong to u, v and the forward direction.
        parallel: Whether the rays are parallel, ``origin + axes @ (u, v, t)``, as those of the sun. Default False.
    """

    origin: np.ndarray
    axes: np.ndarray
    parallel: bool = False

    def place(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """u, v and t (…) of the rays through world points (3, …)."""
        inverse = np.linalg.inv(self.axes)
        shift = (inverse @ self.origin).astype(points.dtype)
        x, y, z = points
        u, v, t = [a * x + b * y + (c * z - s) for (a, b, c), s in zip(inverse.astype(points.dtype), shift)]
        if self.parallel:
            return u, v, t
        scale = 1 / np.where(np.abs(t) < 1e-6, points.dtype.type(1e-6), t)
        return u * scale, v * scale, t

    def through(self, rows: np.ndarray, centers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``row · (o − center)`` and ``row · d`` of the rays o + t d, as coefficients (k, 3) of (u, v, 1)."""
        origin, direction = np.zeros((len(rows), 3)), rows @ self.axes
        origin[:, 2] = (rows * (self.origin - centers)).sum(1)
        if self.parallel:
            origin[:, :2], direction[:, :2] = direction[:, :2], 0
        return origin.astype(np.float32), direction.astype(np.float32)


def pose(position: np.ndarray, yaw: float, pitch: float) -> np.ndarray:
    """``world_from_camera`` (4, 4) of a camera that looks north, turned left by ``yaw``, up by ``pitch`` (radians)."""
    (cy, sy), (cp, sp) = (np.cos(yaw), np.sin(yaw)), (np.cos(pitch), np.sin(pitch))
    turn = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    tilt = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    result = np.eye(4)
    result[:3, :3], result[:3, 3] = turn @ tilt @ _NORTH, position
    return result


def moved(world_from_camera: np.ndarray, motion: np.ndarray, yaw: float = 0.0, pitch: float = 0.0) -> np.ndarray:
    """The pose after a motion (3,) along the axes of the camera, meters, and small turns, radians."""
    turn = pose(motion, yaw, pitch)
    turn[:3, :3] = _NORTH.T @ turn[:3, :3]
    return world_from_camera @ turn


def intrinsics(size: tuple[int, int], focal: float = FOCAL, center: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """The camera matrix (3, 3), px.

    Args:
        size: Height and width of the picture, px.
        focal: The focal length, widths of the picture. Default 0.9, by which the view is 58° wide.
        center: Where the principal point is, right of and below the middle of the picture, widths. Default: there.
    """
    height, width = size
    x, y = (width - 1) / 2 + center[0] * width, (height - 1) / 2 + center[1] * width
    return np.array([[focal * width, 0, x], [0, focal * width, y], [0, 0, 1]])


def camera(world_from_camera: np.ndarray, matrix: np.ndarray) -> Lens:
    """The rays of a pinhole camera: (u, v) are pixels, t is the depth along the optical axis, meters.

    Args:
        world_from_camera: The pose (4, 4), meters.
        matrix: The camera matrix (3, 3), px.
    """
    return Lens(world_from_camera[:3, 3], world_from_camera[:3, :3] @ np.linalg.inv(matrix))


def sunshine(towards: np.ndarray) -> Lens:
    """The rays of the sun, which is 100 m away in the unit direction ``towards`` (3,). (u, v, t) are meters."""
    right = np.cross(towards, (0, 0, 1))
    right = right / np.linalg.norm(right)
    return Lens(100 * towards, np.stack([right, np.cross(towards, right), -towards], 1), parallel=True)
