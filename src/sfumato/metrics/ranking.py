"""Does uncertainty rank the bad pixels above the good ones? Scores of a detector, from two histograms.

``good`` and ``bad`` are counts (…, keys) over keys that rise with the uncertainty. Pixels of one key count as ties.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sfumato.metrics.histogram import lowest


def pavpu(good: Tensor, bad: Tensor, certain: Tensor) -> dict[str, Tensor]:
    """Accuracy against certainty, where the least uncertain share ``certain`` (m,) of the pixels counts as certain.

    Args:
        good: Right pixels (…, keys).
        bad: Wrong pixels (…, keys).
        certain: Shares (m,) in (0, 1].

    Returns:
        Each (…, m): ``accurate_if_certain`` is p(accurate | certain), ``uncertain_if_wrong`` is
        p(uncertain | inaccurate), ``pavpu`` the share of accurate and certain or inaccurate and uncertain pixels.

    Source: Mukhoti and Gal (2018), "Evaluating Bayesian deep learning methods for semantic segmentation", with
    single pixels as patches.
    Pitfall: All three depend on the threshold. A share can compare networks whose uncertainties differ in size; a fixed
    threshold in nats cannot.
    """
    pixels, wrong = (good + bad).sum(-1, keepdim=True).double(), bad.sum(-1, keepdim=True).double()
    certain = certain.to(pixels)
    missed = lowest(good + bad, bad, certain)
    accurate = certain * pixels - missed
    return {
        "accurate_if_certain": accurate / (certain * pixels),
        "uncertain_if_wrong": (wrong - missed) / wrong,
        "pavpu": (accurate + wrong - missed) / pixels,
    }


def _before(histogram: Tensor) -> Tensor:
    return histogram.cumsum(-1) - histogram


def _above(histogram: Tensor) -> Tensor:
    return histogram.flip(-1).cumsum(-1).flip(-1)


def auroc(good: Tensor, bad: Tensor) -> Tensor:
    """Area under the ROC: ``P(u_bad > u_good) + ½ P(u_bad = u_good)`` (…).

    The error against a full sort is at most :func:`auroc_bound`. NaN without good or without bad pixels.

    Source: Hendrycks and Gimpel (2017), for the detection of errors.
    Pitfall: It favors the network whose errors are easier to detect, not the one with fewer errors.

    >>> auroc(torch.tensor([2, 1]), torch.tensor([0, 1]))  # two good below, one good tied
    tensor(0.8333, dtype=torch.float64)
    """
    good, bad = good.double(), bad.double()
    return (bad * (_before(good) + good / 2)).sum(-1) / (good.sum(-1) * bad.sum(-1))


def auroc_bound(good: Tensor, bad: Tensor) -> Tensor:
    """The largest error of :func:`auroc` against a full sort: half the share of good–bad pairs within a key (…)."""
    good, bad = good.double(), bad.double()
    return (good * bad).sum(-1) / (2 * good.sum(-1) * bad.sum(-1))


def aupr(good: Tensor, bad: Tensor) -> Tensor:
    """Average precision ``Σ_n (R_n − R_{n−1}) P_n`` of the detector of bad pixels (…); NaN without a bad pixel.

    Source: Davis and Goadrich (2006); the convention of scikit-learn and of SegmentMeIfYouCan (Chan et al. 2021).
    Pitfall: The chance level is the share of bad pixels, so the number cannot be compared between data sets.
    """
    good, bad = good.double(), bad.double()
    hits, alarms = _above(bad), _above(good + bad)
    precision = hits / alarms.clamp_min(1)
    return (bad * precision).sum(-1) / bad.sum(-1)


def fpr95(good: Tensor, bad: Tensor) -> Tensor:
    """Share of good pixels that are flagged when at least 95 % of the bad ones are flagged (…); lower is better.

    Source: Liang et al. (2018). Pooled over pixels as in SegmentMeIfYouCan; the mean over images is another number.
    """
    good, bad = good.double(), bad.double()
    reached = _above(bad) >= 0.95 * bad.sum(-1, keepdim=True)
    rate = _above(good) / good.sum(-1, keepdim=True)
    fewest = rate.where(reached, torch.inf).amin(-1)
    return fewest.where(bad.sum(-1) > 0, torch.nan)


def best_f1(good: Tensor, bad: Tensor) -> Tensor:
    """The key (…), int64, from which on flagged pixels have the largest F1, ``2 TP / (flagged + bad)``.

    Source: the threshold that SegmentMeIfYouCan (Chan et al. 2021) finds regions with.
    Pitfall: It is chosen on the pixels that are scored.

    >>> best_f1(torch.tensor([5, 1, 0]), torch.tensor([0, 2, 1]))  # flagged from key 1 on: 2 · 3 / (4 + 3)
    tensor(1)
    """
    hits, flagged = _above(bad.double()), _above((good + bad).double())
    return (2 * hits / (flagged + bad.double().sum(-1, keepdim=True)).clamp_min(1)).argmax(-1)


def roc(good: Tensor, bad: Tensor, points: int = 201) -> tuple[Tensor, Tensor]:
    """Equally spaced false-positive rates (points,) and the true-positive rate at each, of one pair of histograms."""
    rates = torch.linspace(0, 1, points, dtype=torch.float64, device=good.device)
    return rates, lowest(good.flip(-1), bad.flip(-1), rates) / bad.sum(-1, keepdim=True)


def scores(good: Tensor, bad: Tensor) -> dict[str, Tensor]:
    """All scores of the detection of errors (…); the half of the pixels below the median passes as certain."""
    return {
        "error_auroc": auroc(good, bad),
        "error_aupr": aupr(good, bad),
        "error_fpr95": fpr95(good, bad),
        **{name: column[..., 0] for name, column in pavpu(good, bad, torch.tensor([0.5])).items()},
    }


def spearman(pairs: Tensor) -> Tensor:
    """Rank correlation (…) of pairs counted in a joint histogram (…, keys, keys). Ties get the mean of their ranks.

    NaN where one of the two is constant.

    >>> spearman(torch.tensor([[1, 0, 0], [0, 0, 1], [0, 1, 0]]))
    tensor(0.5000, dtype=torch.float64)
    """
    pairs = pairs.double()
    rows, columns = pairs.sum(-1), pairs.sum(-2)
    x, y = _mean_ranks(rows), _mean_ranks(columns)
    both = (pairs * x[..., :, None] * y[..., None, :]).sum((-2, -1))
    return both / ((rows * x * x).sum(-1) * (columns * y * y).sum(-1)).sqrt()


def spearman_of_values(a: Tensor, b: Tensor) -> Tensor:
    """As :func:`spearman`, of the values (N,) and (N,) themselves.

    >>> spearman_of_values(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([10.0, 30.0, 20.0]))
    tensor(0.5000, dtype=torch.float64)
    """
    groups = (values.unique(return_inverse=True, return_counts=True)[1:] for values in (a, b))
    x, y = (_mean_ranks(counts.double())[group] for group, counts in groups)
    return (x * y).sum() / (x.square().sum() * y.square().sum()).sqrt()


def _mean_ranks(counts: Tensor) -> Tensor:
    """Mean rank of each key (…, keys), minus the mean of all ranks."""
    return counts.cumsum(-1) - counts / 2 - counts.sum(-1, keepdim=True) / 2
