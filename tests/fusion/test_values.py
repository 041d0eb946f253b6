"""Values of several sensors: closed forms, simulation, and what must be refused."""

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from sfumato.errors import ConfigError, DataError
from sfumato.fusion import between_variance, fuse_values, intersection_weights
from sfumato.predictions import ValuePrediction

ONE = torch.ones(1, 1)


def value(mean, variance, epistemic=0.0, unit="m"):
    return ValuePrediction(mean * ONE, (variance - epistemic) * ONE, epistemic * ONE, unit)


def vectors(seed=0, count=200):
    """Predictions (count, 2) of vectors with correlated values in both parts."""
    rng = torch.Generator().manual_seed(seed)
    mean, within, between = (torch.rand(count, 2, generator=rng) + 0.5 for _ in range(3))
    first, second = (1.6 * torch.rand(count, 1, generator=rng) - 0.8 for _ in range(2))
    return ValuePrediction(
        mean, within, between, "px", aleatoric_correlation=first, epistemic_correlation=second
    )  # fmt: skip


def test_precision_weighting_is_that_of_the_textbook():
    rng = np.random.default_rng(0)
    means, variances = rng.normal(2, 0.01, 5), rng.uniform(0.5, 2, 5)
    found = fuse_values([value(m, v) for m, v in zip(means, variances)], independent=True).prediction
    weights = 1 / variances
    assert found.mean.item() == pytest.approx((weights * means).sum() / weights.sum(), rel=1e-6)
    assert found.aleatoric.item() == pytest.approx(1 / weights.sum(), rel=1e-6)
    assert found.epistemic.item() == 0


def test_precision_weighting_of_vectors_solves_the_least_squares_problem():
    sensors = [vectors(seed) for seed in range(3)]
    found = fuse_values(sensors, independent=True).prediction
    information = [torch.linalg.inv(each.covariance.double()) for each in sensors]
    whole = sum(information)
    mean = torch.linalg.solve(whole, sum(p @ e.mean.double()[..., None] for p, e in zip(information, sensors)))[..., 0]
    assert torch.allclose(found.mean.double(), mean, atol=1e-5)
    extra = found.covariance.double() - torch.linalg.inv(whole)  # what sensors differ by is added to the diagonal
    assert (extra.diagonal(dim1=-2, dim2=-1) > -1e-5).all()
    assert extra[:, 0, 1].abs().max() < 1e-5


@pytest.mark.parametrize("sensor", [vectors(), value(3.0, 2.0, 0.5)], ids=["vectors", "values"])
def test_intersection_of_equal_sensors_is_that_sensor(sensor):
    found = fuse_values([sensor] * 4, independent=False).prediction
    assert torch.allclose(found.mean, sensor.mean, atol=1e-5)
    assert torch.allclose(found.covariance, sensor.covariance, atol=1e-4)
    assert torch.allclose(found.epistemic, sensor.epistemic, atol=1e-4)
    alone = fuse_values([sensor] * 4, independent=True).prediction
    assert torch.allclose(4 * alone.total, sensor.total, atol=1e-4)


def test_intersection_weights_have_the_sum_one_and_follow_the_formula():
    information = torch.stack([torch.linalg.inv(vectors(seed).covariance.double()) for seed in range(4)])
    found = intersection_weights(information)
    whole, det = information.sum(0), torch.linalg.det
    below = 4 * det(whole) + sum(det(p) - det(whole - p) for p in information)
    for weight, p in zip(found, information):
        assert torch.allclose(weight, (det(whole) - det(whole - p) + det(p)) / below)
    assert torch.allclose(found.sum(0), torch.ones(200, dtype=torch.float64))


def test_intersection_is_never_over_confident_where_precision_weighting_is():
    rng = torch.Generator().manual_seed(1)
    shared, own = torch.randn(20_000, 1, generator=rng), torch.randn(5, 20_000, 1, generator=rng)
    errors = 0.9**0.5 * shared + 0.1**0.5 * own  # of variance 1, correlated by 0.9
    sensors = [ValuePrediction(each, torch.ones_like(each), torch.zeros_like(each)) for each in errors]
    dependent, independent = (fuse_values(sensors, independent=i).prediction for i in (False, True))
    share = [(each.mean.square().mean() / each.variance.mean()).item() for each in (dependent, independent)]
    assert 0.8 < share[0] <= 1.02
    assert share[1] > 3


