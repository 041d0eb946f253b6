"""Scores of vectors of two values, such as optical flow: outliers, ellipses, and how well uncertainty finds errors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from sfumato.contracts import Task
from sfumato.errors import ConfigError, DataError
from sfumato.metrics import histogram, ranking, sparsification, values
from sfumato.metrics.scores import Scores
from sfumato.predictions import ValuePrediction, check_mask, select

LEVELS = 20
"""Number of bins of the probability of the smallest ellipse that holds the target."""

FAR, SHARE = 3.0, 0.05
"""An outlier has an error of more than 3 px and of more than 5 % of the true length."""

LEAST = 1e-6
"""Determinants are at least this share of the product of the variances: correlations are at most 0.9999995 in size."""


@dataclass(frozen=True)
class VectorStatistics:
    """Statistics of a set of pixels. Adding the fields of two sets gives those of their union.

    Args:
        pixels: Number of valid pixels (…).
        outliers: Pixels with an error above 3 px and above 5 % of the true length (…).
        levels: Pixels by the probability of the smallest ellipse that holds the target (…, 20).
        sums: Sums over pixels of the error, the NLL and the area of the 90 % ellipse (…, 3).
        ranks: Pixels, their errors, and those with an error above 3 px, by σ; pixels and their errors by error
            (…, 5, keys).
    """

    pixels: Tensor
    outliers: Tensor
    levels: Tensor
    sums: Tensor
    ranks: Tensor

    def scores(self) -> dict[str, Tensor]:
        """All scores (…), the headline first."""
        pixels = self.pixels.double()
        error, nll, area = (self.sums / pixels[..., None]).unbind(-1)
        count, by_spread, far, by_error_count, by_error = self.ranks.unbind(-2)
        kept, oracle = sparsification.aurc(count, by_spread), sparsification.aurc(by_error_count, by_error)
        observed = self.levels.cumsum(-1) / pixels[..., None]
        return {
            "fl_all": self.outliers / pixels,
            "nll2d": nll,
            "ellipse90": observed[..., round(0.9 * LEVELS) - 1],
            "far_auroc": ranking.auroc(count - far, far),
            "epe_at_80": sparsification.risk_at_coverage(count, by_spread, torch.tensor([0.8]))[..., 0],
            "epe_area": kept,
            "ellipse50": observed[..., round(0.5 * LEVELS) - 1],
            "ellipse_area90": area,
            "ause_epe": (kept - oracle) / error,
            "far": far.sum(-1) / pixels,
        }

    def curves(self) -> dict[str, dict[str, Tensor]]:
        """Observed and nominal coverage of ellipses; error over coverage by σ, and by the error itself."""
        observed = self.levels.cumsum(-1) / self.levels.sum(-1, keepdim=True).double()
        coverage = torch.arange(1, 101, dtype=torch.float64, device=observed.device) / 100
        nominal = torch.arange(1, LEVELS + 1, dtype=torch.float64, device=observed.device) / LEVELS
        error, oracle = (sparsification.risk_at_coverage(self.ranks[n], self.ranks[n + 1], coverage) for n in (0, 3))
        return {
            "reliability": {"nominal": nominal, "observed": observed, "count": self.levels},
            "rejection": {"coverage": coverage, "epe": error, "oracle": oracle},
        }


def squared_distance(error: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Squared Mahalanobis distance and determinant, each (N,), in double precision.

    Args:
        error: Errors (2, N).
        covariance: Covariances (2, 2, N). Variances are at least 1e-38, determinants at least 1e-6 of their product.
    """
    x, y = error.double()
    first, second = (covariance[n, n].double().clamp_min(values.TINY) for n in (0, 1))
    shared = covariance[0, 1].double()
    determinant = torch.maximum(first * second - shared.square(), LEAST * first * second)
    square = (second * x.square() - 2 * shared * x * y + first * y.square()) / determinant
    return square.clamp_min(0), determinant


