import pytest
import torch
from torch import nn
from torch.distributions import Normal
from torch.distributions import kl_divergence as exact

from sfumato.likelihoods import Categorical, Gaussian
from sfumato.methods import Heads, LatentDraws, Output, latent_elbo, make_latent
from sfumato.methods.latent import TRAINING
from sfumato.methods.latent_layer import LatentLayer, divergence
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
    network = nn.Sequential(nn.Conv2d(1, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1))
    make_latent(network, latent=2)
    optimizer = torch.optim.Adam(network.parameters(), lr=4e-3)
    for _ in range(400):
        image, target, valid = ambiguous(32)
        loss = latent_elbo(network, (image,), target, valid, Categorical(2).nll).mean()
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
    assert torch.allclose(divergence(mean, log_sd, prior_mean, prior_log_sd), expected, atol=1e-4)


def test_joining_is_a_convolution_of_features_and_latent_side_by_side():
    torch.manual_seed(0)
    layer = LatentLayer(nn.Conv2d(4, 2, 1), 3)
    features, z = torch.rand(2, 4, 5, 6), torch.randn(2, 3)
    side_by_side = torch.cat([features, z[..., None, None].expand(-1, -1, 5, 6)], 1)
    weight = torch.cat([layer.join.weight, layer.enter.weight[..., None, None]], 1)
    joined = nn.functional.conv2d(side_by_side, weight, layer.join.bias)
    expected = layer.layer(layer.mix(joined.relu()).relu())
    assert torch.allclose(layer.decoded(layer.join(features), z), expected, atol=1e-6)


def converted(channels=3):
    torch.manual_seed(0)
    network = UNet(channels, widths=(4, 8)).eval()
    return network, make_latent(network)


def test_what_is_not_valid_counts_nothing_and_gradients_reach_everything():
    network, _ = converted()
    image, target = torch.rand(2, 3, 9, 10), torch.randint(3, (2, 9, 10))
    valid = torch.rand(2, 9, 10) < 0.5

    def loss(labels):
        torch.manual_seed(1)
        return latent_elbo(network, (image,), labels, valid, Categorical(3).nll)

    assert torch.equal(loss(target), loss(target.where(valid, 255)))
    loss(target).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_the_posterior_sees_the_target():
    layer = LatentLayer(nn.Conv2d(2, 3, 1), 1)
    features, valid = torch.rand(1, 2, 2, 2), torch.tensor([[[True, True], [False, True]]])
    seen = layer.seen(torch.tensor([[[0, 2], [9, 1]]]), valid, features)
    assert torch.equal(seen[:, :2], features)
    assert seen[0, 2:].flatten(1).T.tolist() == [[1, 0, 0, 1], [0, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 1]]
    values = layer.seen(torch.full((1, 1, 4, 4), 7.0), torch.ones(1, 4, 4) > 0, features)
    assert (values[0, 2:] == torch.tensor([7.0, 0, 0, 1])[:, None, None]).all()


def test_values():
    network, _ = converted(2)
    image, target, valid = torch.rand(2, 3, 9, 10), torch.rand(2, 1, 9, 10), torch.rand(2, 9, 10) < 0.9
    known = target.where(valid[:, None], torch.nan)
    assert latent_elbo(network, (image,), known, valid, Gaussian().nll).isfinite().all()
    assert network(image).shape == (2, 2, 9, 10)
    with pytest.raises(ValueError, match="expected at most 2 values"):
        latent_elbo(network, (image,), target.expand(-1, 3, -1, -1), valid, Gaussian().nll)


class Small(nn.Module):
    """Logits of half the size, and something else after them if asked."""

    def __init__(self, after=False):
        super().__init__()
        self.body, self.head, self.after = nn.Conv2d(3, 4, 2, stride=2), nn.Conv2d(4, 2, 1), after

    def forward(self, image):
        x = self.head(self.body(image))
        return x.tanh() if self.after else x


@pytest.mark.parametrize("after", [False, True])
def test_draws_are_those_of_the_whole_network(after):
    torch.manual_seed(0)
    network = Output(Small(after)).eval()
    make_latent(network, where="network.head", latent=2)
    image = torch.rand(2, 3, 8, 8)
    draws = torch.cat(list(LatentDraws(network, 3).draws(image, generator=torch.Generator().manual_seed(0))))
    generator, layer = torch.Generator().manual_seed(0), network.network.head
    with torch.no_grad():
        mean, log_std = layer.prior(network.network.body(image)).chunk(2, 1)
        for draw in draws:
            z = mean + log_std.exp() * torch.randn(mean.shape, generator=generator)
            with layer.sampling(lambda _, z=z: z):
                torch.testing.assert_close(draw, network(image))


def test_removing_it_gives_the_network_back():
    network, conversion = converted()
    image = torch.rand(1, 3, 9, 10)
    with_latent = network(image)
    conversion.remove()
    assert conversion.modules == ("head",)
    assert isinstance(network.head, nn.Conv2d)
    assert not torch.equal(network(image), with_latent)
    assert not any("prior" in name for name, _ in network.named_parameters())


def test_its_training_loss_is_the_bound_per_valid_pixel():
    network, _ = converted()
    image, target, valid = torch.rand(2, 3, 9, 10), torch.randint(3, (2, 9, 10)), torch.rand(2, 9, 10) < 0.5
    torch.manual_seed(1)
    expected = latent_elbo(network, (image,), target, valid, Categorical(3).nll).sum() / valid.sum()
    torch.manual_seed(1)
    assert torch.equal(TRAINING.loss(network, (image,), target, valid, Categorical(3).nll), expected)


def test_refused():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    with pytest.raises(ValueError, match="latent is 0"):
        make_latent(network, latent=0)
    with pytest.raises(ValueError, match="1 is a ReLU"):
        make_latent(network, where="1")
    with pytest.raises(ValueError, match="matches 2 modules, such as 0 and 2"):
        make_latent(network, where="0|2")
    with pytest.raises(ValueError, match="convert it with make_latent"):
        LatentDraws(network)
    with pytest.raises(ValueError, match="several tasks"):
        TRAINING.attach(Heads(network, ("a", "b")), 1)
    make_latent(network)
    with pytest.raises(ValueError, match="already"):
        make_latent(network)
    with pytest.raises(ValueError, match="samples is 0"):
        LatentDraws(network, 0)
    labels, valid = torch.full((1, 5, 5), 2), torch.ones(1, 5, 5) > 0
    with pytest.raises(ValueError, match=r"expected classes in \[0, 2\)"):
        latent_elbo(network, (torch.rand(1, 3, 5, 5),), labels, valid, Categorical(2).nll)