def test_independent_sensors_gain_by_fusion_and_stay_calibrated():
    rng = torch.Generator().manual_seed(2)
    sensors = [torch.randn(20_000, 1, generator=rng) for _ in range(6)]
    zero = torch.zeros_like(sensors[0])
    found = fuse_values([ValuePrediction(each, 1 + zero, zero) for each in sensors], independent=True).prediction
    assert found.mean.square().mean().item() == pytest.approx(1 / 6, rel=0.05)
    assert (found.epistemic == 0).float().mean() > 0.5  # Q is below its mean more often than above
    assert 0.88 < (found.mean.abs() < 1.645 * found.std).float().mean() < 0.97


def test_sensors_that_contradict_each_other_raise_the_epistemic_part_only():
    found = fuse_values([value(1.0, 1.0), value(9.0, 1.0)], independent=True).prediction
    assert found.aleatoric.item() == 0.5
    assert found.epistemic.item() == pytest.approx(8**2 / 2 - 1)  # the variance of the sample minus that of a sensor
    assert found.total.item() == found.aleatoric.item() + found.epistemic.item()


def test_between_variance_needs_two():
    assert between_variance(*map(torch.tensor, (1.0, 4.0, 16.0, 0.0))) == 0
    assert between_variance(*map(torch.tensor, (0.0, 0.0, 0.0, 0.0))) == 0


@pytest.mark.parametrize("independent", [False, True])
def test_the_gate_is_the_chi_square_of_the_innovation(independent):
    others = 3 * [value(0.0, 1.0)]
    variance = 1 + (1 / 3 if independent else 1.0)
    edge = (chi2.ppf(0.999, 1) * variance) ** 0.5
    for step, kept in ((0.99 * edge, True), (1.01 * edge, False)):
        found = fuse_values([*others, value(step, 1.0)], independent=independent, gate=0.999)
        assert found.used[3].all() == kept
        assert found.used[:3].all()
        assert (found.prediction.mean.item() == 0) != kept


def test_two_sensors_that_differ_are_both_kept():
    assert fuse_values([value(0.0, 1.0), value(99.0, 1.0)], independent=True, gate=0.99).used.all()


def test_pixels_without_a_measurement_do_not_count():
    depth = ValuePrediction(torch.tensor([[1.0, torch.nan]])[None], torch.ones(1, 1, 2), torch.zeros(1, 1, 2), "m")
    other = ValuePrediction(torch.tensor([[3.0, 5.0]])[None], torch.ones(1, 1, 2), torch.zeros(1, 1, 2), "m")
    none = torch.zeros(1, 2, dtype=torch.bool)
    valid = torch.tensor([[True, False]])
    found = fuse_values([depth, other], independent=True, valid=[valid, ~none])
    assert found.prediction.mean.flatten().tolist() == [2.0, 5.0]
    nothing = fuse_values([depth, other], independent=False, valid=[none, none])
    assert not nothing.used.any()
    assert nothing.prediction.mean.flatten().tolist() == [0.0, 0.0]
    assert (nothing.prediction.variance == 1e12).all()


@pytest.mark.parametrize(
    ("sensors", "message"),
    [
        ([], "at least one sensor"),
        ([value(1.0, 1.0), value(1.0, 1.0, unit="mm")], "sensor 1 is in 'mm' and sensor 0 in 'm'"),
        ([value(1.0, 1.0), vectors()], r"sensor 1 has the shape \(200, 2\) and sensor 0 \(1, 1\)"),
        ([value(1.0, 1.0), value(1.0, 0.0)], r"sensor 1 has the variance \[0.0\].*above 0"),
        ([value(1.0, float("inf"))], r"sensor 0 has the variance \[inf\].*not valid"),
        ([value(float("nan"), 1.0)], "expected finite values"),
    ],
)
def test_bad_sensors_are_refused(sensors, message):
    with pytest.raises(DataError, match=message):
        fuse_values(sensors, independent=True)


def test_a_bad_gate_and_bad_masks_are_refused():
    with pytest.raises(ConfigError, match="gate is 2"):
        fuse_values([value(1.0, 1.0)], independent=True, gate=2)
    with pytest.raises(DataError, match="masks have the shapes"):
        fuse_values([value(1.0, 1.0)], independent=True, valid=[torch.ones(3, dtype=torch.bool)])
