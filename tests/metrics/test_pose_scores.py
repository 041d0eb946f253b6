"""Scores of poses against direct computations and simulated errors."""

import numpy as np
import pytest
import torch
from scipy.stats import chi2, multivariate_normal, spearmanr

from sfumato.errors import ConfigError, DataError, NotFiniteError
from sfumato.geometry.pose import displaced, pose_vectors, poses_of
from sfumato.metrics import PoseScores
from sfumato.metrics.pose_scores import chi_square_level
from sfumato.predictions import PosePrediction
from sfumato.tasks import CameraPose, Depth

COUNT = 150


def simulated(scale=1.0, count=COUNT):
    """Predictions with a full covariance, true poses that are drawn from them, and their tangent vectors."""
    generator = torch.Generator().manual_seed(0)
    mean = pose_vectors(poses_of(torch.randn(count, 6, generator=generator) * torch.tensor([2.0] * 3 + [0.9] * 3)))
    factor = torch.randn(6, 6, generator=generator) * 0.05 + 0.1 * torch.eye(6)
    size = torch.rand(count, 1, 1, generator=generator) + 0.5
    covariance = size * (factor @ factor.T)
    away = (size.sqrt() * factor @ torch.randn(count, 6, 1, generator=generator))[..., 0]
    variance = covariance.diagonal(dim1=1, dim2=2)
    rows, columns = torch.triu_indices(6, 6, 1)
    shared = covariance[:, rows, columns] / (variance[:, rows] * variance[:, columns]).sqrt()
    found = PosePrediction(mean, scale * 0.75 * variance, scale * 0.25 * variance, aleatoric_correlation=shared,
                           epistemic_correlation=shared, novelty=away[:, :3].norm(dim=1))  # fmt: skip
    return found, pose_vectors(displaced(poses_of(mean), away)), away


def computed(found, target, valid=None):
    scores = PoseScores()
    scores.update(found, target, torch.ones(len(target), dtype=torch.bool) if valid is None else valid)
    return {name: float(value) for name, value in scores.compute().items()}, scores


def test_against_direct_computations():
    found, target, away = simulated()
    scores, _ = computed(found, target)
    meters, degrees = away[:, :3].norm(dim=1).numpy(), np.degrees(away[:, 3:].norm(dim=1).numpy())
    assert scores["position_median"] == pytest.approx(np.median(meters), rel=5e-3)
    assert scores["rotation_median"] == pytest.approx(np.median(degrees), rel=5e-3)
    assert scores["position_mean"] == pytest.approx(meters.mean(), rel=1e-4)
    assert scores["rotation_mean"] == pytest.approx(degrees.mean(), rel=1e-4)
    expected = [multivariate_normal(cov=c.double().numpy()).logpdf(a) for a, c in zip(away, found.covariance)]
    assert scores["nll"] == pytest.approx(-np.mean(expected), abs=1e-2)
    square = np.array(
        [a @ np.linalg.inv(c) @ a for a, c in zip(away.double().numpy(), found.covariance.double().numpy())]
    )
    assert scores["ellipsoid90"] == pytest.approx((square < chi2(6).ppf(0.9)).mean(), abs=0.01)
    spread = found.position_std.numpy()
    assert scores["position_spearman"] == pytest.approx(spearmanr(meters, spread)[0], abs=1e-6)
    assert scores["novelty_spearman"] == pytest.approx(1, abs=1e-6)
    kept = meters[spread.argsort()].cumsum() / np.arange(1, COUNT + 1)
    assert scores["position_area"] == pytest.approx(kept.mean(), rel=0.02)
    oracle = np.sort(meters).cumsum() / np.arange(1, COUNT + 1)
    assert scores["position_ause"] == pytest.approx(kept.mean() - oracle.mean(), rel=0.1)
    # The true distribution covers as much as it says, and one that is too small does not.
    assert scores["ellipsoid90"] == pytest.approx(0.9, abs=0.06)
    assert scores["ellipsoid50"] == pytest.approx(0.5, abs=0.1)
    small, _ = computed(*simulated(0.25)[:2])
    assert small["ellipsoid90"] < 0.4
    assert small["nll"] > scores["nll"]


def test_levels_are_those_of_scipy():
    square = torch.linspace(0.1, 30, 50, dtype=torch.float64)
    assert chi_square_level(square).numpy() == pytest.approx(chi2(6).cdf(square.numpy()), abs=1e-9)


def test_images_without_a_pose_count_nowhere_and_the_order_does_not_matter():
    found, target, _ = simulated(count=30)
    valid = torch.arange(30) % 3 > 0
    scores, metric = computed(found, target.where(valid[:, None], torch.nan), valid)
    kept = valid.nonzero()[:, 0].flip(0)
    parts = {name: getattr(found, name)[kept] for name in ("mean", "aleatoric_variance", "epistemic_variance",
             "aleatoric_correlation", "epistemic_correlation", "novelty")}  # fmt: skip
    other, _ = computed(PosePrediction(**parts), target[kept])
    assert scores == pytest.approx(other, rel=1e-5)
    assert scores["images"] == 20
    assert len(metric.per_image()["position_median"]) == 30
    low, high = metric.intervals()["position_mean"]
    assert low < scores["position_mean"] < high
    assert set(metric.curves()) == {"reliability", "rejection"}


def test_what_is_no_pose_is_refused():
    found, target, _ = simulated(count=3)
    with pytest.raises(ConfigError, match="task pose"):
        PoseScores.for_task(Depth())
    assert isinstance(CameraPose().scores(), PoseScores)
    with pytest.raises(DataError, match="twice"):
        computed(found, target[:, :3])
    with pytest.raises(NotFiniteError, match="mean is NaN"):
        computed(PosePrediction(found.mean * torch.nan, found.variance, 0 * found.variance), target)
