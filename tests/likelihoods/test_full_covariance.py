"""Distributions of vectors: densities, covariances, their sum over draws, and defects of public code that ours lack."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal, multivariate_t

from sfumato.calibration import VarianceScaling
from sfumato.errors import ConfigError, DataError
from sfumato.likelihoods import FullGaussian, FullLaplace, Gaussian, Laplace, standardized
from sfumato.predictions import ValuePrediction, predict, predict_tiled
from sfumato.predictions.tiles import predicted_bands
from sfumato.runs.sizes import Scaling
from sfumato.tasks import CenterOffsets, Depth
from sfumato.testing import check_likelihood

LAWS = (FullGaussian, FullLaplace)
each_law = pytest.mark.parametrize("law", LAWS)
RAW = torch.tensor([0.3, -0.2, 0.4, -0.5, 1.2])


def pixel(values):
    return torch.as_tensor(values, dtype=torch.float32).view(1, -1, 1, 1)


def density(law, raw, points):
    """Of one distribution at points (N, 2)."""
    output = raw.view(1, 5, 1, 1).expand(1, 5, len(points), 1)
    target = points.T.reshape(1, 2, -1, 1)
    return (-law().nll(output, target, torch.ones(1, len(points), 1, dtype=torch.bool))).exp().flatten()


@each_law
def test_the_density_integrates_to_one_and_has_the_covariance_of_the_moments(law):
    side = torch.linspace(-60, 60, 1201, dtype=torch.float64)
    points = torch.cartesian_prod(side, side)
    weight = density(law, RAW.double(), points) * (side[1] - side[0]) ** 2
    assert weight.sum().item() == pytest.approx(1, abs=2e-3)
    mean = (weight[:, None] * points).sum(0)
    away = points - mean
    covariance = (weight[:, None, None] * away[:, :, None] * away[:, None]).sum(0)
    found = law().moments(pixel(RAW)).prediction()
    assert torch.allclose(found.mean.flatten().double(), mean, atol=2e-3)
    assert torch.allclose(found.covariance[0, :, :, 0, 0].double(), covariance, rtol=0.02)
    assert found.total.item() == pytest.approx(covariance.trace().item(), rel=0.02)


def test_the_normal_density_is_that_of_scipy():
    covariance = FullGaussian().moments(pixel(RAW)).prediction().covariance[0, :, :, 0, 0].numpy()
    points = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    expected = multivariate_normal(RAW[:2].numpy(), covariance).pdf(points.numpy())
    assert density(FullGaussian, RAW, points).numpy() == pytest.approx(expected, rel=1e-4)


def test_without_correlation_it_is_two_normal_distributions():
    output = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    target, valid = torch.randn(2, 2, 3, 5), torch.ones(2, 3, 5, dtype=torch.bool)
    full = FullGaussian().nll(torch.cat([output, torch.zeros(2, 1, 3, 5)], 1), target, valid)
    assert torch.allclose(full, Gaussian(2).nll(output, target, valid), atol=1e-5)


@each_law
def test_the_true_distribution_has_the_smallest_loss(law):
    normal = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(0))
    if law is FullLaplace:  # a round direction with a length from a gamma distribution of shape 2
        length = torch.distributions.Gamma(2.0, 1.0).sample((20_000, 1)) if torch.manual_seed(0) else None
        normal = normal / normal.norm(dim=1, keepdim=True) * length
    raw = torch.tensor([0.0, 0.0, 0.2, -0.3, 0.8])
    factor = torch.tensor([[math.exp(0.2), 0.0], [0.8 * math.exp(-0.3), math.exp(-0.3)]])
    target = (normal @ factor.T).T.reshape(1, 2, -1, 1)
    everywhere = torch.ones(1, 20_000, 1, dtype=torch.bool)

    def score(raw):
        return law().nll(raw.view(1, 5, 1, 1).expand(1, 5, 20_000, 1), target, everywhere).mean().item()

    for channel in range(5):
        for step in (-0.2, 0.2):
            assert score(raw) < score(raw + step * torch.eye(5)[channel])


@each_law
def test_contract(law):
    check_likelihood(law(), torch.randn(2, 2, 4, 5))
    check_likelihood(law(), torch.randn(6, 2))
    check_likelihood(standardized(law(), 2.0, 7.0), torch.randn(2, 2, 4, 5))


@each_law
def test_standardized_targets_give_the_covariance_in_their_unit(law):
    plain, scaled = law(unit="px"), standardized(law(unit="px"), 2.0, 3.0)
    found, expected = (each.moments(pixel(RAW)).prediction() for each in (scaled, plain))
    assert torch.allclose(found.covariance, 9 * expected.covariance)
    assert torch.allclose(found.mean, 2 + 3 * expected.mean)
    target, valid = torch.tensor([1.0, -2.0]).view(1, 2, 1, 1), torch.ones(1, 1, 1, dtype=torch.bool)
    shifted = plain.nll(pixel(RAW), (target - 2) / 3, valid) + 2 * math.log(3)
    assert torch.allclose(scaled.nll(pixel(RAW), target, valid), shifted)


class Draws:
    """A method whose draws are given."""

    stochastic = gives_novelty = False

    def __init__(self, outputs):
        self.outputs = outputs

    def draws(self, *inputs, generator=None):
        yield from (self.outputs[None, i : i + 1, None].movedim(1, 0)[0] for i in range(len(self.outputs)))


@each_law
def test_covariances_of_the_parts_add_up_to_that_of_the_mixture(law):
    """The law of total covariance, against the covariance of means and the mean of covariances in numpy."""
    torch.manual_seed(0)
    outputs = torch.randn(7, 5, 3, 4)
    found = predict(Draws(outputs), torch.zeros(1, 3, 3, 4), likelihood=law())
    singles = [law().moments(each[None]).prediction() for each in outputs]
    within = np.mean([each.covariance[0].numpy() for each in singles], 0)
    means = outputs[:, :2].numpy()
    away = means - means.mean(0)
    between = np.einsum("sihw,sjhw->ijhw", away, away) / len(away)
    assert found.covariance[0].numpy() == pytest.approx(within + between, abs=1e-4)
    assert torch.allclose(found.total, torch.einsum("biihw->bhw", found.covariance), atol=1e-5)
    shared = found.epistemic_correlation[0, 0].numpy()
    assert shared == pytest.approx(between[0, 1] / np.sqrt(between[0, 0] * between[1, 1]), abs=1e-4)


def test_one_draw_has_no_epistemic_covariance():
    found = FullGaussian().moments(pixel(RAW)).prediction()
    assert found.epistemic.item() == found.epistemic_correlation.item() == 0
    assert found.covariance.isfinite().all()


def test_moments_merge_in_any_order():
    torch.manual_seed(0)
    first, second, third = (FullGaussian().moments(torch.randn(2, 5, 3, 3)) for _ in range(3))

    def copy(moments):
        return moments.scaled(1.0, 0.0)

    left = copy(first).merge(copy(second)).merge(copy(third)).prediction()
    right = copy(first).merge(copy(second).merge(copy(third))).prediction()
    assert torch.allclose(left.covariance, right.covariance, atol=1e-5)


class Linear(torch.nn.Module):
    """Each pixel's output depends on that pixel only."""

    stochastic = gives_novelty = False

    def draws(self, *inputs, generator=None):
        yield torch.stack([torch.cat([inputs[0], inputs[0][:, :2] * scale], 1) for scale in (1.0, 1.5, -0.5)])


