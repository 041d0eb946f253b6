"""Values: the absolute error, which is a Laplace law of one scale for all pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

from torch import Tensor

from sfumato.likelihoods.for_task import ValueTarget
from sfumato.likelihoods.links import check
from sfumato.predictions import ValueMoments


@dataclass(frozen=True)
class L1:
    """``y ~ Laplace(f, b)``: the output is the value, and b the same for every pixel.

    Alone it takes ``scale`` for b. In a :class:`Joint` likelihood b is learned: the noise of the task.

    Args:
        dims: D ≥ 1, values per pixel and output channels.
        unit: of y, as in ``"px"``.
        scale: b > 0, in ``unit``.

    Raises:
        ValueError: unless ``dims`` is at least 1 and ``scale`` above 0.

    Pitfall: with one b its aleatoric part is the same everywhere; :class:`Laplace` has a b for each pixel.
    """

    dims: int = 1
    unit: str = ""
    scale: float = 1.0
    target: ClassVar[str] = "value"

    def __post_init__(self) -> None:
        check(self.dims, "identity", None, None)
        if not 0 < self.scale < math.inf:
            raise ValueError(f"scale is {self.scale}, expected above 0: the usual error, in the unit of the values")

    @classmethod
    def for_task(cls, task: ValueTarget) -> Self:
        """The likelihood for the values of a task."""
        return cls(task.dims, task.unit)

    @property
    def channels(self) -> int:
        """D."""
        return self.dims

    def loss(self, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """``Σ_D |y − f|`` (B, H, W) in ``unit``, 0 where not valid."""
        if target.shape != output.shape:
            raise ValueError(f"targets have shape {tuple(target.shape)}, expected the output's {tuple(output.shape)}")
        known = valid[:, None]
        return (target.to(output.dtype).where(known, 0.0) - output.where(known, 0.0)).abs().sum(1)

    def nll(self, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """``Σ_D |y − f| / b + D log 2b`` (B, H, W) in nats, 0 where not valid."""
        constant = self.dims * math.log(2 * self.scale)
        return (self.loss(output, target, valid) / self.scale + constant).where(valid, 0.0)

    def moments(self, output: Tensor) -> ValueMoments:
        """Mean f and variance 2b²."""
        return self.moments_at(output, output.new_tensor(2 * self.dims * self.scale).log())

    def term(self, output: Tensor, log_variance: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """``e^{−s} Σ_D |y − f| + s/2`` (B, H, W), 0 where not valid; ``log_variance`` is s, (B, H, W) or one number."""
        return ((-log_variance).exp() * self.loss(output, target, valid) + log_variance / 2).where(valid, 0.0)

    def moments_at(self, output: Tensor, log_variance: Tensor) -> ValueMoments:
        """Mean f and variance 2b² with ``b = e^s / 2D``: what b is likeliest where s minimizes :meth:`term`."""
        log_variance = log_variance[:, None] if log_variance.ndim == 3 else log_variance
        scale = (log_variance.exp() / (2 * self.dims)).expand_as(output)
        return ValueMoments.of(output, 2 * scale.square(), self.unit)