def count(mean: Tensor, covariance: Tensor, target: Tensor) -> tuple[VectorStatistics, dict[str, Tensor]]:
    """Statistics of the valid pixels of one image.

    Args:
        mean: Mean (2, N) in the target's unit.
        covariance: Covariance (2, 2, N) in its square.
        target: Target (2, N).

    Returns:
        The statistics with coarse ranks, and the fine ranks (5, 65536).
    """
    away = mean - target
    error, length = (torch.linalg.vector_norm(each, dim=0) for each in (away, target))
    far = error > FAR
    square, determinant = squared_distance(away, covariance)
    nll = math.log(2 * math.pi) + 0.5 * (determinant.log() + square)
    area = math.pi * radius(0.9) ** 2 * determinant.sqrt()
    level = -torch.expm1(-square / 2)
    bins = (level * LEVELS).ceil_().sub_(1).clamp_(0, LEVELS - 1).int()
    by_spread, by_error = histogram.key(covariance.diagonal().sum(-1).sqrt()), histogram.key(error)
    columns = [(by_spread, None), (by_spread, error), (by_spread, far), (by_error, None), (by_error, error)]
    fine = torch.stack([
        torch.bincount(key, None if column is None else column.double(), histogram.KEYS).double()
        for key, column in columns
    ])  # fmt: skip
    statistics = VectorStatistics(
        pixels=torch.tensor(error.numel(), device=mean.device),
        outliers=(far & (error > SHARE * length)).sum(),
        levels=torch.bincount(bins, minlength=LEVELS),
        sums=torch.stack([each.sum(dtype=torch.float64) for each in (error, nll, area)]),
        ranks=histogram.coarsen(fine),
    )
    return statistics, {"ranks": fine}


def radius(level: float) -> float:
    """The Mahalanobis distance at the edge of the ellipse that holds this share of a normal distribution in the plane.

    Its square has a χ² distribution with 2 degrees of freedom.

    >>> round(radius(0.9), 3)
    2.146
    """
    if not 0 < level < 1:
        raise ConfigError(f"level is {level}, expected a coverage in (0, 1) such as 0.9")
    return math.sqrt(-2 * math.log1p(-level))


class VectorScores(Scores[VectorStatistics]):
    """Scores of vectors of two values over the valid pixels of a data set (``vectors``).

    - ``fl_all``: share of pixels with an error of more than 3 px and of more than 5 % of the true length; ``far``
      without the second condition.
    - ``nll2d``: negative log density in nats of the normal distribution with the predicted mean and covariance.
    - ``ellipse90``, ``ellipse50``: share of targets inside the ellipse of that distribution with this probability;
      ``ellipse_area90``: its area, mean over pixels, in the squared unit.
    - ``far_auroc``: whether the total uncertainty is larger where the error is above 3 px.
    - ``epe_at_80``: mean error of the 80 % of the pixels with the smallest uncertainty. ``epe_area``: the same, mean
      over all coverages, the raw area under the sparsification curve. ``ause_epe``: that area minus the one of the
      best ranking, divided by the mean error.

    Memory: 3 MB, and about 3 KB per image.

    Source: Menze and Geiger (2015), "Object scene flow for autonomous vehicles", for Fl-all.
    Pitfall: ``far_auroc`` and ``ause_epe`` compare a network with its own errors, so a worse network may have better
    ones. ``epe_at_80``, ``epe_area`` and ``nll2d`` do not.
    """

    target: ClassVar[str] = "value"
    headline: tuple[str, ...] = ("fl_all", "nll2d", "ellipse90", "far_auroc", "epe_at_80", "epe_area")

    def __init__(self) -> None:
        super().__init__(*count(torch.zeros(2, 0), torch.zeros(2, 2, 0), torch.zeros(2, 0)))

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Fresh scores.

        Raises:
            ConfigError: If the task has other targets than vectors of two values.
        """
        if getattr(task, "dims", 0) != 2:
            raise ConfigError(f"the score vectors is for vectors of 2 values, such as optical flow, not for {task.key}")
        return cls()

    def update(self, prediction: ValuePrediction, target: Tensor, valid: Tensor) -> None:
        """Add the pixels of a batch.

        Args:
            prediction: Predictions of B images.
            target: Vectors (B, 2, *event); anything where not ``valid``.
            valid: (B, *event) bool.

        Raises:
            DataError: If the shapes differ, or a valid target is not finite.
            NotFiniteError: If a valid pixel has a mean or a variance that is not finite.
        """
        shape = tuple(target.shape)
        if prediction.mean.shape != shape or len(shape) < 2 or shape[1] != 2:
            raise DataError(
                f"mean {tuple(prediction.mean.shape)}, target {shape}: expected twice (B, 2, H, W) of the same size"
            )
        check_mask(valid, shape[:1] + shape[2:], "target")
        for mean, covariance, true, mask in zip(prediction.mean, prediction.covariance, target, valid):
            m, t = (select(x.float(), mask) for x in (mean, true))
            both = select(covariance.float().flatten(0, 1), mask).unflatten(0, (2, 2))
            values.check(m, both.diagonal().T, t)
            self.add(*count(m, both, t))
