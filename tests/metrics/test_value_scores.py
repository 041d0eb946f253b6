"""Value scores against NumPy, SciPy's distributions and hand cases, and what must not change them."""

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from sfumato.metrics import ValueScores, values
from sfumato.predictions import ValuePrediction


def scene(seed=0, images=3, dims=1, size=(20, 16)):
    """Positive targets, predictions whose σ is right, and a mask with holes."""
    random = torch.Generator().manual_seed(seed)
    shape = (images, dims, *size)
    mean = 2 + 3 * torch.rand(shape, generator=random)
    spread = 0.05 + 0.3 * torch.rand(shape, generator=random)
    target = mean + spread * torch.randn(shape, generator=random)
    variance = spread**2
    return ValuePrediction(mean, variance * 0.7, variance * 0.3, "m"), target, mean[:, 0] < 4.5


def scored(*updates):
    scores = ValueScores("m")
    for update in updates:
        scores.update(*update)
    return scores


def part(prediction, images):
    return ValuePrediction(
        prediction.mean[images], prediction.aleatoric_variance[images], prediction.epistemic_variance[images]
    )


def same(first, second, tolerance=1e-12):
    assert list(first) == list(second)
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=tolerance, atol=tolerance, equal_nan=True, msg=name)


def test_scores_are_their_formulas():
    prediction, target, valid = scene()
    found = scored((prediction, target, valid)).compute()
    p, t, s = (x[:, 0][valid].double().numpy() for x in (prediction.mean, target, prediction.std))
    ratio = np.maximum(p / t, t / p)
    normal = stats.norm(p, s)
    expected = {
        "rmse": np.sqrt(((p - t) ** 2).mean()),
        "epe": np.abs(p - t).mean(),
        "abs_rel": (np.abs(p - t) / t).mean(),
        "sq_rel": ((p - t) ** 2 / t).mean(),
        "rmse_log": np.sqrt((np.log(p / t) ** 2).mean()),
        "log10": np.abs(np.log10(p / t)).mean(),
        "delta1": (ratio < 1.25).mean(),
        "delta2": (ratio < 1.25**2).mean(),
        "delta3": (ratio < 1.25**3).mean(),
        "nll": -normal.logpdf(t).mean(),
        "coverage90": ((normal.cdf(t) > 0.05) & (normal.cdf(t) < 0.95)).mean(),
        "width90": (normal.ppf(0.95) - normal.ppf(0.05)).mean(),
        "pixels": valid.sum(),
    }
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(float(value), rel=1e-5), name


@pytest.mark.parametrize(("mean", "spread", "target"), [(0.0, 1.0, 0.3), (2.0, 0.5, 4.0), (-1.0, 3.0, -9.0)])
def test_crps_is_the_integral_that_defines_it(mean, spread, target):
    def squared(x):
        return (stats.norm(mean, spread).cdf(x) - (x >= target)) ** 2

    expected = (
        integrate.quad(squared, mean - 40 * spread, target)[0] + integrate.quad(squared, target, mean + 40 * spread)[0]
    )
    found = values.gaussian_crps(*(torch.tensor(x, dtype=torch.float64) for x in (mean, spread**2, target)))
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_a_prediction_without_spread_has_its_error_as_crps():
    one = torch.ones(1, dtype=torch.float64)
    assert values.gaussian_crps(one, 0 * one, 3 * one).item() == pytest.approx(2)


@pytest.mark.parametrize("score", [values.gaussian_nll, values.gaussian_crps])
def test_the_true_distribution_wins_a_proper_score(score):
    target = torch.randn(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    truth = score(torch.zeros(1), torch.ones(1), target).mean()
    for mean, variance in ((0.1, 1.0), (-0.1, 1.0), (0.0, 1.2), (0.0, 0.8)):
        assert score(torch.tensor(mean), torch.tensor(variance), target).mean() > truth


def test_two_pixels_by_hand():
    mean, target = torch.tensor([1.0, 2.0]).view(1, 1, 1, 2), torch.tensor([1.0, 4.0]).view(1, 1, 2)
    variance = torch.tensor([0.01, 1.0]).view(1, 1, 1, 2)
    found = scored((ValuePrediction(mean, variance, 0 * variance), target, target > 0)).compute()
    assert found["rmse"].item() == pytest.approx(2**0.5)
    assert found["abs_rel"].item() == pytest.approx(0.25)
    assert found["log10"].item() == pytest.approx(np.log10(2) / 2)
    assert found["delta1"].item() == 0.5
    assert found["delta3"].item() == 0.5
    assert found["coverage90"].item() == 0.5
    assert found["ause"].abs() < 1e-9  # the σ ranks the two errors as they are


def test_errors_of_vectors_are_their_lengths():
    mean = torch.zeros(1, 2, 1, 1)
    target = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)
    found = scored((ValuePrediction(mean, mean + 1, mean), target, torch.ones(1, 1, 1).bool())).compute()
    assert found["epe"] == 5
    assert found["rmse"] == 5
    assert found["log10"].isnan()  # no logarithm of a prediction that is not above 0
    assert found["delta1"] == 0


