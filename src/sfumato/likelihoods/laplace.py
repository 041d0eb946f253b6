"""Values: a Laplace law of the value, of its logarithm or of its inverse."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Self

import torch
from torch import Tensor

from sfumato.likelihoods.for_task import ValueTarget
from sfumato.likelihoods.links import LinkName, as_link, check, clipped_moments, law_nll, normal_scores, split
from sfumato.predictions import ValueMoments


@dataclass(frozen=True)
class Laplace:
    """``link(y) ~ Laplace(μ, e^s)``, each of D values on its own; output channels are D locations μ, then D scales s.

    Its loss is the absolute error over a learned scale, which outliers pull less than :class:`Gaussian`'s square.
    Arguments and errors are those of :class:`Gaussian`.

    Source: Kendall and Gal (2017), "What uncertainties do we need", §3.1.
    Pitfall: the scale b = e^s is not the standard deviation, which is √2 b.
    """

    dims: int = 1
    link: LinkName = "identity"
    lower: float | None = None
    upper: float | None = None
    unit: str = ""
    target: ClassVar[str] = "value"

    def __post_init__(self) -> None:
        check(self.dims, self.link, self.lower, self.upper)

    @classmethod
    def for_task(cls, task: ValueTarget) -> Self:
        """The likelihood for the values of a task, in its unit, with its link and range."""
        return cls(task.dims, as_link(task.link), task.lower, task.upper, task.unit)

    @property
    def channels(self) -> int:
        """2D."""
        return 2 * self.dims

    def nll(self, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """``−log p(y)`` (B, H, W) in nats per ``unit``, summed over D, 0 where not valid."""
        return law_nll(output, target, valid, self.link, lambda t: t.abs() + math.log(2))

    def moments(self, output: Tensor) -> ValueMoments:
        """Mean and variance of y in ``unit``; of y clipped to [lower, upper] for the log and inverse links."""
        location, log_scale = split(output, self.dims)
        scale = log_scale.exp()
        if self.lower is None or self.upper is None:
            return ValueMoments.of(location, 2 * scale.square(), self.unit)
        moments = clipped_moments(location, scale, self.link, self.lower, self.upper, *laplace_scores())
        return ValueMoments.of(*moments, self.unit)


@cache
def laplace_scores() -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The Laplace quantiles of the probabilities of :func:`normal_scores`, and its weights."""
    nodes, weights = normal_scores()
    scores = torch.tensor(nodes, dtype=torch.float64)
    # −sign · log(2 Φ(−|score|))
    quantiles = -scores.sign() * (torch.special.log_ndtr(-scores.abs()) + math.log(2))
    return tuple(quantiles.tolist()), weights
