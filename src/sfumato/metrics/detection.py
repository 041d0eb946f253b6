"""Each class against the rest: ROC and precision–recall of the probability of a class, from a histogram of fixed size.

The key of a probability p is the first bits of the odds p / (1 − p): 32 keys per factor of two, from odds of 2⁻⁷² to
2²⁴, where float32 ends. So probabilities near 0 and near 1 are told apart as well as those in the middle. Two
probabilities share a key only if their odds differ by less than a factor 1 + 2⁻⁵, or both lie beyond an end. Pixels of
one key count as ties, so an area under the ROC differs from that of a full sort by at most half the share of pairs
within a key (:func:`sfumato.metrics.ranking.auroc_bound`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from sfumato.metrics import ranking

SMALLEST, LARGEST = -72, 24
"""Powers of two between which odds have keys of their own."""

KEYS = 32 * (LARGEST - SMALLEST)
"""Number of keys of a histogram."""

_DROPPED = 18  # bits of a float32 that a key does not hold
_FIRST = (127 + SMALLEST) * 32  # the key of the smallest odds, before it is shifted to 0


def key(probs: Tensor) -> Tensor:
    """A number in [0, 3072) that never falls as the probability grows, int32.

    >>> key(torch.tensor([0.0, 0.5, 0.501, 0.51, 1.0])).tolist()
    [0, 2304, 2304, 2305, 3071]
    """
    odds = (probs / (1 - probs)).float()
    return odds.view(torch.int32).bitwise_right_shift(_DROPPED).sub_(_FIRST).clamp_(0, KEYS - 1)


def count(probs: Tensor, target: Tensor, true: Tensor) -> Tensor:
    """Pixels of other classes and of the class by its probability (K, 2, 3072).

    Args:
        probs: Probabilities (K, N).
        target: True classes (N,) in [0, K).
        true: Their probabilities (N,).
    """
    classes = len(probs)
    both = torch.stack([torch.bincount(key(row), minlength=KEYS) for row in probs])
    own = torch.bincount(key(true) + target * KEYS, minlength=classes * KEYS).view(classes, KEYS)
    return torch.stack([both - own, own], 1)


def coarsen(fine: Tensor) -> Tensor:
    """Coarse histograms (…, 48) with one key per factor of four from fine ones (…, 3072)."""
    return fine.unflatten(-1, (-1, 64)).sum(-1)


def scores(histograms: Tensor) -> dict[str, Tensor]:
    """Area under the ROC and average precision of each class against the rest (…, K), of histograms (…, K, 2, keys).

    NaN for a class without a pixel, and for the area also if all pixels are of the class.
    """
    others, own = histograms.unbind(-2)
    return {"roc_auc": ranking.auroc(others, own), "pr_auc": ranking.aupr(others, own)}


def precision_recall(histogram: Tensor) -> dict[str, Tensor]:
    """Precision at the recalls 0.01, 0.02, … 1, and the probability from which a pixel then counts as the class.

    Args:
        histogram: Pixels of other classes and of the class (2, 3072).

    Returns:
        ``recall``, ``precision`` and ``threshold``, each (100,). The threshold is the highest one with at least this
        recall, up to the width of a key. Precision and threshold are NaN for a class without a pixel.
    """
    alarms, hits = (counts.flip(-1).cumsum(-1).flip(-1).double() for counts in (histogram.sum(0), histogram[1]))
    recall = torch.arange(1, 101, dtype=torch.float64, device=histogram.device) / 100
    reached = hits[None] >= (recall * hits[0])[:, None] - 1e-9
    place = reached.int().cumsum(1).argmax(1)  # the last key, where the count of keys with this recall is the largest
    odds = (torch.arange(KEYS, dtype=torch.int32, device=histogram.device) + _FIRST << _DROPPED).view(torch.float32)
    threshold = (odds / (1 + odds)).double()
    threshold[0] = 0.0
    known = hits[0] > 0
    return {
        "recall": recall,
        "precision": (hits / alarms)[place].where(known, torch.nan),
        "threshold": threshold[place].where(known, torch.nan),
    }
