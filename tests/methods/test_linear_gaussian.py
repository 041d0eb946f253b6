"""A 1 × 1 convolution under Gaussian noise of known variance: its posterior is exact, and methods are held to it."""

import torch
from torch import nn

from sfumato.likelihoods import Gaussian
from sfumato.methods import SWAG, DeepEnsemble, LastLayerLaplace
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
    """The same with a second channel, for Gaussian to read; what it says of the noise is not looked at."""

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
    """Targets with the noise drawn again, priors centred on draws of the prior: each optimum is a posterior draw."""
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
    trajectory = SWAG.of(Linear(), states, rank=2000).trajectory
    drawn = torch.stack([torch.cat([w.flatten() for w in trajectory.draw().values()]) for _ in range(3000)])
    torch.testing.assert_close(drawn.mean(0), mean, atol=0.03, rtol=0)
    covariance = precision.inverse()
    expected = (covariance + covariance.diag().diag()) / 2  # the method's own half-and-half: correlations are halved
    torch.testing.assert_close(torch.cov(drawn.T), expected, rtol=0.1, atol=0.005)
