"""Classes: any map of a probability that never falls, one for each class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from sfumato.calibration.held import Held, checked
from sfumato.predictions import ClassPrediction

BINS, REACH = 512, 14.0  # bins of equal width in log-odds, from −14 to 14


@dataclass(frozen=True)
class Isotonic:
    """For each class the frequency it truly has at a given probability; then all are divided by their sum.

    Args:
        frequency: (K, 512) never falling, at the middles of bins of equal width in log-odds.
        fitted_on: the images that it must not be scored on, by name.

    Source: Zadrozny and Elkan (2002), "Transforming classifier scores into accurate multiclass probability estimates".
    Pitfall: dividing by the sum undoes some of it, and labels may change.
    """

    frequency: Tensor
    fitted_on: Sequence[str] = ()

    @classmethod
    def fit(cls, held: Held) -> Self:
        """Counts of every valid pixel in 512 bins a class, then the best rising fit of their frequencies."""
        seen, hits = torch.zeros(2, 1, 1, dtype=torch.float64)
        for prediction, target, valid in checked(held):
            classes = prediction.probs.shape[1]
            if seen.shape[0] != classes:
                seen, hits = torch.zeros(2, classes, BINS, dtype=torch.float64)
            probs = prediction.probs.movedim(1, -1)[valid].cpu()  # (N, K)
            bins = _place(probs).round().long() + BINS * torch.arange(classes)
            own = bins.gather(1, target[valid].cpu()[:, None])
            seen += torch.bincount(bins.flatten(), minlength=classes * BINS).view(classes, BINS)
            hits += torch.bincount(own.flatten(), minlength=classes * BINS).view(classes, BINS)
        return cls(torch.stack([_rising(*row) for row in zip(hits, seen)]).float())

    def __call__(self, prediction: ClassPrediction) -> ClassPrediction:
        """The prediction with the frequencies as its law."""
        table = self.frequency.to(prediction.probs)
        place = _place(prediction.probs)
        below = place.floor().long().clamp_max(BINS - 2)
        owner = torch.arange(len(table), device=table.device)[None, :, None, None]
        low, high = table[owner, below], table[owner, below + 1]
        found = torch.lerp(low, high, place - below)
        return prediction.with_probs(found / found.sum(1, keepdim=True))


def _place(probs: Tensor) -> Tensor:
    """Where probabilities lie among the middles of the bins, in [0, 511]."""
    odds = torch.logit(probs.double(), eps=1e-7).to(probs.dtype)
    return (odds.clamp(-REACH, REACH) + REACH) * ((BINS - 1) / (2 * REACH))


def _rising(hits: Tensor, seen: Tensor) -> Tensor:
    """Frequencies (512,) that never fall, the nearest to ``hits / seen``: pools of adjacent violators.

    A pool counts one pixel more than it holds, with the class's overall frequency, so no probability is 0 or 1. Between
    bins that hold pixels the map is linear.
    """
    everywhere = float(hits.sum() / seen.sum())
    pools: list[list[float]] = []  # hits, pixels, first bin, last bin
    for place in seen.nonzero()[:, 0].tolist():
        pools.append([float(hits[place]), float(seen[place]), place, place])
        while len(pools) > 1 and pools[-2][0] * pools[-1][1] >= pools[-1][0] * pools[-2][1]:
            last = pools.pop()
            pools[-1] = [pools[-1][0] + last[0], pools[-1][1] + last[1], pools[-1][2], last[3]]
    ends = torch.tensor([[p[2], p[3]] for p in pools]).flatten()
    rate = torch.tensor([(p[0] + everywhere) / (p[1] + 1) for p in pools], dtype=torch.float64).repeat_interleave(2)
    rate = rate.cummax(0).values.clamp(1e-9, 1 - 1e-9)
    places = torch.arange(BINS)
    right = torch.searchsorted(ends, places).clamp(0, len(ends) - 1)
    left = (right - 1).clamp_min(0)
    share = ((places - ends[left]) / (ends[right] - ends[left]).clamp_min(1)).clamp(0, 1)
    return torch.lerp(rate[left], rate[right], share.double())
