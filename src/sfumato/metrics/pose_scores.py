"""Scores of camera poses: errors in meters and degrees, the predicted ellipsoid, and how uncertainty ranks errors."""

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
from sfumato.predictions import PosePrediction, check_mask

LEVELS = 20
"""Number of bins of the probability of the smallest ellipsoid that holds the true pose."""

LEAST = 1e-6
"""Eigenvalues of a correlation matrix count as at least this."""

SUMS: tuple[str, ...] = ("position", "rotation", "nll", "position_std", "rotation_std", "novelty")
"""Meters, degrees, nats, meters, degrees, and the novelty score (NaN if the method gives none)."""


@dataclass(frozen=True)
class PoseStatistics:
    """Statistics of a set of images. Adding the fields of two sets gives those of their union.

    Args:
        images: Number of images with a known pose (…).
        levels: Images by the probability of the smallest ellipsoid that holds the true pose (…, 20).
        sums: Sums over images, in the order of :data:`SUMS` (…, 6).
        ranks: Images by the error of the position, and by its σ with that error; then the same of the rotation
            (…, 8, keys): count and error by error, count and error by σ.
    """

    images: Tensor
    levels: Tensor
    sums: Tensor
    ranks: Tensor

    def scores(self) -> dict[str, Tensor]:
        """All scores (…), the headline first. Rank correlations need single images: see :class:`PoseScores`."""
        images = self.images.double()
        mean = dict(zip(SUMS, (self.sums / images[..., None]).unbind(-1)))
        observed = self.levels.cumsum(-1) / images[..., None]
        half, unknown = torch.tensor([0.5]), torch.full_like(images, torch.nan)
        found: dict[str, Tensor] = {}
        areas: dict[str, Tensor] = {}
        for name, ranks in (("position", self.ranks[..., :4, :]), ("rotation", self.ranks[..., 4:, :])):
            by_error, errors, by_spread, spread_errors = ranks.unbind(-2)
            found[f"{name}_median"] = _quantile(by_error, errors, half)
            kept, oracle = sparsification.aurc(by_spread, spread_errors), sparsification.aurc(by_error, errors)
            areas[f"{name}_area"], areas[f"{name}_ause"] = kept, kept - oracle
        return {
            **found,
            "position_mean": mean["position"],
            "rotation_mean": mean["rotation"],
            "nll": mean["nll"],
            "ellipsoid90": observed[..., round(0.9 * LEVELS) - 1],
            "position_spearman": unknown,
            "rotation_spearman": unknown,
            **areas,
            "ellipsoid50": observed[..., round(0.5 * LEVELS) - 1],
            "position_std": mean["position_std"],
            "rotation_std": mean["rotation_std"],
            "novelty_spearman": unknown,
            "images": self.images,
        }

    def curves(self) -> dict[str, dict[str, Tensor]]:
        """Observed and nominal coverage of ellipsoids; mean error of the position over coverage, by σ and by error."""
        observed = self.levels.cumsum(-1) / self.levels.sum(-1, keepdim=True).double()
        coverage = torch.arange(1, 101, dtype=torch.float64, device=observed.device) / 100
        nominal = torch.arange(1, LEVELS + 1, dtype=torch.float64, device=observed.device) / LEVELS
        oracle, error = (sparsification.risk_at_coverage(self.ranks[n], self.ranks[n + 1], coverage) for n in (0, 2))
        return {
            "reliability": {"probability": nominal, "inside": observed, "count": self.levels},
            "rejection": {"coverage": coverage, "error": error, "oracle": oracle},
        }


