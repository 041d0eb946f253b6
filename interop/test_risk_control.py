"""The bound behind ``calibrate --delta`` and the stream test beside those of MAPIE."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mapie.exchangeability_testing import OnlineMartingaleTest
from mapie.risk_control.methods import get_r_hat_plus

from sfumato.calibration.risk import p_values
from sfumato.decisions import Drift

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


def test_the_stream_test_is_that_of_mapie():
    """The same capital after every score, with the same random ranks of equal scores."""
    theirs = OnlineMartingaleTest(burn_in=0, warn=False, test_level=0.01)
    theirs.rng = SimpleNamespace(uniform=Random(5).random)
    generator = torch.Generator().manual_seed(0)
    scores = (torch.randn(120, generator=generator) * 4).round().tolist()  # some are equal
    known, drift = scores[:40], Drift(scores[:40], 0.01, seed=5)
    for place, score in enumerate(scores[40:]):
        moved = score + 8 * (place > 30)
        capital = theirs.update_simple_jumper_martingale(theirs.compute_p_value(moved, np.array(known)))
        known.append(moved)
        drift.update(moved)
        assert drift.capital == pytest.approx(capital)
    assert drift.alarm is not None