def test_tiles_keep_covariances():
    image = torch.randn(1, 3, 24, 40, generator=torch.Generator().manual_seed(0))
    whole = predict(Linear(), image, likelihood=FullLaplace())
    tiled = predict_tiled(Linear(), image, likelihood=FullLaplace(), tile=(16, 16), overlap=8)
    assert torch.allclose(tiled.covariance, whole.covariance, rtol=1e-4, atol=1e-4)

    def window(rows, columns, own):
        return predict(Linear(), image[..., rows, columns], likelihood=FullLaplace())

    bands = [found.covariance for _, found in predicted_bands(window, (24, 40), (16, 16), 8)]
    assert torch.allclose(torch.cat(bands, -2), whole.covariance, rtol=1e-4, atol=1e-4)


def test_tiles_that_disagree_have_a_covariance_of_their_means():
    class Corner(Linear):
        """Its mean depends on the tile that a pixel is in."""

        def draws(self, *inputs, generator=None):
            shift = torch.rand(1, generator=generator)
            yield (torch.zeros(1, 1, 5, *inputs[0].shape[-2:]) + torch.tensor([4.0, 4, 0, 0, 0])[:, None, None] * shift)

    tiled = predict_tiled(Corner(), torch.zeros(1, 3, 8, 24), likelihood=FullGaussian(), tile=(16, 16), overlap=8,
                          generator=torch.Generator().manual_seed(0))  # fmt: skip
    inside = tiled.epistemic[0, 4, 12] > 0
    assert inside
    assert tiled.epistemic_correlation[0, 0, 4, 12].item() == pytest.approx(1, abs=1e-3)


