import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.errors import ConfigError
from sfumato.likelihoods import Categorical, Gaussian
from sfumato.predictions import (
    ClassMoments,
    ClassPrediction,
    JointMoments,
    JointPrediction,
    PredictionInterval,
    PredictionSet,
    ValueMoments,
    ValuePrediction,
    predict,
)


@dataclass(frozen=True)
class Given:
    """A method whose draws are given, in chunks of any size."""

    outputs: torch.Tensor  # (S, B, C, *event)
    chunk: int = 1
    stochastic = gives_novelty = False

    def draws(self, *inputs, generator=None):
        yield from self.outputs.split(self.chunk)


seeds = st.integers(0, 2**31)
counts = st.integers(1, 7)


def outputs(seed, draws, channels, scale=3.0):
    return scale * torch.randn(draws, 2, channels, 3, 5, generator=torch.Generator().manual_seed(seed))


@given(seeds, counts, st.integers(2, 6), st.floats(0, 50))
@settings(max_examples=40, deadline=None)
def test_parts_of_classes_are_not_negative_and_add_up(seed, draws, classes, scale):
    prediction = predict(Given(outputs(seed, draws, classes, scale)), likelihood=Categorical(classes))
    assert (prediction.aleatoric >= 0).all()
    assert (prediction.epistemic >= 0).all()
    assert torch.allclose(prediction.aleatoric + prediction.epistemic, prediction.total, atol=1e-6)
    assert (prediction.total <= math.log(classes) + 1e-5).all()