def squared_distance(away: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Squared Mahalanobis distance and log determinant, each (B,), in double precision.

    Args:
        away: Tangent vectors from predicted to true poses (B, 6).
        covariance: Covariances (B, 6, 6). Variances are at least 1e-38. Eigenvalues of the correlations are at least
            1e-6, so that rounding makes no covariance negative.
    """
    scale = covariance.diagonal(dim1=1, dim2=2).double().clamp_min(values.TINY).sqrt()
    correlation = covariance.double() / scale[:, :, None] / scale[:, None, :]
    eigenvalues, vectors = torch.linalg.eigh(correlation)
    eigenvalues = eigenvalues.clamp_min(LEAST)
    along = (vectors.mT @ (away.double() / scale)[..., None])[..., 0]
    return (along.square() / eigenvalues).sum(1), eigenvalues.log().sum(1) + 2 * scale.log().sum(1)


def chi_square_level(square: Tensor) -> Tensor:
    """The probability in [0, 1] that a χ² variable with 6 degrees of freedom is smaller: ``P(3, square / 2)``.

    >>> chi_square_level(torch.tensor([10.6446]))  # the 90 % quantile
    tensor([0.9000])
    """
    return torch.special.gammainc(torch.full_like(square, 3.0), square / 2)


def count(prediction: PosePrediction, target: Tensor) -> tuple[PoseStatistics, dict[str, Tensor]]:
    """Statistics of one image.

    Args:
        prediction: Its prediction, a batch of 1, or of 0 where its pose is not known.
        target: Its pose (1, 6), or (0, 6).

    Returns:
        The statistics with coarse ranks, and the fine ranks (8, 65536).
    """
    away = prediction.near(target) - prediction.mean
    square, logdet = squared_distance(away, prediction.covariance)
    nll = 3 * math.log(2 * math.pi) + 0.5 * (logdet + square)
    bins = (chi_square_level(square) * LEVELS).ceil().sub(1).clamp(0, LEVELS - 1).int()
    errors = away[:, :3].norm(dim=1), torch.rad2deg(away[:, 3:].norm(dim=1))
    spreads = prediction.position_std, torch.rad2deg(prediction.rotation_std)
    novelty = torch.full_like(nll, torch.nan) if prediction.novelty is None else prediction.novelty
    columns = []
    for error, spread in zip(errors, spreads):
        for key in (histogram.key(error), histogram.key(spread)):
            columns += [torch.bincount(key, weight, histogram.KEYS).double() for weight in (None, error.double())]
    fine = torch.stack(columns)
    statistics = PoseStatistics(
        images=torch.tensor(len(target), device=target.device),
        levels=torch.bincount(bins, minlength=LEVELS),
        sums=torch.stack([each.sum(dtype=torch.float64) for each in (*errors, nll, *spreads, novelty)]),
        ranks=histogram.coarsen(fine),
    )
    return statistics, {"ranks": fine}


class PoseScores(Scores[PoseStatistics]):
    """Scores of camera poses over the images of a data set.

    - ``position_median``, ``position_mean``: error of the position, meters; ``rotation_median``, ``rotation_mean``:
      the whole angle between the predicted and the true rotation, degrees.
    - ``nll``: negative log density in nats, per m³ rad³, of the normal distribution with the predicted covariance.
    - ``ellipsoid90``, ``ellipsoid50``: share of true poses inside the ellipsoid that holds this share of that
      distribution, by the χ² distribution with 6 degrees of freedom.
    - ``position_spearman``, ``rotation_spearman``: rank correlation of error and predicted σ; ``novelty_spearman`` of
      the error of the position and the novelty score.
    - ``position_area``, ``rotation_area``: mean error of the images with the smallest σ, mean over all shares of
      images, an absolute score in meters or degrees. ``position_ause``, ``rotation_ause``: that minus the area of the
      best order.

    Medians are exact to 0.4 % for a single image and interpolated between images, so that they can be resampled.

    Source: Kendall, Grimes and Cipolla (2015) for median errors. Pitfall: some published tables hold half of the angle.
    """

    target: ClassVar[str] = "value"
    headline: tuple[str, ...] = (
        "position_median", "rotation_median", "position_mean", "rotation_mean", "nll", "ellipsoid90",
        "position_spearman", "rotation_spearman", "position_area", "position_ause",
    )  # fmt: skip

    def __init__(self) -> None:
        none = torch.zeros(0, 6)
        super().__init__(*count(PosePrediction(none, none, none), none))

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Fresh scores.

        Raises:
            ConfigError: If the task has other targets than poses.
        """
        if not hasattr(task, "on_target"):
            raise ConfigError(f"the scores of poses are for the task pose, not for {task.key}")
        return cls()

    def update(self, prediction: PosePrediction, target: Tensor, valid: Tensor) -> None:
        """Add a batch.

        Args:
            prediction: Predictions of B images.
            target: Poses (B, 6): position and rotation vector; anything where not ``valid``.
            valid: (B,) bool.

        Raises:
            DataError: If the shapes differ, or a valid target is not finite.
            NotFiniteError: If a prediction is not finite.
        """
        if prediction.mean.shape != target.shape or target.ndim != 2 or target.shape[1] != 6:
            raise DataError(
                f"prediction {tuple(prediction.mean.shape)}, target {tuple(target.shape)}: expected twice (B, 6)"
            )
        check_mask(valid, target.shape[:1], "target")
        parts = ("mean", "aleatoric_variance", "epistemic_variance", "aleatoric_correlation", "epistemic_correlation",
                 "novelty")  # fmt: skip
        for index in range(len(target)):
            some = slice(index, index + int(valid[index]))
            own = {name: value[some] for name in parts if (value := getattr(prediction, name)) is not None}
            one, true = PosePrediction(**own, draws=prediction.draws), target[some].float()
            values.check(one.mean, one.variance, true)
            self.add(*count(one, true))

    def compute(self) -> dict[str, Tensor]:
        """The scores over all images, with exact rank correlations."""
        found = super().compute()
        with self.sync_context():
            rows = self._rows()
        columns = dict(zip(SUMS, rows.sums[rows.images > 0].unbind(1)))
        pairs = {"position": "position_std", "rotation": "rotation_std", "novelty": "novelty"}
        for name, score in pairs.items():
            error = columns["position" if name == "novelty" else name]
            if len(error) > 1 and bool(columns[score].isfinite().all()):
                found[f"{name}_spearman"] = ranking.spearman_of_values(columns[score], error)
        return found


def _quantile(weight: Tensor, column: Tensor, level: Tensor) -> Tensor:
    """The mean value in the key at a level (1,) of histograms (…, keys)."""
    upto = weight.double().cumsum(-1)
    total = upto[..., -1:]
    low, high = (
        torch.searchsorted(upto, place).clamp_max(weight.shape[-1] - 1)
        for place in ((level.to(upto) * total - 0.5).clamp_min(0.5), (level.to(upto) * total + 0.5).minimum(total))
    )
    found = [column.double().gather(-1, key) / weight.double().gather(-1, key) for key in (low, high)]
    return ((found[0] + found[1]) / 2)[..., 0]