def test_a_prediction_survives_files_sizes_and_devices(tmp_path):
    torch.manual_seed(0)
    found = predict(Draws(torch.randn(3, 5, 6, 8)), torch.zeros(1, 3, 6, 8), likelihood=FullGaussian(unit="px"))
    found.save(tmp_path / "a.safetensors")
    again = ValuePrediction.load(tmp_path / "a.safetensors")
    assert torch.equal(again.covariance, found.covariance)
    larger = found.resized((12, 16))
    assert larger.covariance.shape == (1, 2, 2, 12, 16)
    assert (torch.linalg.eigvalsh(larger.covariance.permute(0, 3, 4, 1, 2)) > 0).all()
    assert found.to("meta").aleatoric_correlation.is_meta


@each_law
@pytest.mark.parametrize("size", [1e3, -1e3, 80.0, -80.0])
def test_extreme_outputs_are_finite_and_positive_definite(law, size):
    for channel in (2, 3, 4):
        output = pixel(torch.zeros(5).index_fill(0, torch.tensor(channel), size))
        covariance = law().moments(output).prediction().covariance[0, :, :, 0, 0].double()
        assert torch.linalg.eigvalsh(covariance).min() > 0
        assert law().nll(output, torch.ones(1, 2, 1, 1), torch.ones(1, 1, 1, dtype=torch.bool)).isfinite()


@pytest.mark.parametrize("law", [FullGaussian(), FullLaplace(), Laplace(2), Gaussian(2)])
@pytest.mark.parametrize("start", [-15.0, 15.0])
def test_a_scale_beyond_its_limit_can_come_back(law, start):
    """SEA-RAFT clamps log scales without a gradient, so a scale that reaches the limit stays there."""
    output = torch.zeros(1, law.channels, 1, 1)
    output[:, 2:4] = start
    output.requires_grad_()
    # The error fits a scale inside the limits: 1e-3 from below, 30 px from above.
    target = torch.full((1, 2, 1, 1), 30.0 if start < 0 else 1e-3)
    law.nll(output, target, torch.ones(1, 1, 1, dtype=torch.bool)).sum().backward()
    slope = output.grad[0, 2:4].flatten()
    assert (slope.sign() == math.copysign(1, start)).all()


@pytest.mark.parametrize("law", [FullLaplace(), Laplace(2)])
def test_a_sure_network_may_be_surer_than_a_pixel(law):
    """SEA-RAFT's scales cannot fall below 1 px. The best scale of errors of .01 px is about .01 px."""
    raw = torch.zeros(1, law.channels, 1, 1, requires_grad=True)
    errors = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0)) * 0.01
    target = errors.T.reshape(1, 2, -1, 1)
    optimizer = torch.optim.Adam([raw], 0.05)
    for _ in range(400):
        optimizer.zero_grad()
        law.nll(raw.expand(1, -1, 4000, 1), target, torch.ones(1, 4000, 1, dtype=torch.bool)).mean().backward()
        optimizer.step()
    std = law.moments(raw.detach()).prediction().std.flatten()
    assert std.tolist() == pytest.approx([0.01, 0.01], rel=0.2)


