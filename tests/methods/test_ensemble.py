from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from sfumato.likelihoods import Gaussian
from sfumato.methods import DeepEnsemble, cyclic_rate
from sfumato.predictions import predict


class Constant(nn.Module):
    def __init__(self, *values: float) -> None:
        super().__init__()
        self.values = torch.tensor(values)

    def forward(self, image):
        return self.values[None, :, None, None].expand(len(image), -1, *image.shape[-2:])


def test_members_are_drawn_in_order():
    image = torch.rand(2, 3, 4, 5)
    draws = torch.cat(list(DeepEnsemble([Constant(1), Constant(3)]).draws(image)))
    assert draws.shape == (2, 2, 1, 4, 5)
    assert (draws[0] == 1).all()
    assert (draws[1] == 3).all()


def test_epistemic_is_the_variance_of_the_means():
    members = [Constant(1, 0), Constant(3, 0), Constant(8, 0)]
    prediction = predict(DeepEnsemble(members), torch.rand(1, 3, 2, 2), likelihood=Gaussian())
    torch.testing.assert_close(prediction.mean, torch.full((1, 1, 2, 2), 4.0))
    torch.testing.assert_close(prediction.epistemic, torch.full((1, 2, 2), 26 / 3))


def test_members_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"member 1 returned shape \(1, 2, 4, 4\) but member 0 \(1, 1, 4, 4\)"):
        list(DeepEnsemble([Constant(1), Constant(1, 2)]).draws(torch.rand(1, 3, 4, 4)))


def test_no_members():
    with pytest.raises(ValueError, match="at least one network"):
        DeepEnsemble([])


def test_checkpoints_of_one_network():
    network = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1, affine=False))
    states = []
    for scale in (1.0, 3.0):
        with torch.no_grad():
            network[0].weight.fill_(scale)
            network[1].running_mean.fill_(scale / 2)
        states.append({key: value.clone() for key, value in network.state_dict().items()})
    image = torch.ones(1, 1, 2, 2)
    draws = torch.cat(list(DeepEnsemble.of(network, states).draws(image)))
    # Each with statistics of its own: 1 − 0.5 and 3 − 1.5.
    torch.testing.assert_close(draws.mean((1, 2, 3, 4)), torch.tensor([0.5, 1.5]), atol=1e-4, rtol=0)
    assert network[0].weight.item() == 3.0
    with pytest.raises(ValueError, match="state 0 does not fit Sequential"):
        DeepEnsemble.of(network, [nn.Conv2d(1, 1, 3).state_dict()])
    with pytest.raises(ValueError, match="at least one"):
        DeepEnsemble.of(network, [])


@pytest.mark.parametrize(("steps", "cycles"), [(12, 3), (13, 4), (10, 1), (7, 5), (5, 5)])
def test_every_cycle_starts_at_the_full_rate_and_falls(steps, cycles):
    rates = [cyclic_rate(step, steps, cycles) for step in range(steps)]
    starts = [step for step in range(steps) if rates[step] == 1]
    assert len(starts) == cycles
    lengths = [end - start for start, end in pairwise([*starts, steps])]
    assert max(lengths) - min(lengths) <= 1
    assert all(after < before for before, after in pairwise(rates) if after != 1)


def test_cycles_are_those_of_torch():
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    cycle = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=5)
    for step in range(15):
        assert cycle.get_last_lr()[0] == pytest.approx(cyclic_rate(step, 15, 3))
        optimizer.step()
        cycle.step()


def test_more_cycles_than_steps():
    with pytest.raises(ValueError, match="5 cycles in 4 steps"):
        cyclic_rate(0, 4, 5)
