import math

import pytest
import torch

from sfumato.predictions import ClassPrediction
from sfumato.report import Contrast, Shown


def test_contrast_counts_every_pixel_and_keeps_exact_means():
    inside, outside = torch.rand(3, 40, 50), 5 * torch.rand(2, 40, 50)
    outside[0, 0, 0] = 1e4  # far beyond the last edge: it must still be counted
    pair = Contrast.of(inside, outside)
    assert (sum(pair.inside), sum(pair.outside)) == (inside.numel(), outside.numel())
    assert pair.means == pytest.approx((inside.double().mean().item(), outside.double().mean().item()))
    assert pair.edges[-1] < 6


def test_contrast_has_no_ratio_to_nothing():
    assert math.isnan(Contrast.of(torch.zeros(9), torch.ones(9)).ratio)


@pytest.mark.parametrize(("batch", "size"), [(1, (4, 6)), (2, (4, 5))])
def test_shown_refuses_what_does_not_fit(batch, size):
    prediction = ClassPrediction(torch.full((batch, 2, *size), 0.5), torch.zeros(batch, *size))
    with pytest.raises(ValueError, match="a0: image 4×5"):
        Shown("a0", torch.zeros(3, 4, 5), prediction, torch.zeros(4, 5, dtype=torch.int64), torch.ones(4, 5).bool())
