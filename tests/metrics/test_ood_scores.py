"""Novelty scores are pooled over pixels, as scikit-learn has them."""

import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from sfumato.metrics import OODScores
from sfumato.predictions import ValuePrediction


def world(seed=0, images=3):
    random = torch.Generator().manual_seed(seed)
    novel = torch.rand(images, 30, 30, generator=random) < torch.tensor([0.0, 0.1, 0.4]).view(-1, 1, 1)
    noise = torch.rand(2, images, 1, 30, 30, generator=random)
    epistemic = noise[0] * (1 + novel[:, None])
    return ValuePrediction(0 * epistemic, noise[1], epistemic), novel, torch.rand(novel.shape, generator=random) < 0.9


def scored(*update):
    scores = OODScores()
    scores.update(*update)
    return scores


def test_scores_are_those_of_all_pixels_together():
    prediction, novel, valid = world()
    found = scored(prediction, novel, valid).compute()
    for kind in ("total", "aleatoric", "epistemic"):
        uncertainty = getattr(prediction, kind)[valid]
        assert found[f"ood_auroc_{kind}"].item() == pytest.approx(roc_auc_score(novel[valid], uncertainty), abs=1e-4)
        assert found[f"ood_aupr_{kind}"].item() == pytest.approx(
            average_precision_score(novel[valid], uncertainty), abs=2e-3
        )
        ratio = uncertainty[novel[valid]].mean() / uncertainty[~novel[valid]].mean()
        assert found[f"ood_ratio_{kind}"].item() == pytest.approx(ratio.item(), rel=1e-5)
    assert found["novel_pixels"] == (novel & valid).sum()
    assert found["ood_auroc_epistemic"] > 0.7
    assert found["ood_auroc_aleatoric"].item() == pytest.approx(0.5, abs=0.05)


def test_an_image_without_novelty_has_no_score_of_its_own():
    rows = scored(*world()).per_image()["ood_auroc_total"]
    assert rows.isnan().tolist() == [True, False, False]


def test_curves_run_from_corner_to_corner():
    for roc in scored(*world()).curves().values():
        assert roc["true_positive_rate"][-1] == 1
        assert roc["false_positive_rate"].diff().min() > 0


def test_bad_input_is_refused():
    prediction, novel, valid = world()
    with pytest.raises(ValueError, match="expected the same"):
        scored(prediction, novel[:, :-1], valid)
    spoiled = ValuePrediction(prediction.mean, prediction.variance * torch.nan, prediction.variance)
    with pytest.raises(ValueError, match="NaN at a valid pixel"):
        scored(spoiled, novel, valid)
