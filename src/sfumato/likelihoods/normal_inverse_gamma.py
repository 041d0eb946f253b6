"""Values: a law over mean and variance, which the network predicts in one pass."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn.functional import softplus

from sfumato.likelihoods.for_task import ValueTarget
from sfumato.predictions import ValueMoments


@dataclass(frozen=True)
class NormalInverseGamma:
    """``y ~ N(μ, σ²)`` with ``μ ~ N(γ, σ²/ν)`` and ``σ² ~ Γ⁻¹(α, β)``; output channels are D each of γ, ν, α, β, raw.

    One pass gives both parts in closed form: ``aleatoric = E[σ²] = β / (α − 1)`` and ``epistemic = Var[μ]``, which is
    ``aleatoric / ν``. ``ν`` and ``β`` are softplus of their channels, ``α`` one more than that.

    Args:
        dims: D ≥ 1, values per pixel.
        regularization: ≥ 0, weight of the error times the evidence ``2ν + α``, in the target's unit.
        unit: of y, as in ``"m"``.

    Raises:
        ValueError: for fewer than 1 value, or a negative weight.

    Source: Amini et al. (2020), "Deep evidential regression", eq. 8 to 10.
    Pitfall: the likelihood fixes β (1 + ν)/ν and α, not ν itself (Meinert et al. 2023): the split into parts follows
    the regularization. Values must not be far from 1 in size; scale them.
    """

    dims: int = 1
    regularization: float = 0.01
    unit: str = ""
    target: ClassVar[str] = "value"

    def __post_init__(self) -> None:
        if self.dims < 1:
            raise ValueError(f"dims is {self.dims}, expected at least 1 value per pixel")
        if self.regularization < 0:
            raise ValueError(f"regularization is {self.regularization}, expected at least 0")

    @classmethod
    def for_task(cls, task: ValueTarget) -> Self:
        """The likelihood for the values of a task. It uses no link, so standardize the targets."""
        return cls(task.dims, unit=task.unit)

    @property
    def channels(self) -> int:
        """4D."""
        return 4 * self.dims

    def nll(self, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Of the Student-t law that y has, and the weighted evidence of errors (B, H, W), 0 where not valid."""
        mask = valid[:, None]
        mean, nu, alpha, beta = self._split(output.where(mask, 0.0))
        error = target.view_as(mean).where(mask, 0.0) - mean
        omega = 2 * beta * (1 + nu)
        law = (
            0.5 * (math.pi / nu).log()
            - alpha * omega.log()
            + (alpha + 0.5) * (error.square() * nu + omega).log()
            + torch.lgamma(alpha)
            - torch.lgamma(alpha + 0.5)
        )
        return (law + self.regularization * error.abs() * (2 * nu + alpha)).sum(1).where(valid, 0.0)

    def moments(self, output: Tensor) -> ValueMoments:
        """Mean γ, aleatoric variance E[σ²] and epistemic variance Var[μ]."""
        mean, nu, alpha, beta = self._split(output)
        variance = beta / (alpha - 1)
        return ValueMoments(1, mean, variance / nu, variance, self.unit)

    def _split(self, output: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, nu, alpha, beta = output.split(self.dims, 1)
        # Away from 0, where variances would be without bound.
        return mean, softplus(nu) + 1e-3, softplus(alpha) + 1 + 1e-2, softplus(beta) + 1e-6
