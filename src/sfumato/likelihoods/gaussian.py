"""Values: a normal distribution of the value, of its logarithm or of its inverse."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sfumato.likelihoods.links import normal_scores
from sfumato.likelihoods.location_scale import LocationScale, Quadrature


@dataclass(frozen=True, repr=False)
class Gaussian(LocationScale):
    """``link(y) ~ N(μ, e^{2s})``. The output channels are D locations μ, then D log scales s.

    Arguments and errors are those of :class:`LocationScale`.

    Source: Kendall and Gal (2017), "What uncertainties do we need", eq. 8.
    Pitfall: s is the logarithm of the standard deviation, not of the variance as in the paper.

    >>> Gaussian(unit="m").moments(torch.tensor([[3.0, 0.0]])).prediction().std  # e^0
    tensor([[1.]])
    """

    standard_variance: ClassVar[float] = 1.0

    @staticmethod
    def standard_nll(t: Tensor) -> Tensor:
        """``t²/2 + log √(2π)``."""
        return 0.5 * t.square() + 0.5 * math.log(2 * math.pi)

    @staticmethod
    def standard_sample(like: Tensor) -> Tensor:
        """Samples of t with the shape of ``like``, from torch's generator."""
        return torch.randn_like(like)

    @staticmethod
    def quadrature() -> Quadrature:
        """Nodes and weights for a standard normal t."""
        return normal_scores()
