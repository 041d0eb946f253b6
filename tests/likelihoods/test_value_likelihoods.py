"""Gaussian and Laplace under each link: densities, moments and masks against scipy and closed forms."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sfumato.calibration import QuantileMap, VarianceScaling
from sfumato.likelihoods import L1, Gaussian, Laplace, NormalInverseGamma
from sfumato.predictions import ValueMoments
from sfumato.testing import check_likelihood

LAWS = {Gaussian: stats.norm, Laplace: stats.laplace}
RANGE = {"lower": 0.1, "upper": 100.0}
each_law = pytest.mark.parametrize("law", [Gaussian, Laplace])
each_link = pytest.mark.parametrize("link", ["identity", "log", "inverse"])


def of(law, link, **more):
    return law(link=link, **more) if link == "identity" else law(link=link, **RANGE, **more)


def pixel(*values):
    return torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1)


def density(likelihood, output, values):
    values = torch.as_tensor(values)
    there = output.expand(-1, -1, len(values), 1)
    nll = likelihood.nll(there, values.view(1, 1, -1, 1), torch.ones(1, len(values), 1, dtype=torch.bool))
    return (-nll).exp().flatten().numpy()


@each_law
@pytest.mark.parametrize(
    ("link", "location", "log_scale", "grid"),
    [
        ("identity", 3.0, 0.5, np.linspace(-60, 60, 400_001)),
        ("log", 0.5, -0.5, np.geomspace(1e-12, 1e12, 400_001)),
        ("inverse", 0.4, -1.5, np.concatenate([-np.geomspace(1e6, 1e-4, 400_001), np.geomspace(1e-4, 1e6, 400_001)])),
    ],
)
def test_density_integrates_to_one_over_the_value_itself(law, link, location, log_scale, grid):
    p = density(of(law, link), pixel(location, log_scale), grid)
    assert np.trapezoid(p, grid) == pytest.approx(1, abs=2e-4)


@each_law
def test_density_is_scipys(law):
    y = np.array([0.2, 1.0, 3.0, 20.0])
    scale = math.exp(-0.3)
    assert density(of(law, "identity"), pixel(0.7, -0.3), y) == pytest.approx(LAWS[law](0.7, scale).pdf(y))
    assert density(of(law, "log"), pixel(0.7, -0.3), y) == pytest.approx(LAWS[law](0.7, scale).pdf(np.log(y)) / y)
    assert density(of(law, "inverse"), pixel(0.7, -0.3), y) == pytest.approx(LAWS[law](0.7, scale).pdf(1 / y) / y**2)


@each_law
@each_link
def test_true_law_wins(law, link):
    z = torch.tensor(LAWS[law](1.0, 0.2).rvs(20_000, random_state=0))
    y = {"identity": z, "log": z.exp(), "inverse": 1 / z}[link].view(1, 1, -1, 1)
    everywhere = torch.ones(1, y.shape[2], 1, dtype=torch.bool)

    def score(location, scale):
        output = pixel(location, math.log(scale)).expand(-1, -1, y.shape[2], 1)
        return of(law, link).nll(output, y, everywhere).mean().item()

    truth = score(1.0, 0.2)
    assert truth < min(score(0.9, 0.2), score(1.1, 0.2), score(1.0, 0.15), score(1.0, 0.27)) - 0.01


def clipped(law, link, location, scale):
    """Mean and standard deviation of the clipped value, by the midpoint rule on a million quantiles."""
    z = LAWS[law](location, scale).ppf((np.arange(1_000_000) + 0.5) / 1_000_000)
    with np.errstate(over="ignore"):
        y = np.exp(z) if link == "log" else np.where(z > 0, 1 / np.maximum(z, 1e-9), np.inf)
    y = y.clip(RANGE["lower"], RANGE["upper"])
    return y.mean(), y.std()


@each_law
@pytest.mark.parametrize(
    ("link", "location", "scale", "accuracy"),
    [
        ("log", 1.0, 0.02, 1e-4),
        ("log", 1.0, 0.3, 0.005),
        ("log", 4.3, 0.3, 0.005),
        ("log", -1.0, 1.0, 0.02),
        ("log", 3.0, 1.0, 0.02),
        ("log", 1.0, 3.0, 0.04),
        ("inverse", 0.5, 0.01, 1e-3),
        ("inverse", 0.5, 0.05, 0.1),
        ("inverse", 0.3, 1.0, 0.2),
    ],
)
def test_moments_are_those_of_the_clipped_value(law, link, location, scale, accuracy):
    moments = of(law, link).moments(pixel(location, math.log(scale)))
    mean, std = clipped(law, link, location, scale)
    assert moments.mean.item() == pytest.approx(mean, abs=accuracy * std)
    assert moments.variance.sqrt().item() == pytest.approx(std, rel=accuracy)


def test_narrow_lognormal_has_its_closed_form():
    mean, variance = math.exp(1 + 0.02), (math.exp(0.04) - 1) * math.exp(2 + 0.04)
    moments = of(Gaussian, "log").moments(pixel(1.0, math.log(0.2)))
    assert (moments.mean.item(), moments.variance.item()) == pytest.approx((mean, variance), rel=1e-6)


def test_identity_moments_are_closed_forms_with_a_unit():
    output = pixel(2.0, -1.0, math.log(3), 0.0)
    gauss, laplace = Gaussian(2, unit="px").moments(output), Laplace(2, unit="px").moments(output)
    assert gauss.mean.flatten().tolist() == laplace.mean.flatten().tolist() == [2.0, -1.0]
    assert gauss.variance.flatten().tolist() == pytest.approx([9.0, 1.0])
    assert laplace.variance.flatten().tolist() == pytest.approx([18.0, 2.0])
    assert gauss.unit == laplace.unit == gauss.prediction().unit == "px"


@each_law
@each_link
@settings(max_examples=25, deadline=None)
@given(st.sampled_from([math.nan, math.inf, 0.0, -1.0]), st.sampled_from([0.0, 1e30, -1e30]))
def test_missing_targets_are_never_looked_at(law, link, mark, stray):
    torch.manual_seed(0)
    likelihood = of(law, link, dims=2)
    valid = torch.rand(2, 4, 5) > 0.4
    target = torch.rand(2, 2, 4, 5) + 0.5
    output = torch.randn(2, 4, 4, 5).requires_grad_()
    other = output.detach().where(valid[:, None], stray).requires_grad_()
    first = likelihood.nll(output, target, valid)
    second = likelihood.nll(other, target.where(valid[:, None], mark), valid)
    first.sum().backward()
    second.sum().backward()
    assert torch.equal(first, second)
    assert torch.equal(output.grad, other.grad)
    assert (second[~valid] == 0).all()
    assert (other.grad.movedim(1, -1)[~valid] == 0).all()


@each_law
@each_link
def test_gradient_is_the_derivative(law, link):
    torch.manual_seed(0)
    target, valid = torch.rand(1, 2, 3, 3, dtype=torch.float64) + 0.5, torch.rand(1, 3, 3) > 0.2
    output = torch.randn(1, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: of(law, link, dims=2).nll(x, target, valid), (output,))


@each_law
@each_link
@pytest.mark.parametrize("raw", [-1e4, -20.0, 20.0, 1e4])
def test_extreme_scales_stay_finite_and_find_their_way_back(law, link, raw):
    output = torch.tensor([0.3, raw]).view(1, 2, 1, 1).requires_grad_()
    there = torch.ones(1, 1, 1, dtype=torch.bool)
    loss = of(law, link).nll(output, torch.full((1, 1, 1, 1), 5.0), there)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert output.grad[0, 1].item() * raw > 0  # descent leads back into the range
    moments = of(law, link).moments(output.detach())
    assert moments.mean.isfinite().all()
    assert moments.variance.isfinite().all()


@each_law
@pytest.mark.parametrize("link", ["log", "inverse"])
@pytest.mark.parametrize("location", [-1e4, 0.0, 1e4])
def test_moments_stay_in_the_range_of_the_data(law, link, location):
    moments = of(law, link).moments(torch.tensor([location, 2.0]).view(1, 2, 1, 1))
    assert RANGE["lower"] <= moments.mean.item() <= RANGE["upper"]
    assert 0 <= moments.variance.item() <= (RANGE["upper"] - RANGE["lower"]) ** 2 / 4 * 1.001


@each_law
@each_link
def test_moments_own_their_memory(law, link):
    output = torch.randn(1, 2, 3, 3)
    before = output.clone()
    folded = of(law, link).moments(output).merge(of(law, link).moments(output + 1))
    assert isinstance(folded, ValueMoments)
    assert torch.equal(output, before)


def test_half_precision_outputs_are_scored_in_float32():
    output = torch.randn(1, 2, 3, 3).bfloat16()
    nll = Gaussian().nll(output, torch.ones(1, 1, 3, 3), torch.ones(1, 3, 3, dtype=torch.bool))
    assert nll.dtype == torch.float32


@each_law
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dims": 0}, "dims is 0"),
        ({"link": "sqrt"}, "one of identity, log, inverse"),
        ({"link": "log"}, "0 < lower < upper"),
        ({"link": "log", "lower": 0.0, "upper": 10.0}, "0 < lower < upper"),
        ({"link": "inverse", "lower": 2.0, "upper": 1.0}, "0 < lower < upper"),
        ({"link": "inverse", "lower": 1.0, "upper": math.inf}, "0 < lower < upper"),
        ({"lower": 1.0, "upper": 2.0}, "leave them out"),
    ],
)
def test_refuses_what_it_cannot_mean(law, arguments, message):
    with pytest.raises(ValueError, match=message):
        law(**arguments)


def test_refuses_targets_of_another_shape():
    there = torch.ones(2, 3, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="expected \\(2, 1, 3, 3\\)"):
        Gaussian().nll(torch.zeros(2, 2, 3, 3), torch.ones(2, 3, 3), there)


OUTSIDE = [("log", math.log(40.0)), ("log", math.log(0.01)), ("inverse", 8.0), ("inverse", -2.0)]


@each_law
@pytest.mark.parametrize(("link", "location"), OUTSIDE)
def test_distributions_outside_of_the_range_keep_a_variance(law, link, location):
    likelihood = law(link=link, lower=0.3, upper=10.0, unit="m")
    found = likelihood.moments(torch.tensor([[location, -3.0]])).prediction()
    end = found.mean.item()
    assert end == pytest.approx(10.0 if location in (math.log(40.0), -2.0) else 0.3)
    slope = end if link == "log" else end**2  # |dy/dz|
    assert found.std.item() == pytest.approx(min(0.1 * math.exp(-3) * slope, 0.01 * 9.7), rel=1e-4)


@pytest.mark.parametrize("calibrator", [VarianceScaling, QuantileMap])
def test_calibrators_of_clipped_values_are_finite(calibrator):
    likelihood = Gaussian(link="log", lower=0.3, upper=10.0)
    output = torch.tensor([math.log(40.0), -3.0]).view(1, 2, 1, 1).expand(1, 2, 20, 30)
    target = 5 + torch.rand(1, 1, 20, 30, generator=torch.Generator().manual_seed(0))
    prediction = likelihood.moments(output).prediction()
    fitted = calibrator.fit([(prediction, target, torch.ones(1, 20, 30, dtype=torch.bool))])
    found = fitted(prediction)
    assert found.mean.isfinite().all()
    assert found.std.isfinite().all()
    assert (found.std > 0).all()


@pytest.mark.parametrize("log_variance", [-1000.0, 1000.0])
def test_l1_has_a_finite_variance_above_0(log_variance):
    variance = L1(2).moments_at(torch.zeros(1, 2, 3, 3), torch.tensor(log_variance)).variance
    assert variance.isfinite().all()
    assert (variance > 0).all()


@pytest.mark.parametrize("event", [(), (6,), (3, 4)])
@pytest.mark.parametrize("likelihood", [Gaussian(2), Laplace(2, "log", 0.1, 10.0), L1(2), NormalInverseGamma(2)])
def test_any_event(likelihood, event):
    check_likelihood(likelihood, 0.5 + torch.rand(4, 2, *event, generator=torch.Generator().manual_seed(0)))


def test_text_is_one_line_that_tells_likelihoods_apart():
    assert repr(Gaussian(2, unit="px")) == "Gaussian(2 px)"
    assert repr(Laplace(1, "log", 0.3, 10.0, "m")) == "Laplace(1, log of 0.3 to 10.0 m)"
