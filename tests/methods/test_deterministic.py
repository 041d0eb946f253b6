from __future__ import annotations

import pytest
import torch
from torch import nn

from sfumato.contracts import Method
from sfumato.methods import Deterministic


def test_one_draw_of_the_network_in_evaluation_mode():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
    image = torch.rand(2, 3, 8, 8)
    method = Deterministic(network)
    assert isinstance(method, Method)
    (draw,) = method.draws(image)
    assert draw.shape == (1, 2, 4, 6, 6)
    assert not draw.requires_grad
    torch.testing.assert_close(draw[0], network.eval()(image))


def test_modes_are_restored_one_by_one_even_after_an_exception():
    network = nn.Sequential(nn.Dropout(), nn.BatchNorm2d(3), nn.Conv2d(3, 1, 1))
    network[1].eval()
    with pytest.raises(RuntimeError):
        list(Deterministic(network).draws(torch.rand(1, 5, 4, 4)))
    assert [module.training for module in network.modules()] == [True, True, False, True]


def test_several_inputs():
    class Pair(nn.Module):
        def forward(self, left, right):
            return left - right

    (draw,) = Deterministic(Pair()).draws(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2))
    assert (draw == 0).all()


def test_a_dict_is_refused_with_the_way_out():
    class Torchvision(nn.Module):
        def forward(self, x):
            return {"out": x}

    with pytest.raises(ValueError, match=r"returned a dict with 'out'.*picks the tensor"):
        list(Deterministic(Torchvision()).draws(torch.rand(1, 3, 4, 4)))
