"""All scores of value predictions, in one pass over the pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from sfumato.contracts import Task
from sfumato.errors import DataError
from sfumato.metrics import calibration, histogram, sparsification, values
from sfumato.metrics.scores import Scores
from sfumato.predictions import ValuePrediction, check_mask, select, with_channels

LEVELS = 20
"""Number of bins of the cumulative probability of the target."""


@dataclass(frozen=True)
class ValueStatistics:
    """Statistics of a set of pixels. Adding the fields of two sets gives those of their union.

    Args:
        images: Number of images with at least one valid pixel (…).
        pixels: Number of valid pixels (…).
        near: Pixels with a ratio below 1.25, 1.25² and 1.25³ (…, 3).
        levels: Values by the predicted probability of a smaller value (…, 20).
        covered: Number of values inside their 90 % interval (…).
        sums: Sums over pixels (…, 9), in the order of :data:`sfumato.metrics.values.SUMS`.
        sparsified: Sums over images of AUSE and AURG as Poggi et al. define them (…, 6), by RMSE, abs-rel and δ1.
        ranks: Pixels and their squared error by σ, pixels and their squared error by error, σ² by σ (…, 5, keys).
    """

    images: Tensor
    pixels: Tensor
    near: Tensor
    levels: Tensor
    covered: Tensor
    sums: Tensor
    sparsified: Tensor
    ranks: Tensor

    def scores(self) -> dict[str, Tensor]:
        """All scores (…), the headline first."""
        pixels = self.pixels.double()
        mean = dict(zip(values.SUMS, (self.sums / pixels[..., None]).unbind(-1)))
        delta = self.near / pixels[..., None]
        names = ("ause", "ause_abs_rel", "ause_delta1", "aurg", "aurg_abs_rel", "aurg_delta1")
        sparsified = dict(zip(names, (self.sparsified / self.images.double()[..., None]).unbind(-1)))
        pooled_ause, pooled_aurg = sparsification.rmse_areas(self.ranks[..., :4, :])
        values_in_all = self.levels.sum(-1).double()
        return {
            "rmse": mean["square"].sqrt(),
            "abs_rel": mean["abs_rel"],
            "log10": mean["log"] / math.log(10),
            "delta1": delta[..., 0],
            "delta2": delta[..., 1],
            "delta3": delta[..., 2],
            "nll": mean["nll"],
            "crps": mean["crps"],
            "coverage90": self.covered / values_in_all,
            "ause": sparsified["ause"],
            "aurg": sparsified["aurg"],
            "epe": mean["epe"],
            "sq_rel": mean["sq_rel"],
            "rmse_log": mean["square_log"].sqrt(),
            **{name: sparsified[name] for name in names if name not in ("ause", "aurg")},
            "ause_pooled": pooled_ause,
            "aurg_pooled": pooled_aurg,
            "width90": mean["width"],
            "quantile_calibration": calibration.quantile_calibration(self.levels),
            "ence": calibration.ence(self.ranks[..., 0, :], self.ranks[..., 1, :], self.ranks[..., 4, :]),
            "pixels": self.pixels,
        }

    def curves(self) -> dict[str, dict[str, Tensor]]:
        """Observed and nominal quantile levels; RMSE over coverage by σ, and by the error itself."""
        observed = self.levels.cumsum(-1) / self.levels.sum(-1, keepdim=True).double()
        coverage = torch.arange(1, 101, dtype=torch.float64, device=observed.device) / 100
        by_spread, by_error = (
            sparsification.risk_at_coverage(self.ranks[i], self.ranks[i + 1], coverage) for i in (0, 2)
        )
        nominal = torch.arange(1, LEVELS + 1, dtype=torch.float64, device=observed.device) / LEVELS
        return {
            "reliability": {"nominal": nominal, "observed": observed, "count": self.levels},
            "rejection": {"coverage": coverage, "rmse": by_spread.sqrt(), "oracle": by_error.sqrt()},
        }


def count(
    mean: Tensor, variance: Tensor, target: Tensor, quantiles: Tensor | None = None
) -> tuple[ValueStatistics, dict[str, Tensor]]:
    """Statistics of the valid pixels of one image.

    Args:
        mean: Mean (D, N) in the target's unit.
        variance: Variance (D, N) in its square, ≥ 0.
        target: Target (D, N).
        quantiles: Quantiles of the standardized error. None for a normal distribution.

    Returns:
        The statistics with coarse ranks, and the fine ranks (5, 65536).
    """
    predicted = ValuePrediction(mean, variance, torch.zeros_like(variance), quantiles=quantiles)
    low, high = predicted.interval(0.9)
    pixels = (*values.per_pixel(mean, variance, target), (high - low).mean(0))
    square, spread = (mean - target).square().sum(0), variance.sum(0).sqrt()
    by_spread, by_error = histogram.key(spread), histogram.key(square.sqrt())
    columns = [(by_spread, None), (by_spread, square), (by_error, None), (by_error, square)]
    columns.append((by_spread, spread.square()))
    fine = torch.stack([
        torch.bincount(key, None if column is None else column.double(), histogram.KEYS).double()
        for key, column in columns
    ])  # fmt: skip
    ratio = values.ratio(mean, target)
    level = values.cumulative((target - mean) / variance.clamp_min(values.TINY).sqrt(), quantiles)
    bins = (level * LEVELS).ceil_().sub_(1).clamp_(0, LEVELS - 1).int().flatten()
    inside = (target >= low) & (target <= high)
    whole = torch.tensor([square.numel() > 0, square.numel()], device=mean.device)
    statistics = ValueStatistics(
        images=whole[0],
        pixels=whole[1],
        near=torch.stack([(ratio < 1.25**n).sum() for n in (1, 2, 3)]),
        levels=torch.bincount(bins, minlength=LEVELS),
        covered=inside.sum(),
        sums=torch.stack([x.sum(dtype=torch.float64) for x in pixels]),
        sparsified=sparsification.poggi(spread, square, pixels[values.SUMS.index("abs_rel")], ratio),
        ranks=histogram.coarsen(fine),
    )
    return statistics, {"ranks": fine}


class ValueScores(Scores[ValueStatistics]):
    """All scores of value predictions over the valid pixels of a data set.

    NLL and CRPS are those of the normal distribution with the predicted moments, also where a prediction has quantiles
    of its own. Coverage, width and quantile calibration follow those quantiles.

    Args:
        unit: Unit of the values, such as ``"m"``. Default: none.
        headline: Names of the scores that are shown first. Default: those of depth.

    Memory: 3 MB, and about 5.5 KB per image.
    """

    target: ClassVar[str] = "value"
    headline: tuple[str, ...] = (
        "rmse", "abs_rel", "log10", "delta1", "delta2", "delta3", "nll", "coverage90", "ause", "aurg",
    )  # fmt: skip

    def __init__(self, unit: str = "", headline: tuple[str, ...] | None = None) -> None:
        super().__init__(*count(*torch.zeros(3, 1, 0)))
        self.unit = unit
        if headline is not None:
            self.headline = headline

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Fresh scores with the unit and the headline of the task."""
        return cls(getattr(task, "unit", ""), getattr(task, "headline", None))

    def update(self, prediction: ValuePrediction, target: Tensor, valid: Tensor) -> None:
        """Add the pixels of a batch.

        Args:
            prediction: Predictions of B images, with D values per pixel.
            target: Values (B, D, *event), or (B, *event) where D is 1; anything where not ``valid``.
            valid: (B, *event) bool.

        Raises:
            DataError: If the shapes differ, or a valid target is not finite.
            NotFiniteError: If a valid pixel has a mean that is not finite, or a variance that is not finite or below 0.
        """
        target = with_channels(target, prediction.mean)
        shape = tuple(target.shape)
        if prediction.mean.shape != shape or prediction.variance.shape != shape:
            raise DataError(
                f"mean {tuple(prediction.mean.shape)}, target {shape}: expected twice (B, D, H, W) of the same size"
            )
        check_mask(valid, shape[:1] + shape[2:], "target")
        for mean, variance, true, mask in zip(prediction.mean, prediction.variance, target, valid):
            m, v, t = (select(x.float(), mask) for x in (mean, variance, true))
            values.check(m, v, t)
            self.add(*count(m, v, t, prediction.quantiles))
