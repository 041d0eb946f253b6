from __future__ import annotations

import pytest
import torch
from torch import nn

from sfumato.likelihoods import Gaussian
from sfumato.methods import DeepEnsemble
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
