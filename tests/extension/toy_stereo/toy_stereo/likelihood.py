"""The likelihood: Student's t distribution with 5 degrees of freedom."""

import math
from dataclasses import dataclass
from typing import ClassVar, Self

from torch import Tensor

from sfumato.predictions import ValueMoments
from sfumato.tasks import ValueTask

FREEDOM = 5.0


@dataclass(frozen=True)
class StudentT:
    """``y ~ t₅(μ, e^s)``; output channels are the location μ and the log scale s.

    Args:
        unit: Unit of y.
    """

    unit: str = ""
    target: ClassVar[str] = "value"
    channels: ClassVar[int] = 2

    @classmethod
    def for_task(cls, task: ValueTask) -> Self:
        """The likelihood for one value per pixel."""
        return cls(task.unit)

    def nll(self, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Negative log likelihood (B, H, W) in nats, 0 where not valid."""
        location, log_scale = output.where(valid[:, None], 0.0).unbind(1)
        z = (target[:, 0].where(valid, 0.0) - location) / log_scale.exp()
        constant = math.lgamma(FREEDOM / 2) - math.lgamma((FREEDOM + 1) / 2) + 0.5 * math.log(FREEDOM * math.pi)
        return ((FREEDOM + 1) / 2 * (z.square() / FREEDOM).log1p() + log_scale + constant).where(valid, 0.0)

    def moments(self, output: Tensor) -> ValueMoments:
        """Mean μ and variance ``e^{2s} ν / (ν − 2)``."""
        variance = (2 * output[:, 1:]).exp() * (FREEDOM / (FREEDOM - 2))
        return ValueMoments.of(output[:, :1], variance, self.unit)
