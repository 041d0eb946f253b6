"""Differences of images by their formulas."""

import numpy as np
import pytest
import torch

from sfumato.objectives.photometric import census_error, photometric_error, roughness, ssim


def images(seed=0, size=(7, 9)):
    return torch.rand(2, 2, 3, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).unbind(0)


def by_hand(one, other, row, column):
    """SSIM at one pixel of two channels, from the 9 pixels around it."""
    a, b = (np.pad(each, 1, mode="reflect")[row : row + 3, column : column + 3] for each in (one, other))
    covariance = (a * b).mean() - a.mean() * b.mean()
    top = (2 * a.mean() * b.mean() + 1e-4) * (2 * covariance + 9e-4)
    return top / ((a.mean() ** 2 + b.mean() ** 2 + 1e-4) * (a.var() + b.var() + 9e-4))


@pytest.mark.parametrize(("row", "column"), [(0, 0), (3, 4), (6, 8), (0, 5)])
def test_ssim_is_that_of_a_mean_window(row, column):
    one, other = images()
    found = ssim(one, other)[1, 2, row, column].item()
    assert found == pytest.approx(by_hand(one[1, 2].numpy(), other[1, 2].numpy(), row, column), abs=1e-9)


def test_equal_images_have_no_error_and_unlike_ones_have():
    one, other = images()
    assert photometric_error(one, one).abs().max() < 1e-9
    assert census_error(one, one).max() == 0
    for error in (photometric_error(one, other), census_error(one, other)):
        assert error.shape == (2, 7, 9)
        assert error.mean() > 0.1
        assert error.max() <= 1


def test_census_does_not_see_brightness():
    one, _ = images()
    darker = 0.6 * one
    assert census_error(one, darker).mean() < 0.1 * census_error(one, one.roll(1, -1)).mean()
    assert photometric_error(one, darker).mean() > 0.1 * photometric_error(one, one.roll(1, -1)).mean()


def test_roughness_counts_less_at_edges_of_the_image():
    ramp = torch.arange(6.0).expand(1, 1, 4, 6)
    flat, edges = torch.zeros(1, 3, 4, 6), torch.arange(6.0).expand(1, 3, 4, 6)
    assert roughness(ramp, flat) == pytest.approx(1.0)
    assert roughness(ramp, edges) == pytest.approx(float(torch.tensor(-1.0).exp()))
    assert roughness(torch.ones(1, 1, 4, 6), edges) == 0
