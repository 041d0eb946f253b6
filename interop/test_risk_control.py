"""The bound behind ``calibrate --delta`` beside that of MAPIE."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mapie.risk_control.methods import get_r_hat_plus

from sfumato.calibration.risk import p_values

IMAGES, GRID = 80, np.linspace(0.005, 0.4, 80)


@pytest.mark.parametrize("delta", [0.1, 0.2])
def test_the_bound_is_that_of_mapie(delta):
    """The smallest risk that is certified is the next one on the grid, where MAPIE has the first one above its bound.

    MAPIE 1.6.0 sums the largest capital of the two halves of the images, so its bound can only be smaller. Where losses
    vary little, capital is largest at the end of each half, and both are equal.
    """
    torch.manual_seed(0)
    order = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(0))
    equal = []
    for spread, mean in ((400, 0.05), (400, 0.02), (200, 0.1), (19, 0.05), (9, 0.1)):
        losses = torch.distributions.Beta(spread * mean, spread * (1 - mean)).sample((IMAGES, len(GRID))).double()
        _, theirs = get_r_hat_plus(losses[order].numpy(), GRID, "rcps", "wsr", delta, 0.25)
        kept = torch.stack([p_values(losses, float(risk), delta) < delta for risk in GRID])
        ours = GRID[kept.int().argmax(0).numpy()]
        assert bool((theirs <= ours + 1e-12).all())
        equal.append(float((np.abs(theirs - ours) < 1e-12).mean()))
    assert min(equal[:3]) == 1.0, equal
    assert min(equal[3:]) > 0.5, equal
