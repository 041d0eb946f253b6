"""Fuse the poses of the frames of a video by their covariances."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sfumato.errors import ConfigError
from sfumato.geometry.pose import difference, displaced, twists_of
from sfumato.geometry.trajectory import Trajectory


def filter_poses(path: Trajectory, meters: float, degrees: float, shared: float = 1.0) -> Trajectory:
    """An extended Kalman filter over poses, each of which counts by its covariance.

    The camera moves at random: in one unit of time its position changes by N(0, meters²) along each axis, and its
    rotation by N(0, degrees²) around each axis. The error state is the tangent vector δ of :func:`difference`:
    ``P ← P + Q Δt``, ``K = P (P + R)⁻¹``, pose ← pose displaced by K δ, ``P ← (1 − K) P (1 − K)ᵀ + K R Kᵀ``. Each pose
    of the result depends on earlier frames only.

    Args:
        path: Poses in time, each with its covariance R.
        meters: Standard deviation of the motion in one unit of time, meters, > 0.
        degrees: The same of the rotation, degrees, > 0.
        shared: How many frames in a row have about the same error, ≥ 1. R is multiplied by it. Default 1, for errors
            that are independent.

    Returns:
        The filtered path with covariances.

    Raises:
        ConfigError: If an argument is out of range, or the path has no covariance.

    Source: Moreau et al. (2021), "CoordiNet", for the filter over predicted poses; Solà et al. (2018), "A micro Lie
    theory for state estimation in robotics".
    Pitfall: Neighboring frames look alike, so a network makes the same error in them. With ``shared`` of 1 the filtered
    covariance is then much too small.

    >>> still = Trajectory(torch.arange(3), torch.eye(4).expand(3, 4, 4), torch.eye(6).double().expand(3, 6, 6))
    >>> found = filter_poses(still, 1e-6, 1e-6)
    >>> [round(float(each[0, 0]), 3) for each in found.covariance]  # 1/1, 1/2, 1/3
    [1.0, 0.5, 0.333]
    """
    if path.covariance is None:
        raise ConfigError("the path has no covariance, by which poses are fused")
    if not (0 < meters < math.inf and 0 < degrees < math.inf and 1 <= shared < math.inf):
        raise ConfigError(
            f"the motion is {meters} m and {degrees} degrees, shared {shared}: expected motions above 0, and 1 or more"
        )
    walk = torch.tensor([meters] * 3 + [math.radians(degrees)] * 3, dtype=torch.float64).square().diag()
    one = torch.eye(6, dtype=torch.float64)
    steps = [0.0, *path.times.diff().tolist()]
    measured = shared * _of_tangent(path.world_from_camera, path.covariance)
    pose, covariance = path.world_from_camera[0], measured[0]
    poses, covariances = [pose], [covariance]
    for step, seen, noise in zip(steps[1:], path.world_from_camera[1:], measured[1:]):
        covariance = covariance + step * walk
        gain = torch.linalg.solve(covariance + noise, covariance).mT
        pose = displaced(pose, gain @ difference(pose, seen))
        rest = one - gain
        covariance = rest @ covariance @ rest.mT + gain @ noise @ gain.mT
        poses.append(pose)
        covariances.append(covariance)
    found = torch.stack(poses)
    into = twists_of(found)
    return Trajectory(path.times, found, into @ torch.stack(covariances) @ into.mT)


def _of_tangent(poses: Tensor, covariance: Tensor) -> Tensor:
    """Covariances (N, 6, 6) of tangent vectors, from those of twists."""
    back = torch.linalg.inv(twists_of(poses))
    return back @ covariance @ back.mT
