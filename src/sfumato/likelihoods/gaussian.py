"""Values: a normal law of the value, of its logarithm or of its inverse."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

from torch import Tensor

from sfumato.likelihoods.for_task import ValueTarget
from sfumato.likelihoods.links import LinkName, as_link, check, clipped_moments, law_nll, normal_scores, split
from sfumato.predictions import ValueMoments


@dataclass(frozen=True)
class Gaussian:
    """``link(y) ~ N(μ, e^{2s})``, each of D values on its own; output channels are D locations μ, then D log scales s.

    Args:
        dims: D ≥ 1, values per pixel.
        link: ``identity`` (flow, disparity), ``log`` (depth: y > 0, relative errors) or ``inverse`` (depth seen
            through its disparity).
        lower: smallest value of y, > 0, in ``unit``; for the log and inverse links only.
        upper: largest value of y, in ``unit``; for the log and inverse links only.
        unit: of y, as in ``"m"``.

    Raises:
        ValueError: for a range that is not 0 < lower < upper < ∞ where one is needed, or an unknown link.

    Source: Kendall and Gal (2017), "What uncertainties do we need", eq. 8.
    Pitfall: s is the logarithm of the standard deviation, not of the variance as in the paper.
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
        return law_nll(output, target, valid, self.link, lambda t: 0.5 * t.square() + 0.5 * math.log(2 * math.pi))

    def moments(self, output: Tensor) -> ValueMoments:
        """Mean and variance of y in ``unit``; of y clipped to [lower, upper] for the log and inverse links."""
        location, log_scale = split(output, self.dims)
        scale = log_scale.exp()
        if self.lower is None or self.upper is None:
            return ValueMoments.of(location, scale.square(), self.unit)
        moments = clipped_moments(location, scale, self.link, self.lower, self.upper, *normal_scores())
        return ValueMoments.of(*moments, self.unit)
