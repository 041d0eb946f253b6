"""Values: a Laplace distribution of the value, of its logarithm or of its inverse."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

from sfumato.likelihoods.links import normal_scores
from sfumato.likelihoods.location_scale import LocationScale, Quadrature


@dataclass(frozen=True, repr=False)
class Laplace(LocationScale):
    """``link(y) ~ Laplace(μ, e^s)``. The output channels are D locations μ, then D log scales s.

    Its loss is the absolute error divided by a learned scale. Outliers change it less than the squared error of
    :class:`Gaussian`. Arguments and errors are those of :class:`LocationScale`.

    Source: Kendall and Gal (2017), "What uncertainties do we need", §3.1.
    Pitfall: The scale b = e^s is not the standard deviation, which is √2 b.

    >>> Laplace(unit="m").moments(torch.tensor([[3.0, 0.0]])).prediction().std  # √2
    tensor([[1.4142]])
    """

    standard_variance: ClassVar[float] = 2.0

    @staticmethod
    def standard_nll(t: Tensor) -> Tensor:
        """``|t| + log 2``."""
        return t.abs() + math.log(2)

    @staticmethod
    def standard_sample(like: Tensor) -> Tensor:
        """Samples of t with the shape of ``like``, from torch's generator."""
        return torch.empty_like(like).exponential_() * torch.randint_like(like, 2).mul_(2).sub_(1)

    @staticmethod
    def quadrature() -> Quadrature:
        """Nodes and weights for a standard Laplace t."""
        return laplace_scores()


@cache
def laplace_scores() -> Quadrature:
    """The Laplace quantiles of the probabilities of :func:`normal_scores`, with its weights."""
    nodes, weights = normal_scores()
    scores = torch.tensor(nodes, dtype=torch.float64)
    # −sign · log(2 Φ(−|score|))
    quantiles = -scores.sign() * (torch.special.log_ndtr(-scores.abs()) + math.log(2))
    return tuple(quantiles.tolist()), weights
