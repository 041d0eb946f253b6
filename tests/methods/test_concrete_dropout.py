import copy

import pytest
import torch
from torch import nn

from sfumato.methods import MCDropout, Variational, dropout_rates, inject_concrete_dropout, kl_divergence


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1))


def set_rate(layer, p):
    with torch.no_grad():
        layer.posterior.logit.copy_(torch.tensor(p).logit())


def test_injection_is_undone_and_inactive_in_evaluation():
    net = network().eval()
    image = torch.randn(2, 3, 4, 5)
    before, names = net(image), net.state_dict().keys()
    dropout = inject_concrete_dropout(net, p=0.3)
    assert dropout.modules == ("0", "3")
    assert dropout_rates(net) == pytest.approx({"0": 0.3, "3": 0.3})
    torch.testing.assert_close(net(image), before)
    dropout.remove()
    assert net.state_dict().keys() == names
    assert dropout_rates(net) == {}


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(nn.Conv2d(4, 4, 1), (500, 4, 2, 2)), (nn.Linear(4, 4), (500, 3, 4)), (nn.Conv1d(4, 4, 1), (500, 4, 3))],
)
def test_training_drops_the_stated_share_and_keeps_the_mean(layer, shape):
    torch.manual_seed(0)
    inject_concrete_dropout(nn.Sequential(layer), p=0.25, where="0")
    seen = []
    layer.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0].detach()))
    layer.train()(torch.ones(shape))
    assert (seen[0] < 0.5).float().mean() == pytest.approx(0.25, abs=0.03)
    assert seen[0].mean() == pytest.approx(1, abs=0.05)
    if shape[-1] == 2:
        assert (seen[0] == seen[0][..., :1, :1]).all()  # whole feature maps


def test_mc_dropout_draws_masks_of_the_learned_probability():
    net = nn.Sequential(nn.Identity(), nn.Conv2d(1, 1, 1, bias=False))
    inject_concrete_dropout(net)
    with torch.no_grad():
        net[1].weight.fill_(1.0)
    set_rate(net[1], 0.2)
    draws = torch.cat(list(MCDropout(net, 2000, chunk=50).draws(torch.ones(1, 1, 2, 2))))[:, 0, 0, 0, 0]
    assert draws.unique().tolist() == pytest.approx([0.0, 1.25])
    assert (draws == 0).float().mean() == pytest.approx(0.2, abs=0.03)


def test_mc_dropout_repeats_only_what_follows_and_chunks_do_not_matter():
    net = network()
    inject_concrete_dropout(net, p=0.4, where="3")
    image = torch.randn(1, 3, 4, 5)
    assert MCDropout(net, 4, chunk=1).plan(image).startswith("replayed")
    drawn = [
        torch.cat(list(MCDropout(net, 5, chunk=chunk).draws(image, generator=torch.Generator().manual_seed(0))))
        for chunk in (1, 2, 5)
    ]
    torch.testing.assert_close(drawn[0], drawn[1])
    torch.testing.assert_close(drawn[0], drawn[2])


def test_regularizer_is_that_of_the_paper():
    net = network()
    inject_concrete_dropout(net, p=0.1, prior=0.5, where="3")
    set_rate(net[3], 0.3)
    p, squares = 0.3, net[3].weight.square().sum().item()
    length = 8 / 0.5**2  # the prior's precision, l² of the paper
    entropy = -(p * torch.tensor(p).log() + (1 - p) * torch.tensor(1 - p).log())
    torch.testing.assert_close(kl_divergence(net), length * squares / (2 * (1 - p)) - 8 * entropy)


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_without_data_p_goes_to_the_minimum_of_the_regularizer(scale):
    net = network()
    inject_concrete_dropout(net, p=0.1, where="3")
    with torch.no_grad():
        net[3].weight.mul_(scale)
    p = torch.linspace(0.001, 0.999, 9999)
    squares = net[3].weight.detach().square().sum()
    best = p[(8 * squares / (2 * (1 - p)) + 8 * (p * p.log() + (1 - p) * (1 - p).log())).argmin()].item()
    optimizer = torch.optim.Adam([net[3].posterior.logit], lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        kl_divergence(net).backward()
        optimizer.step()
    assert dropout_rates(net)["3"] == pytest.approx(best, abs=0.01)
    assert best == pytest.approx(0.5, abs=1e-3) if scale == 0 else best < 0.45


def test_the_loss_moves_p():
    """Noise that hurts the fit is learned away: the target is the input, and a dropped input misses it."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 1, 1))
    inject_concrete_dropout(net, p=0.5, where="0")
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    x = torch.randn(64, 1, 2, 2)
    for _ in range(150):
        optimizer.zero_grad()
        ((net(x) - x).square().mean() * 10).backward()
        optimizer.step()
    assert dropout_rates(net)["0"] < 0.1


def test_a_copy_has_a_probability_of_its_own():
    net = network()
    inject_concrete_dropout(net, p=0.3)
    twin = copy.deepcopy(net)
    set_rate(twin[0], 0.9)
    set_rate(twin[3], 0.9)
    image = torch.ones(200, 3, 2, 2)
    shares = []
    for each in (net, twin):
        seen = []
        each[0].register_forward_hook(lambda _, inputs, output, seen=seen: seen.append(inputs[0].detach()))
        each.train()(image)
        shares.append((seen[0] < 0.5).float().mean().item())
    assert shares == pytest.approx([0.3, 0.9], abs=0.06)


def test_refused():
    net = network()
    with pytest.raises(ValueError, match="p is 1"):
        inject_concrete_dropout(net, p=1.0)
    with pytest.raises(ValueError, match="prior -1"):
        inject_concrete_dropout(net, prior=-1)
    with pytest.raises(ValueError, match="its modules are 0, 1"):
        inject_concrete_dropout(net, where="decoder")
    with pytest.raises(ValueError, match="is a Linear, Conv1d"):
        inject_concrete_dropout(net, where=nn.ReLU)
    inject_concrete_dropout(net)
    with pytest.raises(ValueError, match="0 has a Rate already"):
        inject_concrete_dropout(net)
    with pytest.raises(ValueError, match="no layer whose weights have deviations"):
        Variational(net)
