"""Predictions of values, and the moments of draws that they are computed from."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from sfumato.errors import ConfigError
from sfumato.predictions.event import EventPrediction, resize_all, shape_text
from sfumato.predictions.notebook import strip
from sfumato.predictions.uncertainties import uncertainties


@dataclass(frozen=True, repr=False)
class ValuePrediction(EventPrediction):
    """Mean and variance of a value (depth, disparity, flow, …) at every pixel, or of one value for each image.

    ``aleatoric = mean σ²``, ``epistemic = variance of the means`` (law of total variance).

    Args:
        mean: Mean (B, D, *event) in ``unit``.
        aleatoric_variance: Mean variance of a draw (B, D, *event) in ``unit²``, ≥ 0.
        epistemic_variance: Variance of the means of the draws (B, D, *event) in ``unit²``, ≥ 0.
        unit: Unit of the mean, such as ``"m"``. Default: none.
        draws: Number of draws. Default 1. With one draw the epistemic part is 0, because it is not measured.
        image: Image (B, 3, H, W) in [0, 1] that pictures show. Default: none.
        quantiles: Quantiles (Q,) of ``(y − mean) / std`` at the levels ``i / (Q + 1)``, the same in every pixel. None
            for a normal distribution.
        novelty: Score (B, *event), larger for inputs that differ more from the training data. None if the method gives
            none.

    Source: Kendall and Gal (2017), "What uncertainties do we need", §3.
    Pitfall: Variances add, standard deviations do not.

    >>> one = torch.ones(2, 7)
    >>> ValuePrediction(one, one, 0 * one, "m", draws=5)  # one value (7 numbers) for each of two images
    ValuePrediction(2 × 7, m, 5 draws)
    """

    mean: Tensor
    aleatoric_variance: Tensor
    epistemic_variance: Tensor
    unit: str = ""
    draws: int = 1
    image: Tensor | None = None
    quantiles: Tensor | None = None
    novelty: Tensor | None = None

    def __repr__(self) -> str:
        batch, dims = self.mean.shape[:2]
        unit = f", {self.unit}" if self.unit else ""
        return f"ValuePrediction({batch} × {dims}{shape_text(self.event)}{unit}, {self.draws} draws)"

    @property
    def channels(self) -> Tensor:
        """The mean (B, D, *event) in ``unit``."""
        return self.mean

    @property
    def variance(self) -> Tensor:
        """Predictive variance (B, D, *event) in ``unit²``."""
        return self.aleatoric_variance + self.epistemic_variance

    @property
    def std(self) -> Tensor:
        """Predictive standard deviation (B, D, *event) in ``unit``."""
        return self.variance.sqrt()

    @property
    def total(self) -> Tensor:
        """Variance summed over D (B, *event), in ``unit²``."""
        return self.aleatoric + self.epistemic

    @property
    def aleatoric(self) -> Tensor:
        """Aleatoric variance summed over D (B, *event), in ``unit²``."""
        return self.aleatoric_variance.sum(1)

    @property
    def epistemic(self) -> Tensor:
        """Epistemic variance summed over D (B, *event), in ``unit²``."""
        return self.epistemic_variance.sum(1)

    @property
    def best(self) -> Tensor:
        """The best guess, which is compared with a target: :attr:`mean`."""
        return self.mean

    def derived(self) -> dict[str, Tensor]:
        """Total, aleatoric and epistemic variance, each summed over D, for readers of a file."""
        return uncertainties(self)

    def interval(self, level: float = 0.9) -> tuple[Tensor, Tensor]:
        """Central interval, each end (B, D, *event) in ``unit``.

        It is that of a normal distribution with these moments, unless the prediction has quantiles of its own.

        Args:
            level: Nominal coverage in (0, 1). Default 0.9.

        Raises:
            ConfigError: If ``level`` is not in (0, 1).

        >>> one = torch.ones(1, 1, 1, 1)
        >>> low, high = ValuePrediction(0 * one, one, 0 * one).interval(0.95)
        >>> round(high.item(), 2)
        1.96
        """
        if not 0 < level < 1:
            raise ConfigError(f"level is {level}, expected a coverage in (0, 1) such as 0.9")
        low, high = (self.standard_quantile((1 + sign * level) / 2) for sign in (-1, 1))
        return self.mean + low * self.std, self.mean + high * self.std

    def standard_quantile(self, level: float) -> float:
        """The quantile of ``(y − mean) / std`` at a level in (0, 1), the same for all pixels."""
        if self.quantiles is None:
            return float(torch.special.ndtri(torch.tensor(level, dtype=torch.float64)))
        place = min(max(level * (len(self.quantiles) + 1) - 1, 0), len(self.quantiles) - 1)
        low, high = self.quantiles[math.floor(place)], self.quantiles[math.ceil(place)]
        return float(torch.lerp(low, high, place - math.floor(place)))

    def resized(self, size: tuple[int, int]) -> Self:
        """The same prediction at another (height, width): all maps are interpolated.

        A prediction that is no map is returned as it is.
        """
        if not self.is_map:
            return self
        names = ("mean", "aleatoric_variance", "epistemic_variance", "image", "novelty")
        return replace(self, **resize_all({name: getattr(self, name) for name in names}, size))

    def _repr_html_(self) -> str:
        best = self.mean.norm(dim=1) if self.mean.shape[1] > 1 else self.mean[:, 0]
        maps = {"mean": best} | {f"{name} σ": part.sqrt() for name, part in uncertainties(self).items()}
        return strip(self, maps, unit=self.unit, categorical=())


@dataclass(frozen=True)
class ValueMoments:
    """Statistics over draws, all (B, D, *event).

    Args:
        draws: Number of draws.
        mean: Mean of their means.
        deviation: Sum of the squared deviations of their means.
        variance: Sum of their variances.
        unit: Unit of the mean. Default: none.
    """

    draws: int
    mean: Tensor
    deviation: Tensor
    variance: Tensor
    unit: str = ""

    @classmethod
    def of(cls, mean: Tensor, variance: Tensor, unit: str = "") -> Self:
        """The moments of one draw with this mean and variance (B, D, *event)."""
        return cls(1, mean, torch.zeros_like(mean), variance, unit)

    def merge(self, other: Self) -> Self:
        """Moments of both sets of draws together, by Chan's formula, which does not cancel as ``Σx² − (Σx)²`` does."""
        draws = self.draws + other.draws
        delta = other.mean - self.mean
        deviation = self.deviation.add_(other.deviation).addcmul_(delta, delta, value=self.draws * other.draws / draws)
        mean = self.mean.add(delta, alpha=other.draws / draws)
        return type(self)(draws, mean, deviation, self.variance.add_(other.variance), self.unit)

    def prediction(self) -> ValuePrediction:
        """Mean of means, mean of variances, variance of means (divided by S, so that the total variance is exact)."""
        variance, deviation = self.variance / self.draws, self.deviation / self.draws
        return ValuePrediction(self.mean, variance, deviation, self.unit, self.draws)
