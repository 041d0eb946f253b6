"""Functions that change a network in place agree on what they take and return, and all are taken back."""

import inspect

import pytest
import torch
from torch import nn

from sfumato.methods import (
    Conversion,
    inject_concrete_dropout,
    inject_dropout,
    last_layer,
    make_batch_ensemble,
    make_latent,
    make_multi_head,
    make_variational,
)
from sfumato.models import UNet

ALL = (inject_dropout, inject_concrete_dropout, make_variational, make_batch_ensemble, make_multi_head, make_latent)


def network():
    torch.manual_seed(0)
    return UNet(4, widths=(4, 8), dropout=0.0)


@pytest.mark.parametrize("convert", ALL)
def test_they_take_a_network_and_keywords_and_return_a_handle(convert):
    first, *rest = inspect.signature(convert).parameters.values()
    assert first.name == "network"
    assert rest[0].name == "where"
    assert all(parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in rest)
    assert isinstance(convert(network()), Conversion)


@pytest.mark.parametrize("convert", ALL)
@pytest.mark.parametrize("training", [True, False])
def test_they_are_taken_back(convert, training):
    net, image = network().train(training), torch.rand(4, 3, 8, 8)
    net.head.training = False
    modes, before = [module.training for module in net.modules()], net.state_dict()
    with torch.no_grad():
        expected = net.eval()(image)
    for module, mode in zip(net.modules(), modes):
        module.training = mode
    conversion = convert(net, where="head")
    assert conversion.modules == ("head",)
    assert net.head.training is False
    for _ in range(2):  # a second time changes nothing
        conversion.remove()
    assert [module.training for module in net.modules()] == modes
    assert net.state_dict().keys() == before.keys()
    with torch.no_grad():
        assert torch.equal(net.eval()(image), expected)
    convert(net, where="head")  # and it can be done again


@pytest.mark.parametrize("convert", ALL)
def test_unknown_modules_are_named(convert):
    with pytest.raises(ValueError, match="no module of UNet matches 'neck': its modules are "):
        convert(network(), where="neck")


def test_the_last_layer():
    assert last_layer(network()) == "head"
    assert last_layer(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Linear(4, 4)), (nn.Conv2d, nn.Linear)) == "1"
    with pytest.raises(ValueError, match="Sequential has no Conv2d: name the layer"):
        last_layer(nn.Sequential(nn.Linear(4, 4)))
