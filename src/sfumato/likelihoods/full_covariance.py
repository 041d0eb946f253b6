"""Vectors of two values: distributions with a full covariance, whose level lines are ellipses."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from sfumato.errors import ConfigError
from sfumato.likelihoods.for_task import ValueTarget
from sfumato.likelihoods.links import LOG_SCALE, bounded, check_targets
from sfumato.predictions import ValueMoments

SHEAR = 30.0
"""Largest size of the shear k. It bounds correlations to ±0.9994, so that a determinant is exact in float32."""


@dataclass(frozen=True)
class FullCovariance:
    """``y = μ + L t`` with a standard distribution of t that is round, and ``L = [[e^a, 0], [k e^b, e^b]]``.

    The output channels are μ₁, μ₂, a, b and k. L Lᵀ is a Cholesky factorization, so every output is a covariance. Log
    scales a and b count as −10 below −10 and as 10 above 10; k counts as −30 below −30 and as 30 above 30. The gradient
    passes everywhere, so a value beyond a limit can come back.

    An error of optical flow lies along an edge where the image has no texture across it. Scales for each axis cannot
    say so, and a correlation can.

    Args:
        dims: 2, the number of values of a vector. Default 2.
        unit: Unit of y, such as ``"px"``. Default: none.

    Raises:
        ConfigError: If ``dims`` is not 2.

    Source: Russell and Reale (2019), "Multivariate uncertainty in deep learning", for a network that gives a covariance
    by its Cholesky factor.
    Pitfall: Calibrators scale a covariance, but they do not turn or stretch its ellipse.
    """

    dims: int = 2
    unit: str = ""
    target: ClassVar[str] = "value"
    spread: ClassVar[float]  # the variance of an element of t

    def __post_init__(self) -> None:
        if self.dims != 2:
            raise ConfigError(
                f"{type(self).__name__} is for vectors of 2 values, such as optical flow, and the target has "
                f"{self.dims}: use gaussian or laplace"
            )

    @classmethod
    def for_task(cls, task: ValueTarget) -> Self:
        """The likelihood for the vectors of a task, in its unit. It uses no link."""
        return cls(task.dims, task.unit)

    @property
    def channels(self) -> int:
        """5."""
        return 5

    @staticmethod
    def round_nll(square: Tensor) -> Tensor:
        """The negative log density of t, given its squared length."""
        raise NotImplementedError

    def nll(self, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """``−log p(y)`` (B, *event) in nats per ``unit²``, 0 where not valid.

        Raises:
            DataError: If the targets are not (B, 2, *event).
        """
        check_targets(output, target, 2, "two values for each pixel of the output {}")
        known = valid.unsqueeze(1)
        # Output and target are replaced, not only the result: where(·) alone gives the gradient 0 · NaN = NaN.
        mean, first, second, shear = _split(output.where(known, 0.0))
        away = target.to(mean.dtype).where(known, 0.0) - mean
        along = away[:, 0] * (-first).exp()
        across = away[:, 1] * (-second).exp() - shear * along
        return (self.round_nll(along.square() + across.square()) + first + second).where(valid, 0.0)

    def moments(self, output: Tensor) -> ValueMoments:
        """Mean and covariance of y in ``unit``. Both variances are at least ``e^{−20}`` times that of t."""
        mean, first, second, shear = _split(output)
        scales = torch.stack([first, second], 1).exp()
        stretched = torch.stack([torch.ones_like(shear), 1 + shear.square()], 1)
        covariance = self.spread * (shear * scales[:, 0] * scales[:, 1])[:, None]
        return ValueMoments.of(mean, self.spread * scales.square() * stretched, self.unit, covariance)


@dataclass(frozen=True)
class FullGaussian(FullCovariance):
    """A normal distribution of a vector of two values, ``y ~ N(μ, L Lᵀ)``. See :class:`FullCovariance`.

    >>> FullGaussian(unit="px").moments(torch.tensor([[1.0, 2.0, 0.0, 0.0, -1.0]])).prediction().covariance.round()
    tensor([[[ 1., -1.],
             [-1.,  2.]]])
    """

    spread: ClassVar[float] = 1.0

    @staticmethod
    def round_nll(square: Tensor) -> Tensor:
        """``|t|²/2 + log 2π``."""
        return square / 2 + math.log(2 * math.pi)


@dataclass(frozen=True)
class FullLaplace(FullCovariance):
    """A vector of two values whose density falls as ``e^{−|t|}``, with heavier tails than :class:`FullGaussian`.

    Its loss grows with the length of the error, not with its square, so outliers change it less. The covariance of y is
    3 L Lᵀ, because |t| has a gamma distribution with shape 2, whose second moment is 6.

    Source: Gómez, Gómez-Villegas and Marín (1998), "A multivariate generalization of the power exponential family of
    distributions", for β = ½ and two values.

    >>> FullLaplace(unit="px").moments(torch.tensor([[1.0, 2.0, 0.0, 0.0, -1.0]])).prediction().covariance.round()
    tensor([[[ 3., -3.],
             [-3.,  6.]]])
    """

    spread: ClassVar[float] = 3.0

    @staticmethod
    def round_nll(square: Tensor) -> Tensor:
        """``|t| + log 2π``."""
        # The square root has no gradient at 0, where a prediction is exact.
        return (square + 1e-12).sqrt() + math.log(2 * math.pi)


def _split(output: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean (B, 2, *event), log scales and shear (B, *event) of an output (B, 5, *event), in float32 or wider."""
    output = output.to(torch.promote_types(output.dtype, torch.float32))
    first, second = bounded(output[:, 2:4], LOG_SCALE).unbind(1)
    return output[:, :2], first, second, bounded(output[:, 4], SHEAR)
