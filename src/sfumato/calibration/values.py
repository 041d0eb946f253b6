"""Values: spreads made wider or narrower, or the whole law given the shape that errors truly have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from sfumato.calibration.held import HeldValues, checked_values
from sfumato.predictions import ValuePrediction

LEVELS = 199  # quantiles kept: ½ %, 1 %, …, 99½ %
OCTAVES, STEPS = 24, 64  # bins of the standardized error: from 2⁻¹² to 2¹², 64 an octave, of either sign


@dataclass(frozen=True)
class VarianceScaling:
    """One factor for every variance: ``σ² → s² σ²``; both parts keep their share.

    Args:
        factor: (1,) s² > 0, the mean of ``(y − μ)² / σ²`` over held-out pixels.
        fitted_on: the images that it must not be scored on, by name.

    Source: Levi et al. (2019), "Evaluating and calibrating uncertainty prediction in regression tasks"; this factor is
    the most likely one under a normal law.
    Pitfall: a mean of squares: few gross errors decide it. Quantiles ask for no law.
    """

    factor: Tensor
    fitted_on: Sequence[str] = ()

    @classmethod
    def fit(cls, held: HeldValues) -> Self:
        """The mean squared standardized error of every valid pixel."""
        total, count = 0.0, 0
        for mean, std, target in checked_values(held):
            total += float(((target - mean) / std).square().sum(dtype=torch.float64))
            count += mean.numel()
        return cls(torch.tensor([total / count]))

    def __call__(self, prediction: ValuePrediction) -> ValuePrediction:
        """The prediction with scaled variances."""
        factor = self.factor.to(prediction.mean)
        return replace(
            prediction,
            aleatoric_variance=prediction.aleatoric_variance * factor,
            epistemic_variance=prediction.epistemic_variance * factor,
        )


@dataclass(frozen=True)
class QuantileMap:
    """The law of the standardized error ``(y − μ)/σ`` as it was on held-out pixels, in place of the normal one.

    Mean and variances become those of that law, parts keep their share, and the prediction carries its quantiles, so
    that intervals and coverage follow it.

    Args:
        quantiles: (199,) of the standardized error at levels ½ % to 99½ %.
        mean: (1,) of the standardized error.
        variance: (1,) of the same.
        fitted_on: the images that it must not be scored on, by name.

    Source: Kuleshov et al. (2018), "Accurate uncertainties for deep learning using calibrated regression". Theirs maps
    levels to levels; for a family of one shape that is the same as a law of standardized errors.
    Pitfall: one shape for all pixels; what differs from pixel to pixel is σ alone.
    """

    quantiles: Tensor
    mean: Tensor
    variance: Tensor
    fitted_on: Sequence[str] = ()

    @classmethod
    def fit(cls, held: HeldValues) -> Self:
        """Quantiles from counts in bins of 1.1 % relative width, mean and variance exactly; of every valid pixel."""
        counts = torch.zeros(2 * OCTAVES * STEPS, dtype=torch.float64)
        sums, pixels = torch.zeros(2, dtype=torch.float64), 0
        for mean, std, target in checked_values(held):
            z = ((target - mean) / std).flatten()
            counts += torch.bincount(_bin(z), minlength=len(counts)).cpu()
            sums += torch.stack([z.sum(dtype=torch.float64), z.square().sum(dtype=torch.float64)]).cpu()
            pixels += z.numel()
        first, second = (sums / pixels).tolist()
        wanted = torch.arange(1, LEVELS + 1, dtype=torch.float64) / (LEVELS + 1) * pixels
        upto = counts.cumsum(0)
        place = torch.searchsorted(upto, wanted).clamp_max(len(counts) - 1)
        inside = 1 - (upto[place] - wanted) / counts[place].clamp_min(1)
        low, high = _edge(place), _edge(place + 1)
        variance = torch.tensor([max(second - first**2, 1e-12)])
        return cls((low + inside * (high - low)).float(), torch.tensor([first]), variance)

    def __call__(self, prediction: ValuePrediction) -> ValuePrediction:
        """The prediction with the moments and the shape of that law."""
        mean, variance, quantiles = (v.to(prediction.mean) for v in (self.mean, self.variance, self.quantiles))
        return replace(
            prediction,
            mean=prediction.mean + mean * prediction.std,
            aleatoric_variance=prediction.aleatoric_variance * variance,
            epistemic_variance=prediction.epistemic_variance * variance,
            quantiles=(quantiles - mean) / variance.sqrt(),
        )


def _bin(z: Tensor) -> Tensor:
    """The bin of standardized errors: the most negative first."""
    size = z.abs().clamp(2.0 ** (-OCTAVES / 2), 2.0 ** (OCTAVES / 2) * 0.999)
    place = ((size.log2() + OCTAVES / 2) * STEPS).floor().long().clamp(0, OCTAVES * STEPS - 1)
    return torch.where(z < 0, OCTAVES * STEPS - 1 - place, OCTAVES * STEPS + place)


def _edge(place: Tensor) -> Tensor:
    """Where bins begin; 0 between the two signs."""
    half = OCTAVES * STEPS
    size = torch.exp2((place - half).abs().double() / STEPS - OCTAVES / 2)
    return torch.where(place == half, 0.0, size.copysign(place - half))
