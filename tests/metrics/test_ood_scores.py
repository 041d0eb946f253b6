"""Scores of novelty detection, pooled over pixels, against scikit-learn."""

from dataclasses import replace

import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from sfumato.metrics import OODScores
from sfumato.predictions import ValuePrediction


def scene(seed=0, images=3):
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
    prediction, novel, valid = scene()
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
    rows = scored(*scene()).per_image()["ood_auroc_total"]
    assert rows.isnan().tolist() == [True, False, False]


def test_curves_run_from_corner_to_corner():
    for roc in scored(*scene()).curves().values():
        assert roc["true_positive_rate"][-1] == 1
        assert roc["false_positive_rate"].diff().min() > 0


def test_bad_input_is_refused():
    prediction, novel, valid = scene()
    with pytest.raises(ValueError, match="expected the same"):
        scored(prediction, novel[:, :-1], valid)
    spoiled = ValuePrediction(prediction.mean, prediction.variance * torch.nan, prediction.variance)
    with pytest.raises(ValueError, match="NaN at a valid pixel"):
        scored(spoiled, novel, valid)


def test_a_novelty_score_is_scored_beside_the_uncertainties():
    prediction, novel, valid = scene()
    assert not any("novelty" in name for name in scored(prediction, novel, valid).compute())
    random = torch.Generator().manual_seed(1)
    score = 100 * (1 + torch.rand(novel.shape, generator=random) + 0.5 * novel)  # in nats, far above an entropy
    scores = scored(replace(prediction, novelty=score), novel, valid)
    found = scores.compute()
    assert found["ood_auroc_novelty"].item() == pytest.approx(roc_auc_score(novel[valid], score[valid]), abs=1e-3)
    ratio = score[valid & novel].mean() / score[valid & ~novel].mean()
    assert found["ood_ratio_novelty"].item() == pytest.approx(ratio.item(), rel=1e-5)
    assert found["ood_auroc_total"] == scored(prediction, novel, valid).compute()["ood_auroc_total"]
    rows = scores.per_image()["ood_auroc_novelty"]
    for row, s, n, v in zip(rows[1:], score[1:], novel[1:], valid[1:]):
        assert row.item() == pytest.approx(roc_auc_score(n[v], s[v]), abs=0.03)  # by coarse histograms
    low, high = scores.intervals()["ood_auroc_novelty"]
    assert low < found["ood_auroc_novelty"] < high
    assert "roc_novelty" in scores.curves()


def test_one_prediction_per_image_is_scored_as_a_map_of_one_pixel():
    random = torch.Generator().manual_seed(2)
    novel, valid = torch.rand(2, 60, generator=random) < torch.tensor([[0.4], [0.9]])
    variance = torch.rand(60, 2, generator=random) + novel[:, None]
    single = ValuePrediction(variance, variance, variance, novelty=variance.sum(1))
    maps = ValuePrediction(*[variance[..., None, None]] * 3, novelty=variance.sum(1)[:, None, None])
    found = scored(single, novel, valid).compute()
    expected = scored(maps, novel[:, None, None], valid[:, None, None]).compute()
    assert all(found[name] == expected[name] for name in expected)
