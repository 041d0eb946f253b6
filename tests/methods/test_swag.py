import copy

import pytest
import torch
from torch import nn

from sfumato.likelihoods import Categorical
from sfumato.methods import SWAG, DeepEnsemble, Deterministic, SWAGState, refresh_batch_norm


def walk(count=6, seed=0):
    """A network with 3 weights, and snapshots of it that are correlated."""
    torch.manual_seed(seed)
    network = nn.Conv2d(2, 1, 1)
    points = torch.randn(count, 3) @ torch.tensor([[1.0, 0.8, 0.0], [0.0, 0.5, 0.3], [0.0, 0.0, 0.1]]) + 2
    return network, points, [{"weight": p[:2].view(1, 2, 1, 1), "bias": p[2:]} for p in points]


def flat(weights):
    return torch.cat([value.flatten() for value in weights.values()])


@pytest.mark.parametrize("rank", [6, 3])
def test_draws_have_the_moments_of_the_snapshots(rank):
    network, points, states = walk()
    swag_state = SWAG.of(network, states, rank=rank).swag_state
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([flat(swag_state.draw(generator)) for _ in range(4000)])
    torch.testing.assert_close(drawn.mean(0), points.mean(0), atol=0.06, rtol=0)
    last = points[-rank:] - points.mean(0)
    expected = (points.var(0).diag() + last.T @ last / (rank - 1)) / 2
    torch.testing.assert_close(torch.cov(drawn.T), expected, atol=0.05, rtol=0.08)


def test_moments_are_exact_however_far_from_zero():
    network, points, _ = walk()
    swag_state = SWAGState(network, 2)
    for p in points + 1000:  # squares of 1000 leave float32 no digit for a variance of 0.01
        swag_state.collect({"weight": p[:2].view(1, 2, 1, 1), "bias": p[2:]})
    torch.testing.assert_close(flat(swag_state.average()), points.mean(0) + 1000)
    torch.testing.assert_close(swag_state.squares / 5, (points + 1000).var(0), rtol=1e-3, atol=1e-5)


def test_the_stationary_variance_of_noisy_descent_on_a_parabola():
    """w ← w − η (h w + ξ), ξ of variance c: stationary with variance η² c / (1 − (1 − η h)²)."""
    torch.manual_seed(0)
    rate, bend, noise = 0.3, 2.0, torch.randn(2500)
    network = nn.Conv2d(1, 1, 1, bias=False)
    optimizer = torch.optim.SGD(network.parameters(), rate)
    swag_state = SWAGState(network, 2)
    for step, push in enumerate(noise):
        optimizer.zero_grad()
        w = network.weight.sum()
        (bend * w**2 / 2 + push * w).backward()
        optimizer.step()
        if step > 20:
            swag_state.collect(network)
    found = float(swag_state.squares / (swag_state.count - 1))
    assert found == pytest.approx(rate**2 / (1 - (1 - rate * bend) ** 2), rel=0.1)


def normed():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Conv2d(3, 4, 1))


def batches(count=3):
    torch.manual_seed(1)
    return [((torch.randn(2, 2, 5, 6),), torch.randint(4, (2, 5, 6)), torch.rand(2, 5, 6) > 0.2) for _ in range(count)]


def fitted(**how):
    network, data = normed(), batches()
    return network, data, SWAG.fit(network, data, Categorical(4).nll, epochs=3, rank=3, samples=2, **how)


def test_the_network_that_is_given_stays_as_it_is():
    network = normed().train()
    before = copy.deepcopy(network.state_dict())
    method = SWAG.fit(network, batches(), Categorical(4).nll, epochs=2, rank=2)
    list(method.draws(torch.randn(1, 2, 5, 6)))
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert network.training
    assert not torch.equal(method.network[0].weight, network[0].weight)


def test_batch_normalization_belongs_to_the_mean_weights():
    _, data, method = fitted()
    with torch.no_grad():
        seen = [method.network[0](image) for (image,), _, _ in data]
    mean = torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0)
    var = torch.stack([x.var((0, 2, 3)) for x in seen]).mean(0)
    torch.testing.assert_close(method.network[1].running_mean, mean)
    torch.testing.assert_close(method.network[1].running_var, var)
    assert method.network[1].momentum == 0.1
    torch.testing.assert_close(flat(dict(method.network.named_parameters())), method.swag_state.mean)


def test_networks_have_statistics_of_their_own():
    _, data, method = fitted(learning_rate=0.5)
    members = method.networks([inputs for inputs, _, _ in data], torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    for member in members:
        torch.testing.assert_close(flat(dict(member.named_parameters())), flat(method.swag_state.draw(generator)))
        with torch.no_grad():
            mean = torch.stack([member[0](image).mean((0, 2, 3)) for (image,), _, _ in data]).mean(0)
        torch.testing.assert_close(member[1].running_mean, mean)
    assert len(list(DeepEnsemble(members).draws(torch.randn(1, 2, 5, 6)))) == 2


def test_refreshing_ignores_dropout_and_networks_without_statistics():
    network = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm2d(2))
    image = torch.ones(2, 2, 3, 3)
    refresh_batch_norm(network, [(image,)])
    torch.testing.assert_close(network[1].running_mean, torch.ones(2))
    refresh_batch_norm(nn.Conv2d(1, 1, 1), [])


def frozen():
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3).requires_grad_(False).eval()
    norm.running_mean += 1
    return nn.Sequential(norm, nn.Conv2d(3, 3, 1))


