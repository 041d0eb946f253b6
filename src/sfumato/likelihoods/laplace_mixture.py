"""Values: a mixture of two Laplace distributions around one value."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from sfumato.likelihoods.for_task import ValueTarget
from sfumato.likelihoods.links import LOG_SCALE, check, check_targets
from sfumato.predictions import ValueMoments


@dataclass(frozen=True)
class LaplaceMixture:
    """``y ~ (1 − w) Laplace(μ, e^s) + w Laplace(μ, e^(s + softplus(r)))``, with ``w = sigmoid(a)``.

    A narrow and a wide distribution around the same value, as for matches between pictures: most errors are small, and
    some are large wherever the match is wrong. The output channels are D values μ, D log scales s, D numbers r and D
    logits a.

    Args:
        dims: Number D ≥ 1 of values per pixel or image. Default 1.
        unit: Unit of y, such as ``"px"``. Default: none.

    Raises:
        ConfigError: If ``dims`` is less than 1.

    Source: Wang et al. (2024), "SEA-RAFT", for a mixture around one value. There the narrow scale is 1.
    Pitfall: The prediction keeps mean and variance. Its intervals are those of a normal distribution unless calibrated.

    >>> LaplaceMixture().moments(torch.tensor([[3.0, 0.0, -50.0, 0.0]])).prediction().variance  # 2, as both are equal
    tensor([[2.]])
    """

    dims: int = 1
    unit: str = ""
    target: ClassVar[str] = "value"

    def __post_init__(self) -> None:
        check(self.dims, "identity", None, None)

    @classmethod
    def for_task(cls, task: ValueTarget) -> Self:
        """The likelihood for the values of a task. It uses no link."""
        return cls(task.dims, task.unit)

    @property
    def channels(self) -> int:
        """4D."""
        return 4 * self.dims

    def nll(self, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """``−log p(y)`` (B, *event) in nats per ``unit``, summed over D, 0 where not valid.

        Raises:
            DataError: If the targets have another shape.
        """
        check_targets(output, target, output.shape[1] // 4, "a quarter of the channels of the output {}, at its size")
        known = valid.unsqueeze(1)
        value, narrow, wide, logit = self._parts(output.where(known, 0.0))
        error = (target.to(value.dtype).where(known, 0.0) - value).abs()
        terms = [
            log_weight - error * (-log_scale).exp() - log_scale - math.log(2)
            for log_weight, log_scale in ((logsigmoid(-logit), narrow), (logsigmoid(logit), wide))
        ]
        return (-torch.logaddexp(*terms)).sum(1).where(valid, 0.0)

    def moments(self, output: Tensor) -> ValueMoments:
        """Mean μ and variance ``2 (1 − w) b₁² + 2 w b₂²`` with both scales b."""
        value, narrow, wide, logit = self._parts(output)
        weight = logit.sigmoid()
        variance = 2 * ((1 - weight) * (2 * narrow).exp() + weight * (2 * wide).exp())
        return ValueMoments.of(value, variance, self.unit)

    def _parts(self, output: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Values, both log scales and logits, each (B, D, *event), in float32 or wider."""
        output = output.to(torch.promote_types(output.dtype, torch.float32))
        value, log_scale, wider, logit = output.chunk(4, 1)
        # Scales are limited, but gradients pass, so that training can bring them back into the range.
        narrow = log_scale + (log_scale.clamp(-LOG_SCALE, LOG_SCALE) - log_scale).detach()
        wide = narrow + torch.nn.functional.softplus(wider)
        return value, narrow, wide + (wide.clamp_max(LOG_SCALE) - wide).detach(), logit
