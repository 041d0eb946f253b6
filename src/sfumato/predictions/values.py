"""Predictions of values, and the moments of draws that they are computed from."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Self

import torch
from torch import Tensor

from sfumato.errors import ConfigError
from sfumato.predictions.event import EventPrediction, resample_all, shape_text
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
        aleatoric_correlation: Correlations of the values of a vector in the aleatoric part (B, D (D − 1) / 2, *event),
            in [−1, 1], in the order (1, 2), (1, 3), … (2, 3), …. None for 0, as for likelihoods of independent values.
        epistemic_correlation: Those of the means of the draws. None for 0.
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
    aleatoric_correlation: Tensor | None = None
    epistemic_correlation: Tensor | None = None

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
    def covariance(self) -> Tensor:
        """Predictive covariance (B, D, D, *event) in ``unit²``, the sum of both parts; its trace is :attr:`total`.

        >>> one = torch.ones(1, 2)
        >>> ValuePrediction(0 * one, one, 3 * one, aleatoric_correlation=-one[:, :1]).covariance
        tensor([[[ 4., -1.],
                 [-1.,  4.]]])
        """
        parts = (
            (self.aleatoric_variance, self.aleatoric_correlation),
            (self.epistemic_variance, self.epistemic_correlation),
        )
        dims = self.mean.shape[1]
        found = self.variance.new_zeros(self.mean.shape[0], dims, dims, *self.event)
        diagonal = torch.arange(dims, device=found.device)
        found[:, diagonal, diagonal] = self.variance
        rows, columns = torch.triu_indices(dims, dims, 1, device=found.device)
        for variance, correlation in parts:
            if correlation is not None:
                shared = correlation * products(variance.sqrt())
                found[:, rows, columns] += shared
                found[:, columns, rows] += shared
        return found

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

    def near(self, target: Tensor) -> Tensor:
        """A target (B, D, *event) by numbers whose difference to :attr:`mean` is its error: the target itself."""
        return target

    def shifted(self, by: Tensor) -> Self:
        """The prediction with ``by`` (B, D, *event) added to its mean."""
        return replace(self, mean=self.mean + by)

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

    def resampled(self, how: Callable[[Tensor], Tensor]) -> Self:
        """The same prediction at other places: all maps are interpolated.

        Args:
            how: Takes maps (B, C, H, W) to maps (B, C, H', W') by interpolation.
        """
        names = (
            "mean", "aleatoric_variance", "epistemic_variance", "image", "novelty",
            "aleatoric_correlation", "epistemic_correlation",
        )  # fmt: skip
        return replace(self, **resample_all({name: getattr(self, name) for name in names}, how))

    def _repr_html_(self) -> str:
        best = self.mean.norm(dim=1) if self.mean.shape[1] > 1 else self.mean[:, 0]
        maps = {"mean": best} | {f"{name} σ": part.sqrt() for name, part in uncertainties(self).items()}
        return strip(self, maps, unit=self.unit, categorical=())


def products(first: Tensor, second: Tensor | None = None) -> Tensor:
    """The products ``first_i second_j`` (B, D (D − 1) / 2, *event) for i < j of tensors (B, D, *event).

    >>> products(torch.tensor([[2.0, 3.0, 5.0]]))
    tensor([[ 6., 10., 15.]])
    """
    rows, columns = zip(*combinations(range(first.shape[1]), 2), strict=True)  # constants of an exported graph
    return first[:, rows] * (first if second is None else second)[:, columns]


def correlations(covariance: Tensor, variance: Tensor) -> Tensor:
    """Correlations in [−1, 1] of covariances (B, D (D − 1) / 2, *event) and variances (B, D, *event); 0 if one is 0."""
    scale = products(variance.sqrt())
    return (covariance / scale.where(scale > 0, 1.0)).where(scale > 0, 0.0).clamp(-1, 1)


@dataclass(frozen=True)
class ValueMoments:
    """Statistics over draws, all (B, D, *event), those of covariances (B, D (D − 1) / 2, *event).

    Args:
        draws: Number of draws.
        mean: Mean of their means.
        deviation: Sum of the squared deviations of their means.
        variance: Sum of their variances.
        unit: Unit of the mean. Default: none.
        codeviation: Sum of the products of the deviations of two values. None if values are independent.
        covariance: Sum of the covariances of two values. None if values are independent.
    """

    draws: int
    mean: Tensor
    deviation: Tensor
    variance: Tensor
    unit: str = ""
    codeviation: Tensor | None = None
    covariance: Tensor | None = None

    @classmethod
    def of(cls, mean: Tensor, variance: Tensor, unit: str = "", covariance: Tensor | None = None) -> Self:
        """The moments of one draw with this mean, variance and covariance."""
        codeviation = None if covariance is None else torch.zeros_like(covariance)
        return cls(1, mean, torch.zeros_like(mean), variance, unit, codeviation, covariance)

    def merge(self, other: Self) -> Self:
        """Moments of both sets of draws together, by Chan's formula, which does not cancel as ``Σx² − (Σx)²`` does."""
        draws = self.draws + other.draws
        delta, weight = other.mean - self.mean, self.draws * other.draws / draws
        codeviation, covariance = self.codeviation, self.covariance
        if codeviation is not None and covariance is not None:
            assert other.codeviation is not None
            assert other.covariance is not None
            codeviation = codeviation.add_(other.codeviation).add_(products(delta), alpha=weight)
            covariance = covariance.add_(other.covariance)
        deviation = self.deviation.add_(other.deviation).addcmul_(delta, delta, value=weight)
        mean = self.mean.add(delta, alpha=other.draws / draws)
        variance = self.variance.add_(other.variance)
        return type(self)(draws, mean, deviation, variance, self.unit, codeviation, covariance)

    def scaled(self, factor: float, offset: float) -> Self:
        """The moments of ``offset + factor · y``, with ``factor`` > 0."""
        square = factor**2
        parts = {name: getattr(self, name) for name in ("deviation", "variance", "codeviation", "covariance")}
        known = {name: part * square for name, part in parts.items() if part is not None}
        return replace(self, mean=offset + factor * self.mean, **known)

    def prediction(self) -> ValuePrediction:
        """Mean of means, mean of variances, variance of means (divided by S, so that the total variance is exact)."""
        variance, deviation = self.variance / self.draws, self.deviation / self.draws
        found = ValuePrediction(self.mean, variance, deviation, self.unit, self.draws)
        if self.codeviation is None or self.covariance is None:
            return found
        within = correlations(self.covariance / self.draws, variance)
        between = correlations(self.codeviation / self.draws, deviation)
        return replace(found, aleatoric_correlation=within, epistemic_correlation=between)