def test_frozen_batch_normalization_keeps_its_statistics():
    network, image = frozen(), torch.rand(4, 3, 6, 6)
    states = [{name: p.detach() for name, p in network.named_parameters()}] * 3
    method = SWAG.of(network, states, [(image,)], rank=3, samples=2)
    (expected,) = Deterministic(network).draws(image)
    for draw in method.draws(image):
        assert torch.equal(draw, expected)
    assert all(torch.equal(copy[0].running_mean, torch.ones(3)) for copy in method.networks([(image,)]))


@pytest.mark.parametrize(
    ("freeze", "kept"),
    [
        (lambda norm: None, False),
        (lambda norm: norm.eval(), True),  # while the network is in training mode
        (lambda norm: norm.requires_grad_(False), True),
        (lambda norm: norm.weight.requires_grad_(False), True),
    ],
)
def test_what_counts_as_frozen(freeze, kept):
    network = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(2)).train()
    freeze(network[0])
    modes = [module.training for module in network.modules()]
    refresh_batch_norm(network, [(torch.ones(2, 2, 3, 3),)])
    assert torch.equal(network[0].running_mean, torch.zeros(2)) == kept
    assert not torch.equal(network[0 if not kept else 1].running_var, torch.ones(2))
    assert [module.training for module in network.modules()] == modes


def test_a_network_in_evaluation_mode_is_not_frozen():
    network = nn.Sequential(nn.BatchNorm2d(2)).eval()
    refresh_batch_norm(network, [(torch.ones(2, 2, 3, 3),)])
    torch.testing.assert_close(network[0].running_mean, torch.ones(2))


def test_frozen_batch_normalization_is_frozen_in_fit_too():
    network, image = frozen(), torch.rand(4, 3, 6, 6)
    data = [((image,), torch.randint(3, (4, 6, 6)), torch.ones(4, 6, 6) > 0)]
    method = SWAG.fit(network, data, Categorical(3).nll, epochs=2, rank=2)
    assert torch.equal(method.network[0].running_mean, torch.ones(3))
    # The first step of SGD is that of the network with its frozen statistics.
    loss = Categorical(3).nll(network(image), *data[0][1:]).mean()
    loss.backward()
    first = network[1].bias - 1e-2 * network[1].bias.grad
    stepped = SWAG.fit(network, data, Categorical(3).nll, epochs=2, rank=2, momentum=0.0).swag_state.recent[0]
    torch.testing.assert_close(stepped[-3:], first.detach())


def test_a_state_inside_the_network_is_not_stored_twice():
    network, _, states = walk()
    network.add_module("swag_state", SWAGState(network, 2))
    for state in states:
        network.swag_state.collect(state)
    method = SWAG(network, network.swag_state)
    assert sum("recent" in name for name in method.state_dict()) == 1
    twin = copy.deepcopy(method)
    assert twin.swag_state is twin.network.swag_state is not network.swag_state
    assert twin.to(torch.float64).swag_state.mean.dtype == torch.float64


def test_a_smaller_step_leaves_a_smaller_spread():
    spreads = [float(fitted(learning_rate=rate)[2].swag_state.squares.sum()) for rate in (1e-3, 1e-1)]
    assert 0 < spreads[0] < spreads[1] / 100


def test_saved_with_its_moments(tmp_path):
    _, _, method = fitted()
    torch.save(
        {"network": method.network.state_dict(), "moments": method.swag_state.state_dict()}, tmp_path / "swag.pt"
    )
    saved = torch.load(tmp_path / "swag.pt", weights_only=True)
    network = normed()
    swag_state = SWAGState(network, 3)
    network.load_state_dict(saved["network"])
    swag_state.load_state_dict(saved["moments"])
    image = torch.randn(1, 2, 5, 6)
    first, second = (
        torch.cat(list(m.draws(image, generator=torch.Generator().manual_seed(0))))
        for m in (method, SWAG(network, swag_state, 2))
    )
    assert torch.equal(first, second)


def test_refused():
    network, _, states = walk()
    with pytest.raises(ValueError, match="6 snapshots for rank 7"):
        SWAG.of(network, states, rank=7)
    with pytest.raises(ValueError, match="0 snapshots"):
        SWAG.of(network, [], rank=2)
    with pytest.raises(ValueError, match="rank is 1"):
        SWAGState(network, 1)
    with pytest.raises(ValueError, match="samples is 0"):
        SWAG.of(network, states, rank=2, samples=0)
    with pytest.raises(ValueError, match=r"snapshot 0: weight is \(1, 3, 1, 1\), expected \(1, 2, 1, 1\)"):
        SWAG.of(network, [nn.Conv2d(3, 1, 1).state_dict()], rank=2)
    with pytest.raises(ValueError, match="bias is missing"):
        SWAGState(network, 2).collect(nn.Conv2d(2, 1, 1, bias=False))
    with pytest.raises(ValueError, match="no parameter"):
        SWAGState(nn.ReLU(), 2)
    deep = normed()
    with pytest.raises(ValueError, match="1 batch normalizations and there is no batch"):
        SWAG.of(deep, [deep.state_dict()] * 2, rank=2)
    with pytest.raises(ValueError, match="only once"):
        SWAG.fit(deep, iter(batches()), Categorical(4).nll)
    with pytest.raises(ValueError, match="2 epochs for rank 20"):
        SWAG.fit(deep, batches(), Categorical(4).nll, epochs=2)
    method = SWAG.of(deep, [deep.state_dict()] * 2, [inputs for inputs, _, _ in batches()], rank=2)
    with pytest.raises(ValueError, match="only once"):
        method.networks(iter([]))
