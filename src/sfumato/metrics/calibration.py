"""Calibration errors: of the pixels with confidence 80 %, are 80 % right?"""

from __future__ import annotations

import torch
from torch import Tensor

from sfumato.metrics.histogram import equal_mass

BINS = 15


def _bin(probability: Tensor) -> Tensor:
    return (probability * BINS).ceil_().sub_(1).clamp_(0, BINS - 1).int()


def reliability(confidence: Tensor, correct: Tensor) -> tuple[Tensor, Tensor]:
    """Bin the confidences into 15 intervals (a, b] of equal width.

    Args:
        confidence: Confidence (N,) in [0, 1].
        correct: Whether the label is right (N,), bool.

    Returns:
        Counts (2, 15) of wrong and right pixels, and the sums of confidences (15,), float64.

    >>> counts, _ = reliability(torch.tensor([0.2, 0.21]), torch.tensor([True, False]))
    >>> counts[1].nonzero().item(), counts[0].nonzero().item()  # 0.2 = 3/15 is the end of its bin
    (2, 3)
    """
    bins = _bin(confidence)
    counts = torch.bincount(bins + correct.int() * BINS, minlength=2 * BINS).view(2, BINS)
    return counts, torch.bincount(bins, confidence.double(), BINS).double()


def gaps(counts: Tensor, confidence: Tensor) -> Tensor:
    """``|accuracy − mean confidence|`` of each bin (…, bins). NaN for an empty bin."""
    total = counts.sum(-2).double()
    return (counts[..., 1, :] - confidence).abs() / total


def ece(counts: Tensor, confidence: Tensor) -> Tensor:
    """Expected calibration error ``Σ_b n_b/N |acc_b − conf_b|`` (…).

    Args:
        counts: Wrong and right pixels of each bin (…, 2, bins).
        confidence: Sums of confidences (…, bins).

    Returns:
        In [0, 1]; NaN without pixels.

    Source: Naeini et al. (2015); Guo et al. (2017), 15 equal-width bins of the top label.
    Pitfall: The pooled number is not the mean of per-image numbers, which is larger. Bins of equal width hide the
    miscalibration of the most confident pixels, which are all in the last bin.
    """
    return (counts[..., 1, :] - confidence).abs().sum(-1) / counts.sum((-2, -1)).double()


def mce(counts: Tensor, confidence: Tensor) -> Tensor:
    """Maximum calibration error: the largest gap of a bin with pixels (…).

    Source: Naeini et al. (2015).
    Pitfall: The bin with the fewest pixels often decides. Look at the counts.
    """
    worst = gaps(counts, confidence).nan_to_num(-1).amax(-1)
    return worst.where(worst >= 0, torch.nan)


