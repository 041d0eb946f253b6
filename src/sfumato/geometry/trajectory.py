"""Camera paths: poses over time, their files, and how far one path is from another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from sfumato.errors import ConfigError, DataError, MissingFileError
from sfumato.geometry.pnp import Motion
from sfumato.geometry.pose import adjoint, angles, check_poses, inverse, quaternions, rigid, rotations, skew
from sfumato.storage import atomic_write

LONGEST_STEP = 100.0  # meters between neighbors of a file; more is taken for another unit
STILL = 1e-3  # meters; positions that differ by less do not say how two paths are turned
ALIGNMENTS = ("none", "first", "rigid", "similarity")


@dataclass(frozen=True)
class Trajectory:
    """Poses of a camera over time.

    Args:
        times: (N,) float64, increasing: seconds, or numbers of frames.
        world_from_camera: (N, 4, 4) float64, meters.
        covariance: (N, 6, 6) of the twist ξ (meters, radians) with ``truth = exp(ξ) @ world_from_camera``, which is
            in the axes of the world. None if it is not known. Default None.

    Raises:
        DataError: If there is no pose, times do not increase, or a pose is no rotation and translation.
    """

    times: Tensor
    world_from_camera: Tensor
    covariance: Tensor | None = None

    def __post_init__(self) -> None:
        times = self.times.double()
        if times.ndim != 1 or not len(times) or len(times) != len(self.world_from_camera):
            raise DataError(
                f"{tuple(times.shape)} times for {len(self.world_from_camera)} poses: expected one time for each pose"
            )
        if not (times.isfinite().all() and (times.diff() > 0).all()):
            raise DataError("times do not increase: sort the poses, and leave out those that are there twice")
        object.__setattr__(self, "times", times)
        object.__setattr__(self, "world_from_camera", check_poses(self.world_from_camera, "the trajectory"))

    def __len__(self) -> int:
        return len(self.times)

    @property
    def position_covariance(self) -> Tensor:
        """Covariance (N, 3, 3) of the positions p, m²: a twist moves them by its translation and rotation × p.

        Raises:
            ConfigError: If the trajectory has no covariance.
        """
        if self.covariance is None:
            raise ConfigError("the trajectory has no covariance: only one that was made of motions has")
        by = torch.cat([torch.eye(3).double().expand(len(self), 3, 3), -skew(self.world_from_camera[:, :3, 3])], 2)
        return by @ self.covariance @ by.mT

    @classmethod
    def of_motions(cls, motions: Sequence[Motion], times: Iterable[float] | None = None) -> Trajectory:
        """The path of a camera from its motions between neighbors. It begins at the identity, which is exact.

        The covariances of the motions are taken for independent, so they add up along the path.

        Args:
            motions: The motion from each image to the next one.
            times: Time of each image, one more than there are motions. None for 0, 1, 2, … Default None.
        """
        start = (torch.eye(4, dtype=torch.float64), torch.zeros(6, 6, dtype=torch.float64))

        def further(before: tuple[Tensor, Tensor], motion: Motion) -> tuple[Tensor, Tensor]:
            # truth = exp(ξ) @ M, so its inverse is M⁻¹ @ exp(−ξ), and pose @ M⁻¹ @ exp(−ξ) = exp(Ad ξ′) @ pose @ M⁻¹.
            pose = before[0] @ inverse(motion.second_from_first)
            carry = adjoint(pose)
            return pose, before[1] + carry @ motion.covariance @ carry.mT

        poses, covariances = zip(*accumulate(motions, further, initial=start))
        numbers = range(len(poses)) if times is None else times
        return cls(torch.tensor(list(numbers), dtype=torch.float64), torch.stack(poses), torch.stack(covariances))


@dataclass(frozen=True)
class PoseErrors:
    """Errors of poses.

    Args:
        meters: (M,) length of the translation of each error.
        degrees: (M,) angle of its rotation.
    """

    meters: Tensor
    degrees: Tensor


def relative_pose_errors(estimate: Trajectory, truth: Trajectory, gap: int) -> PoseErrors:
    """Errors of the motion over ``gap`` frames: ``(T_i⁻¹ T_{i+gap})⁻¹ (E_i⁻¹ E_{i+gap})`` for every i.

    Nothing is aligned, neither place nor scale: a motion depends on no world.

    Args:
        estimate: The path E of N poses.
        truth: The path T with the same times.
        gap: Number of frames between the two poses of a motion, 1 to N − 1.

    Returns:
        N − gap errors.

    Raises:
        ConfigError: If the gap is out of range.
        DataError: If times differ, or one path is a thousand times as long as the other.

    Source: Sturm et al. (2012), "A benchmark for the evaluation of RGB-D SLAM systems".
    """
    _check_pair(estimate, truth)
    if not 1 <= gap < len(truth):
        raise ConfigError(f"gap is {gap}, expected 1 to {len(truth) - 1} for {len(truth)} poses")
    motions = [inverse(path.world_from_camera[:-gap]) @ path.world_from_camera[gap:] for path in (truth, estimate)]
    return _errors(inverse(motions[0]) @ motions[1])


def absolute_pose_errors(estimate: Trajectory, truth: Trajectory, align: str) -> PoseErrors:
    """Errors of whole poses, positions and rotations, after an alignment that is always named.

    Args:
        estimate: The path of N poses.
        truth: The path with the same times.
        align: ``none``; ``first``, by the first pose, which is then left out because its error is 0 by construction;
            ``rigid`` or ``similarity`` (with a scale), by the positions with least squares.

    Returns:
        N errors, of ``first`` N − 1.

    Raises:
        ConfigError: If ``align`` is unknown.
        DataError: If times differ, or positions lie so close together or on a line that they determine no alignment.

    Source: Umeyama (1991), "Least-squares estimation of transformation parameters between two point patterns".
    Pitfall: Errors of short pieces, each with a scale of its own, are small for any path. Do not compare errors of
    different lengths or alignments.
    """
    _check_pair(estimate, truth)
    if align not in ALIGNMENTS:
        raise ConfigError(f"align is {align!r}, expected one of {', '.join(ALIGNMENTS)}")
    found, right = estimate.world_from_camera, truth.world_from_camera
    if align == "first":
        if len(found) < 2:
            raise DataError("one pose is left after alignment with the first: expected at least 2 poses")
        return _errors(inverse(right[1:]) @ (right[0] @ inverse(found[0]) @ found[1:]))
    if align != "none":
        turn, move, scale = _umeyama(found[:, :3, 3], right[:, :3, 3], scaled=align == "similarity")
        found = rigid(turn @ found[:, :3, :3], scale * found[:, :3, 3] @ turn.mT + move)
    return _errors(inverse(right) @ found)


def _errors(difference: Tensor) -> PoseErrors:
    return PoseErrors(difference[:, :3, 3].norm(dim=1), torch.rad2deg(angles(difference[:, :3, :3])))


def _check_pair(estimate: Trajectory, truth: Trajectory) -> None:
    if len(estimate) != len(truth) or not torch.allclose(estimate.times, truth.times, atol=1e-3, rtol=0):
        raise DataError(
            f"{len(estimate)} poses are compared with {len(truth)} poses: expected the same times in both paths"
        )
    lengths = [path.world_from_camera[:, :3, 3].diff(dim=0).norm(dim=1).sum().item() for path in (estimate, truth)]
    if min(lengths) > 0 and 300 < max(lengths) / min(lengths) < 3000:
        raise DataError(
            f"one path is {lengths[0]:.3g} long and the other {lengths[1]:.3g}: is one of them in millimeters?"
        )


def _umeyama(source: Tensor, goal: Tensor, *, scaled: bool) -> tuple[Tensor, Tensor, float]:
    """Rotation, translation and scale that bring ``source`` (N, 3) to ``goal``."""
    means = source.mean(0), goal.mean(0)
    centered = source - means[0], goal - means[1]
    spreads = [torch.linalg.svdvals(points) / len(points) ** 0.5 for points in centered]
    if any(len(points) < 3 or spread[1] < STILL for points, spread in zip(centered, spreads)):
        raise DataError(
            "the positions determine no alignment: the camera stands still or moves on a line. Align with the first "
            "pose, or compare motions"
        )
    u, values, vt = torch.linalg.svd(centered[1].mT @ centered[0])
    sign = torch.ones(3, dtype=source.dtype)
    sign[2] = torch.linalg.det(u @ vt).sign()
    turn = u * sign @ vt
    scale = ((values * sign).sum() / centered[0].square().sum()).item() if scaled else 1.0
    return turn, means[1] - scale * turn @ means[0], scale


def write_tum(path: str | Path, trajectory: Trajectory) -> None:
    """Write ``time x y z qx qy qz qw``, a line for each pose: the format of TUM RGB-D, which most programs read."""
    poses = trajectory.world_from_camera
    table = torch.cat([trajectory.times[:, None], poses[:, :3, 3], quaternions(poses[:, :3, :3])], 1)
    _write(path, table, "# time x y z qx qy qz qw (world_from_camera, meters)\n")


def write_kitti(path: str | Path, trajectory: Trajectory) -> None:
    """Write the 12 numbers of ``world_from_camera`` (3, 4) row by row, a line for each pose: the format of KITTI.

    It holds no times.
    """
    _write(path, trajectory.world_from_camera[:, :3].flatten(1), "")


def write_covariances(path: str | Path, trajectory: Trajectory) -> None:
    """Write the time and the 36 numbers of the covariance (6, 6) row by row, a line for each pose.

    Raises:
        ConfigError: If the trajectory has no covariance.
    """
    if trajectory.covariance is None:
        raise ConfigError("the trajectory has no covariance: only one that was made of motions has")
    table = torch.cat([trajectory.times[:, None], trajectory.covariance.flatten(1)], 1)
    _write(path, table, "# time, then the covariance (6, 6) of exp(x) @ world_from_camera: meters, radians\n")


def read_tum(path: str | Path, meters_per_unit: float = 1.0) -> Trajectory:
    """Read a trajectory as :func:`write_tum` writes it.

    Args:
        path: The file. Lines that begin with # are skipped.
        meters_per_unit: What positions are multiplied by, 0.001 for millimeters. Default 1.

    Raises:
        MissingFileError: If there is no such file.
        DataError: If a line is not 8 finite numbers, a quaternion has not the length 1, times do not increase, or
            neighbors are more than 100 m apart.
    """
    table = _read(path, 8)
    length = table[:, 4:].norm(dim=1)
    if ((length - 1).abs() > 1e-2).any():
        raise DataError(
            f"{path} holds a quaternion of the length {length[(length - 1).abs().argmax()]:.3g}, expected 1"
        )
    poses = rigid(rotations(table[:, 4:]), table[:, 1:4] * meters_per_unit)
    return _checked(path, Trajectory(table[:, 0], poses))


def read_kitti(path: str | Path, meters_per_unit: float = 1.0) -> Trajectory:
    """Read a trajectory as :func:`write_kitti` writes it. Its times are 0, 1, 2, …

    Args:
        path: The file.
        meters_per_unit: What positions are multiplied by, 0.001 for millimeters. Default 1.

    Raises:
        MissingFileError: If there is no such file.
        DataError: If a line is not 12 finite numbers, a pose is no rotation and translation, or neighbors are more
            than 100 m apart.
    """
    poses = check_poses(_read(path, 12).reshape(-1, 3, 4), str(path))
    poses[:, :3, 3] *= meters_per_unit
    return _checked(path, Trajectory(torch.arange(len(poses)), poses))


def _write(path: str | Path, table: Tensor, head: str) -> None:
    lines = "".join(" ".join(f"{value:.9g}" for value in row) + "\n" for row in table.tolist())
    with atomic_write(path) as part:
        part.write_text(head + lines, encoding="utf-8")


def _read(path: str | Path, columns: int) -> Tensor:
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"{path} does not exist: expected a text file with {columns} numbers in each line")
    rows: list[list[float]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        words = line.split("#")[0].replace(",", " ").split()
        try:
            row = [float(word) for word in words]
        except ValueError:
            row = [float("nan")]
        if not row:
            continue
        if len(row) != columns or not all(abs(value) < 1e12 for value in row):
            raise DataError(f"{path}, line {number}: expected {columns} finite numbers")
        rows.append(row)
    if not rows:
        raise DataError(f"{path} holds no pose: expected {columns} numbers in each line")
    return torch.tensor(rows, dtype=torch.float64)


def _checked(path: str | Path, trajectory: Trajectory) -> Trajectory:
    steps = trajectory.world_from_camera[:, :3, 3].diff(dim=0).norm(dim=1)
    if len(steps) and (step := steps.median().item()) > LONGEST_STEP:
        raise DataError(
            f"{path}: neighbors are {step:.3g} m apart. For positions in millimeters give meters_per_unit=0.001"
        )
    return trajectory
