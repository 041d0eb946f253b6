"""Planes and the mixture of two Laplace distributions: known distributions, masks, and draws."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from sfumato.errors import ConfigError, DataError
from sfumato.likelihoods import Categorical, DistilledPlanes, LaplaceMixture, Planes, standardized
from sfumato.likelihoods.planes import WIDTH
from sfumato.tasks import Disparity
from sfumato.testing import check_likelihood


def scores_of(values, planes=24, spread=0.0):
    """Scores whose softmax is the distribution of normal values with the width of a target, (B, planes)."""
    places = torch.arange(float(planes))
    variance = WIDTH**2 + spread**2
    return -0.5 / variance * (torch.as_tensor(values)[:, None] - places).square()


def test_the_likelihoods_pass_the_published_checks():
    generator = torch.Generator().manual_seed(0)
    check_likelihood(Planes(12), 11 * torch.rand(2, 1, 5, 6, generator=generator))
    check_likelihood(Planes(12), 11 * torch.rand(4, 1, generator=generator))
    check_likelihood(LaplaceMixture(2), torch.randn(2, 2, 5, 6, generator=generator))


@pytest.mark.parametrize("spread", [0.0, 0.5, 1.0, 2.0])
def test_value_and_standard_deviation_of_a_normal_value(spread):
    values = torch.arange(9.0, 14.0, 0.25)
    found = Planes(24).moments(scores_of(values, spread=spread)).prediction()
    torch.testing.assert_close(found.mean[:, 0], values, atol=0.02 + 0.15 * spread, rtol=0)
    if spread >= 0.5:
        torch.testing.assert_close(found.std[:, 0], torch.full_like(values, spread), atol=0.06, rtol=0.06)
    else:
        assert (found.std < 0.2).all()


def test_the_loss_is_least_at_the_target():
    """At its minimum the distribution is that of the target, whose entropy is the loss."""
    target = torch.tensor([[7.3]])
    known = torch.ones(1, dtype=torch.bool)
    q = scores_of(target[:, 0]).softmax(1)
    entropy = float(torch.special.entr(q).sum())
    losses = {y: float(Planes(24).nll(scores_of(torch.tensor([y])), target, known)) for y in (6.3, 7.2, 7.3, 7.4, 9.0)}
    assert losses[7.3] == pytest.approx(entropy, abs=1e-5)
    assert min(losses, key=losses.get) == 7.3


def test_between_two_surfaces_the_value_is_one_of_them_and_the_variance_is_large():
    both = torch.logaddexp(scores_of(torch.tensor([4.0])), scores_of(torch.tensor([20.0])) + math.log(0.5))
    found = Planes(24).moments(both).prediction()
    assert float(found.mean) == pytest.approx(4.0, abs=0.01)
    # A third of the probability is 16 planes away.
    assert float(found.std) == pytest.approx(math.sqrt(256 / 3), rel=0.01)


def test_a_step_and_a_unit():
    found = Planes(24, step=0.5, unit="px").moments(scores_of(torch.tensor([9.0]), spread=1.0)).prediction()
    assert float(found.mean) == pytest.approx(4.5, abs=1e-4)
    assert float(found.std) == pytest.approx(0.5, rel=0.1)
    assert found.unit == "px"
    assert Planes(24, step=0.5).largest == 11.5


def test_draws_that_differ_make_the_epistemic_part():
    likelihood = Planes(24)
    moments = likelihood.moments(scores_of(torch.tensor([8.0])))
    moments = moments.merge(likelihood.moments(scores_of(torch.tensor([12.0]))))
    found = moments.prediction()
    assert float(found.mean) == pytest.approx(10.0, abs=0.01)
    assert float(found.epistemic_variance) == pytest.approx(4.0, abs=0.01)


def test_the_same_output_as_classes_has_mutual_information():
    """Two draws that are sure of different planes: log 2 nats, all of it epistemic."""
    likelihood = Categorical(24)
    sure = 1e3 * torch.eye(24)
    found = likelihood.moments(sure[8:9]).merge(likelihood.moments(sure[12:13])).prediction()
    assert float(found.epistemic) == pytest.approx(math.log(2), abs=1e-5)
    assert float(found.aleatoric) == pytest.approx(0.0, abs=1e-5)


def test_bfloat16_scores_are_read_in_float32():
    values = torch.arange(100.0, 120.0, 0.5)
    scores = scores_of(values, planes=192)
    near = Planes(192).moments((scores - scores.amax(1, keepdim=True)).bfloat16()).prediction()
    assert near.mean.dtype == torch.float32
    torch.testing.assert_close(near.mean[:, 0], values, atol=0.02, rtol=0)


def test_variances_are_above_0_and_not_shared():
    """In the published statistics of SEDNet, at least 90 % of the pixels have the same uncertainty, that of a floor."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.logspace(-2, 3, 4000)[:, None]
    variance = Planes(24).moments(scale * torch.randn(4000, 24, generator=generator)).prediction().variance
    assert (variance > 0).all()
    assert variance.isfinite().all()
    ordinary = variance[: len(variance) * 3 // 4]  # scores up to about ±60; beyond that the softmax itself is 0 or 1
    assert ordinary.unique(return_counts=True)[1].max() < 0.05 * len(ordinary)


def test_targets_are_not_standardized():
    likelihood = Planes(4)
    assert standardized(likelihood, 3.0, 2.0) is likelihood
    student = DistilledPlanes(likelihood)
    assert standardized(student, 3.0, 2.0) is student
    assert student.channels == 5


def test_bad_input():
    with pytest.raises(ConfigError, match="at least 2 planes"):
        Planes(1)
    with pytest.raises(DataError, match="one value for each pixel"):
        Planes(4).nll(torch.zeros(2, 4, 3, 3), torch.zeros(2, 3, 3), torch.ones(2, 3, 3, dtype=torch.bool))
    with pytest.raises(DataError, match="a quarter of the channels"):
        LaplaceMixture().nll(torch.zeros(2, 4, 3), torch.zeros(2, 2, 3), torch.ones(2, 3, dtype=torch.bool))
    assert Planes.for_task(Disparity(63.0)) == Planes(64, unit="px")


def test_the_mixture_is_scipys():
    value, log_scale, wider, logit = 0.7, -0.4, 1.1, 0.3
    output = torch.tensor([[value, log_scale, wider, logit]], dtype=torch.float64)
    y = np.linspace(-40, 40, 200_001)
    w = 1 / (1 + math.exp(-logit))
    laws = [stats.laplace(value, math.exp(log_scale + shift)) for shift in (0.0, math.log1p(math.exp(wider)))]
    expected = (1 - w) * laws[0].pdf(y) + w * laws[1].pdf(y)
    target = torch.from_numpy(y)[None, None]
    nll = LaplaceMixture().nll(
        output[:, :, None].expand(-1, -1, len(y)), target, torch.ones(1, len(y), dtype=torch.bool)
    )
    assert np.exp(-nll[0].numpy()) == pytest.approx(expected)
    assert np.trapezoid(expected, y) == pytest.approx(1, abs=1e-3)
    found = LaplaceMixture().moments(output).prediction()
    assert float(found.variance) == pytest.approx((1 - w) * laws[0].var() + w * laws[1].var())


def test_extreme_scales_of_the_mixture_stay_finite():
    output = torch.tensor([[0.0, 200.0, 200.0, 0.0], [0.0, -200.0, -200.0, 0.0]]).requires_grad_()
    loss = LaplaceMixture().nll(output, torch.zeros(2, 1), torch.ones(2, dtype=torch.bool))
    assert loss.isfinite().all()
    assert torch.autograd.grad(loss.sum(), output)[0].isfinite().all()
    assert LaplaceMixture().moments(output.detach()).prediction().variance.isfinite().all()
