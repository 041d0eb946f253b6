"""Calibration of confidences: of the pixels called 80 % sure, are 80 % right?"""

from __future__ import annotations

import torch
from torch import Tensor

BINS = 15


def reliability(confidence: Tensor, correct: Tensor) -> tuple[Tensor, Tensor]:
    """Bin the confidences into 15 intervals (a, b] of equal width.

    Args:
        confidence: (N,) in [0, 1].
        correct: (N,) bool.

    Returns:
        Counts (2, 15) of wrong and of right pixels, and the sum of confidences (15,), float64.

    >>> counts, _ = reliability(torch.tensor([0.2, 0.21]), torch.tensor([True, False]))
    >>> counts[1].nonzero().item(), counts[0].nonzero().item()  # 0.2 = 3/15 closes its bin
    (2, 3)
    """
    bins = (confidence * BINS).ceil_().sub_(1).clamp_(0, BINS - 1).int()
    counts = torch.bincount(bins + correct.int() * BINS, minlength=2 * BINS).view(2, BINS)
    return counts, torch.bincount(bins, confidence.double(), BINS)


def gaps(counts: Tensor, confidence: Tensor) -> Tensor:
    """``|accuracy − mean confidence|`` of each bin (…, bins); NaN where it is empty."""
    total = counts.sum(-2).double()
    return (counts[..., 1, :] - confidence).abs() / total


def ece(counts: Tensor, confidence: Tensor) -> Tensor:
    """Expected calibration error ``Σ_b n_b/N |acc_b − conf_b|`` (…).

    Args:
        counts: (…, 2, bins) wrong and right pixels of each bin.
        confidence: (…, bins) sums of confidences.

    Returns:
        In [0, 1]; NaN without pixels.

    Source: Naeini et al. (2015); Guo et al. (2017), 15 equal-width bins of the top label.
    Pitfall: the pooled number is not the mean of per-image numbers, which is larger; equal-width bins hide
    miscalibration of the almost-sure pixels that fill the last bin.
    """
    return (counts[..., 1, :] - confidence).abs().sum(-1) / counts.sum((-2, -1)).double()


def mce(counts: Tensor, confidence: Tensor) -> Tensor:
    """Maximum calibration error: the largest gap of a bin that holds pixels (…).

    Source: Naeini et al. (2015).
    Pitfall: decided by the emptiest bin; look at the counts.
    """
    worst = gaps(counts, confidence).nan_to_num(-1).amax(-1)
    return worst.where(worst >= 0, torch.nan)
