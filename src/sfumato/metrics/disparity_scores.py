"""Scores of disparities: wrong matches, and how well uncertainty finds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from sfumato.contracts import Task
from sfumato.errors import ConfigError, DataError
from sfumato.metrics import histogram, ranking, sparsification, values
from sfumato.metrics.scores import Scores
from sfumato.predictions import ValuePrediction, check_mask, select, with_channels

FAR, SHARE = 3.0, 0.05
"""D1 counts errors of more than 3 px and of more than 5 % of the true disparity."""


@dataclass(frozen=True)
class DisparityStatistics:
    """Statistics of a set of pixels. Adding the fields of two sets gives those of their union.

    Args:
        pixels: Number of valid pixels (…).
        bad: Pixels with an error above 1, 2 and 3 px, and those that D1 counts (…, 4).
        error: Sum of the errors (…), px.
        ranks: Pixels, their errors, and those with an error above 1 px, by σ; pixels and their errors by error
            (…, 5, keys).
    """

    pixels: Tensor
    bad: Tensor
    error: Tensor
    ranks: Tensor

    def scores(self) -> dict[str, Tensor]:
        """All scores (…), the headline first."""
        pixels = self.pixels.double()
        one, two, three, outliers = (self.bad / pixels[..., None]).unbind(-1)
        count, by_spread, wrong, by_error_count, by_error = self.ranks.unbind(-2)
        kept, oracle = sparsification.aurc(count, by_spread), sparsification.aurc(by_error_count, by_error)
        error = self.error / pixels
        return {
            "bad1": one,
            "d1": outliers,
            "bad1_auroc": ranking.auroc(count - wrong, wrong),
            "epe_at_80": sparsification.risk_at_coverage(count, by_spread, torch.tensor([0.8]))[..., 0],
            "epe_area": kept,
            "bad2": two,
            "bad3": three,
            "bad1_ause": sparsification.e_aurc(count, wrong),
            "ause_epe": (kept - oracle) / error,
            "shared": count.amax(-1) / pixels,
        }

    def curves(self) -> dict[str, dict[str, Tensor]]:
        """Error over coverage by σ, and by the error itself."""
        coverage = torch.arange(1, 101, dtype=torch.float64, device=self.ranks.device) / 100
        error, oracle = (sparsification.risk_at_coverage(self.ranks[n], self.ranks[n + 1], coverage) for n in (0, 3))
        return {"rejection": {"coverage": coverage, "epe": error, "oracle": oracle}}


def count(mean: Tensor, variance: Tensor, target: Tensor) -> tuple[DisparityStatistics, dict[str, Tensor]]:
    """Statistics of the valid pixels of one image.

    Args:
        mean: Mean (1, N), px.
        variance: Variance (1, N), px².
        target: Target (1, N), px.

    Returns:
        The statistics with coarse ranks, and the fine ranks (5, 65536).
    """
    error, true = (mean - target)[0].abs(), target[0].abs()
    by_spread, by_error = histogram.key(variance[0].sqrt()), histogram.key(error)
    columns = [(by_spread, None), (by_spread, error), (by_spread, error > 1), (by_error, None), (by_error, error)]
    fine = torch.stack([
        torch.bincount(key, None if column is None else column.double(), histogram.KEYS).double()
        for key, column in columns
    ])  # fmt: skip
    outliers = (error > FAR) & (error > SHARE * true)
    statistics = DisparityStatistics(
        pixels=torch.tensor(error.numel(), device=mean.device),
        bad=torch.stack([(error > 1).sum(), (error > 2).sum(), (error > FAR).sum(), outliers.sum()]),
        error=error.sum(dtype=torch.float64),
        ranks=histogram.coarsen(fine),
    )
    return statistics, {"ranks": fine}


class DisparityScores(Scores[DisparityStatistics]):
    """Scores of disparities over the valid pixels of a data set (``disparity``).

    - ``bad1``, ``bad2``, ``bad3``: share of pixels with an error of more than 1, 2 and 3 px; ``d1`` of more than 3 px
      and of more than 5 % of the true disparity.
    - ``bad1_auroc``: whether the total uncertainty is larger where the error is above 1 px. ``bad1_ause``: by how much
      the area under the curve of bad pixels over coverage is larger than that of the best ranking.
    - ``epe_at_80``: mean error of the 80 % of the pixels with the smallest uncertainty. ``epe_area``: the same, mean
      over all coverages. ``ause_epe``: that area minus the one of the best ranking, divided by the mean error.
    - ``shared``: the largest share of pixels with the same uncertainty, to about 1 %. If it is large, the uncertainty
      is at a limit and tells these pixels not apart.

    Memory: 3 MB, and about 3 KB per image.

    Source: Menze and Geiger (2015), "Object scene flow for autonomous vehicles", for D1.
    Pitfall: ``bad1_auroc``, ``bad1_ause`` and ``ause_epe`` compare a network with its own errors, so a worse network
    may have better ones. ``epe_at_80`` and ``epe_area`` do not.
    """

    target: ClassVar[str] = "value"
    headline: tuple[str, ...] = ("bad1", "d1", "bad1_auroc", "epe_at_80", "epe_area")

    def __init__(self) -> None:
        super().__init__(*count(*torch.zeros(3, 1, 0)))

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Fresh scores.

        Raises:
            ConfigError: If the task has other targets than disparities.
        """
        if not hasattr(task, "planes"):
            raise ConfigError(f"the score disparity is for disparities, not for {task.key}")
        return cls()

    def update(self, prediction: ValuePrediction, target: Tensor, valid: Tensor) -> None:
        """Add the pixels of a batch.

        Args:
            prediction: Predictions of B images.
            target: Disparities (B, 1, *event) or (B, *event), px; anything where not ``valid``.
            valid: (B, *event) bool.

        Raises:
            DataError: If the shapes differ, or a valid target is not finite.
            NotFiniteError: If a valid pixel has a mean or a variance that is not finite.
        """
        target = with_channels(target, prediction.mean)
        shape = tuple(target.shape)
        if prediction.mean.shape != shape or shape[1] != 1:
            raise DataError(
                f"mean {tuple(prediction.mean.shape)}, target {shape}: expected twice (B, 1, H, W) of the same size"
            )
        check_mask(valid, shape[:1] + shape[2:], "target")
        for mean, variance, true, mask in zip(prediction.mean, prediction.variance, target, valid):
            m, v, t = (select(x.float(), mask) for x in (mean, variance, true))
            values.check(m, v, t)
            self.add(*count(m, v, t))
