"""Matching without learning, its scores, depth from disparity, and saliency, on pairs with a known answer."""

import numpy as np
import pytest
import torch

from sfumato.errors import ConfigError, DataError
from sfumato.geometry import (
    census_costs,
    cheapest,
    disparity_to_depth,
    gradient_saliency,
    mass_outside,
    narrow_margin,
    occlusion_saliency,
    peak_ratio,
    right_costs,
    stereo_baseline,
    view_difference,
)
from sfumato.geometry.matching import concatenation, group_correlation
from sfumato.predictions import ValuePrediction


def pair(disparity=5, height=24, width=60):
    """A random texture, and the same one moved to the left."""
    texture = torch.rand(1, 3, height, width + disparity, generator=torch.Generator().manual_seed(0))
    return texture[..., :width], texture[..., disparity:]


def test_census_finds_the_shift_of_a_texture():
    costs = census_costs(*pair(), planes=12)
    assert costs.shape == (1, 12, 24, 60)
    assert (costs >= 0).all()
    assert (costs <= 62).all()
    found = cheapest(costs)[..., 12:]
    torch.testing.assert_close(found, torch.full_like(found, 5.0), atol=0.1, rtol=0)


def test_the_parabola_finds_places_between_planes():
    """Costs that are a parabola around 3.3 have their least value there."""
    places = torch.arange(8.0).view(1, 8, 1, 1)
    assert float(cheapest((places - 3.3).square())) == pytest.approx(3.3, abs=1e-5)
    assert float(cheapest((places - 0.0).square())) == 0.0
    assert float(cheapest((places - 9.0).square())) == 7.0


def test_the_costs_of_the_right_view_find_the_same_shift():
    costs = census_costs(*pair(), planes=12)
    right = cheapest(right_costs(costs))[..., :40]
    torch.testing.assert_close(right, torch.full_like(right, 5.0), atol=0.1, rtol=0)


def test_scores_of_a_known_volume():
    costs = torch.tensor([8.0, 2.0, 3.0, 4.0, 9.0]).view(1, 5, 1, 1)
    assert float(peak_ratio(costs)) == pytest.approx(2 / 4)  # 3 is beside the least one
    assert float(narrow_margin(costs)) == pytest.approx(2 - 4)
    law = np.exp(-costs.flatten().numpy())
    assert float(mass_outside(costs)) == pytest.approx((law[3] + law[4]) / law.sum(), rel=1e-5)
    warm = np.exp(-costs.flatten().numpy() / 3)
    assert float(mass_outside(costs, 3.0)) == pytest.approx((warm[3] + warm[4]) / warm.sum(), rel=1e-5)


def test_scores_are_larger_on_repeated_texture():
    """On stripes with a period of 4 px, disparity 1 is as good as 5: no score may be sure."""
    left, right = pair()
    stripes = (torch.arange(60) % 4 < 2).float().expand(1, 3, 24, 60)
    volumes = [census_costs(*views, planes=12)[..., 16:50] for views in ((left, right), (stripes, stripes.roll(-1, 3)))]
    for score in (peak_ratio, narrow_margin, mass_outside):
        sure, unsure = (float(score(volume).mean()) for volume in volumes)
        assert unsure > sure
    assert float(peak_ratio(volumes[1]).mean()) == pytest.approx(1.0)


def test_left_right_check():
    left = torch.full((1, 1, 4, 10), 2.0)
    right = torch.full((1, 1, 4, 10), 2.0)
    right[..., 3] = 5.0
    found = view_difference(left, right)
    assert found.shape == (1, 4, 10)
    assert found[0, 0].tolist() == [0, 0, 0, 0, 0, 3, 0, 0, 0, 0]


def test_volumes_of_features():
    left, right = torch.randn(2, 2, 8, 3, 6, generator=torch.Generator().manual_seed(0)).unbind(0)
    volume = group_correlation(left, right, planes=3, groups=2)
    assert volume.shape == (2, 2, 3, 3, 6)
    expected = (left[1, 4:, 2, 5] * right[1, 4:, 2, 3]).mean()
    torch.testing.assert_close(volume[1, 1, 2, 2, 5], expected)
    both = concatenation(left, right, planes=3)
    assert both.shape == (2, 16, 3, 3, 6)
    torch.testing.assert_close(both[1, :, 2, 2, 5], torch.cat([left[1, :, 2, 5], right[1, :, 2, 3]]))
    assert (both[:, 8:, 2, :, :2] == 0).all()


