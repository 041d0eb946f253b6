"""Closed forms of the evidential likelihoods against sampling, quadrature and scipy."""

import pytest
import torch
from scipy import stats
from torch.nn.functional import softplus

from sfumato.likelihoods import Dirichlet, NormalInverseGamma
from sfumato.likelihoods.dirichlet import _digamma, _from_uniform


def test_parts_of_a_dirichlet_are_those_of_its_samples():
    torch.manual_seed(0)
    output = 2 * torch.randn(3, 5, 1, 1)
    prediction = Dirichlet(5).moments(output).prediction()
    law = torch.distributions.Dirichlet(1 + softplus(output[..., 0, 0]))
    samples = law.sample((200_000,))
    assert torch.allclose(prediction.probs[..., 0, 0], samples.mean(0), atol=3e-3)
    entropy = -(samples * samples.clamp_min(1e-30).log()).sum(-1).mean(0)
    assert torch.allclose(prediction.aleatoric[:, 0, 0], entropy, atol=3e-3)
    assert (prediction.epistemic > 0).all()


def test_the_loss_of_a_dirichlet_is_the_expected_surprise():
    torch.manual_seed(0)
    output, target = torch.randn(1, 4, 1, 1), torch.tensor([[[2]]])
    samples = torch.distributions.Dirichlet(1 + softplus(output[0, :, 0, 0])).sample((400_000,))
    expected = -samples[:, 2].clamp_min(1e-30).log().mean().item()
    loss = Dirichlet(4, regularization=0).nll(output, target, torch.ones(1, 1, 1) > 0)
    assert loss.item() == pytest.approx(expected, abs=0.01)


def test_the_divergence_is_torchs():
    alpha = torch.tensor([[0.7, 2.0, 5.0], [1.0, 1.0, 1.0]]).T[None, :, None]  # (1, 3, 1, 2)
    found = _from_uniform(alpha)[0, 0]
    uniform = torch.distributions.Dirichlet(torch.ones(3))
    laws = [torch.distributions.Dirichlet(alpha[0, :, 0, i]) for i in (0, 1)]
    expected = [torch.distributions.kl_divergence(law, uniform) for law in laws]
    assert torch.allclose(found, torch.stack(expected), atol=1e-5)


def raw(dims=1):
    torch.manual_seed(1)
    return torch.randn(2, 4 * dims, 3, 2)


def test_the_loss_of_a_value_is_student_t():
    law, output = NormalInverseGamma(regularization=0), raw()
    target = torch.randn(2, 1, 3, 2)
    mean, nu, alpha, beta = (v[:, 0].double() for v in law._split(output))
    scale = (beta * (1 + nu) / (nu * alpha)).sqrt()
    expected = -stats.t.logpdf(target[:, 0].double(), 2 * alpha, mean, scale)
    loss = law.nll(output, target, torch.ones(2, 3, 2) > 0)
    assert torch.allclose(loss.double(), torch.as_tensor(expected), atol=1e-4)


def test_parts_of_a_value_are_those_of_its_samples():
    law = NormalInverseGamma(unit="m")
    output = torch.tensor([0.3, 1.0, 4.0, 0.5]).view(1, 4, 1, 1)
    prediction = law.moments(output).prediction()
    _, nu, alpha, beta = (float(v) for v in law._split(output))
    variance = torch.from_numpy(stats.invgamma.rvs(alpha, scale=beta, size=400_000, random_state=0))
    mean = 0.3 + (variance / nu).sqrt() * torch.randn(400_000, generator=torch.Generator().manual_seed(0))
    assert prediction.aleatoric.item() == pytest.approx(variance.mean().item(), rel=0.02)
    assert prediction.epistemic.item() == pytest.approx(mean.var().item(), rel=0.02)
    assert prediction.unit == "m"


def test_evidence_for_errors_costs():
    output, target = raw(), torch.randn(2, 1, 3, 2)
    valid = torch.ones(2, 3, 2) > 0
    free, bound = (NormalInverseGamma(regularization=r).nll(output, target, valid) for r in (0, 0.1))
    assert (bound > free).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Dirichlet(1), "classes is 1"),
        (lambda: Dirichlet(3, -1), "regularization is -1"),
        (lambda: NormalInverseGamma(0), "dims is 0"),
        (lambda: NormalInverseGamma(1, -1), "regularization is -1"),
    ],
)
def test_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_digamma_is_torchs():
    x = torch.cat([torch.linspace(2, 10, 10_001), torch.logspace(1, 30, 1_001)])
    torch.testing.assert_close(_digamma(x), torch.digamma(x), rtol=2e-6, atol=2e-6)


def test_moments_do_not_depend_on_how_many_rows_there_are():
    output = 5 * torch.randn(2, 11, 50, 480)
    whole = Dirichlet(11).moments(output)
    rows = [Dirichlet(11).moments(output[:, :, i : i + 1]) for i in range(50)]
    torch.testing.assert_close(whole.probs, torch.cat([m.probs for m in rows], 2))
    torch.testing.assert_close(whole.entropy, torch.cat([m.entropy for m in rows], 1))
