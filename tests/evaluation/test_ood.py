"""Histograms of uncertainties in and out of distribution."""

import pytest
import torch

from sfumato.evaluation.ood import OODTally, UncertaintyHistograms, linear_histogram
from sfumato.predictions import ClassPrediction, ValuePrediction


def values(epistemic, aleatoric=None):
    """A prediction with these variances (B, H, W)."""
    aleatoric = torch.ones_like(epistemic) if aleatoric is None else aleatoric
    return ValuePrediction(torch.zeros_like(epistemic)[:, None], aleatoric[:, None], epistemic[:, None], "m")


def test_bins_are_those_of_a_histogram_over_all_pixels():
    random = torch.Generator().manual_seed(0)
    inside, outside = (torch.rand(1, 40, 50, generator=random) * scale for scale in (1.0, 3.0))
    tally = OODTally()
    tally.update(values(inside**2), outside=False)
    tally.update(values(outside**2), outside=True)
    found = tally.compute()["epistemic"]
    edges = torch.tensor(found.edges, dtype=torch.float64)
    assert len(edges) == 61
    assert float(edges[-1]) == pytest.approx(float(outside.flatten().double().quantile(0.995)), rel=0.01)
    for counts, pixels in ((found.inside, inside), (found.outside, outside)):
        exact = torch.histogram(pixels.flatten().double().clamp(0, float(edges[-1])), edges).hist
        assert sum(counts) == pytest.approx(2000)
        assert (torch.tensor(counts).cumsum(0) - exact.cumsum(0)).abs().max() < 0.01 * 2000
    assert found.means == pytest.approx((float(inside.mean()), float(outside.mean())), rel=1e-5)


def test_histograms_add_up_over_images():
    random = torch.Generator().manual_seed(1)
    maps = torch.rand(4, 6, 7, generator=random)
    whole, parts = UncertaintyHistograms(), UncertaintyHistograms()
    whole.update(values(maps), None, False)
    for one in range(4):
        parts.update(values(maps[[one]]), torch.ones(1, 6, 7, dtype=torch.bool), False)
    assert torch.equal(whole.compute()["pixels"], parts.compute()["pixels"])


def test_only_novel_pixels_count_outside():
    tally = OODTally()
    tally.update(values(torch.full((1, 2, 2), 1.0)), outside=False)
    novel = torch.tensor([[[True, False], [False, False]]])
    tally.update(values(torch.tensor([[[16.0, 1.0], [1.0, 1.0]]])), outside=True, novel=novel)
    found = tally.compute()
    assert sum(found["epistemic"].outside) == pytest.approx(1)
    assert found["epistemic"].ratio == pytest.approx(4)  # standard deviations
    assert found["aleatoric"].ratio == pytest.approx(1)
    assert "novelty" not in found
    assert float(tally.scores.compute()["ood_auroc_epistemic"]) == 1


def test_one_value_for_each_image_and_nothing_uncertain():
    probs = torch.tensor([[1.0, 0.0]])
    tally = OODTally()
    for outside in (False, True):
        tally.update(ClassPrediction(probs, torch.zeros(1)), outside=outside)
    found = tally.compute()["epistemic"]
    assert found.inside[0] == found.outside[0] == 1
    assert found.edges[-1] == 1


def test_the_last_bin_holds_what_lies_above():
    pixels = torch.zeros(2, 1 << 16, dtype=torch.int64)
    pixels[:, 32512] = 1000  # the key of 1.0
    pixels[1, 33000] = 1  # a single larger one
    found = linear_histogram(pixels, torch.tensor([1000.0, 1004.0]))
    assert 1 < found.edges[-1] < 1.01
    assert sum(found.outside) == pytest.approx(1001)
