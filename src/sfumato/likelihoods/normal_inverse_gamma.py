"""Values: a distribution over mean and variance, which the network predicts in one pass."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn.functional import softplus

from sfumato.likelihoods.class_likelihood import check_weight
from sfumato.likelihoods.for_task import ValueTarget
from sfumato.likelihoods.links import check
from sfumato.predictions import ValueMoments


@dataclass(frozen=True)
class NormalInverseGamma:
    """``y ~ N(μ, σ²)`` with ``μ ~ N(γ, σ²/ν)`` and ``σ² ~ Γ⁻¹(α, β)``.

    The output channels are D numbers each for γ, ν, α and β. ν and β are the softplus of their channels, α is one more
    than that. One pass gives both parts in closed form: the aleatoric part is ``E[σ²] = β / (α − 1)``, the epistemic
    part is ``Var[μ] = E[σ²] / ν``. Small constants are added to ν, α and β, so both are above 0 and finite.

    Args:
        dims: Number D ≥ 1 of values per pixel or image. Default 1.
        regularization: Weight ≥ 0 of the error times the evidence ``2ν + α``. Default 0.01.
        unit: Unit of y, such as ``"m"``. Default: none.

    Raises:
        ConfigError: If ``dims`` is less than 1 or the weight is negative.

    Source: Amini et al. (2020), "Deep evidential regression", eq. 8 to 10.
    Pitfall: The likelihood determines β (1 + ν)/ν and α, but not ν alone (Meinert et al. 2023). So the split into parts
    depends on the regularization. The values must be near 1 in size: standardize them.

    >>> zeros = torch.zeros(1, 4)
    >>> NormalInverseGamma().moments(zeros).prediction().aleatoric  # softplus(0) / softplus(0), nearly
    tensor([0.9858])
    """

    dims: int = 1
    regularization: float = 0.01
    unit: str = ""
    target: ClassVar[str] = "value"

    def __post_init__(self) -> None:
        check(self.dims, "identity", None, None)
        check_weight("regularization", self.regularization)

    @classmethod
    def for_task(cls, task: ValueTarget) -> Self:
        """The likelihood for the values of a task. It uses no link, so the targets must be standardized."""
        return cls(task.dims, unit=task.unit)

    @property
    def channels(self) -> int:
        """4D."""
        return 4 * self.dims

    def nll(self, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """``−log`` of the Student t density of y, and the weighted evidence of errors (B, *event), or 0 if invalid."""
        mask = valid.unsqueeze(1)
        mean, nu, alpha, beta = self._split(output.where(mask, 0.0))
        error = target.view_as(mean).where(mask, 0.0) - mean
        omega = 2 * beta * (1 + nu)
        student = (
            0.5 * (math.pi / nu).log()
            - alpha * omega.log()
            + (alpha + 0.5) * (error.square() * nu + omega).log()
            + torch.lgamma(alpha)
            - torch.lgamma(alpha + 0.5)
        )
        return (student + self.regularization * error.abs() * (2 * nu + alpha)).sum(1).where(valid, 0.0)

    def moments(self, output: Tensor) -> ValueMoments:
        """Mean γ, aleatoric variance E[σ²] and epistemic variance Var[μ]."""
        mean, nu, alpha, beta = self._split(output)
        variance = beta / (alpha - 1)
        return ValueMoments(1, mean, variance / nu, variance, self.unit)

    def _split(self, output: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, nu, alpha, beta = output.split(self.dims, 1)
        # Above 0, where the variances have no bound.
        return mean, softplus(nu) + 1e-3, softplus(alpha) + 1 + 1e-2, softplus(beta) + 1e-6
