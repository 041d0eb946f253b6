"""Likelihoods whose network works on standardized targets: numbers around 0 with a spread of about 1."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sfumato.contracts import Likelihood
from sfumato.errors import ConfigError
from sfumato.likelihoods.full_covariance import FullCovariance
from sfumato.predictions import ValueMoments, ValuePrediction


@dataclass(frozen=True)
class StandardizedLocation:
    """A location–scale likelihood whose output is in units of ``spread`` around ``center``, behind its link.

    ``μ = center + spread · f`` and ``log scale = s + log spread``, then the likelihood as it is. Its loss and its
    predictions are in the unit of the targets.

    Args:
        likelihood: A likelihood whose output is D locations, then none, D or 2D log scales.
        center: Mean of the targets behind the link.
        spread: Standard deviation of the targets behind the link, > 0.
    """

    likelihood: Likelihood[ValuePrediction]
    center: float
    spread: float
    target: ClassVar[str] = "value"

    @property
    def channels(self) -> int:
        """Those of the likelihood."""
        return self.likelihood.channels

    def nll(self, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Negative log likelihood (B, *event) in nats per unit of the target, 0 where not valid."""
        return self.likelihood.nll(self._in_units(output), target, valid)

    def moments(self, output: Tensor) -> ValueMoments:
        """Moments in the unit of the target."""
        return value_moments(self.likelihood.moments(self._in_units(output)))

    def _in_units(self, output: Tensor) -> Tensor:
        return in_units(output, getattr(self.likelihood, "dims", 1), self.center, self.spread)


@dataclass(frozen=True)
class StandardizedTargets:
    """Any likelihood of values without a link, for targets ``(y − center) / spread``.

    Its loss and its predictions are in the unit of the targets: ``D log spread`` is added to the loss, the mean and the
    variances are scaled back.

    Args:
        likelihood: The likelihood of the standardized targets.
        center: Mean of the targets.
        spread: Standard deviation of the targets, > 0.
    """

    likelihood: Likelihood[ValuePrediction]
    center: float
    spread: float
    target: ClassVar[str] = "value"

    @property
    def channels(self) -> int:
        """Those of the likelihood."""
        return self.likelihood.channels

    def nll(self, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Negative log likelihood (B, *event) in nats per unit of the target, 0 where not valid."""
        found = self.likelihood.nll(output, (target - self.center) / self.spread, valid)
        return (found + target.shape[1] * math.log(self.spread)).where(valid, 0.0)

    def moments(self, output: Tensor) -> ValueMoments:
        """Moments in the unit of the target."""
        return value_moments(self.likelihood.moments(output)).scaled(self.spread, self.center)


def standardized(likelihood: Likelihood[ValuePrediction], center: float, spread: float) -> Likelihood[ValuePrediction]:
    """The likelihood for a network that works on standardized targets.

    Args:
        likelihood: A likelihood of values.
        center: Mean of the targets, behind the link of the likelihood.
        spread: Their standard deviation, > 0.

    Raises:
        ConfigError: If ``center`` is not finite or ``spread`` is not above 0.
    """
    if getattr(likelihood, "absolute", False):  # its output has a meaning in the unit of the targets, as planes have
        return likelihood
    if not (math.isfinite(center) and 0 < spread < math.inf):
        raise ConfigError(f"center is {center} and spread {spread}: expected a finite center and a spread above 0")
    # A likelihood without log scales, such as L1, has its scale in units of the spread.
    scales = has_location(likelihood) and likelihood.channels > getattr(likelihood, "dims", 0)
    return (StandardizedLocation if scales else StandardizedTargets)(likelihood, center, spread)


def has_location(likelihood: object) -> bool:
    """Whether an output is D locations, then none, D or 2D log scales."""
    dims = getattr(likelihood, "dims", 0)
    absolute = getattr(likelihood, "absolute", False) or isinstance(likelihood, FullCovariance)
    return not absolute and getattr(likelihood, "channels", -1) in (dims, 2 * dims, 3 * dims)


def in_units(output: Tensor, dims: int, center: float, spread: float) -> Tensor:
    """An output in standardized units as one in the unit of the link: locations moved and scaled, log scales moved."""
    return torch.cat([center + spread * output[:, :dims], output[:, dims:] + math.log(spread)], 1)


def value_moments(moments: object) -> ValueMoments:
    """The moments, which must be those of values."""
    assert isinstance(moments, ValueMoments)
    return moments
