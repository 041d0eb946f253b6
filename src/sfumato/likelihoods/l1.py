"""Values: the absolute error, which is a Laplace distribution with one scale for all pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

from torch import Tensor

from sfumato.errors import ConfigError, DataError
from sfumato.likelihoods.for_task import ValueTarget
from sfumato.likelihoods.links import LOG_SCALE, check
from sfumato.predictions import ValueMoments


@dataclass(frozen=True)
class L1:
    """``y ~ Laplace(f, b)``: the output is the value, and the scale b is the same for every pixel.

    Alone, b is ``scale``. In a :class:`Joint` likelihood b is learned, as the noise of the task.

    Args:
        dims: Number D ≥ 1 of values per pixel or image, and of output channels. Default 1.
        unit: Unit of y, such as ``"px"``. Default: none.
        scale: b > 0 in ``unit``. Default 1.

    Raises:
        ConfigError: If ``dims`` is less than 1 or ``scale`` is not above 0.

    Pitfall: The aleatoric part is the same everywhere. :class:`Laplace` has a scale for each pixel.

    >>> import torch
    >>> L1(scale=2.0).moments(torch.tensor([[5.0]])).prediction().variance  # 2 b²
    tensor([[8.]])
    """

    dims: int = 1
    unit: str = ""
    scale: float = 1.0
    target: ClassVar[str] = "value"

    def __post_init__(self) -> None:
        check(self.dims, "identity", None, None)
        if not 0 < self.scale < math.inf:
            raise ConfigError(f"scale is {self.scale}, expected above 0: the usual error, in the unit of the values")

    @classmethod
    def for_task(cls, task: ValueTarget) -> Self:
        """The likelihood for the values of a task. It uses no link."""
        return cls(task.dims, task.unit)

    @property
    def channels(self) -> int:
        """D."""
        return self.dims

    def loss(self, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """``Σ_D |y − f|`` (B, *event) in ``unit``, 0 where not valid.

        Raises:
            DataError: If targets and output differ in shape.
        """
        if target.shape != output.shape:
            raise DataError(f"targets have shape {tuple(target.shape)}, expected the output's {tuple(output.shape)}")
        known = valid.unsqueeze(1)
        return (target.to(output.dtype).where(known, 0.0) - output.where(known, 0.0)).abs().sum(1)

    def nll(self, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """``Σ_D |y − f| / b + D log 2b`` (B, *event) in nats, 0 where not valid."""
        constant = self.dims * math.log(2 * self.scale)
        return (self.loss(output, target, valid) / self.scale + constant).where(valid, 0.0)

    def moments(self, output: Tensor) -> ValueMoments:
        """Mean f and variance 2b²."""
        return self.moments_at(output, output.new_tensor(2 * self.dims * self.scale).log())

    def term(self, output: Tensor, log_variance: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """``e^{−s} Σ_D |y − f| + s/2`` (B, *event), 0 where not valid, with s = ``log_variance``, (B, *event) or ()."""
        return ((-log_variance).exp() * self.loss(output, target, valid) + log_variance / 2).where(valid, 0.0)

    def moments_at(self, output: Tensor, log_variance: Tensor) -> ValueMoments:
        """Mean f and variance 2b² with ``b = e^s / 2D``, the most likely b where s minimizes :meth:`term`.

        b is clamped to ``e^{−10}`` … ``e^{10}`` in ``unit``, so the variance is above 0 and finite.
        """
        log_variance = log_variance.unsqueeze(1) if log_variance.ndim else log_variance
        scale = (log_variance - math.log(2 * self.dims)).clamp(-LOG_SCALE, LOG_SCALE).exp().expand_as(output)
        return ValueMoments.of(output, 2 * scale.square(), self.unit)
