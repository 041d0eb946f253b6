"""The calibrator of classes that is any map of a probability that never falls, one map for each class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from sfumato.calibration.evidence import Evidence, keep_unseen
from sfumato.calibration.fitted import Fitted
from sfumato.calibration.held import Held, checked
from sfumato.predictions import ClassPrediction, over_channels

BINS, REACH = 512, 14.0  # bins of equal width in log-odds, from −14 to 14


@dataclass(frozen=True)
class Isotonic(Fitted):
    """For each class its observed frequency at each probability. The frequencies are then divided by their sum.

    A class without a held-out pixel keeps its probabilities, and the others share the rest. Probabilities below or
    above all held-out ones are mapped to themselves, as far as the map does not fall.

    Args:
        frequency: Frequencies (K, 512) that never fall, at the centers of bins of equal width in log-odds.
        seen: Whether the class has a held-out pixel (K,), bool.
        fitted_on: Names and digests of the images it was fitted on.

    Source: Zadrozny and Elkan (2002), "Transforming classifier scores into accurate multiclass probability estimates".
    Pitfall: The division by the sum undoes a part of the map, and labels may change.
    """

    target: ClassVar[str] = "class"
    frequency: Tensor
    seen: Tensor

    @classmethod
    def fit(cls, held: Held) -> Self:
        """Counts of every valid pixel in 512 bins per class, then the best rising fit of their frequencies.

        With fewer than 100 wrong pixels of a class, its map is closer to the identity in proportion.
        """
        counts, hits, evidence = torch.zeros(0), torch.zeros(0), None
        for prediction, target, valid in checked(held):
            classes = prediction.probs.shape[1]
            if evidence is None:
                counts, hits = torch.zeros(2, classes, BINS, dtype=torch.float64)
            probs, own = prediction.probs.movedim(1, -1)[valid].cpu(), target[valid].cpu()  # (N, K) and (N,)
            found = Evidence.of(probs.argmax(1), own, classes)
            evidence = found if evidence is None else evidence + found
            bins = _place(probs).round().long() + BINS * torch.arange(classes)
            counts += torch.bincount(bins.flatten(), minlength=classes * BINS).view(classes, BINS)
            mine = bins.gather(1, own[:, None])
            hits += torch.bincount(mine.flatten(), minlength=classes * BINS).view(classes, BINS)
        assert evidence is not None  # checked() raises if there is no pixel
        fitted = torch.stack([_rising(*row) for row in zip(hits, counts)])
        return cls(torch.lerp(_identity(), fitted, evidence.by_class.double()[:, None]).float(), evidence.seen)

    def __call__(self, prediction: ClassPrediction) -> ClassPrediction:
        """The prediction with the frequencies as its probabilities."""
        table = self.frequency.to(prediction.probs)
        place = _place(prediction.probs)
        below = place.floor().long().clamp_max(BINS - 2)
        owner = over_channels(torch.arange(len(table), device=table.device), below)
        low, high = table[owner, below], table[owner, below + 1]
        found = torch.lerp(low, high, place - below) * over_channels(self.seen, place)
        return keep_unseen(prediction, found / found.sum(1, keepdim=True), self.seen)


def _place(probs: Tensor) -> Tensor:
    """The place of each probability among the centers of the bins, in [0, 511]."""
    odds = torch.logit(probs.double(), eps=1e-7).to(probs.dtype)
    return (odds.clamp(-REACH, REACH) + REACH) * ((BINS - 1) / (2 * REACH))


def _identity() -> Tensor:
    """The probability at the center of each bin (512,), float64."""
    return torch.linspace(-REACH, REACH, BINS, dtype=torch.float64).sigmoid()


def _rising(hits: Tensor, counts: Tensor) -> Tensor:
    """Frequencies (512,) that never fall, nearest to ``hits / counts``, by pooling adjacent violators.

    Each pool gets one more pixel with the overall frequency of the class, so that no frequency is 0 or 1. Between bins
    with pixels the map is linear. Below the first and above the last such bin it is the identity, as far as it rises.
    """
    everywhere = float(hits.sum() / counts.sum())
    pools: list[list[float]] = []  # hits, pixels, first bin, last bin
    for place in counts.nonzero()[:, 0].tolist():
        pools.append([float(hits[place]), float(counts[place]), place, place])
        while len(pools) > 1 and pools[-2][0] * pools[-1][1] >= pools[-1][0] * pools[-2][1]:
            last = pools.pop()
            pools[-1] = [pools[-1][0] + last[0], pools[-1][1] + last[1], pools[-1][2], last[3]]
    ends = torch.tensor([[p[2], p[3]] for p in pools]).flatten()
    rate = torch.tensor([(p[0] + everywhere) / (p[1] + 1) for p in pools], dtype=torch.float64).repeat_interleave(2)
    rate = rate.cummax(0).values.clamp(1e-9, 1 - 1e-9)
    places, identity = torch.arange(BINS), _identity()
    right = torch.searchsorted(ends, places).clamp(0, len(ends) - 1)
    left = (right - 1).clamp_min(0)
    share = ((places - ends[left]) / (ends[right] - ends[left]).clamp_min(1)).clamp(0, 1)
    fitted = torch.lerp(rate[left], rate[right], share.double())
    fitted = torch.where(places < ends[0], torch.minimum(fitted, identity), fitted)
    return torch.where(places > ends[-1], torch.maximum(fitted, identity), fitted)
