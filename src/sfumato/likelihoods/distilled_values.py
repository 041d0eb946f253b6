"""Values: students that learn how much the draws of a teacher differ, or how far they are from its mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from sfumato.likelihoods.distilled import check_spread, root_mean
from sfumato.likelihoods.for_task import ValueTarget
from sfumato.likelihoods.gaussian import Gaussian
from sfumato.likelihoods.laplace import Laplace
from sfumato.likelihoods.links import LOG_SCALE
from sfumato.likelihoods.location_scale import LocationScale
from sfumato.likelihoods.planes import Planes, PlaneTarget
from sfumato.predictions import ValueMoments


@dataclass(frozen=True)
class DistilledValues:
    """Values with their noise, and the spread of a teacher's means.

    The output channels are those of ``likelihood``, then D log standard deviations h: the epistemic variance is
    ``e^{2h}`` in the squared unit of the values.

    Args:
        likelihood: The student's :class:`Gaussian`, :class:`Laplace` or :class:`Planes`.

    Source: Landgraf et al. (2024), "Efficient multi-task uncertainties for joint semantic segmentation and monocular
    depth estimation" (EMUFormer), §3. The paper's ``log(1 + u)`` depends on the unit of u, so ``log u`` is used here.
    Pitfall: See :class:`DistilledClasses`.
    """

    likelihood: LocationScale | Planes
    target: ClassVar[str] = "value"
    student: ClassVar[bool] = True

    @property
    def dims(self) -> int:
        """D."""
        return self.likelihood.dims

    @property
    def channels(self) -> int:
        """Those of the likelihood, and D."""
        return self.likelihood.channels + self.dims

    @property
    def absolute(self) -> bool:
        """Whether the output is about values in the unit of the targets, which are not standardized."""
        return isinstance(self.likelihood, Planes)

    def nll(self, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Loss (B, *event): that of the likelihood, plus ``√mean (log û − log u)²``, one number for the batch.

        Without a label, the teacher's mean is the target of the likelihood.

        Args:
            output: Output (B, C, *event).
            target: Value, a number that is above 0 where there is a value, and the distillation target
                (B, D + 1 + 2D, *event).
            valid: Mask (B, *event), True where there is a distillation target.
        """
        dims, own, known = self.dims, self.likelihood.channels, valid.unsqueeze(1)
        value, labeled, mean, std = target.float().split([dims, 1, dims, dims], 1)
        value = value.where(labeled > 0, mean)
        predicted = output[:, own:].where(known, 0.0)
        # Standard deviations below a thousandth of the value count as a thousandth.
        truth = torch.maximum(std, 1e-3 * mean.abs()).where(known, 1.0).clamp_min(1e-12).log()
        squares = (predicted - truth).square().sum(1)
        return self.likelihood.nll(output[:, :own], value, valid) + valid * root_mean(squares, valid)

    def moments(self, output: Tensor) -> ValueMoments:
        """Those of the likelihood, and the epistemic variance ``e^{2h}`` with h clamped to ±10."""
        own = self.likelihood.channels
        found = self.likelihood.moments(output[:, :own])
        spread = (2 * output[:, own:].float().clamp(-LOG_SCALE, LOG_SCALE)).exp()
        return ValueMoments(1, found.mean, spread, found.variance, found.unit)

    def teacher_statistics(self, moments: ValueMoments) -> ValueMoments:
        """The moments of a draw."""
        return moments

    def distillation_target(self, statistics: ValueMoments) -> Tensor:
        """The teacher's mean and its epistemic standard deviation (B, 2D, *event) in the unit of the values.

        Raises:
            DataError: If the teacher has one draw and no epistemic part.
        """
        found = statistics.prediction()
        check_spread(found.epistemic, statistics.draws)
        return torch.cat([found.mean, found.epistemic_variance.sqrt()], 1)


class DistilledGaussian(DistilledValues):
    """:class:`DistilledValues` with a :class:`Gaussian`."""

    @classmethod
    def for_task(cls, task: ValueTarget) -> Self:
        """The likelihood for the values of a task."""
        return cls(Gaussian.for_task(task))


class DistilledLaplace(DistilledValues):
    """:class:`DistilledValues` with a :class:`Laplace`."""

    @classmethod
    def for_task(cls, task: ValueTarget) -> Self:
        """The likelihood for the values of a task."""
        return cls(Laplace.for_task(task))


class DistilledPlanes(DistilledValues):
    """:class:`DistilledValues` with :class:`Planes`."""

    @classmethod
    def for_task(cls, task: PlaneTarget) -> Self:
        """The likelihood for a task with planes."""
        return cls(Planes.for_task(task))


@dataclass(frozen=True, repr=False)
class SelfLaplace(Laplace):
    """:class:`Laplace` whose target is the teacher's mean: its scale learns how far student and teacher differ.

    It reads no labels, and the teacher may be a single network. With a teacher that was trained by reprojection, the
    scale is an uncertainty in the unit of the values, which no photometric error gives.

    Source: Poggi et al. (2020), "On the uncertainty of self-supervised monocular depth estimation", "Self".
    Pitfall: Where the teacher is wrong in the same way everywhere, the student learns that with certainty.
    """

    student: ClassVar[bool] = True

    def nll(self, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """As that of the Laplace distribution, of the teacher's mean.

        Args:
            output: Output (B, 2D, *event).
            target: Value and whether it is known, which are not read, then the teacher's mean (B, D + 1 + D, *event).
            valid: Mask (B, *event), True where there is a distillation target.
        """
        return super().nll(output, target[:, self.dims + 1 :].float(), valid)

    def teacher_statistics(self, moments: ValueMoments) -> ValueMoments:
        """The moments of a draw."""
        return moments

    def distillation_target(self, statistics: ValueMoments) -> Tensor:
        """The teacher's mean (B, D, *event) in the unit of the values."""
        return statistics.prediction().mean
