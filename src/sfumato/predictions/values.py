"""Predictions of values, and the moments they are folded from."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from sfumato.predictions.notebook import strip
from sfumato.predictions.resize import resized
from sfumato.storage import Stored


@dataclass(frozen=True)
class ValuePrediction(Stored):
    """The law of a value (depth, disparity, flow, …) at every pixel, by its first two moments.

    ``aleatoric = mean σ²``, ``epistemic = variance of the means``: the law of total variance.

    Args:
        mean: (B, D, H, W) in ``unit``.
        aleatoric_variance: (B, D, H, W) in ``unit²``, ≥ 0.
        epistemic_variance: (B, D, H, W) in ``unit²``, ≥ 0.
        unit: of the mean, as in ``"m"``.
        draws: how many draws were folded; with 1 the epistemic part is 0 because it was not asked for.
        image: (B, 3, H, W) in [0, 1], only to be looked at.
        quantiles: (Q,) of ``(y − mean) / std`` at levels ``i / (Q + 1)``, the same in every pixel, where the law is
            known to have another shape than the normal one; None for that.

    Source: Kendall and Gal (2017), "What uncertainties do we need", §3.
    Pitfall: variances add, standard deviations do not.
    """

    mean: Tensor
    aleatoric_variance: Tensor
    epistemic_variance: Tensor
    unit: str = ""
    draws: int = 1
    image: Tensor | None = None
    quantiles: Tensor | None = None

    @property
    def variance(self) -> Tensor:
        """Predictive variance (B, D, H, W) in ``unit²``."""
        return self.aleatoric_variance + self.epistemic_variance

    @property
    def std(self) -> Tensor:
        """Predictive standard deviation (B, D, H, W) in ``unit``."""
        return self.variance.sqrt()

    @property
    def total(self) -> Tensor:
        """Variance summed over D (B, H, W), in ``unit²``."""
        return self.aleatoric + self.epistemic

    @property
    def aleatoric(self) -> Tensor:
        """Aleatoric variance summed over D (B, H, W), in ``unit²``."""
        return self.aleatoric_variance.sum(1)

    @property
    def epistemic(self) -> Tensor:
        """Epistemic variance summed over D (B, H, W), in ``unit²``."""
        return self.epistemic_variance.sum(1)

    @property
    def best(self) -> Tensor:
        """The best guess to compare with a target: :attr:`mean`."""
        return self.mean

    def interval(self, level: float = 0.9) -> tuple[Tensor, Tensor]:
        """Central interval of the law, each end (B, D, H, W) in ``unit``.

        Of the normal law with these moments, unless the prediction carries the quantiles of another.

        Args:
            level: nominal coverage in (0, 1).

        Raises:
            ValueError: if ``level`` is not in (0, 1).

        >>> one = torch.ones(1, 1, 1, 1)
        >>> low, high = ValuePrediction(0 * one, one, 0 * one).interval(0.95)
        >>> round(high.item(), 2)
        1.96
        """
        if not 0 < level < 1:
            raise ValueError(f"level is {level}, expected a coverage in (0, 1) such as 0.9")
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
        """The same prediction at another (height, width); mean and variances are interpolated."""
        maps = {"mean": self.mean, "aleatoric_variance": self.aleatoric_variance}
        maps |= {"epistemic_variance": self.epistemic_variance}
        maps |= {} if self.image is None else {"image": self.image}
        return replace(self, **{name: resized(values, size) for name, values in maps.items()})

    def _repr_html_(self) -> str:
        return strip(self, {"mean": self.mean.norm(dim=1) if self.mean.shape[1] > 1 else self.mean[:, 0],
                            "total σ": self.total.sqrt(), "aleatoric σ": self.aleatoric.sqrt(),
                            "epistemic σ": self.epistemic.sqrt()}, unit=self.unit, categorical=())  # fmt: skip


@dataclass(frozen=True)
class ValueMoments:
    """Over draws: mean of means, sum of squared deviations of means, sum of variances; all (B, D, H, W)."""

    draws: int
    mean: Tensor
    deviation: Tensor
    variance: Tensor
    unit: str = ""

    @classmethod
    def of(cls, mean: Tensor, variance: Tensor, unit: str = "") -> Self:
        """The contribution of one draw whose law has this mean and variance."""
        return cls(1, mean, torch.zeros_like(mean), variance, unit)

    def merge(self, other: Self) -> Self:
        """Both together, by Chan's formula, which does not cancel as ``Σx² − (Σx)²`` does."""
        draws = self.draws + other.draws
        delta = other.mean - self.mean
        deviation = self.deviation.add_(other.deviation).addcmul_(delta, delta, value=self.draws * other.draws / draws)
        mean = self.mean.add(delta, alpha=other.draws / draws)
        return type(self)(draws, mean, deviation, self.variance.add_(other.variance), self.unit)

    def prediction(self) -> ValuePrediction:
        """Mean of means, mean of variances, variance of means (divided by S, so that the total law is exact)."""
        return ValuePrediction(
            self.mean, self.variance / self.draws, self.deviation / self.draws, self.unit, self.draws
        )  # fmt: skip
