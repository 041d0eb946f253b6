"""Moments against 10,000 masks: exact where elements are independent, near after a fit where they are not."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sfumato.errors import ConfigError
from sfumato.likelihoods import Categorical, Gaussian
from sfumato.methods import MCDropout, Output, VariancePropagation, inject_dropout
from sfumato.methods._propagation import corrections
from sfumato.methods._propagation.activations import MeanVariance, larger
from sfumato.methods._propagation.corrections import WindowCovariance
from sfumato.methods._propagation.rules import LinearMap
from sfumato.models import UNet
from sfumato.predictions import predict

IMAGE = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def sampled(network, image=IMAGE, count=10_000):
    """Mean and variance of the output over masks: a batch of copies of one image."""
    for module in network.eval().modules():
        module.training = isinstance(module, nn.Dropout | nn.Dropout2d)
    torch.manual_seed(0)
    with torch.no_grad():
        outputs = network(image.expand(count, -1, -1, -1))
    return outputs.mean(0), outputs.var(0)


def seeded(*layers):
    torch.manual_seed(0)
    return nn.Sequential(*(layer() for layer in layers))


class Joined(nn.Module):
    def forward(self, image):
        x = F.dropout(image, 0.3, False)
        y = torch.cat([x, image], 1) * 2 + 1 - x[:, :1].flip(-1) / 4
        return F.pad(y, (1, 2, 0, 1), value=3.0)


@pytest.mark.parametrize(
    "after",
    [
        lambda: nn.Conv2d(3, 4, 3, padding=1, stride=2),
        lambda: nn.ConvTranspose2d(3, 4, 2, 2),
        lambda: nn.AvgPool2d(2),
        lambda: nn.AdaptiveAvgPool2d(3),
        lambda: nn.Upsample(scale_factor=2, mode="bilinear"),
        lambda: nn.Upsample(size=(9, 4), mode="bilinear", align_corners=True),
        lambda: nn.Upsample(scale_factor=3),
        lambda: nn.ReplicationPad2d(2),
        lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 5, 1)),
        lambda: nn.Sequential(nn.Flatten(2), nn.Linear(36, 5)),
    ],
)
def test_exact_for_dropout_and_one_linear_map(after):
    network = seeded(lambda: nn.Dropout(0.3), after)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 2)
            module.running_mean.normal_()
    mean, variance = VariancePropagation(network).moments(IMAGE)
    expected = sampled(network)
    sd = expected[1].sqrt()
    assert ((mean[0] - expected[0]).abs() < 5 * sd / 100 + 1e-5).all()  # 5 standard errors of 10,000 draws
    assert torch.allclose(variance[0], expected[1], rtol=0.08, atol=1e-6)


def test_arithmetic_by_hand():
    mean, variance = VariancePropagation(Joined()).moments(IMAGE)
    v = IMAGE.square() * 0.3 / 0.7
    y = torch.cat([IMAGE, IMAGE], 1) * 2 + 1 - IMAGE[:, :1].flip(-1) / 4
    spread = torch.cat([4 * v, 0 * v], 1) + v[:, :1].flip(-1) / 16
    assert torch.allclose(mean, F.pad(y, (1, 2, 0, 1), value=3.0))
    assert torch.allclose(variance, F.pad(spread, (1, 2, 0, 1)))


@pytest.mark.parametrize(
    ("activation", "reference"),
    [
        (nn.ReLU(inplace=True), torch.relu),
        (nn.LeakyReLU(0.2), lambda t: F.leaky_relu(t, 0.2)),
        (nn.GELU(), F.gelu),
        (nn.Tanh(), torch.tanh),
    ],
)
def test_activations_have_the_moments_of_a_normal_law(activation, reference):
    """Against quadrature with 20,001 nodes."""
    mean = torch.tensor([-20.0, -3, -0.5, 0, 0.3, 2, 20]).repeat(3)
    variance = torch.tensor([1e-6, 0.5, 1.5]).repeat_interleave(7)
    t = torch.linspace(-9, 9, 20_001, dtype=torch.float64)
    weights = (-0.5 * t**2).exp() / (-0.5 * t**2).exp().sum()
    values = reference(mean[:, None] + variance[:, None].sqrt() * t)
    expected = values @ weights
    spread = (values - expected[:, None]).square() @ weights
    one = nn.Sequential(nn.Dropout(0.5), activation)  # x m / (1 − p) has mean x and variance x²: any pair by an offset

    class Offset(nn.Module):
        def forward(self, image):
            return one[1](one[0](image) + (mean - variance.sqrt()).view(1, 1, 3, 7))

    found = VariancePropagation(Offset()).moments(variance.sqrt().view(1, 1, 3, 7))
    tolerance = 1e-4 if isinstance(activation, nn.ReLU | nn.LeakyReLU) else 0.03
    assert torch.allclose(found[0].flatten().double(), expected, atol=tolerance)
    assert torch.allclose(found[1].flatten().double(), spread, atol=tolerance)


def test_the_larger_of_two_is_that_of_samples():
    torch.manual_seed(0)
    a, b = (MeanVariance(torch.randn(50), torch.rand(50)) for _ in range(2))
    draws = [x.mean + x.variance.sqrt() * torch.randn(100_000, 50) for x in (a, b)]
    largest = torch.maximum(*draws)
    found = larger(a, b)
    assert torch.allclose(found.mean, largest.mean(0), atol=0.02)
    assert torch.allclose(found.variance, largest.var(0), rtol=0.03, atol=1e-3)


def test_a_small_network_is_near_its_samples():
    network = seeded(
        lambda: nn.Dropout(0.3),
        lambda: nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU,
        lambda: nn.MaxPool2d(2),
        lambda: nn.Dropout(0.2),
        lambda: nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU,
        lambda: nn.Conv2d(16, 2, 1),
    )
    mean, variance = VariancePropagation(network).moments(IMAGE)
    expected = sampled(network)
    ratio = (variance[0] / expected[1]).sqrt()
    assert ((mean[0] - expected[0]).abs() / expected[1].sqrt()).mean() < 0.15
    assert 0.8 < ratio.median() < 1.25
    assert 0.5 < ratio.min() < ratio.max() < 2


def test_the_mean_of_a_unet_is_near_that_of_its_draws():
    torch.manual_seed(0)
    network = UNet(4, widths=(8, 16, 16), dropout=0.3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    network(torch.rand(8, 3, 16, 16))  # batch normalization gets its statistics
    image = torch.rand(1, 3, 16, 16)
    mean, variance = VariancePropagation(network).moments(image)
    drawn = torch.cat(list(MCDropout(network, 200).draws(image, generator=torch.Generator().manual_seed(0))))
    assert ((mean - drawn.mean(0)).abs() / drawn.std(0)).mean() < 0.2
    assert 0.5 < (variance.sqrt() / drawn.std(0)).median() < 2


def test_the_epistemic_variance_of_a_value_is_the_propagated_one():
    network = seeded(lambda: nn.Dropout(0.3), lambda: nn.Conv2d(3, 2, 3))
    mean, variance = VariancePropagation(network).moments(IMAGE)
    prediction = predict(VariancePropagation(network), IMAGE, likelihood=Gaussian())
    assert torch.allclose(prediction.mean, mean[:, :1], atol=1e-5)
    assert torch.allclose(prediction.epistemic_variance, variance[:, :1], rtol=1e-4)


def test_the_epistemic_part_of_classes_is_near_that_of_masks():
    network = seeded(lambda: nn.Dropout(0.4), lambda: nn.Conv2d(3, 5, 3))
    with torch.no_grad():
        network[1].weight.mul_(4)
    found = predict(VariancePropagation(network, 32), IMAGE, likelihood=Categorical(5))
    drawn = predict(MCDropout(network, 1000), IMAGE, likelihood=Categorical(5))
    assert torch.allclose(found.total, drawn.total, atol=0.06)
    # Channels are treated as independent, but they share inputs: the mutual information is not exact.
    assert (found.epistemic / drawn.epistemic).mean() == pytest.approx(1, abs=0.35)


def test_writing_in_place_reaches_every_alias():
    class Residual(nn.Module):
        def forward(self, image):
            x = F.dropout(image, 0.5, False)
            left, kept = x[..., :3], x
            left.mul_(3)
            certain = torch.ones(1, 3, 6, 6)
            certain += kept
            kept = certain[:]
            return F.relu(kept, inplace=True)

    mean, variance = VariancePropagation(Residual()).moments(IMAGE)
    factor = torch.tensor([3.0, 3, 3, 1, 1, 1])
    assert torch.allclose(variance, larger(MeanVariance(1 + IMAGE * factor, (IMAGE * factor) ** 2), MeanVariance(
        torch.zeros(()), torch.zeros(()))).variance, atol=1e-4)  # fmt: skip
    assert mean.shape == IMAGE.shape


def test_dropout_added_to_any_network():
    network = Output(
        seeded(lambda: nn.Conv2d(3, 4, 3, 2, 1), lambda: nn.SiLU(inplace=True), lambda: nn.Conv2d(4, 2, 1))
    )
    inject_dropout(network, where=r"network\.0", p=0.3)
    mean, variance = VariancePropagation(network).moments(IMAGE)
    assert mean.shape == variance.shape == (1, 2, 6, 6)
    assert (variance > 0).all()


class Does(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.what = what

    def forward(self, image):
        return self.what(F.dropout(image, 0.3))


@pytest.mark.parametrize(
    ("what", "name"),
    [
        (lambda x: x.softmax(1), "softmax"),
        (lambda x: F.layer_norm(x, x.shape[1:]), "layer_norm"),
        (lambda x: x * float(x.max()), "max"),
        (lambda x: 1 / x, "__rdiv__"),
        (lambda x: F.conv2d(x, x), "weights that are not certain"),
        (lambda x: F.batch_norm(x, None, None, training=True), "without running statistics"),
        (lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"), "'bicubic'"),
        (lambda x: F.max_pool2d(x, 4, ceil_mode=True), "ceil_mode"),
        (lambda x: F.adaptive_avg_pool2d(x, 4), "from 6 × 6 to 4 × 4"),
        (lambda x: F.avg_pool2d(x, 4, ceil_mode=True), "windows of different sizes"),
        (lambda x: torch.zeros(1, 6, 6, 6)[:, :3].add_(x), "a part of a tensor that was certain"),
        (lambda x: F.dropout(x, 1.0), "p = 1"),
    ],
)
def test_what_has_no_rule_is_named(what, name):
    with pytest.raises(ConfigError, match=rf"cannot be propagated through .*{name}.*: use MCDropout"):
        VariancePropagation(Does(what)).moments(IMAGE)


def test_refused():
    with pytest.raises(ConfigError, match="Conv2d has no dropout"):
        VariancePropagation(nn.Conv2d(3, 2, 1)).moments(IMAGE)
    with pytest.raises(ConfigError, match="samples is 1"):
        VariancePropagation(nn.Dropout(), 1)
    with pytest.raises(ConfigError, match="expected one tensor"):
        VariancePropagation(Does(lambda x: (x, x))).moments(IMAGE)
    with pytest.raises(ConfigError, match="masks is 1"):
        VariancePropagation.fit(nn.Dropout(), [(IMAGE,)], masks=1)
    with pytest.raises(ConfigError, match="no batch"):
        VariancePropagation.fit(nn.Dropout(), [])


def smoothing(inplace=False):
    """Convolutions that average, so that shared masks matter: the rules of independent elements lose the variance."""
    network = seeded(
        lambda: nn.Dropout(0.3),
        lambda: nn.Conv2d(3, 4, 3, padding=1),
        lambda: nn.ReLU(inplace),
        lambda: nn.MaxPool2d(2),
        lambda: nn.Conv2d(4, 6, 3, padding=1),
        lambda: nn.ReLU(inplace),
        lambda: nn.Upsample(scale_factor=2, mode="bilinear"),
        lambda: nn.Conv2d(6, 4, 3, padding=1),
        lambda: nn.ReLU(inplace),
        lambda: nn.Conv2d(4, 2, 1),
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
    return network


FITTED_ON = torch.rand(8, 3, 12, 12, generator=torch.Generator().manual_seed(2))


def test_a_fit_finds_the_variance_that_independent_rules_lose():
    network, image = smoothing(), torch.rand(1, 3, 12, 16, generator=torch.Generator().manual_seed(3))
    expected = sampled(network, image, 2000)[1].sqrt()
    lost = VariancePropagation(network).moments(image)[1][0].sqrt() / expected
    found = (
        VariancePropagation.fit(network, [(FITTED_ON[:4],), (FITTED_ON[4:],)]).moments(image)[1][0].sqrt() / expected
    )
    assert lost.median() < 0.5
    assert found.median() == pytest.approx(1, abs=0.1)
    assert ((found - 1).abs() < 0.2).float().mean() > 0.9


def test_a_fit_leaves_exact_rules_exact():
    """The independent rules are exact for one convolution after dropout, so the fit has nothing to change."""
    network = seeded(lambda: nn.Dropout(0.3), lambda: nn.Conv2d(3, 4, 3))
    exact = VariancePropagation(network).moments(IMAGE)[1].sqrt()
    found = VariancePropagation.fit(network, [(FITTED_ON,)], masks=100).moments(IMAGE)[1].sqrt()
    assert ((found / exact - 1).abs() < 0.15).float().mean() > 0.9


def test_window_covariance_by_hand():
    """Of two elements with correlation r, ``3 x + 2 y`` has variance ``9 v + 4 u + 12 r sqrt(v u)``."""
    r, weight = 0.25, torch.tensor([[3.0, 2.0]])
    variance = torch.tensor([[4.0, 9.0]])
    linear = LinearMap(variance, weight, F.linear)
    covariance = WindowCovariance("linear", weight.square() * (1 - r), weight[None] * r**0.5)
    assert covariance(variance, linear).item() == pytest.approx(9 * 4 + 4 * 9 + 12 * r * 6)


def test_a_fit_is_repeatable_and_changes_nothing_else(monkeypatch):
    monkeypatch.setattr(corrections, "STEPS", 5)
    network = smoothing()
    before, state = deepcopy(network.state_dict()), torch.random.get_rng_state()
    network.train()
    first, again, written = (
        VariancePropagation.fit(net, [(FITTED_ON,)], masks=5, rank=1, seed=4)
        for net in (network, network, smoothing(inplace=True).train())
    )
    assert network.training
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    expected = first.moments(IMAGE)[1]
    assert torch.equal(again.moments(IMAGE)[1], expected)
    assert torch.allclose(written.moments(IMAGE)[1], expected, rtol=1e-4)
    assert torch.equal(deepcopy(first).moments(IMAGE)[1], expected)
    assert torch.allclose(first.double().moments(IMAGE.double())[1], expected.double(), rtol=1e-3)


def test_a_fitted_network_must_run_the_same_operations():
    class Steered(nn.Module):
        def forward(self, image):
            x = F.dropout(image, 0.3)
            return x.tanh() if image.shape[-1] == 12 else x.sigmoid()

    method = VariancePropagation.fit(Steered(), [(FITTED_ON,)], masks=2)
    with pytest.raises(ConfigError, match="runs sigmoid where the fitted network ran tanh"):
        method.moments(IMAGE)


def test_repr_is_one_line():
    assert repr(VariancePropagation(nn.Dropout(), 4)) == "VariancePropagation(Dropout, samples=4)"
