import pytest
import torch
from torch import nn
from torch.distributions import Normal
from torch.distributions import kl_divergence as exact

from sfumato.likelihoods import Categorical, Gaussian
from sfumato.methods import ConditionalVAE, LatentDraws
from sfumato.methods.latent import _divergence
from sfumato.models import UNet
from sfumato.predictions import predict

LEFT = (torch.arange(8) < 4).long().expand(8, 8)


def ambiguous(count):
    """One image, a ramp; its left half is the object for one annotator in three, its right half for the others."""
    image = torch.linspace(-1, 1, 8).expand(count, 1, 8, 8)
    first = torch.rand(count, 1, 1) < 1 / 3
    return image, torch.where(first, LEFT, 1 - LEFT), torch.ones(count, 8, 8) > 0


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    network = ConditionalVAE(nn.Sequential(nn.Conv2d(1, 8, 1), nn.ReLU()), 8, 2, 2, in_channels=1, latent=2)
    optimizer = torch.optim.Adam(network.parameters(), lr=4e-3)
    for _ in range(400):
        loss = network.elbo(*ambiguous(32), nll=Categorical(2).nll).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network, loss.item()


def test_both_labelings_are_drawn_whole_and_as_often_as_they_occur(trained):
    network, _ = trained
    draws = torch.cat(
        list(LatentDraws(network, 400).draws(ambiguous(1)[0], generator=torch.Generator().manual_seed(0)))
    )
    labels = draws[:, 0].argmax(1)
    left = (labels == LEFT).flatten(1).float().mean(1)
    assert ((left > 0.95) | (left < 0.05)).float().mean() > 0.85  # one or the other, seldom a mixture
    assert (left > 0.5).float().mean().item() == pytest.approx(1 / 3, abs=0.15)


def test_the_loss_bounds_the_entropy_of_the_annotators(trained):
    # Of one image: log 3 − ⅔ log 2 = 0.64 nats are what nobody can know; without a latent 64 times as much.
    assert 0.4 < trained[1] < 3


def test_draws_are_doubt_and_its_mean_alone_is_not(trained):
    prediction = predict(LatentDraws(trained[0], 50), ambiguous(1)[0], likelihood=Categorical(2))
    assert (prediction.epistemic > 0.4).all()
    assert (prediction.aleatoric < 0.2).all()


def test_the_divergence_is_that_of_torch():
    torch.manual_seed(0)
    mean, log_sd, prior_mean, prior_log_sd = torch.randn(4, 3, 5)
    expected = exact(Normal(mean, log_sd.exp()), Normal(prior_mean, prior_log_sd.exp())).sum(1)
    assert torch.allclose(_divergence(mean, log_sd, prior_mean, prior_log_sd), expected, atol=1e-4)


def test_joining_is_a_convolution_of_features_and_latent_side_by_side():
    torch.manual_seed(0)
    network = ConditionalVAE(nn.Conv2d(3, 4, 1), 4, 2, 2, latent=3)
    image, z = torch.rand(2, 3, 5, 6), torch.randn(2, 3)
    side_by_side = torch.cat([network.network(image), z[..., None, None].expand(-1, -1, 5, 6)], 1)
    weight = torch.cat([network.join.weight, network.enter.weight[..., None, None]], 1)
    expected = network.last(nn.functional.conv2d(side_by_side, weight, network.join.bias))
    assert torch.allclose(network.decoded(network.joined(image), z), expected, atol=1e-6)


def test_what_is_not_valid_counts_nothing_and_gradients_reach_everything():
    torch.manual_seed(0)
    network = ConditionalVAE(UNet(4, widths=(4, 8)), 4, 3, 3).eval()
    image, target = torch.rand(2, 3, 9, 10), torch.randint(3, (2, 9, 10))
    valid = torch.rand(2, 9, 10) < 0.5

    def loss(labels):
        torch.manual_seed(1)
        return network.elbo(image, labels, valid, Categorical(3).nll)

    assert torch.equal(loss(target), loss(target.where(valid, 255)))
    loss(target).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_values():
    torch.manual_seed(0)
    network = ConditionalVAE(UNet(4, widths=(4, 8)), 4, 2, 1)
    image, target, valid = torch.rand(2, 3, 9, 10), torch.rand(2, 1, 9, 10), torch.ones(2, 9, 10) > 0
    assert network.elbo(image, target.where(valid[:, None], torch.nan), valid, Gaussian().nll).isfinite().all()
    assert network(image).shape == (2, 2, 9, 10)
    with pytest.raises(ValueError, match="expected 1 channels"):
        network.elbo(image, target.expand(-1, 2, -1, -1), valid, Gaussian().nll)


def test_refused():
    with pytest.raises(ValueError, match="'latent': 0"):
        ConditionalVAE(nn.Conv2d(3, 4, 1), 4, 2, 2, latent=0)
    network = ConditionalVAE(nn.Conv2d(3, 4, 1), 4, 2, 2)
    with pytest.raises(ValueError, match="samples is 0"):
        LatentDraws(network, 0)
    with pytest.raises(ValueError, match="network a Conv2d"):
        LatentDraws(network.join)
    labels, valid = torch.full((1, 5, 5), 2), torch.ones(1, 5, 5) > 0
    with pytest.raises(ValueError, match=r"expected classes in \[0, 2\)"):
        network.elbo(torch.rand(1, 3, 5, 5), labels, valid, Categorical(2).nll)