@given(seeds, counts, st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_parts_of_values_are_not_negative_and_add_up(seed, draws, dims):
    prediction = predict(Given(outputs(seed, draws, 2 * dims)), likelihood=Gaussian(dims=dims))
    assert (prediction.aleatoric_variance >= 0).all()
    assert (prediction.epistemic_variance >= 0).all()
    assert torch.allclose(prediction.aleatoric + prediction.epistemic, prediction.total)


def test_mutual_information_by_hand():
    # Two draws that are certain of opposite classes: all of log 2 is epistemic. Two that agree on ½: all aleatoric.
    certain = torch.tensor([[60.0, 0.0], [0.0, 60.0]]).reshape(2, 1, 2, 1, 1)
    apart = predict(Given(certain), likelihood=Categorical(2))
    assert apart.epistemic.item() == pytest.approx(math.log(2), abs=1e-6)
    assert apart.aleatoric.item() == pytest.approx(0, abs=1e-6)
    agreed = predict(Given(torch.zeros(2, 1, 2, 1, 1)), likelihood=Categorical(2))
    assert agreed.aleatoric.item() == pytest.approx(math.log(2), abs=1e-6)
    assert agreed.epistemic.item() == pytest.approx(0, abs=1e-6)


def test_total_variance_is_that_of_the_mixture():
    drawn = outputs(0, 5, 2, scale=1)
    prediction = predict(Given(drawn), likelihood=Gaussian(dims=1))
    means, scales = drawn[:, :, :1].double(), drawn[:, :, 1:].double().exp()
    second = (means**2 + scales**2).mean(0)  # E[y²] of a mixture is the mean of the components'
    assert torch.allclose(prediction.variance.double(), second - means.mean(0) ** 2, rtol=1e-4)


@given(seeds, counts)
@settings(max_examples=20, deadline=None)
def test_the_size_of_chunks_changes_nothing(seed, chunk):
    drawn = outputs(seed, 6, 4)
    for likelihood in (Categorical(4), Gaussian(dims=2)):
        one, other = (predict(Given(drawn, c), likelihood=likelihood) for c in (1, chunk))
        assert torch.allclose(one.total, other.total, rtol=1e-4, atol=1e-5)
        assert torch.allclose(one.best.float(), other.best.float(), rtol=1e-4, atol=1e-5)


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_draws_permute(seed):
    drawn = outputs(seed, 5, 4)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    one, other = (predict(Given(d), likelihood=Categorical(4)) for d in (drawn, drawn[order]))
    assert torch.allclose(one.probs, other.probs, atol=1e-6)
    assert torch.allclose(one.aleatoric, other.aleatoric, atol=1e-6)


@given(seeds, counts, counts, counts)
@settings(max_examples=20, deadline=None)
def test_merging_is_associative(seed, a, b, c):
    def moments(kind, first, draws):
        drawn = outputs(seed + first, draws, 2).double()
        made = [kind(draw) for draw in drawn]
        total = made[0]
        for each in made[1:]:
            total = total.merge(each)
        return total

    for kind in (lambda d: ClassMoments.of(d.softmax(1)), lambda d: ValueMoments.of(d, d.exp())):
        left = moments(kind, 0, a).merge(moments(kind, 1, b)).merge(moments(kind, 2, c)).prediction()
        right = moments(kind, 0, a).merge(moments(kind, 1, b).merge(moments(kind, 2, c))).prediction()
        assert torch.allclose(left.total, right.total)
        assert torch.allclose(left.epistemic, right.epistemic, atol=1e-12)


def test_variance_does_not_cancel_far_from_zero():
    means = 1e4 + torch.tensor([0.0, 1.0, 2.0]).reshape(3, 1, 1, 1, 1)
    drawn = torch.cat([means, torch.full_like(means, -5)], 2)
    assert predict(Given(drawn), likelihood=Gaussian(dims=1)).epistemic.item() == pytest.approx(2 / 3, rel=1e-3)


def test_wrong_channels_name_the_numbers():
    with pytest.raises(ConfigError, match=r"\(1, 3, 2, 2\).*\(B, 5, H, W\).*5 output channels"):
        predict(Given(torch.zeros(1, 1, 3, 2, 2)), likelihood=Categorical(5))


def test_no_draws_is_an_error():
    class Idle:
        gives_novelty = False

        def draws(self, *inputs, generator=None):
            return iter(())

    with pytest.raises(ValueError, match="Idle made no draws"):
        predict(Idle(), likelihood=Categorical(3))


@pytest.mark.parametrize(("likelihood", "channels"), [(Categorical(3), 3), (Gaussian(dims=1, unit="m"), 2)])
def test_saved_and_loaded_and_moved(tmp_path, likelihood, channels):
    prediction = predict(Given(outputs(0, 3, channels)), likelihood=likelihood)
    prediction.save(tmp_path / "p.safetensors")
    loaded = type(prediction).load(tmp_path / "p.safetensors").to("cpu")
    assert torch.equal(loaded.total, prediction.total)
    assert torch.equal(loaded.epistemic, prediction.epistemic)
    assert loaded.draws == 3
    assert getattr(loaded, "unit", "") == getattr(prediction, "unit", "")
    assert loaded.to("meta").total.is_meta


def test_loading_what_is_cut_off_or_of_another_kind(tmp_path):
    path = tmp_path / "p.safetensors"
    predict(Given(outputs(0, 1, 3)), likelihood=Categorical(3)).save(path)
    with pytest.raises(ValueError, match="holds a ClassPrediction, expected a ValuePrediction"):
        ValuePrediction.load(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"p\.safetensors is cut off"):
        ClassPrediction.load(path)


def test_intervals_have_the_width_of_the_normal_distribution():
    one = torch.ones(1, 1, 1, 1)
    low, high = ValuePrediction(0 * one, one, 3 * one).interval(0.9)
    assert (high - low).item() == pytest.approx(2 * 1.6449 * 2, abs=1e-3)
    with pytest.raises(ValueError, match=r"level is 1\.5"):
        ValuePrediction(0 * one, one, one).interval(1.5)


def test_notebooks_show_every_map():
    for likelihood, channels in ((Categorical(12), 12), (Gaussian(dims=2, unit="px"), 4)):
        page = predict(Given(outputs(0, 3, channels)), likelihood=likelihood)._repr_html_()
        assert page.count("<img") == 4
        assert all(name in page for name in ("total", "aleatoric", "epistemic"))


def test_resizing_adds_no_epistemic_uncertainty():
    # Two halves, each certain of another class: between them the distribution is a mixture, the same for every draw.
    certain = torch.zeros(3, 1, 2, 4, 4)
    certain[:, :, 0, :, :2] = certain[:, :, 1, :, 2:] = 40
    prediction = predict(Given(certain), likelihood=Categorical(2)).resized((8, 8))
    assert prediction.total.max() > 0.3
    assert prediction.epistemic.max() < 1e-6
    assert torch.allclose(prediction.probs.sum(1), torch.ones(1, 8, 8))


def test_resizing_keeps_what_is_even():
    drawn = outputs(0, 4, 2)[..., :1, :1].expand(-1, -1, -1, 3, 5)
    before = predict(Given(drawn), likelihood=Gaussian(dims=1, unit="m"))
    after = before.resized((6, 7))
    assert torch.allclose(after.epistemic, before.epistemic[:, :1, :1].expand(-1, 6, 7), rtol=1e-4)
    assert after.unit == "m"


def test_a_class_that_is_ruled_out_has_no_part_in_the_entropy():
    output = torch.tensor([0.3, -0.2, -torch.inf, -2e4])[None, :, None, None]
    found = Categorical(4).moments(output).prediction()
    expected = torch.distributions.Categorical(logits=output[0, :2, 0, 0])
    torch.testing.assert_close(found.probs[0, :2, 0, 0], expected.probs)
    torch.testing.assert_close(found.aleatoric[0, 0, 0], expected.entropy())


class Novel(Given):
    """A method that gives a novelty score in the same pass."""

    gives_novelty = True

    def draws_and_novelty(self, *inputs, generator=None):
        return self.draws(), self.outputs[0, :, 0].abs()


@pytest.mark.parametrize(("likelihood", "channels"), [(Categorical(3), 3), (Gaussian(dims=3), 6)])
def test_one_value_per_image_has_the_numbers_of_a_map_of_one_pixel(likelihood, channels):
    drawn = torch.randn(5, 7, channels, generator=torch.Generator().manual_seed(0))
    single = predict(Novel(drawn, 2), likelihood=likelihood)
    maps = predict(Novel(drawn[..., None, None], 2), likelihood=likelihood)
    assert (single.event, single.is_map, maps.event, maps.is_map) == ((), False, (1, 1), True)
    for name in ("total", "aleatoric", "epistemic", "best", "novelty"):
        assert torch.equal(getattr(single, name), getattr(maps, name)[..., 0, 0]), name
    assert single.resized((4, 5)) is single
    page = single._repr_html_()
    assert "<img" not in page
    assert "total" in page


@pytest.mark.parametrize(("likelihood", "channels"), [(Categorical(3), 3), (Gaussian(dims=2, unit="m"), 4)])
def test_a_novelty_score_stays_with_the_prediction(tmp_path, likelihood, channels):
    drawn = outputs(0, 2, channels)
    prediction = predict(Novel(drawn), likelihood=likelihood)
    assert torch.equal(prediction.novelty, drawn[0, :, 0].abs())
    assert predict(Given(drawn), likelihood=likelihood).novelty is None
    assert prediction.resized((6, 10)).novelty.shape == (2, 6, 10)
    assert prediction.to("meta").novelty.is_meta
    prediction.save(tmp_path / "p")
    assert torch.equal(type(prediction).load(tmp_path / "p").novelty, prediction.novelty)


def test_a_prediction_of_several_tasks_gives_its_novelty_and_image_to_each():
    class Both:
        channels = 3

        def moments(self, output):
            values = ValueMoments.of(output[:, :1], output[:, :1].exp(), "m")
            return JointMoments({"classes": ClassMoments.of(output.softmax(1)), "depth": values})

    drawn = outputs(0, 3, 3)
    found = predict(Novel(drawn), likelihood=Both())
    assert isinstance(found, JointPrediction)
    image = torch.rand(2, 3, 3, 5)
    for part in found.with_image(image).values():
        assert torch.equal(part.novelty, drawn[0, :, 0].abs())
        assert torch.equal(part.image, image)
    assert found.resized((6, 10))["depth"].event == (6, 10)


def test_one_line_says_what_a_prediction_is():
    one = torch.ones(2, 1, 6, 8)
    assert repr(ClassPrediction(one, one[:, 0], 20)) == "ClassPrediction(2 × 1 classes × 6 × 8, 20 draws)"
    assert repr(ValuePrediction(one, one, one, "m")) == "ValuePrediction(2 × 1 × 6 × 8, m, 1 draws)"
    assert repr(PredictionSet(one > 0, 0.9)) == "PredictionSet(2 × 1 classes × 6 × 8, level 0.9)"
    assert repr(PredictionInterval(one, one, 0.9, "m")) == "PredictionInterval(2 × 1 × 6 × 8, m, level 0.9)"
    joint = JointPrediction({"depth": ValuePrediction(one, one, one)})
    assert repr(joint) == "JointPrediction(depth: ValuePrediction(2 × 1 × 6 × 8, 1 draws))"
