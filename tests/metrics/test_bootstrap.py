"""Bootstrap intervals cover as often as they say, and depend on images and seed only."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from sfumato.metrics import bootstrap


@dataclass(frozen=True)
class Mean:
    """The simplest statistics there are."""

    total: Tensor
    pixels: Tensor

    def scores(self):
        return {"mean": self.total / self.pixels, "pixels": self.pixels}

    def pooled(self):
        return Mean(self.total.sum(0), self.pixels.sum(0)).scores()


def images(seed, n=40, pixels=50):
    """Images differ by 1 in their mean, pixels of one image by 0.1: what counts is the number of images."""
    random = torch.Generator().manual_seed(seed)
    mean = torch.randn(n, generator=random, dtype=torch.float64)
    return Mean(mean * pixels + 0.1 * pixels**0.5 * torch.randn(n, generator=random), torch.full((n,), pixels))


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    hits = 0
    for seed in range(100):
        rows = images(seed)
        low, high = bootstrap.intervals(rows, rows.pooled(), 0.9, seed)["mean"]
        hits += low <= 0 <= high
    assert 78 <= hits <= 98  # within 4 σ of 0.9, less what percentile intervals of 40 images fall short of


def test_order_of_images_changes_nothing_and_the_seed_does():
    rows, order = images(0), torch.randperm(40, generator=torch.Generator().manual_seed(1))
    shuffled = Mean(rows.total[order], rows.pixels[order])
    first, second, other = (
        bootstrap.intervals(r, r.pooled(), 0.9, seed) for r, seed in ((rows, 0), (shuffled, 0), (rows, 1))
    )
    assert first["mean"] == pytest.approx(second["mean"], abs=1e-12)
    assert first["mean"] != pytest.approx(other["mean"], abs=1e-6)


def test_counts_get_no_interval():
    rows = images(0)
    assert list(bootstrap.intervals(rows, rows.pooled(), 0.9, 0)) == ["mean"]
