"""Every likelihood and every method of the package passes the checks that it publishes; broken ones do not."""

import copy
import pickle
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from torch import nn

from sfumato.likelihoods import Categorical, Dirichlet, Gaussian, Laplace, LogitNormal, NormalInverseGamma
from sfumato.methods import (
    SWAG,
    BaseMethod,
    BatchEnsemble,
    DeepEnsemble,
    Deterministic,
    FeatureDensity,
    LastLayerLaplace,
    LatentDraws,
    MCDropout,
    MultiHead,
    TestTimeAugmentation,
    VariancePropagation,
    Variational,
    inject_concrete_dropout,
    make_batch_ensemble,
    make_latent,
    make_multi_head,
    make_variational,
)
from sfumato.models import UNet
from sfumato.predictions import ValueMoments
from sfumato.testing import check_likelihood, check_method, check_prediction

CLASSES = torch.randint(4, (3, 5, 6), generator=torch.Generator().manual_seed(0))
VALUES = 1 + 3 * torch.rand(3, 2, 5, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("likelihood", [Categorical(4), LogitNormal(4), Dirichlet(4)])
def test_class_likelihoods(likelihood):
    check_likelihood(likelihood, CLASSES)


@pytest.mark.parametrize("likelihood", [Gaussian, Laplace])
@pytest.mark.parametrize("link", ["identity", "log", "inverse"])
def test_value_likelihoods(likelihood, link):
    ends = {} if link == "identity" else {"lower": 0.5, "upper": 10.0}
    check_likelihood(likelihood(2, link, **ends), VALUES)


def test_evidential_values():
    check_likelihood(NormalInverseGamma(2), VALUES)


def network():
    torch.manual_seed(0)
    return UNet(4, widths=(4, 8), dropout=0.4).train()


def converted(convert):
    net = network()
    convert(net)
    return net


def methods():
    net = network()
    images, valid = torch.rand(2, 3, 9, 10), torch.ones(2, 9, 10) > 0
    data = [((images,), torch.randint(4, (2, 9, 10)), valid)]
    return {
        "deterministic": Deterministic(net),
        "mc dropout": MCDropout(net, 3),
        "mc dropout in chunks": MCDropout(net, 5, chunk=2),
        "ensemble": DeepEnsemble([net, network()]),
        "laplace": LastLayerLaplace.fit(net, net.head, data, Categorical(4).nll, samples=3),
        "diagonal laplace": LastLayerLaplace.fit(net, "head", data, Categorical(4).nll, structure="diagonal"),
        "feature density": FeatureDensity.fit(net, net.head, data, 4),
        "swag": SWAG.fit(net, data, Categorical(4).nll, epochs=3, rank=3, samples=3),
        "snapshots": DeepEnsemble.of(net, [net.state_dict()] * 2),
        "variational": Variational(converted(make_variational), 3),
        "concrete dropout": MCDropout(converted(inject_concrete_dropout), 3, chunk=2),
        "variance propagation": VariancePropagation(net),
        "batch ensemble": BatchEnsemble(converted(make_batch_ensemble)),
        "heads": MultiHead(converted(partial(make_multi_head, members=3))),
        "latent": LatentDraws(converted(make_latent), 3),
        "flips": TestTimeAugmentation(net),
    }


NAMES = list(methods())
STOCHASTIC = {"mc dropout", "mc dropout in chunks", "laplace", "diagonal laplace", "swag", "variational"}
STOCHASTIC |= {"concrete dropout", "latent"}


@pytest.fixture(params=NAMES)
def method(request):
    return methods()[request.param]


def drawn(method, *inputs, seed=0):
    return torch.cat(list(method.draws(*inputs, generator=torch.Generator().manual_seed(seed))))


@pytest.mark.parametrize("likelihood", [Categorical(4), Gaussian(2)])
def test_methods_read_any_likelihood(method, likelihood):
    check_method(method, torch.rand(2, 3, 9, 10), likelihood=likelihood)


def test_methods_say_whether_they_are_stochastic():
    assert {name for name, method in methods().items() if method.stochastic} == STOCHASTIC
    assert {name for name, method in methods().items() if method.gives_novelty} == {"feature density"}


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])
def test_copies_draw_the_same(method, copied):
    images, twin = torch.rand(2, 3, 9, 10), copied(method)
    assert torch.equal(drawn(twin, images), drawn(method, images))
    for parameter in twin.parameters():
        parameter.data.zero_()
    assert any(parameter.abs().sum() > 0 for parameter in method.parameters())


def test_state_dicts_hold_all_that_was_fitted(method):
    images = torch.rand(2, 3, 9, 10)
    other, state = copy.deepcopy(method), {key: value.clone() for key, value in method.state_dict().items()}
    for tensor in (*other.parameters(), *other.buffers()):
        tensor.data.zero_()
    other.load_state_dict(state)
    assert torch.equal(drawn(other, images), drawn(method, images))


def test_no_tensor_is_stored_twice(method):
    members = len(getattr(method, "members", [1]))
    owners = [value.data_ptr() for value in method.state_dict().values() if value.numel()]
    assert len(set(owners)) == len(owners), members


