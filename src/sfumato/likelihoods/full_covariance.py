"""Vectors: distributions with a full covariance, whose level surfaces are ellipses or ellipsoids."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import ClassVar, Self

import torch
from torch import Tensor

from sfumato.errors import ConfigError
from sfumato.likelihoods.for_task import ValueTarget
from sfumato.likelihoods.links import LOG_SCALE, bounded, check_targets
from sfumato.predictions import ValueMoments

SHEAR = 30.0
"""Largest size of a shear k. For two values it bounds correlations to ±0.9994, so that a determinant is exact."""


@dataclass(frozen=True)
class FullCovariance:
    """``y = μ + L t`` with a standard distribution of t that is round, and ``L = diag(e^s) (1 + K)``.

    The output channels are D means μ, D log scales s, and the D (D − 1) / 2 shears of the strictly lower triangle K,
    row by row: for two values μ₁, μ₂, s₁, s₂ and k, so ``L = [[e^s₁, 0], [k e^s₂, e^s₂]]``. L Lᵀ is a Cholesky
    factorization, so every output is a covariance. Log scales count as −10 below −10 and as 10 above 10; shears count
    as −30 below −30 and as 30 above 30. The gradient passes everywhere, so a value beyond a limit can come back.

    An error of optical flow lies along an edge where the image has no texture across it. Scales for each axis cannot
    say so, and a correlation can.

    Args:
        dims: D ≥ 2, the number of values of a vector. Default 2.
        unit: Unit of y, such as ``"px"``. Default: none.

    Raises:
        ConfigError: If ``dims`` is less than 2.

    Source: Russell and Reale (2019), "Multivariate uncertainty in deep learning", for a network that gives a covariance
    by its Cholesky factor.
    Pitfall: Calibrators scale a covariance, but they do not turn or stretch its ellipse.
    """

    dims: int = 2
    unit: str = ""
    target: ClassVar[str] = "value"

    def __post_init__(self) -> None:
        if self.dims < 2:
            raise ConfigError(
                f"{type(self).__name__} is for vectors of 2 values or more, such as optical flow, and the target has "
                f"{self.dims}: use gaussian or laplace"
            )

    @classmethod
    def for_task(cls, task: ValueTarget) -> Self:
        """The likelihood for the vectors of a task, in its unit. It uses no link."""
        return cls(task.dims, task.unit)

    @property
    def channels(self) -> int:
        """2D + D (D − 1) / 2: 5 for two values, 27 for six."""
        return 2 * self.dims + self.dims * (self.dims - 1) // 2

    @property
    def spread(self) -> float:
        """The variance of an element of t."""
        raise NotImplementedError

    def round_nll(self, square: Tensor) -> Tensor:
        """The negative log density of t, given its squared length."""
        raise NotImplementedError

    def nll(self, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """``−log p(y)`` (B, *event) in nats per ``unit^D``, 0 where not valid.

        Raises:
            DataError: If the targets are not (B, D, *event).
        """
        check_targets(output, target, self.dims, f"{self.dims} values for each pixel of the output {{}}")
        known = valid.unsqueeze(1)
        # Output and target are replaced, not only the result: where(·) alone gives the gradient 0 · NaN = NaN.
        mean, scales, shears = self._split(output.where(known, 0.0))
        away = target.to(mean.dtype).where(known, 0.0) - mean
        found: list[Tensor] = []
        for row, values in enumerate(shears):
            whitened = away[:, row] * (-scales[row]).exp()
            for shear, before in zip(values, found):
                whitened = whitened - shear * before
            found.append(whitened)
        square = torch.stack([each.square() for each in found]).sum(0)
        return (self.round_nll(square) + torch.stack(scales).sum(0)).where(valid, 0.0)

    def moments(self, output: Tensor) -> ValueMoments:
        """Mean and covariance of y in ``unit``. All variances are at least ``e^{−20}`` times that of t."""
        mean, logs, shears = self._split(output)
        scales = [each.exp() for each in logs]
        one = torch.ones_like(logs[0])
        rows = [(*values, one) for values in shears]
        stretched = torch.stack([torch.stack([k.square() for k in row]).sum(0) for row in rows], 1)
        covariances = [
            torch.stack([a * b for a, b in zip(rows[i], rows[j])]).sum(0) * scales[i] * scales[j]
            for i, j in combinations(range(self.dims), 2)
        ]
        variance = self.spread * torch.stack(scales, 1).square() * stretched
        return ValueMoments.of(mean, variance, self.unit, self.spread * torch.stack(covariances, 1))

    def _split(self, output: Tensor) -> tuple[Tensor, tuple[Tensor, ...], list[tuple[Tensor, ...]]]:
        """Mean (B, D, *event), D log scales (B, *event), and the shears of each row of K, in float32 or wider."""
        output = output.to(torch.promote_types(output.dtype, torch.float32))
        scales = bounded(output[:, self.dims : 2 * self.dims], LOG_SCALE).unbind(1)
        shears = bounded(output[:, 2 * self.dims :], SHEAR).unbind(1)
        starts = [row * (row - 1) // 2 for row in range(self.dims + 1)]
        return output[:, : self.dims], scales, [shears[a:b] for a, b in pairwise(starts)]


@dataclass(frozen=True)
class FullGaussian(FullCovariance):
    """A normal distribution of a vector, ``y ~ N(μ, L Lᵀ)``. See :class:`FullCovariance`.

    >>> FullGaussian(unit="px").moments(torch.tensor([[1.0, 2.0, 0.0, 0.0, -1.0]])).prediction().covariance.round()
    tensor([[[ 1., -1.],
             [-1.,  2.]]])
    """

    @property
    def spread(self) -> float:
        """1."""
        return 1.0

    def round_nll(self, square: Tensor) -> Tensor:
        """``|t|²/2 + D/2 log 2π``."""
        return square / 2 + self.dims / 2 * math.log(2 * math.pi)


@dataclass(frozen=True)
class FullLaplace(FullCovariance):
    """A vector whose density falls as ``e^{−|t|}``, with heavier tails than :class:`FullGaussian`.

    Its loss grows with the length of the error, not with its square, so outliers change it less. The covariance of y is
    (D + 1) L Lᵀ, because |t| has a gamma distribution with shape D, whose second moment is D (D + 1). For two values it
    is 3 L Lᵀ.

    Source: Gómez, Gómez-Villegas and Marín (1998), "A multivariate generalization of the power exponential family of
    distributions", for β = ½.

    >>> FullLaplace(unit="px").moments(torch.tensor([[1.0, 2.0, 0.0, 0.0, -1.0]])).prediction().covariance.round()
    tensor([[[ 3., -3.],
             [-3.,  6.]]])
    """

    @property
    def spread(self) -> float:
        """D + 1."""
        return self.dims + 1.0

    def round_nll(self, square: Tensor) -> Tensor:
        """``|t| + log(2 π^{D/2} Γ(D) / Γ(D/2))``: the area of the unit sphere times ∫ r^{D−1} e^{−r} dr."""
        area = math.log(2) + self.dims / 2 * math.log(math.pi) - math.lgamma(self.dims / 2)
        # The square root has no gradient at 0, where a prediction is exact.
        return (square + 1e-12).sqrt() + area + math.lgamma(self.dims)
