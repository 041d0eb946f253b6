"""One distribution of classes from several sensors or frames: the log-opinion pool and the product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from sfumato.errors import DataError
from sfumato.fusion.checks import Fused, check_sensors
from sfumato.predictions import ClassPrediction, entropy

FLOOR = 1e-6  # a probability of 0 of one sensor would rule a class out for ever


@dataclass(frozen=True)
class PoolMoments:
    """Sums over sensors or frames. They add up, so a map keeps no more than one set of them.

    Args:
        count: Their number (…).
        logs: ``Σ log p`` (…, K).
        epistemic: Sum of their epistemic parts (…), nats.
    """

    count: Tensor
    logs: Tensor
    epistemic: Tensor

    @classmethod
    def of(cls, probs: Tensor, epistemic: Tensor) -> Self:
        """Those of one distribution (…, K) with its epistemic part (…)."""
        return cls(torch.ones_like(epistemic), probs.clamp_min(FLOOR).log(), epistemic)

    def pooled(self, *, independent: bool) -> tuple[Tensor, Tensor]:
        """Probabilities (…, K) and their aleatoric part (…), nats. Uniform where nothing was added."""
        count = self.count.clamp_min(1)
        mean = self.logs / count[..., None]
        # The smallest mean divergence of a distribution from those of the sensors; the pool is where it is reached.
        disagreement = (-mean.logsumexp(-1)).clamp_min(0)
        total = entropy(mean.softmax(-1), -1)
        apart = disagreement.where(self.count > 1, 0) + self.epistemic / count
        share = (apart / total.clamp_min(FLOOR)).clamp(0, 1)
        probs = self.logs.softmax(-1) if independent else mean.softmax(-1)
        return probs, (1 - share) * entropy(probs, -1)


def fuse_classes(
    predictions: Sequence[ClassPrediction], *, independent: bool, valid: Sequence[Tensor] | None = None
) -> Fused[ClassPrediction]:
    """One distribution of classes from those of several sensors or frames.

    The log-opinion pool ``p ∝ Π p_i^{1/n}`` counts what n dependent sensors say once. The product ``p ∝ Π p_i`` is
    right for independent ones, and a uniform prior.

    The epistemic part is how much they disagree, ``−log Σ_k Π p_i^{1/n}``, plus the mean of their own epistemic parts,
    at most the total. With the product it keeps its share of the total. So ``total = aleatoric + epistemic``, and
    equal predictions give the same prediction again with the pool.

    Args:
        predictions: Predictions (B, K, *event) of the same pixels.
        independent: Whether the errors of the sensors are independent. Frames of one wall are not.
        valid: For each a mask (B, *event), False where the sensor says nothing. Default: valid everywhere.

    Returns:
        The prediction, and which sensors it comes from. Where none is valid it is uniform. Probabilities below 1e-6
        count as 1e-6.

    Raises:
        DataError: If sizes differ, or probabilities are NaN or negative.

    Source: Heskes (1998), "Selecting weighting factors in logarithmic opinion pools".
    Pitfall: The product of 30 frames of one wall is certain, even if each of them is wrong for the same reason.

    >>> frame = ClassPrediction(torch.tensor([[0.7, 0.3]]), entropy(torch.tensor([[0.7, 0.3]])))
    >>> [round(fuse_classes(30 * [frame], independent=i).prediction.probs[0, 0].item(), 2) for i in (False, True)]
    [0.7, 1.0]
    """
    used = check_sensors(predictions, valid)
    sums: PoolMoments | None = None
    for number, (each, mask) in enumerate(zip(predictions, used)):
        probs = each.probs.movedim(1, -1)
        if not bool((probs[mask] >= 0).all()):
            raise DataError(f"sensor {number} has probabilities that are NaN or negative: expected them in [0, 1]")
        one = PoolMoments.of(probs, each.epistemic)
        parts = [torch.where(mask, one.count, 0), one.logs.where(mask[..., None], 0), one.epistemic.where(mask, 0)]
        sums = PoolMoments(*parts) if sums is None else PoolMoments(
            sums.count + parts[0], sums.logs + parts[1], sums.epistemic + parts[2]
        )  # fmt: skip
    assert sums is not None
    probs, aleatoric = sums.pooled(independent=independent)
    draws = sum(each.draws for each in predictions)
    return Fused(ClassPrediction(probs.movedim(-1, 1), aleatoric, draws, predictions[0].image), used)