def test_batch_size_and_order_change_nothing():
    prediction, target, valid = scene(1, images=4)
    order = [2, 0, 3, 1]
    together = scored((prediction, target, valid))
    apart = scored(*((part(prediction, [i]), target[[i]], valid[[i]]) for i in order))
    same(together.compute(), apart.compute())
    same({k: v[order] for k, v in together.per_image().items()}, apart.per_image(), 0)
    assert together.intervals()["rmse"] == pytest.approx(apart.intervals()["rmse"])


def test_what_lies_in_the_void_changes_nothing():
    prediction, target, valid = scene(2)
    void = ~valid[:, None]
    spoiled = ValuePrediction(
        prediction.mean.masked_fill(void, torch.nan), prediction.aleatoric_variance.masked_fill(void, -1.0),
        prediction.epistemic_variance,
    )  # fmt: skip
    same(
        scored((prediction, target, valid)).compute(),
        scored((spoiled, target.masked_fill(void, torch.inf), valid)).compute(),
        0,
    )


def test_a_right_distribution_is_calibrated_at_every_level():
    scores = scored(scene(3, size=(100, 100)))
    reliability = scores.curves()["reliability"]
    assert (reliability["observed"] - reliability["nominal"]).abs().max() < 0.01
    found = scores.compute()
    assert found["coverage90"].item() == pytest.approx(0.9, abs=0.01)
    assert found["quantile_calibration"] < 0.01
    assert found["ence"] < 0.05


def test_twice_too_small_a_spread_is_seen():
    prediction, target, valid = scene(4, size=(100, 100))
    small = ValuePrediction(prediction.mean, prediction.variance / 4, 0 * prediction.variance)
    found = scored((small, target, valid)).compute()
    assert found["ence"].item() == pytest.approx(1, abs=0.1)  # RMSE is twice the σ in every bin
    assert found["coverage90"].item() == pytest.approx(2 * stats.norm.cdf(1.645 / 2) - 1, abs=0.02)
    assert found["quantile_calibration"] > 0.05


def test_the_error_itself_is_the_best_uncertainty_and_a_constant_is_no_better_than_chance():
    prediction, target, valid = scene(5)
    square = (prediction.mean - target).square() + 1e-12
    best = scored((ValuePrediction(prediction.mean, square, 0 * square), target, valid)).compute()
    assert best["ause"].item() == pytest.approx(0, abs=1e-6)
    assert best["ause_pooled"].item() == pytest.approx(0, abs=1e-6)
    assert best["aurg"] > 0
    flat = scored((ValuePrediction(prediction.mean, 0 * square + 1, 0 * square), target, valid)).compute()
    assert flat["aurg_pooled"].item() == pytest.approx(0, abs=1e-6)


def test_rejecting_everything_but_nothing_is_the_pooled_rmse():
    scores = scored(scene(6))
    rejection = scores.curves()["rejection"]
    assert rejection["rmse"][-1].item() == pytest.approx(scores.compute()["rmse"].item())
    assert (rejection["oracle"] <= rejection["rmse"] + 1e-9).all()


def test_nothing_valid_is_unknown_and_says_so():
    prediction, target, valid = scene(7)
    found = scored((prediction, target, valid & False)).compute()
    assert found.pop("pixels") == 0
    assert all(value.isnan() for value in found.values())


def test_intervals_hold_the_score():
    scores = scored(scene(8, images=20))
    found = scores.compute()
    for name, (low, high) in scores.intervals().items():
        assert low - 1e-9 <= found[name] <= high + 1e-9, name


def with_nan(tensor):
    return tensor.index_fill(-1, torch.tensor([0]), torch.nan)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p, t, v: (p, with_nan(t), v | True), "target is NaN or infinite"),
        (lambda p, t, v: (ValuePrediction(with_nan(p.mean), p.variance, p.variance), t, v | True), "mean is NaN"),
        (lambda p, t, v: (ValuePrediction(p.mean, -p.variance, 0 * p.variance), t, v), "expected at least 0"),
        (lambda p, t, v: (p, t[..., :-1], v), r"expected twice \(B, D, H, W\)"),
        (lambda p, t, v: (p, t, v[:1]), "the size of the target"),
        (lambda p, t, v: (p, t.repeat(1, 2, 1, 1), v), r"expected twice \(B, D, H, W\)"),
    ],
)
def test_bad_input_is_refused(spoil, message):
    with pytest.raises(ValueError, match=message):
        scored(spoil(*scene(9)))


def test_one_value_per_image_is_scored_as_a_map_of_one_pixel():
    prediction, target, valid = scene(10, images=30, dims=3, size=(1, 1))
    parts = (prediction.mean, prediction.aleatoric_variance, prediction.epistemic_variance)
    single = ValuePrediction(*(x[..., 0, 0] for x in parts), "m")
    found, values = scored((prediction, target, valid)), scored((single, target[..., 0, 0], valid[:, 0, 0]))
    same(found.compute(), values.compute(), 0)
    same(found.per_image(), values.per_image(), 0)