def test_modes_neither_change_nor_matter(method):
    images, training = torch.rand(2, 3, 9, 10), [module.training for module in method.modules()]
    assert all(training)  # as the networks were
    draws = drawn(method, images)
    assert torch.equal(drawn(method.eval(), images), draws)
    assert not any(module.training for module in method.modules())
    assert torch.equal(drawn(method.train(), images), draws)


def test_methods_are_shown_on_one_line(method):
    assert repr(method).startswith(f"{type(method).__name__}(UNet")
    assert "\n" not in repr(method)
    if method.stochastic:
        assert f"samples={method.samples}" in repr(method)


class Image(nn.Module):
    """One value for each image, after dropout and normalization."""

    def __init__(self, channels=4):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d(0.5))
        self.head = nn.Linear(8, channels)

    def forward(self, image):
        return self.head(self.features(image).mean((2, 3)))


def image_methods():
    torch.manual_seed(0)
    net, variational, ranks, heads = Image(), Image(), Image(), Image()
    make_variational(variational)
    make_batch_ensemble(ranks, members=2)
    make_multi_head(heads, members=2)
    states = [{name: p + 0.1 * torch.randn_like(p) for name, p in net.named_parameters()} for _ in range(3)]
    return {
        "deterministic": Deterministic(net),
        "mc dropout": MCDropout(net, 3),
        "mc dropout in chunks": MCDropout(net, 5, chunk=2),
        "ensemble": DeepEnsemble([net, Image()]),
        "swag": SWAG.of(net, states, [(torch.rand(4, 3, 8, 8),)], rank=3, samples=3),
        "variational": Variational(variational, 3),
        "batch ensemble": BatchEnsemble(ranks),
        "heads": MultiHead(heads),
    }


@pytest.mark.parametrize("name", list(image_methods()))
@pytest.mark.parametrize("likelihood", [Categorical(4), Gaussian(2)])
def test_one_value_for_each_image(name, likelihood):
    method, images = image_methods()[name], torch.rand(2, 3, 8, 8)
    draws = drawn(method, images)
    assert draws.shape[1:] == (2, 4)
    assert len(draws) == 1 or draws.std(0).max() > 0
    check_method(method, images, likelihood=likelihood)


@dataclass(frozen=True)
class Broken:
    """A Gaussian that forgets one thing."""

    fault: str
    channels: int = 2

    def nll(self, output, target, valid):
        loss = Gaussian().nll(output, target, valid)
        if self.fault == "mask":
            loss = loss + 1
        if self.fault == "slope":
            loss = 2 * loss.detach() - loss
        if self.fault == "channel":
            loss = Gaussian().nll(output * torch.tensor([1.0, 0.0])[:, None, None], target, valid)
        return loss

    def moments(self, output):
        found = Gaussian().moments(output)
        if self.fault == "batch":
            return ValueMoments.of(found.mean, found.variance * output.mean().exp())
        return found


@pytest.mark.parametrize(
    ("fault", "message"),
    [("mask", "not 0 where"), ("slope", "does not lower"), ("channel", "every channel"), ("batch", "other images")],
)
def test_broken_likelihoods_are_found(fault, message):
    with pytest.raises(AssertionError, match=message):
        check_likelihood(Broken(fault), VALUES[:, :1])


class Forgetful(BaseMethod):
    stochastic = True

    def __init__(self, network, fault):
        super().__init__()
        self.network, self.fault = network, fault
        self.kept = [torch.zeros(2)] if fault == "tensor" else []

    def draws(self, *inputs, generator=None):
        if self.fault == "mode":
            self.network.train()
        if self.fault == "generator":
            generator = None
        yield from MCDropout(self.network, 2).draws(*inputs, generator=generator)
        if self.fault == "buffers":
            self.network(*inputs)


class Undeclared(nn.Module):
    stochastic = None


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("mode", "changed"),
        ("generator", "other draws"),
        ("buffers", "other draws"),
        ("tensor", r"do not move with to\(\): \['Forgetful.kept.0'\]"),
    ],
)
def test_broken_methods_are_found(fault, message):
    net = network().eval() if fault == "mode" else network()
    with pytest.raises(AssertionError, match=message):
        check_method(Forgetful(net, fault), torch.rand(2, 3, 9, 10), likelihood=Categorical(4))


def test_methods_must_declare_what_they_are():
    class Claiming(Deterministic):
        stochastic = True

    class Denying(MCDropout):
        stochastic = False

    images = torch.rand(2, 3, 9, 10)
    for method, message in (
        (object(), "not an nn.Module"),
        (Undeclared(), "does not declare stochastic"),
        (Claiming(network()), "gives the same draws"),
        (Denying(network(), 2), "stochastic is False"),
    ):
        with pytest.raises(AssertionError, match=message):
            check_method(method, images, likelihood=Categorical(4))


def test_parts_that_do_not_add_up_are_found():
    prediction = Categorical(2).moments(torch.randn(1, 2, 3, 3)).prediction()
    with pytest.raises(AssertionError, match="aleatoric"):
        check_prediction(replace(prediction, aleatoric=prediction.aleatoric * 3))
