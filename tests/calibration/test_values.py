"""Calibration of values against distributions whose quantiles are known."""

import pytest
import torch
from scipy.stats import laplace, norm

from sfumato.calibration import QuantileMap, VarianceScaling
from sfumato.errors import DataError
from sfumato.predictions import ValuePrediction

SIZE = (60, 80)


def scene(noise, images=5, seed=0, dims=1):
    """Targets μ + σ z with z as ``noise`` gives it; a fifth of the pixels void and full of wrong values."""
    torch.manual_seed(seed)
    held = []
    for _ in range(images):
        mean, std = 5 + torch.rand(1, dims, *SIZE), 0.1 + torch.rand(1, dims, *SIZE)
        valid = torch.rand(1, *SIZE) > 0.2
        target = (mean + std * noise(mean.shape)).where(valid[:, None], torch.nan)
        held.append((ValuePrediction(mean, 0.7 * std**2, 0.3 * std**2, "m", 4), target, valid))
    return held


def covered(calibrator, held, level):
    low_high = [(calibrator(p).interval(level), t, v) for p, t, v in held]
    return torch.cat([((t >= a) & (t <= b))[:, 0][v] for (a, b), t, v in low_high]).float().mean().item()


def test_the_factor_is_the_mean_squared_error():
    assert VarianceScaling.fit(scene(lambda s: 3 * torch.randn(s))).factor.item() == pytest.approx(9, rel=0.03)


def test_scaled_intervals_cover():
    fitted = VarianceScaling.fit(scene(lambda s: 0.5 * torch.randn(s)))
    assert covered(fitted, scene(lambda s: 0.5 * torch.randn(s), seed=1), 0.9) == pytest.approx(0.9, abs=0.01)


def test_quantiles_are_those_of_the_distribution():
    fitted = QuantileMap.fit(scene(lambda s: torch.distributions.Laplace(0.3, 1.2).sample(s), 20))
    assert fitted.mean.item() == pytest.approx(0.3, abs=0.03)
    assert fitted.variance.item() == pytest.approx(2 * 1.2**2, rel=0.05)
    levels = torch.arange(1, 200) / 200
    true = torch.from_numpy(laplace.ppf(levels, 0.3, 1.2)).float()
    assert torch.allclose(fitted.quantiles[9:-9], true[9:-9], atol=0.1)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
def test_the_shape_is_followed_where_the_normal_one_fails(level):
    def skewed(s):
        return torch.empty(s).exponential_() * 2 - 0.5

    fitted, other = QuantileMap.fit(scene(skewed)), scene(skewed, seed=1)
    assert covered(fitted, other, level) == pytest.approx(level, abs=0.015)
    assert abs(covered(lambda p: p, other, level) - level) > 0.03


def test_a_normal_distribution_stays():
    fitted = QuantileMap.fit(scene(torch.randn, 10))
    p = scene(torch.randn, 1)[0][0]
    q = fitted(p)
    assert torch.allclose(q.mean, p.mean, atol=0.03)
    assert torch.allclose(q.variance, p.variance, rtol=0.03)
    half = (q.interval(0.9)[1] - q.mean) / q.std
    assert half.mean().item() == pytest.approx(norm.ppf(0.95), abs=0.03)


@pytest.mark.parametrize("kind", [VarianceScaling, QuantileMap])
class TestEach:
    def test_parts_keep_their_shares(self, kind):
        held = scene(lambda s: 2 * torch.randn(s), 2)
        after = kind.fit(held)(held[0][0])
        assert torch.allclose(after.aleatoric / after.total, torch.tensor(0.7))
        assert (after.unit, after.draws) == ("m", 4)

    def test_what_is_void_changes_nothing(self, kind):
        held = scene(torch.randn, 2)
        other = [(p, t.where(v[:, None], -1e9), v) for p, t, v in held]
        for a, b in zip(vars(kind.fit(held)).values(), vars(kind.fit(other)).values()):
            assert not isinstance(a, torch.Tensor) or torch.equal(a, b)

    def test_is_kept_in_a_file(self, kind, tmp_path):
        held = scene(torch.randn, 1, dims=2)
        fitted = kind.fit(held)
        fitted.save(tmp_path / "it")
        again = kind.load(tmp_path / "it")(held[0][0])
        assert torch.equal(again.variance, fitted(held[0][0]).variance)
        again.save(tmp_path / "prediction")  # with its quantiles, if it has any
        loaded = ValuePrediction.load(tmp_path / "prediction")
        assert torch.equal(loaded.interval(0.8)[0], again.interval(0.8)[0])

    def test_refuses_what_it_cannot_learn_from(self, kind):
        (p, t, v), *_ = scene(torch.randn, 1)
        for held, message in (
            ([], "none of the 0"),
            ([(p, t, v & False)], "none of the 1"),
            ([(p, t[:, :, 1:], v)], "expected"),
            ([(p, t * torch.nan, v)], "NaN"),
        ):
            with pytest.raises(ValueError, match=message):
                kind.fit(held)

    def test_values_without_spread_are_left_out(self, kind):
        held = scene(torch.randn, 2)
        spoiled = []
        for p, t, v in held:
            zero = torch.rand(p.mean.shape, generator=torch.Generator().manual_seed(1)) < 0.1
            a, e = (x.where(~zero, 1e-16) for x in (p.aleatoric_variance, p.epistemic_variance))
            a = a.masked_fill(zero & (p.mean > 5.5), 0)
            spoiled.append((ValuePrediction(p.mean, a, e.where(a > 0, 0), "m", 4), t, v, zero))
        found = kind.fit([row[:3] for row in spoiled])
        expected = kind.fit([(p, t, v & ~zero[:, 0]) for (p, t, v), (*_, zero) in zip(held, spoiled)])
        for a, b in zip(vars(found).values(), vars(expected).values()):
            assert not isinstance(a, torch.Tensor) or torch.equal(a, b)
        with pytest.raises(DataError, match="standard deviation is 0 at every valid pixel"):
            kind.fit([(ValuePrediction(p.mean, 0 * p.mean, 0 * p.mean), t, v) for p, t, v in held])

    def test_one_value_per_image_has_the_numbers_of_a_map_of_one_pixel(self, kind):
        (p, t, v), *_ = scene(torch.randn, 1, dims=3)
        rows = [x.movedim(1, -1)[v] for x in (p.mean, p.aleatoric_variance, p.epistemic_variance, t)]
        single, target = ValuePrediction(*rows[:3], "m", 4), rows[3]
        maps = ValuePrediction(*(x[..., None, None] for x in rows[:3]), "m", 4)
        valid = torch.ones(len(target)) > 0
        found = kind.fit([(single, target, valid)])
        expected = kind.fit([(maps, target[..., None, None], valid[:, None, None])])
        assert torch.equal(found(single).mean, expected(maps).mean[..., 0, 0])
        assert torch.equal(found(single).variance, expected(maps).variance[..., 0, 0])

    def test_one_channel_may_be_left_out(self, kind):
        held = scene(torch.randn, 1)
        a, b = kind.fit(held), kind.fit([(p, t[:, 0], v) for p, t, v in held])
        for one, other in zip(vars(a).values(), vars(b).values()):
            assert not isinstance(one, torch.Tensor) or torch.equal(one, other)
