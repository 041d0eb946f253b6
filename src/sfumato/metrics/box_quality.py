"""Scores of boxes as functions: proper scores of each box, errors of calibration, and the LRP error."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from sfumato.boxes import Boxes, match_boxes

BINS = 25
FLOOR = 1e-4  # px², added to variances
SURE = 1e-6  # least probability in a logarithm
SAMPLES = 256
ROW = ("kind", "class_nll", "brier", "box_nll", "energy", "entropy", "std", "error", "inside")
"""The numbers of each box: kind as of :class:`sfumato.boxes.Matches`; NLL and Brier score of the class; NLL and energy
score of the edges; entropy of their distribution; standard deviation and error (root mean square over the edges, px);
how many of its edges lie in their interval."""


def proper_rows(found: Boxes, true: Tensor, level: float) -> Tensor:
    """The numbers (N, 9) of each box of an image, in the order of :data:`ROW`, float64.

    The outcome of the class is the class of the true box, or no object for false positives. What has no true box has no
    error (NaN). Distributions of edges are normal.

    Args:
        found: The predicted boxes.
        true: True boxes (M, 6).
        level: Level of the intervals, in (0, 1).

    Source: Harakeh and Waslander (2021) for proper scores by kind; Gneiting and Raftery (2007) for the scores.
    """
    same = match_boxes(found, true)
    known = same.partner >= 0
    partner = same.partner.clamp_min(0)
    truth = true[partner] if len(true) else true.new_zeros(len(found), 6)
    probs = found.probs.double()
    every = torch.cat([probs, (1 - probs.sum(1, keepdim=True)).clamp_min(0)], 1)
    outcome = truth[:, 4].long().where(known, probs.shape[1])
    likely = every.gather(1, outcome[:, None])[:, 0]
    brier = every.square().sum(1) - 2 * likely + 1
    covariance = found.covariance.double() + FLOOR * torch.eye(4, dtype=torch.float64)
    root = torch.linalg.cholesky(covariance)
    logdet = 2 * root.diagonal(dim1=1, dim2=2).log().sum(1)
    error = (found.edges - truth[:, :4]).double()
    white = torch.linalg.solve_triangular(root, error[..., None], upper=False)[..., 0]
    nll = 0.5 * white.square().sum(1) + 0.5 * logdet + 2 * math.log(2 * math.pi)
    drawn, other = (each @ root.mT for each in _normals())  # (N, S, 4)
    energy = (drawn + error[:, None]).norm(dim=2).mean(1) - 0.5 * (drawn - other).norm(dim=2).mean(1)
    std = covariance.diagonal(dim1=1, dim2=2).sqrt()
    reach = math.sqrt(2) * float(torch.erfinv(torch.tensor(level, dtype=torch.float64)))
    inside = (error.abs() <= reach * std).double().sum(1)
    size = error.square().mean(1).sqrt()
    with_truth = [each.where(known, torch.nan) for each in (nll, energy, size, inside)]
    entropy = 0.5 * logdet + 2 * math.log(2 * math.pi * math.e)
    of_class = -likely.clamp_min(SURE).log()
    spread = std.square().mean(1).sqrt()
    return torch.stack(
        [
            same.kind.double(),
            of_class,
            brier,
            with_truth[0],
            with_truth[1],
            entropy,
            spread,
            with_truth[2],
            with_truth[3],
        ],
        1,
    )


@cache
def _normals() -> tuple[Tensor, Tensor]:
    """Two fixed sets of samples (S, 4) of a standard normal distribution, spread evenly in their eight dimensions."""
    uniform = torch.quasirandom.SobolEngine(8, scramble=True, seed=0).draw(SAMPLES, dtype=torch.float64)
    first, second = torch.special.ndtri(uniform.clamp(1e-9, 1 - 1e-9)).chunk(2, 1)
    return first, second


def calibration_error(score: Tensor, outcome: Tensor) -> Tensor:
    """``Σ_bins n_bin / n |mean score − mean outcome|`` over 25 bins of equal width; NaN without a box.

    Args:
        score: Scores (N,) in [0, 1].
        outcome: What they should be on average (N,), in [0, 1].

    >>> calibration_error(torch.tensor([0.9, 0.9]), torch.tensor([1.0, 0.0]))
    tensor(0.4000, dtype=torch.float64)
    """
    bins = (score.double() * BINS).long().clamp(0, BINS - 1)
    away = torch.zeros(BINS, dtype=torch.float64, device=score.device)
    away.index_add_(0, bins, score.double() - outcome.double())
    return away.abs().sum() / len(score) if len(score) else away.new_tensor(torch.nan)


def optimal_lrp(score: Tensor, iou: Tensor, truths: int, hit: float = 0.5) -> Tensor:
    """The smallest localization recall precision error over all thresholds of the score, in [0, 1].

    ``LRP = (Σ_TP (1 − IoU) / (1 − hit) + FP + FN) / (TP + FP + FN)``.

    Args:
        score: Scores of the predicted boxes (N,) of one class.
        iou: IoU of each with its true box (N,), 0 without one.
        truths: Number of true boxes, ≥ 1.
        hit: Least IoU of a true positive. Default 0.5.

    Source: Oksuz et al. (2018), "Localization recall precision (LRP): a new performance metric for object detection".

    >>> optimal_lrp(torch.tensor([0.9, 0.1]), torch.tensor([0.75, 0.0]), 1)
    tensor(0.5000, dtype=torch.float64)
    """
    order = score.argsort(descending=True, stable=True)
    sure, own = score[order], iou[order].double()
    right = own >= hit
    hits = right.cumsum(0)
    lost = ((1 - own) / (1 - hit)).where(right, 1.0).cumsum(0)
    errors = (lost + truths - hits) / (torch.arange(1, len(own) + 1, device=own.device) + truths - hits)
    last = torch.cat([sure[1:] != sure[:-1], sure.new_ones(1, dtype=torch.bool)]) if len(sure) else right
    return torch.cat([errors[last], errors.new_ones(1)]).min()
