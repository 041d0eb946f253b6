"""Every score of a value prediction, in one pass over its pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.metrics import calibration, histogram, sparsification, values
from sfumato.metrics.scores import Scores
from sfumato.predictions import ValuePrediction

LEVELS = 20
"""Bins of the cumulative probability at which the target fell."""


@dataclass(frozen=True)
class ValueStatistics:
    """What the scores of a set of pixels are computed from. Adding the fields of two sets gives those of their union.

    Args:
        images: (…) with at least one valid pixel.
        pixels: (…).
        near: (…, 3) pixels with ratio below 1.25, 1.25² and 1.25³.
        levels: (…, 20) values by the predicted probability of a smaller one.
        covered: (…) values inside their 90 % interval.
        sums: (…, 9) over pixels, in the order of :data:`sfumato.metrics.values.SUMS`.
        sparsified: (…, 6) sums over images of AUSE and AURG by Poggi's definition, by RMSE, abs-rel and δ1.
        ranks: (…, 5, keys) pixels and their squared error by σ, pixels and their squared error by error; σ² by σ.
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
        """Observed against nominal quantile levels; RMSE over coverage by σ, and by the error itself."""
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
        mean: (D, N) in the target's unit.
        variance: (D, N) in its square, ≥ 0.
        target: (D, N).
        quantiles: of the standardized error; None for those of the normal law.

    Returns:
        The statistics with coarse ranks, and the fine ranks (5, 65536).
    """
    law = ValuePrediction(mean, variance, torch.zeros_like(variance), quantiles=quantiles)
    low, high = law.interval(0.9)
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
    """Every score of value predictions over all valid pixels of a data set.

    NLL and CRPS are those of the normal law with the predicted moments, also where a prediction carries the quantiles
    of another law; coverage, width and quantile calibration follow the quantiles.

    Args:
        unit: of the values, as in ``"m"``.
        headline: names of the scores that are shown first; None for those of depth.

    Memory: 3 MB, and about 5.5 KB per image.
    """

    headline: tuple[str, ...] = (
        "rmse", "abs_rel", "log10", "delta1", "delta2", "delta3", "nll", "coverage90", "ause", "aurg",
    )  # fmt: skip

    def __init__(self, unit: str = "", headline: tuple[str, ...] | None = None) -> None:
        super().__init__(*count(*torch.zeros(3, 1, 0)))
        self.unit = unit
        if headline is not None:
            self.headline = headline

    def update(self, prediction: ValuePrediction, target: Tensor, valid: Tensor) -> None:
        """Add the pixels of a batch.

        Args:
            prediction: of B images, with D value dimensions.
            target: (B, D, H, W), or (B, H, W) where D is 1; anything where not ``valid``.
            valid: (B, H, W) bool.

        Raises:
            ValueError: if shapes differ, or valid pixels hold a value that is not finite or a variance below 0.
        """
        target = target.unsqueeze(1) if target.ndim == 3 else target
        shape = tuple(target.shape)
        if prediction.mean.shape != shape or prediction.variance.shape != shape or valid.shape != shape[:1] + shape[2:]:
            raise ValueError(
                f"mean {tuple(prediction.mean.shape)}, target {shape}, valid {tuple(valid.shape)}: "
                f"expected twice (B, D, H, W), then (B, H, W), of the same B, H and W"
            )
        for mean, variance, truth, mask in zip(prediction.mean.float(), prediction.variance.float(), target, valid):
            index = mask.flatten().nonzero()[:, 0]
            m, v, t = (x.flatten(1).index_select(1, index) for x in (mean, variance, truth.float()))
            values.check(m, v, t)
            self.add(*count(m, v, t, prediction.quantiles))
