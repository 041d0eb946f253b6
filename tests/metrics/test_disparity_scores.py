"""Scores of disparities against direct computations."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from sfumato import registry
from sfumato.errors import ConfigError, DataError, NotFiniteError
from sfumato.metrics import DisparityScores
from sfumato.predictions import ValuePrediction
from sfumato.tasks import Depth, Disparity

SIZE = (2, 1, 40, 50)


def simulated(seed=0):
    """Disparities with normal errors of known standard deviations."""
    generator = torch.Generator().manual_seed(seed)
    target = 60 * torch.rand(SIZE, generator=generator)
    std = torch.randn(SIZE, generator=generator).exp()
    mean = target + std * torch.randn(SIZE, generator=generator)
    return ValuePrediction(mean, 0.5 * std**2, 0.5 * std**2, "px", 5), target


def scored(found, target, valid=None):
    scores = DisparityScores()
    everywhere = torch.ones(found.mean.shape[0], *found.mean.shape[2:], dtype=torch.bool)
    scores.update(found, target, everywhere if valid is None else valid)
    return {name: float(value) for name, value in scores.compute().items()}


def test_against_direct_computations():
    found, target = simulated()
    valid = torch.rand(2, 40, 50, generator=torch.Generator().manual_seed(1)) < 0.8
    scores = scored(found, target.where(valid[:, None], torch.nan), valid)
    error, spread, true = (x[:, 0][valid].double().numpy() for x in ((found.mean - target).abs(), found.std, target))
    for limit in (1, 2, 3):
        assert scores[f"bad{limit}"] == pytest.approx((error > limit).mean())
    assert scores["d1"] == pytest.approx(((error > 3) & (error > 0.05 * true)).mean())
    assert scores["bad1_auroc"] == pytest.approx(roc_auc_score(error > 1, spread), abs=2e-3)
    ordered = error[spread.argsort()]
    assert scores["epe_at_80"] == pytest.approx(ordered[: round(0.8 * len(ordered))].mean(), rel=0.02)
    areas = [(each.cumsum() / np.arange(1, len(each) + 1)).mean() for each in (ordered, np.sort(error))]
    assert scores["epe_area"] == pytest.approx(areas[0], rel=0.02)
    assert scores["ause_epe"] == pytest.approx((areas[0] - areas[1]) / error.mean(), rel=0.03)


def test_the_area_of_bad_pixels_of_the_best_ranking_is_known():
    """With a rate e of bad pixels it is e + (1 − e) log(1 − e), so nothing is left of ``bad1_ause``."""
    found, target = simulated()
    error = (found.mean - target).abs()
    best = ValuePrediction(found.mean, error**2, 0 * error, "px")
    assert scored(best, target)["bad1_ause"] == pytest.approx(0.0, abs=1e-3)
    assert scored(best, target)["bad1_auroc"] == pytest.approx(1.0, abs=1e-3)
    worst = ValuePrediction(found.mean, (error + 0.1) ** -2, 0 * error, "px")
    assert scored(worst, target)["bad1_ause"] > 0.1
    assert scored(worst, target)["bad1_auroc"] == pytest.approx(0.0, abs=1e-3)


def test_a_saturated_uncertainty_is_seen():
    """As in the published statistics of SEDNet, where at least 90 % of the pixels have the value of a floor."""
    found, target = simulated()
    assert scored(found, target)["shared"] < 0.05
    floored = ValuePrediction(found.mean, found.variance.clamp_min(6.0), 0 * found.mean, "px")
    share = float((found.variance <= 6.0).double().mean())
    assert scored(floored, target)["shared"] == pytest.approx(share, abs=0.02)
    assert share > 0.7


def test_batches_add_up():
    found, target = simulated()
    whole, parts = DisparityScores(), DisparityScores()
    valid = torch.ones(2, 40, 50, dtype=torch.bool)
    whole.update(found, target, valid)
    for image in (0, 1):
        one = ValuePrediction(*(x[image : image + 1] for x in (found.mean, found.aleatoric_variance,
                                                              found.epistemic_variance)), "px")  # fmt: skip
        parts.update(one, target[image : image + 1], valid[:1])
    assert {k: float(v) for k, v in parts.compute().items()} == pytest.approx(
        {k: float(v) for k, v in whole.compute().items()}
    )


def test_bad_input():
    found, target = simulated()
    valid = torch.ones(2, 40, 50, dtype=torch.bool)
    assert isinstance(registry.load("scores", "disparity").for_task(Disparity()), DisparityScores)
    with pytest.raises(ConfigError, match="for disparities, not for depth"):
        DisparityScores.for_task(Depth())
    with pytest.raises(DataError, match="expected twice"):
        DisparityScores().update(found, target[..., 1:], valid)
    with pytest.raises(NotFiniteError):
        DisparityScores().update(ValuePrediction(found.mean * torch.nan, *(2 * [found.mean.abs()])), target, valid)
