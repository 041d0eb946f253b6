"""Scores of vectors against direct computations and simulated errors."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.metrics import roc_auc_score

from sfumato import registry
from sfumato.errors import ConfigError, DataError, NotFiniteError
from sfumato.metrics import VectorScores
from sfumato.metrics.vector_scores import radius
from sfumato.predictions import ValuePrediction
from sfumato.tasks import Depth, Flow

SIZE = (2, 2, 40, 50)


def simulated(seed=0, correlation=0.8, scale=1.0):
    """Predictions with a correlation, and targets that are drawn from them; ``scale`` multiplies what is predicted."""
    generator = torch.Generator().manual_seed(seed)
    mean = 5 * torch.randn(SIZE, generator=generator)
    std = (torch.randn(SIZE, generator=generator) * 0.8).exp()
    share = torch.rand(SIZE, generator=generator)
    normal = torch.randn(SIZE, generator=generator)
    second = correlation * normal[:, 0] + (1 - correlation**2) ** 0.5 * normal[:, 1]
    target = mean + std * torch.stack([normal[:, 0], second], 1)
    variance = (scale * std).square()
    both = torch.full((2, 1, 40, 50), correlation)
    # The two parts have the same correlation and different shares for each axis, so their sum has another one.
    share = share[:, :1].expand(SIZE)
    found = ValuePrediction(mean, share * variance, (1 - share) * variance, "px", 5, aleatoric_correlation=both,
                            epistemic_correlation=both)  # fmt: skip
    return found, target


def scored(found, target, valid=None):
    scores = VectorScores()
    scores.update(found, target, torch.ones(target.shape[0], *target.shape[2:], dtype=torch.bool)
                  if valid is None else valid)  # fmt: skip
    return {name: float(value) for name, value in scores.compute().items()}


def test_against_direct_computations():
    found, target = simulated()
    valid = torch.rand(2, 40, 50, generator=torch.Generator().manual_seed(1)) < 0.8
    scores = scored(found, target.where(valid[:, None], torch.nan), valid)
    away = (found.mean - target).movedim(1, -1)[valid].double().numpy()
    covariance = found.covariance.permute(0, 3, 4, 1, 2)[valid].double().numpy()
    length = np.linalg.norm(target.movedim(1, -1)[valid].numpy(), axis=1)
    error = np.linalg.norm(away, axis=1)
    density = [multivariate_normal([0, 0], each).logpdf(a) for a, each in zip(away, covariance)]
    assert scores["nll2d"] == pytest.approx(-np.mean(density), rel=1e-5)
    assert scores["fl_all"] == pytest.approx(((error > 3) & (error > 0.05 * length)).mean())
    square = np.einsum("ni,nij,nj->n", away, np.linalg.inv(covariance), away)
    assert scores["ellipse90"] == pytest.approx((square < radius(0.9) ** 2).mean(), abs=1e-9)
    spread = np.sqrt(np.trace(covariance, axis1=1, axis2=2))
    assert scores["far_auroc"] == pytest.approx(roc_auc_score(error > 3, spread), abs=1e-3)
    ordered = error[spread.argsort()]
    kept = len(ordered) * 0.8
    assert scores["epe_at_80"] == pytest.approx(ordered[: round(kept)].mean(), rel=0.01)
    curve = ordered.cumsum() / np.arange(1, len(ordered) + 1)
    oracle = np.sort(error).cumsum() / np.arange(1, len(ordered) + 1)
    assert scores["epe_area"] == pytest.approx(curve.mean(), rel=0.01)
    assert scores["ause_epe"] == pytest.approx((curve - oracle).mean() / error.mean(), rel=0.02)
    area = np.pi * radius(0.9) ** 2 * np.sqrt(np.linalg.det(covariance))
    assert scores["ellipse_area90"] == pytest.approx(area.mean(), rel=1e-4)


def test_ellipses_of_the_true_distribution_hold_their_share():
    scores = scored(*simulated())
    assert scores["ellipse90"] == pytest.approx(0.9, abs=0.012)
    assert scores["ellipse50"] == pytest.approx(0.5, abs=0.02)
    narrow, wide = (scored(*simulated(scale=scale)) for scale in (0.5, 2.0))
    assert narrow["ellipse90"] < 0.75
    assert wide["ellipse90"] > 0.97
    assert scores["nll2d"] < min(narrow["nll2d"], wide["nll2d"])


def test_a_correlation_that_is_left_out_costs_density():
    found, target = simulated()
    bare = ValuePrediction(found.mean, found.aleatoric_variance, found.epistemic_variance, "px", 5)
    assert scored(found, target)["nll2d"] < scored(bare, target)["nll2d"] - 0.3


def test_a_worse_network_can_have_a_better_relative_score():
    """Why absolute scores stand beside AUSE and AUROC: large errors that are known to be large are easy to rank."""
    found, target = simulated(scale=1.0)
    generator = torch.Generator().manual_seed(3)
    blunder = torch.rand(2, 1, 40, 50, generator=generator) < 0.3
    mean = found.mean + 40 * blunder * torch.rand(SIZE, generator=generator)
    worse = ValuePrediction(mean, found.aleatoric_variance + 400 * blunder, found.epistemic_variance, "px", 5)
    good, bad = scored(found, target), scored(worse, target)
    assert bad["far_auroc"] > good["far_auroc"]
    assert bad["epe_area"] > good["epe_area"]


def test_statistics_of_parts_add_up():
    found, target = simulated()
    parts, valid = VectorScores(), torch.ones(1, 40, 50, dtype=torch.bool)
    for n in range(2):
        one = ValuePrediction(*(getattr(found, name)[n : n + 1] for name in
                                ("mean", "aleatoric_variance", "epistemic_variance")), "px", 5,
                              aleatoric_correlation=found.aleatoric_correlation[n : n + 1],
                              epistemic_correlation=found.epistemic_correlation[n : n + 1])  # fmt: skip
        parts.update(one, target[n : n + 1], valid)
    whole = scored(found, target)
    assert {name: float(value) for name, value in parts.compute().items()} == pytest.approx(whole)
    assert len(parts.per_image()["fl_all"]) == 2
    curves = parts.curves()
    assert curves["reliability"]["observed"][-1] == 1
    assert (curves["rejection"]["oracle"] <= curves["rejection"]["epe"] + 1e-9).all()


def test_a_prediction_without_width_is_finite():
    zero = torch.zeros(1, 2, 3, 3)
    scores = scored(ValuePrediction(zero, zero, zero), zero + 1)
    assert np.isfinite(list(scores.values())[:2]).all()
    assert scores["ellipse90"] == 0


def test_what_cannot_be_scored_is_refused():
    found, target = simulated()
    scores, valid = VectorScores(), torch.ones(2, 40, 50, dtype=torch.bool)
    with pytest.raises(DataError, match="expected twice"):
        scores.update(found, target[:, :1], valid)
    with pytest.raises(DataError, match="target is NaN"):
        scores.update(found, target * torch.nan, valid)
    with pytest.raises(NotFiniteError, match="mean is NaN"):
        scores.update(ValuePrediction(found.mean * torch.nan, found.variance, found.variance), target, valid)
    with pytest.raises(ConfigError, match="vectors of 2 values"):
        VectorScores.for_task(Depth())
    with pytest.raises(ConfigError, match="expected a coverage"):
        radius(1.0)
    assert isinstance(registry.load("scores", "vectors").for_task(Flow()), VectorScores)
