"""GC-Net and LightStereo: sizes, both views, dropout, and what the last layer gives before training."""

import math

import pytest
import torch
from torch import nn

from sfumato.errors import ConfigError, DataError
from sfumato.likelihoods import Planes
from sfumato.models import GCNet, LightStereo
from sfumato.models.cost_volume import PlaneHead

SMALL = {LightStereo: {"width": 4, "features": 16}, GCNet: {"width": 2, "blocks": 1}}
each_network = pytest.mark.parametrize("kind", SMALL)


def made(kind, channels=20, planes=20, **more):
    return kind(channels, planes=planes, **SMALL[kind], **more)


def views(height=40, width=52, batch=1):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, batch, 3, height, width, generator=generator).unbind(0)


@each_network
@pytest.mark.parametrize("size", [(1, 1), (33, 70), (64, 32)])
def test_any_size_and_any_number_of_planes(kind, size):
    with torch.no_grad():
        assert made(kind).eval()(*views(*size)).shape == (1, 20, *size)


@each_network
def test_every_parameter_learns_and_both_views_matter(kind):
    network = made(kind)
    left, right = (view.requires_grad_() for view in views(batch=2))
    network(left, right).log_softmax(1)[:, 3].sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    assert left.grad.abs().sum() > 0
    assert right.grad.abs().sum() > 0


@each_network
def test_views_of_different_sizes_are_refused(kind):
    left, right = views()
    with pytest.raises(DataError, match="a stereo pair have one size"):
        made(kind)(left, right[..., 1:])


@each_network
def test_the_head_is_last_and_the_features_are_shared(kind):
    network = made(kind)
    layers = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    assert layers[-1] == "out.head"
    left, _ = views()
    network.eval()
    moved = left.roll(8, 3)
    with torch.no_grad():
        first, second = network(left, left), network(left, moved)
    assert not torch.allclose(first, second)


@each_network
def test_dropout_can_be_left_out(kind):
    assert any(isinstance(m, nn.Dropout) and m.p == 0.1 for m in made(kind).modules())
    assert not any(isinstance(m, nn.Dropout) and m.p > 0 for m in made(kind, dropout=0.0).modules())


def test_before_training_the_first_channel_of_a_laplace_head_is_the_soft_argmax():
    """In units of a quarter of the range around its middle."""
    head = PlaneHead(20, 2)
    with torch.no_grad():
        head.head.weight[:, :20] = 0
        scores = -(torch.arange(20.0) - 12.0).square().view(1, 20, 1, 1)
        mean, log_spread = head(scores).flatten().tolist()
    law = scores.flatten().softmax(0)
    assert mean == pytest.approx((12 - 10) / 5, abs=1e-4)
    expected = float((law * (torch.arange(20.0) - 12).square()).sum() + 1e-4) ** 0.5
    assert math.exp(log_spread) == pytest.approx(expected / 5, rel=1e-4)


def test_costs_become_scores():
    """The softmax of what the head gives is the softmin of the costs."""
    costs = torch.rand(1, 20, 2, 3)
    output = PlaneHead(20, 20, sign=-1.0)(costs)
    torch.testing.assert_close(output.softmax(1), (-costs).softmax(1))


@each_network
def test_a_network_learns(kind):
    torch.manual_seed(0)
    network, likelihood = made(kind, channels=16, planes=16), Planes(16)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    left, _ = views(32, 32, 2)
    target, valid = torch.full((2, 1, 32, 32), 4.0), torch.ones(2, 32, 32, dtype=torch.bool)
    losses = []
    for _ in range(12):
        loss = likelihood.nll(network(left, left), target, valid).mean()
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]


def test_the_size_of_gc_net():
    """The layers of table 1 of the paper: 18 of features, 18 of the volume, and the one that gives the costs."""
    network = GCNet(192)
    weights = [m for name, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Conv3d | nn.ConvTranspose3d)]
    assert len(weights) == 37 + 1
    assert 2.8e6 < sum(p.numel() for name, p in network.named_parameters() if "out." not in name) < 2.9e6


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="multiple of 16"):
        LightStereo(16, features=20)
    with pytest.raises(ConfigError, match="expected at least 2 and 1"):
        LightStereo(16, planes=1)
    with pytest.raises(ConfigError, match="let both have the same number of planes"):
        GCNet(20, planes=16)


@pytest.mark.parametrize("network", [LightStereo(12, planes=12), GCNet(16, planes=16, width=12, blocks=1)])
def test_gradients_in_mixed_precision_on_a_cpu_are_those_of_float32(network):
    """3-d convolutions in bfloat16 have random gradients there, many of them NaN."""
    network.eval()  # no dropout
    pair = views(96, 128, batch=4)
    gradients = []
    for mixed in (False, True, True):
        waste = [torch.full((20_000,), float("nan")) for _ in range(50)]  # memory that is used again
        del waste
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            found = network(*pair)
        network.zero_grad()
        found.float().square().mean().backward()
        volumes = (module for module in network.modules() if isinstance(module, nn.Conv3d))
        gradients.append(torch.cat([module.weight.grad.flatten() for module in volumes]))
    assert torch.equal(gradients[1], gradients[2])
    assert torch.nn.functional.cosine_similarity(gradients[0], gradients[1], dim=0) > 0.95
