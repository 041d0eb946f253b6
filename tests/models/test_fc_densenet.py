from __future__ import annotations

import pytest
import torch
from torch import nn

from sfumato.models import FCDenseNet, fc_densenet56, fc_densenet67, fc_densenet103


@pytest.mark.parametrize(
    ("build", "layers", "paper"), [(fc_densenet56, 56, 1.5), (fc_densenet67, 67, 3.5), (fc_densenet103, 103, 9.4)]
)
def test_named_sizes_have_the_layers_and_parameters_of_the_paper(build, layers, paper):
    network = build(11)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert len(convolutions) == layers
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(paper, rel=0.09)


@pytest.mark.parametrize("size", [(1, 1), (9, 14), (16, 8)])
def test_any_size(size):
    network = FCDenseNet(3, (2, 2), 2, 4).eval()
    with torch.no_grad():
        assert network(torch.rand(2, 3, *size)).shape == (2, 3, *size)


def test_predictions_do_not_depend_on_the_batch():
    network = FCDenseNet(3, (2,), 2, 4).eval()
    images = torch.rand(3, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(network(images)[:1], network(images[:1]))


def test_every_parameter_learns():
    network = FCDenseNet(2, (2, 2), 2, 4)
    network(torch.rand(2, 3, 16, 16)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
