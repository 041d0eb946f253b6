"""Mixtures of predictions, and frames of a video that are merged."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from sfumato.errors import ConfigError, DataError
from sfumato.likelihoods import Categorical, FullGaussian, Gaussian
from sfumato.predictions import (
    ClassMoments,
    ClassPrediction,
    JointPrediction,
    TemporalAggregation,
    ValuePrediction,
    mixed,
)

SIZE = (6, 8)


def drawn(likelihood, draws, seed=0, size=SIZE):
    """The moments of each of some random draws."""
    generator = torch.Generator().manual_seed(seed)
    outputs = 0.5 * torch.randn(draws, 1, likelihood.channels, *size, generator=generator)
    return [likelihood.moments(output) for output in outputs]


def together(moments):
    """The prediction of all draws, by the moments of the package."""
    parts = [
        type(each)(*(v.clone() if isinstance(v, torch.Tensor) else v for v in vars(each).values())) for each in moments
    ]
    total = parts[0]
    for part in parts[1:]:
        total = total.merge(part)
    return total.prediction()


def same(found, expected):
    for name, value in expected.tensors().items():
        assert_close(getattr(found, name), value, atol=2e-5, rtol=1e-4)
    assert found.draws == expected.draws


LIKELIHOODS = [Categorical(4), Gaussian(unit="m"), Gaussian(dims=2), FullGaussian(dims=2)]


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=str)
def test_a_mixture_by_shares_of_draws_is_the_prediction_of_all_draws(likelihood):
    moments = drawn(likelihood, 5)
    share = torch.full((1, *SIZE), 3 / 5)
    same(mixed(together(moments[:2]), together(moments[2:]), share), together(moments))


@given(st.integers(0, 2**31), st.floats(0, 1))
@settings(max_examples=25, deadline=None)
def test_the_parts_of_a_mixture_add_up(seed, share):
    for likelihood in (Categorical(4), Gaussian(dims=2)):
        first, second = (together(drawn(likelihood, 2, seed + n, (2, 3))) for n in (0, 1))
        found = mixed(first, second, torch.full((1, 2, 3), share))
        assert_close(found.aleatoric + found.epistemic, found.total, atol=1e-5, rtol=1e-5)
        assert (found.aleatoric >= 0).all()
        assert (found.epistemic >= 0).all()


def test_predictions_of_two_kinds_or_shapes_are_not_mixed():
    one, other = together(drawn(Categorical(4), 1)), together(drawn(Gaussian(), 1))
    share = torch.full((1, *SIZE), 0.5)
    with pytest.raises(DataError, match="a ClassPrediction and a ValuePrediction"):
        mixed(one, other, share)
    with pytest.raises(DataError, match=r"\(1, 4, 6, 8\) and \(1, 3, 6, 8\)"):
        mixed(one, together(drawn(Categorical(3), 1)), share)


def still(first, second):
    return torch.zeros(1, 2, *first.shape[-2:])


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=str)
def test_a_still_video_with_full_memory_is_one_set_of_draws(likelihood):
    moments, image = drawn(likelihood, 4), torch.rand(1, 3, *SIZE)
    aggregation = TemporalAggregation(still, memory=1.0)
    for each in moments:
        found = aggregation(image, together([each]))
    assert aggregation.frames == 4
    expected = together(moments)
    same(found, expected)
    assert expected.epistemic.mean() > 0.01


def test_the_present_frame_gets_the_share_that_the_memory_leaves():
    aggregation, image = TemporalAggregation(still, memory=0.75), torch.rand(1, 3, *SIZE)
    zero, one = torch.zeros(1, 1, *SIZE), torch.ones(1, 1, *SIZE)
    for _ in range(40):
        aggregation(image, ValuePrediction(zero, one, zero))
    assert_close(aggregation(image, ValuePrediction(one, one, zero)).mean, one / 4)


def test_what_moves_is_merged_where_it_was_and_what_appears_is_not():
    wide = torch.rand(1, 3, 6, 9)
    earlier, image = wide[..., 1:], wide[..., :-1]  # all moves to the right by 1 px
    steps = {id(image): -1.0, id(earlier): 1.0}
    aggregation = TemporalAggregation(
        lambda a, b: torch.tensor([steps[id(a)], 0]).view(1, 2, 1, 1).expand(1, 2, 6, 8), 1.0
    )
    before, after = together(drawn(Categorical(3), 1, 1)), together(drawn(Categorical(3), 1, 2))
    aggregation(earlier, before)
    found = aggregation(image, after)
    expected = (before.probs[..., :-1] + after.probs[..., 1:]) / 2
    assert_close(found.probs[..., 2:], expected[..., 1:], atol=1e-3, rtol=1e-3)
    assert torch.equal(found.probs[..., 0], after.probs[..., 0])
    assert torch.equal(found.aleatoric[..., 0], after.aleatoric[..., 0])


def test_warping_between_pixels_adds_no_epistemic_uncertainty():
    certain = torch.zeros(1, 2, *SIZE)
    certain[:, 0, :, ::2] = certain[:, 1, :, 1::2] = 1  # stripes of two certain classes
    one = ClassMoments.of(certain).prediction()
    warped = one.resampled(lambda maps: (maps + maps.roll(-1, -1)) / 2)
    assert warped.total.max() > 0.6
    assert warped.epistemic.max() < 1e-6


def test_a_cut_and_another_size_start_again():
    aggregation = TemporalAggregation(still)
    bright, dark = torch.full((1, 3, *SIZE), 0.9), torch.full((1, 3, *SIZE), 0.1)
    first, second = (together(drawn(Gaussian(), 1, seed)) for seed in (0, 1))
    aggregation(bright, first)
    assert aggregation(bright, second).epistemic.max() > 0
    assert aggregation.frames == 2
    after_cut = aggregation(dark, second)
    assert aggregation.frames == 1
    assert torch.equal(after_cut.mean, second.mean)
    assert after_cut.epistemic.max() == 0
    larger = together(drawn(Gaussian(), 1, 0, (7, 9)))
    assert aggregation(torch.zeros(1, 3, 7, 9), larger) is larger
    assert aggregation.frames == 1
    aggregation.restart()
    assert aggregation(torch.zeros(1, 3, 7, 9), larger) is larger


def test_several_tasks_are_merged_one_by_one():
    aggregation, image = TemporalAggregation(still, memory=1.0), torch.rand(1, 3, *SIZE)
    classes, depth = drawn(Categorical(3), 2), drawn(Gaussian(unit="m"), 2)
    for pair in zip(classes, depth, strict=True):
        parts = {name: together([each]) for name, each in zip(("classes", "depth"), pair, strict=True)}
        found = aggregation(image, JointPrediction(parts))
    same(found["classes"], together(classes))
    same(found["depth"], together(depth))


def test_what_cannot_be_merged_is_refused():
    with pytest.raises(ConfigError, match=r"memory is 1\.5, expected a number in \[0, 1\]"):
        TemporalAggregation(memory=1.5)
    one = ClassPrediction(torch.full((1, 2), 0.5), torch.zeros(1))
    with pytest.raises(ConfigError, match="one value for each image"):
        TemporalAggregation()(torch.zeros(1, 3, *SIZE), one)
