"""Distributions of classes of several sensors."""

import math

import pytest
import torch

from sfumato.errors import DataError
from sfumato.fusion import fuse_classes
from sfumato.predictions import ClassPrediction, entropy


def classes(probs, epistemic=0.0):
    return ClassPrediction(probs, entropy(probs) - epistemic)


def random_classes(seed, count=50):
    return classes((4 * torch.rand(count, 4, generator=torch.Generator().manual_seed(seed))).softmax(1))


def test_the_pool_of_equal_sensors_is_that_sensor():
    probs = torch.tensor([[0.7, 0.2, 0.1]])
    one = classes(probs, epistemic=0.1)
    found = fuse_classes(7 * [one], independent=False).prediction
    assert torch.allclose(found.probs, probs)
    assert found.epistemic.item() == pytest.approx(0.1, abs=1e-5)


def test_the_pool_and_the_product_are_geometric():
    sensors = [random_classes(seed) for seed in range(3)]
    product = torch.stack([each.probs for each in sensors]).prod(0)
    for independent, power in ((False, 1 / 3), (True, 1)):
        found = fuse_classes(sensors, independent=independent).prediction
        expected = product**power
        assert torch.allclose(found.probs, expected / expected.sum(1, keepdim=True), atol=1e-5)


def test_disagreement_is_the_mean_divergence_of_the_pool_from_the_sensors():
    sensors = [random_classes(seed) for seed in range(3)]
    found = fuse_classes(sensors, independent=False).prediction
    q = found.probs
    divergence = torch.stack([(q * (q / each.probs).log()).sum(1) for each in sensors]).mean(0)
    assert torch.allclose(found.epistemic, torch.minimum(divergence, found.total), atol=1e-4)
    assert torch.allclose(found.aleatoric + found.epistemic, found.total, atol=1e-5)


def test_the_product_of_correlated_distributions_is_over_confident_and_the_pool_is_not():
    """30 frames of one wall: what makes one of them wrong makes all of them wrong."""
    rng = torch.Generator().manual_seed(0)
    truth = torch.randint(2, (20_000,), generator=rng)
    evidence = (2.0 * truth - 1) * 0.5 + torch.randn(20_000, generator=rng)  # N(±0.5, 1): log odds are the evidence
    frames = []
    for _ in range(30):
        odds = evidence + 0.05 * torch.randn(20_000, generator=rng)
        frames.append(classes(torch.stack([-odds / 2, odds / 2], 1).softmax(1)))
    gaps, losses = {}, {}
    for independent in (False, True):
        found = fuse_classes(frames, independent=independent).prediction
        gaps[independent] = (found.confidence.mean() - (found.label == truth).float().mean()).item()
        losses[independent] = -found.probs.gather(1, truth[:, None]).clamp_min(1e-30).log().mean().item()
    assert abs(gaps[False]) < 0.01
    assert gaps[True] > 0.25
    assert losses[False] < 0.65 < 2 < losses[True]


def test_a_contradiction_is_epistemic():
    sure, other = classes(torch.tensor([[0.98, 0.02]])), classes(torch.tensor([[0.02, 0.98]]))
    found = fuse_classes([sure, other], independent=False).prediction
    assert found.total.item() == pytest.approx(math.log(2), rel=1e-4)
    assert found.epistemic.item() == pytest.approx(math.log(2), rel=1e-4)


def test_what_no_sensor_sees_is_uniform_and_zeros_stay_finite():
    one = classes(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    valid = torch.tensor([True, False])
    found = fuse_classes([one, one], independent=True, valid=[valid, valid])
    assert found.used.all(0).tolist() == [True, False]
    assert found.prediction.probs[1].tolist() == [0.5, 0.5]
    assert found.prediction.probs.isfinite().all()
    assert found.prediction.total.isfinite().all()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (classes(torch.full((1, 3), 1 / 3)), r"the shape \(1, 3\) and sensor 0 \(1, 2\)"),
        (ClassPrediction(torch.tensor([[torch.nan, 1.0]]), torch.zeros(1)), "NaN or negative"),
    ],
)
def test_bad_sensors_are_refused(other, message):
    with pytest.raises(DataError, match=message):
        fuse_classes([classes(torch.full((1, 2), 0.5)), other], independent=False)
