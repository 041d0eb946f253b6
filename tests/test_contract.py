"""Every likelihood and every method of the package passes the checks that it publishes; broken ones do not."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from sfumato.likelihoods import Categorical, Dirichlet, Gaussian, Laplace, LogitNormal, NormalInverseGamma
from sfumato.methods import (
    SWAG,
    BatchEnsemble,
    ConditionalVAE,
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
    make_multi_head,
    make_variational,
)
from sfumato.models import UNet
from sfumato.predictions import ValueMoments
from sfumato.testing import check_likelihood, check_method, check_prediction

CLASSES = torch.randint(4, (3, 5, 6), generator=torch.Generator().manual_seed(0))
VALUES = 1 + 3 * torch.rand(3, 2, 5, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("law", [Categorical(4), LogitNormal(4), Dirichlet(4)])
def test_class_likelihoods(law):
    check_likelihood(law, CLASSES)


@pytest.mark.parametrize("law", [Gaussian, Laplace])
@pytest.mark.parametrize("link", ["identity", "log", "inverse"])
def test_value_likelihoods(law, link):
    ends = {} if link == "identity" else {"lower": 0.5, "upper": 10.0}
    check_likelihood(law(2, link, **ends), VALUES)


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
        "deterministic": (Deterministic(net), False),
        "mc dropout": (MCDropout(net, 3), True),
        "mc dropout in chunks": (MCDropout(net, 5, chunk=2), True),
        "ensemble": (DeepEnsemble([net, net]), False),
        "laplace": (LastLayerLaplace.fit(net, net.head, data, Categorical(4).nll, samples=3), True),
        "feature density": (FeatureDensity.fit(net, net.head, data, 4), False),
        "swag": (SWAG.fit(net, data, Categorical(4).nll, epochs=3, rank=3, samples=3), True),
        "snapshots": (DeepEnsemble.of(net, [net.state_dict()] * 2), False),
        "variational": (Variational(converted(make_variational), 3), True),
        "concrete dropout": (MCDropout(converted(inject_concrete_dropout), 3, chunk=2), True),
        "variance propagation": (VariancePropagation(net), False),
        "batch ensemble": (BatchEnsemble(converted(make_batch_ensemble)), False),
        "heads": (MultiHead(converted(lambda net: make_multi_head(net, "head", 3))), False),
        "latent": (LatentDraws(ConditionalVAE(network(), 4, 4, 4), 3), True),
        "flips": (TestTimeAugmentation(net), False),
    }, net


@pytest.mark.parametrize("name", list(methods()[0]))
def test_methods(name):
    known, net = methods()
    method, random = known[name]
    own = getattr(method, "network", net)
    check_method(method, torch.rand(2, 3, 9, 10), likelihood=Categorical(4), network=own, random=random)


@pytest.mark.parametrize("name", list(methods()[0]))
def test_methods_read_any_likelihood(name):
    known, net = methods()
    check_method(known[name][0], torch.rand(2, 3, 9, 10), likelihood=Gaussian(2), network=net, random=known[name][1])


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


class Forgetful(nn.Module):
    def __init__(self, network, fault):
        super().__init__()
        self.network, self.fault = network, fault

    def draws(self, *inputs, generator=None):
        if self.fault == "mode":
            self.network.train()
        if self.fault == "generator":
            generator = None
        yield from MCDropout(self.network, 2).draws(*inputs, generator=generator)
        if self.fault == "buffers":
            self.network(*inputs)


@pytest.mark.parametrize(
    ("fault", "message"), [("mode", "changed"), ("generator", "other draws"), ("buffers", "other draws")]
)
def test_broken_methods_are_found(fault, message):
    net = network().eval() if fault == "mode" else network()
    with pytest.raises(AssertionError, match=message):
        check_method(Forgetful(net, fault), torch.rand(2, 3, 9, 10), likelihood=Categorical(4), network=net)


def test_parts_that_do_not_add_up_are_found():
    prediction = Categorical(2).moments(torch.randn(1, 2, 3, 3)).prediction()
    with pytest.raises(AssertionError, match="aleatoric"):
        check_prediction(replace(prediction, aleatoric=prediction.aleatoric * 3))
