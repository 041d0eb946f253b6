"""A 1 × 1 convolution under Gaussian noise of known variance: its posterior is exact, and methods are held to it."""

import copy

import torch
from torch import nn

from sfumato.likelihoods import Gaussian
from sfumato.methods import SWAG, DeepEnsemble, LastLayerLaplace, Variational, kl_divergence, make_variational
from sfumato.predictions import predict

NOISE, PRIOR = 0.5, 2.0  # the variance of the noise, the precision of the prior


class Linear(nn.Module):
    """f = w · x + b at each pixel."""

    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(2, 1, 1)

    def forward(self, image):
        return self.head(image)


class WithVariance(nn.Module):
    """The same with a second channel, for Gaussian to read; its values of the noise are not used."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, image):
        return torch.cat([mean := self.network(image), torch.zeros_like(mean)], 1)


def features(image):
    return torch.cat([image, torch.ones_like(image[:, :1])], 1).movedim(1, -1).flatten(0, 2)


def data():
    """Two images whose channels go together, so that the weights' posterior is correlated."""
    torch.manual_seed(0)
    image = torch.randn(2, 2, 3, 4)
    image[:, 1] = 0.7 * image[:, 0] + 0.5 * image[:, 1] + 0.3
    target = 1.5 * image[:, :1] - image[:, 1:] + 0.2 + NOISE**0.5 * torch.randn(2, 1, 3, 4)
    return image, target, torch.ones(2, 3, 4) > 0


def posterior():
    """Mean (3,), precision (3, 3), of both weights and the bias."""
    image, target, _ = data()
    phi = features(image)
    precision = phi.T @ phi / NOISE + PRIOR * torch.eye(3)
    return torch.linalg.solve(precision, phi.T @ target.flatten() / NOISE), precision


def nll(output, target, valid):
    return (output - target).square()[:, 0] / (2 * NOISE)


def with_weights(network, weights):
    with torch.no_grad():
        network.head.weight.copy_(weights[:2].view(1, 2, 1, 1))
        network.head.bias.copy_(weights[2:])
    return network


def exact_variance(image):
    _, precision = posterior()
    phi = features(image)
    return (phi @ precision.inverse() * phi).sum(1)


def test_laplace_is_the_posterior():
    mean, precision = posterior()
    network = with_weights(Linear(), mean)
    method = LastLayerLaplace.fit(network, network.head, [((data()[0],), *data()[1:])], nll, prior_precision=PRIOR)
    # Its factor is for weights and bias in this order too, as there is one channel.
    torch.testing.assert_close((method.factor @ method.factor.T), precision.inverse(), rtol=1e-3, atol=1e-5)


def test_an_ensemble_of_members_trained_on_perturbed_data_is_the_posterior():
    """Targets with the noise drawn again, priors centered on draws of the prior: each optimum is a posterior draw."""
    _, precision = posterior()
    image, target, _ = data()
    phi = features(image)
    members = []
    for _ in range(600):
        perturbed = target.flatten() + NOISE**0.5 * torch.randn(len(phi))
        anchor = torch.randn(3) / PRIOR**0.5
        optimum = torch.linalg.solve(precision, phi.T @ perturbed / NOISE + PRIOR * anchor)
        members.append(WithVariance(with_weights(Linear(), optimum)))
    new = torch.randn(1, 2, 2, 2)
    found = predict(DeepEnsemble(members), new, likelihood=Gaussian())
    mean = (features(new) @ posterior()[0]).view(1, 1, 2, 2)
    torch.testing.assert_close(found.mean, mean, atol=0.06, rtol=0)
    torch.testing.assert_close(found.epistemic.flatten(), exact_variance(new), rtol=0.2, atol=0.0)


def test_swag_over_draws_of_the_posterior_keeps_its_mean_and_variances():
    mean, precision = posterior()
    factor = torch.linalg.cholesky(precision.inverse())
    states = [with_weights(Linear(), mean + factor @ torch.randn(3)).state_dict() for _ in range(2000)]
    swag_state = SWAG.of(Linear(), states, rank=2000).swag_state
    drawn = torch.stack([torch.cat([w.flatten() for w in swag_state.draw().values()]) for _ in range(3000)])
    torch.testing.assert_close(drawn.mean(0), mean, atol=0.03, rtol=0)
    covariance = precision.inverse()
    expected = (covariance + covariance.diag().diag()) / 2  # the method's own half-and-half: correlations are halved
    torch.testing.assert_close(torch.cov(drawn.T), expected, rtol=0.1, atol=0.005)


def test_variational_inference_ends_at_the_best_mean_field_distribution():
    """Its mean is exact, its variances are 1 / Λᵢᵢ: those of each weight with the others known."""
    mean, precision = posterior()
    image, target, valid = data()
    network = Linear()
    make_variational(network, prior=1.0, spread=0.5)  # 1 / fan-in is the prior's variance, 1 / PRIOR
    copies = 64  # each with signs of its own, so that the gradient is less noisy
    images, targets = image.repeat(copies, 1, 1, 1), target.repeat(copies, 1, 1, 1)
    steps, variances, means = 800, [], []
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
    for step in range(steps):
        optimizer.zero_grad()
        (nll(network(images), targets, valid).sum() / copies + kl_divergence(network)).backward()
        optimizer.step()
        decay.step()
        if step >= steps // 2:
            state = copy.deepcopy(network.head.state_dict())
            means.append(torch.cat([state["weight"].flatten(), state["bias"]]))
            stds = torch.cat([state["posterior.weight"].flatten(), state["posterior.bias"]]).exp()
            variances.append(stds.square())
    torch.testing.assert_close(torch.stack(means).mean(0), mean, atol=0.02, rtol=0)
    found, best, marginal = torch.stack(variances).mean(0), 1 / precision.diag(), precision.inverse().diag()
    torch.testing.assert_close(found, best, rtol=0.12, atol=0)
    assert (best[:2] / marginal[:2] < 0.7).all()  # what it would have to be, to be told from the true variances
    new = torch.randn(1, 2, 1, 2)
    with_weights(network, mean)
    draws = torch.cat(list(Variational(network, 2000).draws(new)))[:, 0, 0, 0]
    torch.testing.assert_close(draws.var(0), features(new).square() @ found, rtol=0.15, atol=0)


def test_the_gradient_of_the_bound_vanishes_at_the_best_mean_field_distribution():
    mean, precision = posterior()
    image, target, valid = data()
    network = with_weights(Linear(), mean)
    make_variational(network)
    with torch.no_grad():
        best = -precision.diag().log() / 2
        network.head.posterior.weight.copy_(best[:2].view(1, 2, 1, 1))
        network.head.posterior.bias.copy_(best[2:])
    parameters, slopes = list(network.parameters()), []
    for _ in range(1500):
        bound = nll(network(image), target, valid).sum() + kl_divergence(network)
        slopes.append(torch.cat([slope.flatten() for slope in torch.autograd.grad(bound, parameters)]))
    found = torch.stack(slopes)
    error = found.std(0) / len(found) ** 0.5
    assert (found.mean(0).abs() < 4 * error).all()
    assert (error < 0.2).all()