def test_bad_input_of_matching():
    left, right = pair()
    with pytest.raises(DataError, match="a stereo pair have one size"):
        census_costs(left, right[..., 1:], 8)
    with pytest.raises(ConfigError, match="at least 3 planes and odd sides"):
        census_costs(left, right, 8, window=(8, 9))
    with pytest.raises(ConfigError, match="temperature is 0"):
        mass_outside(torch.zeros(1, 4, 1, 1), 0)


def disparities(mean, std):
    mean = torch.tensor([[[[mean]]]])
    return ValuePrediction(mean, torch.full_like(mean, std**2), torch.zeros_like(mean), "px")


def test_quantiles_of_depth_are_those_of_samples():
    found = disparity_to_depth(disparities(20.0, 2.0), torch.diag(torch.tensor([400.0, 400.0, 1.0]))[None], 0.5)
    samples = 400 * 0.5 / np.random.default_rng(0).normal(20.0, 2.0, 400_000)
    near, far = np.quantile(samples, [0.05, 0.95])
    assert float(found.near) == pytest.approx(near, rel=2e-3)
    assert float(found.far) == pytest.approx(far, rel=2e-3)
    assert float(found.depth) == pytest.approx(10.0)
    assert found.far - found.depth > found.depth - found.near


def test_a_disparity_that_may_be_0_reaches_the_farthest_depth():
    found = disparity_to_depth(disparities(1.0, 2.0), 100 * torch.eye(3)[None], torch.tensor([0.2]), farthest=80.0)
    assert float(found.far) == 80.0
    assert all(bool(value.isfinite().all()) for value in (found.near, found.depth, found.far))


def test_depth_without_calibration_is_refused():
    intrinsics = torch.eye(3)[None]
    with pytest.raises(DataError, match="there is no baseline: give the calibration"):
        disparity_to_depth(disparities(1.0, 1.0), intrinsics, None)
    with pytest.raises(DataError, match="there is no focal length"):
        disparity_to_depth(disparities(1.0, 1.0), None, 0.5)
    with pytest.raises(DataError, match="above 0, got"):
        disparity_to_depth(disparities(1.0, 1.0), 0 * intrinsics, 0.5)
    with pytest.raises(ConfigError, match="farthest is 0"):
        disparity_to_depth(disparities(1.0, 1.0), intrinsics, 0.5, farthest=0)


def test_the_baseline_of_poses():
    left, right = torch.eye(4)[None].repeat(2, 1, 1), torch.eye(4)[None].repeat(2, 1, 1)
    right[:, 0, 3] = torch.tensor([0.25, 0.5])
    assert stereo_baseline(left, right).tolist() == [0.25, 0.5]
    with pytest.raises(DataError, match="Swap or rectify"):
        stereo_baseline(right, left)


def answer(left, right):
    """The difference of the left view at each pixel and the right view 3 pixels to the left of it, and 3 more."""
    return 3 + (left - right.roll(3, 3)).mean(1, keepdim=True)


def test_the_gradient_is_at_the_point_and_at_its_match():
    left, right = pair(3)
    maps = gradient_saliency(answer, left, right, (10, 20))
    for found, column in zip(maps, (20, 17)):
        assert found.shape == (24, 60)
        assert (found > 0).sum() == 1
        assert float(found[10, column]) == pytest.approx(1.0)


def test_hiding_the_point_and_its_match_changes_the_answer_and_hiding_the_rest_does_not():
    left, right = pair(3)
    right = right * 0.5
    maps = occlusion_saliency(answer, left, right, (10, 20), side=5, step=2)
    for found, column in zip(maps, (20, 17)):
        assert found.shape == (24, 60)
        assert float(found[10, column]) > 0
        assert float(found[:, 35:].abs().max()) == 0
        assert float(found[18:].abs().max()) == 0


def test_bad_input_of_saliency():
    left, right = pair()
    with pytest.raises(ConfigError, match="a row and a column inside"):
        gradient_saliency(answer, left, right, (24, 0))
    with pytest.raises(ConfigError, match="an odd side"):
        occlusion_saliency(answer, left, right, (0, 0), side=4)
    with pytest.raises(ConfigError, match="no gradient"):
        gradient_saliency(lambda left, right: left.detach(), left, right, (0, 0))
