import math

import pytest
import torch

from sfumato.errors import DataError
from sfumato.metrics import TruthScores
from sfumato.predictions import ClassMoments


def scored(probs, truth, valid):
    scores = TruthScores()
    for each in zip(probs, truth, valid):
        p, t, mask = (value[None] for value in each)
        scores.update(ClassMoments.of(p).prediction(), t, mask)
    return {name: float(value) for name, value in scores.compute().items()}


def test_by_hand():
    probs = torch.tensor([[[0.5, 0.25, 0.9]], [[0.5, 0.75, 0.1]]])[None]  # (1, 2, 1, 3)
    truth = torch.tensor([[[0.25, 0.25, 0.5]], [[0.75, 0.75, 0.5]]])[None]
    valid = torch.tensor([[[True, True, False]]])
    found = scored(probs, truth, valid)
    entropy = -0.25 * math.log(0.25) - 0.75 * math.log(0.75)
    assert found["truth_kl"] == pytest.approx((math.log(2) - entropy) / 2)
    assert found["aleatoric_error"] == pytest.approx((math.log(2) - entropy) / 2, rel=1e-5)
    assert found["truth_entropy"] == pytest.approx(entropy)
    assert found["truth_pixels"] == 2


def test_the_correlation_is_that_of_numpy():
    torch.manual_seed(0)
    truth = torch.rand(3, 4, 5, 6).softmax(1)
    probs = (truth.log() + 0.3 * torch.randn_like(truth)).softmax(1)
    found = scored(probs, truth, torch.ones(3, 5, 6) > 0)
    h, a = (-(p * p.log()).sum(1).flatten() for p in (truth, probs))
    expected = torch.corrcoef(torch.stack([a, h]))[0, 1]
    assert found["aleatoric_correlation"] == pytest.approx(float(expected), abs=1e-5)


def test_the_true_distribution_itself_is_perfect_also_where_it_is_sure():
    truth = torch.tensor([1.0, 0.0, 0.5, 0.5]).view(1, 2, 1, 2).transpose(1, 3)
    found = scored(truth, truth, torch.ones(1, 1, 2) > 0)
    assert max(found["truth_kl"], found["aleatoric_error"]) < 1e-6
    assert found["aleatoric_correlation"] == pytest.approx(1)


def test_nothing_is_nan_and_another_size_is_refused():
    prediction = ClassMoments.of(torch.full((1, 2, 1, 1), 0.5)).prediction()
    scores = TruthScores()
    scores.update(prediction, torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1) > 0)
    assert scores.compute()["truth_kl"].isnan()
    with pytest.raises(DataError, match="expected one"):
        scores.update(prediction, torch.zeros(1, 3, 1, 1), torch.zeros(1, 1, 1) > 0)
