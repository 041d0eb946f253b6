"""Randomized priors: frozen, scaled by the first batch, kept in files, and different off the data."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from sfumato.errors import ConfigError
from sfumato.methods import DeepEnsemble, add_prior


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))


def trained(seed, prior):
    """Learns sin(3 x) in [−1, 0]."""
    net = network(seed)
    if prior:
        add_prior(net, scale=1.0)
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=0.01)
    x = torch.linspace(-1, 0, 32)[:, None]
    for _ in range(200):
        optimizer.zero_grad()
        (net(x) - (3 * x).sin()).square().mean().backward()
        optimizer.step()
    return net


def spread(prior, x):
    ensemble = DeepEnsemble([trained(seed, prior) for seed in range(4)])
    return torch.cat(list(ensemble.draws(torch.tensor([[x]])))).std().item()


def test_members_differ_more_off_the_data_and_agree_on_them():
    assert spread(True, -0.5) < 0.1
    assert spread(True, 2.0) > 5 * spread(True, -0.5)
    assert spread(True, 2.0) > 1.5 * spread(False, 2.0)


def test_the_prior_is_never_trained_and_the_first_batch_scales_it():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1))
    add_prior(net, scale=0.5)
    prior = net.get_submodule("0.prior")
    frozen = {name: p.clone() for name, p in prior.named_parameters()}
    first = torch.randn(4, 3, 12, 12)
    net.train()
    net(first)
    found = prior(first)
    assert found.movedim(1, -1).flatten(0, -2).std(0).mean().item() == pytest.approx(0.5, rel=0.02)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net(3 + first).square().mean().backward()
    optimizer.step()
    assert torch.equal(prior(first), found)  # other batches change neither its scale nor its statistics
    assert all(torch.equal(p, frozen[name]) for name, p in prior.named_parameters())


def test_a_network_that_was_not_trained_has_no_prior_in_evaluation():
    net = network(0)
    before = net(torch.ones(1, 1))
    add_prior(net)
    net.eval()
    assert torch.equal(net(torch.ones(1, 1)), before)


def test_it_is_kept_in_the_state_and_can_be_removed():
    net, x = trained(0, True), torch.randn(5, 1)
    other = network(7)
    add_prior(other)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other.eval()(x), net.eval()(x))
    assert torch.equal(deepcopy(net)(x), net(x))
    plain = network(0)
    conversion = add_prior(plain)
    conversion.remove()
    assert torch.equal(plain(x), network(0)(x))
    assert "0.prior.factor" not in plain.state_dict()


def test_bad_choices_are_refused():
    for scale in (0.0, -1.0, float("inf")):
        with pytest.raises(ConfigError, match="expected above 0"):
            add_prior(network(0), scale=scale)
    net = network(0)
    add_prior(net)
    with pytest.raises(ConfigError, match="'prior' already"):
        add_prior(net)
