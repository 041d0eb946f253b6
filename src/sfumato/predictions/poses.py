"""Predictions of camera poses: distributions on SE(3), and the moments of draws that they are computed from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from sfumato.geometry.pose import chordal_mean, difference, displaced, pose_vectors, poses_of, rigid, twists_of
from sfumato.geometry.trajectory import Trajectory
from sfumato.predictions.values import ValueMoments, ValuePrediction, correlations

UNIT = "m, rad"


@dataclass(frozen=True, repr=False)
class PosePrediction(ValuePrediction):
    """A distribution of the camera pose of each image: a mean on SE(3), and a covariance in its tangent space there.

    The true pose has the position ``p + ρ`` and the rotation ``exp(φ) R``, where (ρ, φ) is a vector of 6 numbers in the
    axes of the world, in meters and radians, with mean 0. Its covariance (B, 6, 6) is :attr:`covariance`, the sum of an
    aleatoric and an epistemic part.

    Args:
        mean: Position p, then axis times angle of R (B, 6), world from camera. The other arguments are those of
            :class:`ValuePrediction`; variances and correlations are of (ρ, φ).

    Pitfall: :attr:`total` is the trace of the covariance. In it a radian counts as a meter, which is how far a point
    moves that is one meter away. :attr:`position_std` and :attr:`rotation_std` are the two parts.

    >>> one = torch.ones(1, 6)
    >>> PosePrediction(0 * one, 3 * one, 0 * one).position_std  # √(3 + 3 + 3)
    tensor([3.])
    """

    unit: str = UNIT

    def __repr__(self) -> str:
        return f"PosePrediction({len(self.mean)} poses, {self.draws} draws)"

    @property
    def poses(self) -> Tensor:
        """The mean poses (B, 4, 4), world from camera, meters."""
        return poses_of(self.mean)

    @property
    def position_std(self) -> Tensor:
        """√ of the trace of the covariance of the position (B,), meters."""
        return self.variance[:, :3].sum(1).sqrt()

    @property
    def rotation_std(self) -> Tensor:
        """√ of the trace of the covariance of the rotation (B,), radians."""
        return self.variance[:, 3:].sum(1).sqrt()

    def path(self, times: Iterable[float] | None = None) -> Trajectory:
        """The poses of a batch as the path of a camera, with the covariances of their twists.

        Args:
            times: Time of each image, increasing. None for 0, 1, 2, … Default None.
        """
        poses = self.poses.detach().double().cpu()
        into, covariance = twists_of(poses), self.covariance.detach().double().cpu()
        numbers = torch.tensor(list(range(len(poses)) if times is None else times), dtype=torch.float64)
        return Trajectory(numbers, poses, into @ covariance @ into.mT)

    def near(self, target: Tensor) -> Tensor:
        """The mean plus the tangent vector (B, 6) from it to a target pose (B, 6)."""
        return self.mean + difference(self.poses.to(target), poses_of(target)).to(self.mean)

    def shifted(self, by: Tensor) -> Self:
        """The prediction whose mean is moved by a tangent vector (B, 6)."""
        return replace(self, mean=pose_vectors(displaced(self.poses, by)))


@dataclass(frozen=True)
class PoseMoments:
    """Statistics over draws of poses.

    Args:
        poses: Moments of position and rotation matrix of each draw, 12 numbers.
        noise: Moments of the tangent vector in each draw, 6 numbers with mean 0.
    """

    poses: ValueMoments
    noise: ValueMoments

    @classmethod
    def of(cls, poses: Tensor, noise: ValueMoments) -> Self:
        """The moments of one draw.

        Args:
            poses: Its poses (B, 4, 4).
            noise: Moments of its tangent vector (B, 6).
        """
        numbers = torch.cat([poses[:, :3, 3], poses[:, :3, :3].flatten(1)], 1)
        none = torch.zeros_like(numbers)
        return cls(ValueMoments.of(numbers, none, UNIT, none.new_zeros(none.shape[0], 66)), noise)

    def merge(self, other: Self) -> Self:
        """Moments of both sets of draws together."""
        return type(self)(self.poses.merge(other.poses), self.noise.merge(other.noise))

    def prediction(self) -> PosePrediction:
        """Mean position and chordal mean of the rotations; mean covariance; covariance of the draws around the mean.

        The tangent vector of a draw is linear in its rotation matrix: ``sin|φ| φ/|φ|``, the axis of the antisymmetric
        part of ``R_i Rᵀ``. So its covariance follows from that of the 12 numbers. It is φ to 1 % up to 14 degrees and
        smaller beyond.
        """
        spread, noise = self.poses.prediction(), self.noise.prediction()
        position, matrices = spread.mean[:, :3], spread.mean[:, 3:].unflatten(1, (3, 3))
        rotation = matrices if self.poses.draws == 1 else chordal_mean(matrices)
        mean = pose_vectors(rigid(rotation, position))
        epistemic, shared = torch.zeros_like(mean), None
        if self.poses.draws > 1:
            into = _into_tangent(rotation)
            covariance = into @ spread.covariance @ into.mT
            epistemic = covariance.diagonal(dim1=1, dim2=2).clamp_min(0)
            rows, columns = torch.triu_indices(6, 6, 1)
            shared = correlations(covariance[:, rows, columns], epistemic)
        return PosePrediction(
            mean,
            noise.aleatoric_variance,
            epistemic,
            UNIT,
            self.poses.draws,
            aleatoric_correlation=noise.aleatoric_correlation,
            epistemic_correlation=shared,
        )


def _into_tangent(rotation: Tensor) -> Tensor:
    """The matrices (B, 6, 12) from deviations of (p, R_i) to tangent vectors at rotations (B, 3, 3)."""
    found = rotation.new_zeros(len(rotation), 6, 12)
    found[:, :3, :3] = torch.eye(3).to(rotation)
    for row in range(3):  # of φ: half of M[b, a] − M[a, b], with M = R_i Rᵀ and (row, a, b) in cyclic order
        a, b = (row + 1) % 3, (row + 2) % 3
        found[:, 3 + row, 3 + 3 * b : 6 + 3 * b] = rotation[:, a] / 2
        found[:, 3 + row, 3 + 3 * a : 6 + 3 * a] = -rotation[:, b] / 2
    return found