def test_the_scale_of_a_vector_is_that_of_an_axis():
    """U2Flow adds the errors of two axes to one log term, whose best scale is twice the one of an axis."""
    law, errors = Laplace(2), torch.distributions.Laplace(0.0, 0.7).sample((8000, 2)) if torch.manual_seed(0) else None
    target, valid = errors.T.reshape(1, 2, -1, 1), torch.ones(1, 8000, 1, dtype=torch.bool)

    def loss(scale):
        output = torch.tensor([0.0, 0.0, math.log(scale), math.log(scale)]).view(1, 4, 1, 1)
        return law.nll(output.expand(1, 4, 8000, 1), target, valid).mean().item()

    scales = [0.35, 0.5, 0.7, 1.0, 1.4]
    assert min(scales, key=loss) == 0.7


@each_law
def test_other_targets_are_refused(law):
    with pytest.raises(ConfigError, match="vectors of 2 values"):
        law.for_task(Depth())
    assert law.for_task(CenterOffsets()).unit == "px"
    with pytest.raises(DataError, match="2 values for each pixel"):
        law().nll(torch.zeros(1, 5, 2, 2), torch.zeros(1, 1, 2, 2), torch.ones(1, 2, 2, dtype=torch.bool))


def test_calibrators_and_sizes_scale_the_covariance():
    torch.manual_seed(0)
    found = predict(Draws(torch.randn(3, 5, 6, 8)), torch.zeros(1, 3, 6, 8), likelihood=FullGaussian(unit="px"))
    scaled = VarianceScaling(torch.tensor([2.5]))(found)
    assert torch.allclose(scaled.covariance, 2.5 * found.covariance, rtol=1e-5)
    flat = ValuePrediction(*(torch.full_like(found.mean, value) for value in (1.0, 4.0, 1.0)), "px", 3,
                           aleatoric_correlation=torch.full((1, 1, 6, 8), 0.5),
                           epistemic_correlation=torch.full((1, 1, 6, 8), -0.5))  # fmt: skip
    larger = Scaling((12, 24), (6, 8)).prediction(
        flat, {"centers": CenterOffsets()}
    )  # twice as high, three times as wide
    expected = torch.tensor([[5.0 * 9, 1.5 * 6], [1.5 * 6, 5.0 * 4]])
    assert torch.allclose(larger.covariance[0, :, :, 5, 7], expected)
    assert larger.mean[0, :, 0, 0].tolist() == [3.0, 2.0]


@each_law
@pytest.mark.parametrize("dims", [3, 4])
def test_longer_vectors_integrate_to_one_and_have_the_covariance_of_the_moments(law, dims):
    likelihood = law(dims)
    raw = 0.5 * torch.randn(likelihood.channels, generator=torch.Generator().manual_seed(dims))
    proposal = multivariate_t(raw[:dims].numpy(), 4 * np.eye(dims), df=4, seed=0)  # its tails are heavier than both
    drawn = proposal.rvs(200_000)
    points = torch.from_numpy(drawn).float()
    everywhere = torch.ones(len(points), dtype=torch.bool)
    nll = likelihood.nll(raw.expand(len(points), -1), points, everywhere)
    weight = (-nll.double() - torch.from_numpy(proposal.logpdf(drawn))).exp()
    assert weight.mean().item() == pytest.approx(1, abs=0.02)
    away = (points - raw[:dims]).double()
    covariance = torch.einsum("n,ni,nj->ij", weight, away, away) / len(points)
    found = likelihood.moments(raw[None]).prediction().covariance[0].double()
    torch.testing.assert_close(found, covariance, rtol=0.1, atol=0.1 * float(found.diagonal().max()))


def test_shears_of_three_values_are_not_taken_for_scales():
    likelihood = standardized(FullGaussian(3), 1.0, 4.0)  # 9 channels, as 3 locations with 6 log scales have
    output = torch.zeros(1, 9)
    output[0, 6] = 2.0
    found = likelihood.moments(output).prediction()
    assert found.variance[0].tolist() == pytest.approx([16, 16 * 5, 16])
