"""Calibrators of values: one factor for all variances, or the observed distribution of the errors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from sfumato.calibration.fitted import Fitted
from sfumato.calibration.held import HeldValues, checked_values
from sfumato.errors import DataError
from sfumato.predictions import ValuePrediction

LEVELS = 199  # number of quantiles: ½ %, 1 %, …, 99½ %
OCTAVES, STEPS = 24, 64  # bins of the standardized error: from 2⁻¹² to 2¹², 64 per octave, for both signs
ENOUGH = 100  # number of values from which a fit counts in full; with fewer it is mixed with the identity in proportion
LEAST = 1e-6  # smallest factor of a variance, so that errors of 0 do not make a distribution a single number


def standardized(held: HeldValues) -> Iterator[Tensor]:
    """The standardized errors ``(y − μ)/σ`` (N,) of one image after another.

    Values whose σ is 0, or below the resolution of float32 at μ (1.2e-7 |μ|), are left out: their distribution is a
    single number, which no factor can calibrate.

    Raises:
        DataError: If no value is left, and for what :func:`checked_values` refuses.
    """
    count, limit = 0, torch.finfo(torch.float32)
    for mean, std, target in checked_values(held):
        kept = std > (limit.eps * mean.abs()).clamp_min(limit.tiny)
        found = ((target - mean) / std)[kept]
        count += found.numel()
        yield found
    if not count:
        raise DataError("the standard deviation is 0 at every valid pixel: there is nothing to calibrate")


@dataclass(frozen=True)
class VarianceScaling(Fitted):
    """One factor for all variances: ``σ² → s² σ²``. Both parts keep their share.

    Args:
        factor: s² ≥ 1e-6 (1,), the mean of ``(y − μ)² / σ²`` over the held-out pixels.
        fitted_on: Names and digests of the images it was fitted on.

    Source: Levi et al. (2019), "Evaluating and calibrating uncertainty prediction in regression tasks". For a normal
    distribution this factor is the most likely one.
    Pitfall: It is a mean of squares, so a few large errors decide it. :class:`QuantileMap` does not assume a normal
    distribution. Values with σ = 0 are left out of the fit, see :func:`standardized`.
    """

    target: ClassVar[str] = "value"
    factor: Tensor

    @classmethod
    def fit(cls, held: HeldValues) -> Self:
        """The mean squared standardized error of all valid pixels, at least 1e-6.

        With fewer than 100 values log s² is closer to 0 in proportion.
        """
        total, count = 0.0, 0
        for z in standardized(held):
            total += float(z.square().sum(dtype=torch.float64))
            count += z.numel()
        return cls(torch.tensor([max(total / count, LEAST) ** min(count / ENOUGH, 1.0)]))

    def __call__(self, prediction: ValuePrediction) -> ValuePrediction:
        """The prediction with scaled variances."""
        factor = self.factor.to(prediction.mean)
        return replace(
            prediction,
            aleatoric_variance=prediction.aleatoric_variance * factor,
            epistemic_variance=prediction.epistemic_variance * factor,
        )


@dataclass(frozen=True)
class QuantileMap(Fitted):
    """The observed distribution of the standardized error ``(y − μ)/σ`` in place of the normal one.

    Mean and variances become those of that distribution, and the parts keep their share. The prediction carries its
    quantiles, so intervals and coverage follow it.

    Args:
        quantiles: Quantiles (199,) of the standardized error at the levels ½ % to 99½ %.
        mean: Mean (1,) of the standardized error.
        variance: Variance (1,) of the standardized error.
        fitted_on: Names and digests of the images it was fitted on.

    Source: Kuleshov et al. (2018), "Accurate uncertainties for deep learning using calibrated regression". The paper
    maps levels to levels; for distributions of one shape that is the same.
    Pitfall: The shape is the same in all pixels; only σ differs from pixel to pixel. Values with σ = 0 are left out of
    the fit, see :func:`standardized`.
    """

    target: ClassVar[str] = "value"
    quantiles: Tensor
    mean: Tensor
    variance: Tensor

    @classmethod
    def fit(cls, held: HeldValues) -> Self:
        """Quantiles from counts in bins of 1.1 % relative width, exact mean and variance, of all valid pixels.

        The variance is at least 1e-6. With fewer than 100 values all of them are closer to those of the normal
        distribution in proportion.
        """
        counts = torch.zeros(2 * OCTAVES * STEPS, dtype=torch.float64)
        sums, pixels = torch.zeros(2, dtype=torch.float64), 0
        for z in standardized(held):
            counts += torch.bincount(_bin(z), minlength=len(counts)).cpu()
            sums += torch.stack([z.sum(dtype=torch.float64), z.square().sum(dtype=torch.float64)]).cpu()
            pixels += z.numel()
        first, second = (sums / pixels).tolist()
        wanted = torch.arange(1, LEVELS + 1, dtype=torch.float64) / (LEVELS + 1) * pixels
        upto = counts.cumsum(0)
        place = torch.searchsorted(upto, wanted).clamp_max(len(counts) - 1)
        inside = 1 - (upto[place] - wanted) / counts[place].clamp_min(1)
        low, high = _edge(place), _edge(place + 1)
        found = (low + inside * (high - low)).float()
        weight, levels = min(pixels / ENOUGH, 1.0), torch.arange(1, LEVELS + 1, dtype=torch.float64) / (LEVELS + 1)
        variance = torch.tensor([max(second - first**2, LEAST)])
        return cls(
            torch.special.ndtri(levels).float().lerp(found, weight),
            torch.tensor([first * weight]),
            torch.ones(1).lerp(variance, weight),
        )

    def __call__(self, prediction: ValuePrediction) -> ValuePrediction:
        """The prediction with the moments and the quantiles of that distribution."""
        mean, variance, quantiles = (v.to(prediction.mean) for v in (self.mean, self.variance, self.quantiles))
        return replace(
            prediction.shifted(mean * prediction.std),
            aleatoric_variance=prediction.aleatoric_variance * variance,
            epistemic_variance=prediction.epistemic_variance * variance,
            quantiles=(quantiles - mean) / variance.sqrt(),
        )


def _bin(z: Tensor) -> Tensor:
    """The bin of each standardized error; the first bin holds the most negative ones."""
    size = z.abs().clamp(2.0 ** (-OCTAVES / 2), 2.0 ** (OCTAVES / 2) * 0.999)
    place = ((size.log2() + OCTAVES / 2) * STEPS).floor().long().clamp(0, OCTAVES * STEPS - 1)
    return torch.where(z < 0, OCTAVES * STEPS - 1 - place, OCTAVES * STEPS + place)


def _edge(place: Tensor) -> Tensor:
    """The lower end of each bin; 0 between the two signs."""
    half = OCTAVES * STEPS
    size = torch.exp2((place - half).abs().double() / STEPS - OCTAVES / 2)
    return torch.where(place == half, 0.0, size.copysign(place - half))
