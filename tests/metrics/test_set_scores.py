import pytest
import torch

from sfumato.metrics import SetScores
from sfumato.predictions import PredictionInterval, PredictionSet


def test_by_hand():
    members = torch.tensor([[[[1, 1, 0, 1]], [[0, 1, 1, 1]]], [[[1, 1, 1, 1]], [[0, 0, 0, 0]]]]).bool()  # (2, 2, 1, 4)
    target = torch.tensor([[[0, 0, 0, 99]], [[0, 0, 1, 1]]])
    valid = torch.tensor([[[True, True, True, False]], [[True, True, True, True]]])
    scores = SetScores()
    scores.update(PredictionSet(members, 0.9), target, valid)
    found = {k: float(v) for k, v in scores.compute().items()}
    assert found["risk"] == pytest.approx((1 / 3 + 2 / 4) / 2)
    assert found["risk_pooled"] == pytest.approx(3 / 7)
    assert found["set_size"] == pytest.approx((1 + 2 + 1 + 4) / 7)


def test_an_image_without_valid_pixels_does_not_count():
    scores = SetScores()
    region = PredictionInterval(torch.zeros(2, 1, 1, 2), torch.ones(2, 1, 1, 2), 0.9, "m")
    target = torch.tensor([0.5, 2.0, torch.nan, torch.nan]).view(2, 1, 1, 2)
    scores.update(region, target, torch.tensor([[[True, True]], [[False, False]]]))
    found = scores.compute()
    assert float(found["risk"]) == 0.5
    assert float(found["set_size"]) == 1.0


def test_nothing_is_nan():
    scores = SetScores()
    scores.update(PredictionSet(torch.ones(1, 2, 1, 1) > 0, 0.9), torch.zeros(1, 1, 1).long(), torch.zeros(1, 1, 1) > 0)
    assert scores.compute()["risk"].isnan()


def test_wrong_sizes_are_named():
    region = PredictionInterval(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2), 0.9)
    with pytest.raises(ValueError, match="expected"):
        SetScores().update(region, torch.zeros(1, 1, 2, 3), torch.ones(1, 2, 3) > 0)


def test_one_prediction_per_image_is_scored_as_a_map_of_one_pixel():
    lower, target = torch.zeros(4, 2), torch.tensor([[0.5, 0.5], [0.5, 2.0], [-1.0, 0.5], [0.1, torch.nan]])
    valid = torch.tensor([True, True, True, False])
    scores = SetScores()
    scores.update(PredictionInterval(lower, lower + 1, 0.9), target, valid)
    assert float(scores.compute()["risk"]) == pytest.approx(2 / 3)
    assert int(scores.compute()["conformal_pixels"]) == 3
