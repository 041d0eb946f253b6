import copy

import pytest
import torch
from torch import nn
from torch.distributions import Normal
from torch.distributions import kl_divergence as divergence

from sfumato.methods import MCDropout, Variational, kl_divergence, make_variational


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 1)
    )


def test_conversion_is_undone_and_changes_no_output():
    net = network().eval()
    image = torch.randn(2, 2, 5, 6)
    before, state = net(image), copy.deepcopy(net.state_dict())
    conversion = make_variational(net)
    assert conversion.modules == ("0", "3")
    torch.testing.assert_close(net(image), before)
    assert not torch.equal(net.train()(image), net(image))
    conversion.remove()
    assert net.state_dict().keys() == state.keys()
    net.load_state_dict(state)
    torch.testing.assert_close(net.eval()(image), before)
    make_variational(net)  # and again


@pytest.mark.parametrize("prior", [1.0, 0.3])
def test_divergence_is_that_of_torch(prior):
    net = network()
    make_variational(net, prior=prior, spread=0.2)
    expected = torch.zeros(())
    for layer, fan_in in ((net[0], 18), (net[3], 4)):
        for name in ("weight", "bias"):
            own = Normal(getattr(layer, name), getattr(layer.posterior, name).exp())
            expected = expected + divergence(own, Normal(0.0, prior / fan_in**0.5)).sum()
    torch.testing.assert_close(kl_divergence(net), expected)
    kl_divergence(net).backward()
    assert all(p.grad is not None and (p.grad != 0).any() for name, p in net.named_parameters() if name[0] != "1")


def noise_of(layer, x, draws=1500):
    make_variational(nn.Sequential(layer), spread=0.5)
    layer.train()
    with torch.no_grad():
        mean = layer.eval()(x)
        layer.train()
        return torch.stack([layer(x) for _ in range(draws)]) - mean


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(4, 2, 2, groups=2, padding=1, stride=2), (2, 4, 3, 3)),
        (nn.Conv1d(2, 2, 2), (2, 2, 3)),
        (nn.Linear(3, 2), (2, 4, 3)),
        (nn.Linear(3, 2, bias=False), (3,)),
    ],
)
def test_noise_has_the_variance_of_weights_drawn_for_each_image(layer, shape):
    torch.manual_seed(0)
    x = torch.randn(shape)
    noise = noise_of(layer, x)
    plain = copy.deepcopy(layer)
    plain._forward_hooks.clear()
    with torch.no_grad():
        for name, log_std in layer.posterior.named_parameters():
            plain.get_parameter(name).copy_((2 * log_std).exp())
        variance = plain(x.square())
    torch.testing.assert_close(noise.mean(0), torch.zeros_like(variance), atol=0.1, rtol=0)
    torch.testing.assert_close(noise.var(0), variance, rtol=0.2, atol=0)


def test_pixels_share_their_weights_and_images_do_not():
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 1, 1, bias=False)
    x = torch.randn(1, 3, 1, 1).expand(2, 3, 1, 2).contiguous()  # equal pixels, equal images
    noise = noise_of(layer, x, 1000).flatten(1)
    torch.testing.assert_close(noise[:, 0], noise[:, 1])  # which local reparametrization would draw twice
    assert torch.corrcoef(noise.T)[0, 2].abs() < 0.15


def test_draws_are_networks_with_drawn_weights():
    net = network()
    make_variational(net, spread=0.3)
    image = torch.randn(1, 2, 5, 6)
    draws = torch.cat(list(Variational(net, 2).draws(image, generator=torch.Generator().manual_seed(3))))
    generator = torch.Generator().manual_seed(3)
    for draw in draws:
        other = copy.deepcopy(net).eval()
        with torch.no_grad():
            for layer in (other[0], other[3]):
                for name, log_std in layer.posterior.named_parameters():
                    mean = layer.get_parameter(name)
                    mean += log_std.exp() * torch.randn(log_std.shape, generator=generator)
            torch.testing.assert_close(other(image), draw)


def test_a_copy_learns_for_itself_and_a_saved_one_is_the_same():
    net = network()
    make_variational(net)
    twin = copy.deepcopy(net)
    with torch.no_grad():
        twin[0].posterior.weight.fill_(1.0)
    torch.manual_seed(0)
    noisy = twin.train()[0](torch.ones(1, 2, 5, 6)).std()
    torch.manual_seed(0)
    assert noisy > 5 * net.train()[0](torch.ones(1, 2, 5, 6)).std()
    fresh = network()
    make_variational(fresh, spread=0.9)
    fresh.load_state_dict(twin.state_dict())
    image = torch.randn(1, 2, 5, 6)
    first, second = (
        torch.cat(list(Variational(n, 2).draws(image, generator=torch.Generator().manual_seed(0))))
        for n in (twin, fresh)
    )
    assert torch.equal(first, second)


def test_gradients_reach_means_and_deviations():
    net = network().train()
    make_variational(net)
    net(torch.randn(2, 2, 5, 6)).square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not (p.grad != 0).any()] in ([], ["0.bias"])


def test_refused():
    net = network()
    with pytest.raises(ValueError, match="no layer whose weights have deviations"):
        Variational(net)
    with pytest.raises(ValueError, match="no layer whose posterior"):
        kl_divergence(net)
    with pytest.raises(ValueError, match="prior is 0"):
        make_variational(net, prior=0)
    with pytest.raises(ValueError, match=r"match .* is a Linear"):
        make_variational(net, where="1")
    with pytest.raises(ValueError, match="its modules are 0, 1"):
        make_variational(net, where="decoder")
    make_variational(net, where="3")
    with pytest.raises(ValueError, match="3 has a MeanField already"):
        make_variational(net)
    assert not hasattr(net[0], "posterior")
    with pytest.raises(ValueError, match="samples is 0"):
        Variational(net, 0)
    with pytest.raises(ValueError, match="no dropout"):
        list(MCDropout(net).draws(torch.randn(1, 2, 5, 6)))