def classwise(probs: Tensor, label: Tensor, confidence: Tensor, target: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    """Bin the probabilities of every class into 15 intervals (a, b] of equal width.

    Args:
        probs: Probabilities (K, N), with sum 1 over K.
        label: The most probable class (N,).
        confidence: Its probability (N,).
        target: True classes (N,) in [0, K).
        true: Their probabilities (N,).

    Returns:
        Counts (K, 15) of pixels, and *sum of probabilities − pixels of the class* (K, 15), float64.
    """
    classes, pixels = probs.shape
    # Most probabilities are in the first bin. Its numbers are computed as all minus the other bins. A pixel whose
    # confidence is in the last bin has all its other probabilities in the first one.
    last = 1 - 1 / BINS
    sure, unsure = (mask.nonzero()[:, 0] for mask in (confidence > last, confidence <= last))
    rest = probs.index_select(1, unsure)
    likely = [confidence[sure], *(row[row > 1 / BINS] for row in rest)]
    owner = [label[sure] * BINS, *(k * BINS for k in range(classes))]
    bins = torch.cat([_bin(row).add_(offset) for row, offset in zip(likely, owner)])
    counts = torch.bincount(bins, minlength=classes * BINS).view(classes, BINS)
    total = torch.bincount(bins, torch.cat(likely).double(), classes * BINS).double().view(classes, BINS)
    counts[:, 0] += pixels - counts.sum(1)
    total[:, 0] += probs.sum(1) - total.sum(1)
    hits = torch.bincount(_bin(true) + target * BINS, minlength=classes * BINS)
    return counts, total - hits.view(classes, BINS)


def classwise_ece(counts: Tensor, gap: Tensor) -> Tensor:
    """ECE of each class against the rest, ``1/K Σ_k Σ_b n_kb/N |freq_kb − conf_kb|`` (…), from :func:`classwise`.

    Source: Kull et al. (2019), "Beyond temperature scaling"; Nixon et al. (2019) call it static calibration error.
    Pitfall: It falls as 1/K, because most classes are never likely. Compare at equal K only.
    """
    pixels = counts[..., 0, :].sum(-1).double()
    return gap.abs().sum((-2, -1)) / (pixels * counts.shape[-2])


def brier_calibration(counts: Tensor, gap: Tensor) -> Tensor:
    """The part of the Brier score that recalibration could remove, ``Σ_kb n_kb/N (freq_kb − conf_kb)²`` (…) ≥ 0.

    The rest, *Brier − calibration*, is the refinement: it measures how badly the probabilities separate the classes.

    Source: Murphy (1973); DeGroot and Fienberg (1983).
    Pitfall: Different probabilities within a bin count as refinement, so this is a lower bound.
    """
    pixels = counts[..., 0, :].sum(-1).double()
    return (gap.square() / counts.clamp_min(1)).sum((-2, -1)) / pixels


def adaptive_ece(right: Tensor, wrong: Tensor, doubt: Tensor) -> Tensor:
    """ECE of the top label over 15 bins of equal mass (…), from histograms of *1 − confidence*.

    Args:
        right: Right pixels (…, keys).
        wrong: Wrong pixels (…, keys).
        doubt: Sums of 1 − confidence (…, keys).

    Source: Nguyen and O'Connor (2015); Nixon et al. (2019).
    """
    pixels = right + wrong
    excess = equal_mass(pixels, doubt.double() - wrong, BINS)  # above 0 where the network is underconfident
    return excess.abs().sum(-1) / pixels.sum(-1).double()


def quantile_calibration(levels: Tensor) -> Tensor:
    """Mean over levels of ``|share of targets below the predicted quantile − level|`` (…).

    Args:
        levels: Values by the predicted probability of a smaller value (…, L), in L bins of equal width.

    Source: Kuleshov et al. (2018), with the mean absolute difference in place of their sum of squares.
    Pitfall: A distribution that ignores its input can have error 0. :func:`ence` looks at each size of σ separately.
    """
    bins = levels.shape[-1]
    observed = levels.double().cumsum(-1) / levels.sum(-1, keepdim=True)
    nominal = torch.arange(1, bins + 1, dtype=torch.float64, device=levels.device) / bins
    return (observed - nominal)[..., :-1].abs().mean(-1)


def ence(weight: Tensor, square: Tensor, variance: Tensor) -> Tensor:
    """Expected normalized calibration error: mean of ``|√mean σ² − RMSE| / √mean σ²`` over 15 bins of equal mass (…).

    Args:
        weight: Pixels by σ (…, keys).
        square: Sums of squared errors by σ (…, keys).
        variance: Sums of σ² by σ (…, keys).

    Source: Levi et al. (2019), "Evaluating and calibrating uncertainty prediction in regression tasks".
    Pitfall: Noise makes it larger than 0 for a perfect prediction too, more so with few pixels in a bin.
    """
    rmse, predicted = (equal_mass(weight, x, BINS).clamp_min(0).sqrt() for x in (square, variance))
    return ((predicted - rmse).abs() / predicted).mean(-1)
