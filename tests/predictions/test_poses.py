"""Predictions of poses: the tangent space, means of rotations, covariances of draws, and their likelihood."""

import math

import pytest
import torch
from scipy.stats import multivariate_normal

from sfumato.calibration import ConformalIntervals, QuantileMap, VarianceScaling
from sfumato.errors import ConfigError, DataError
from sfumato.geometry.pose import (
    chordal_mean,
    difference,
    displaced,
    exp,
    pose_vectors,
    poses_of,
    rigid,
    twists_of,
)
from sfumato.likelihoods import L1, FullGaussian, FullLaplace, Gaussian, Laplace, PoseLikelihood
from sfumato.likelihoods.normal_inverse_gamma import NormalInverseGamma
from sfumato.predictions import PosePrediction, predict
from sfumato.tasks import CameraPose
from sfumato.testing import check_likelihood

roma = pytest.importorskip("roma")
SEEDED = torch.Generator().manual_seed(0)


class Fixed:
    """A method whose draws (S, B, C) are given."""

    gives_novelty = False

    def __init__(self, draws):
        self.given = draws

    def draws(self, *inputs, generator=None):
        yield from self.given.split(1000)


def some_poses(count, spread=0.5):
    return poses_of(
        torch.randn(count, 6, generator=SEEDED, dtype=torch.float64) * torch.tensor([2.0] * 3 + [spread] * 3)
    )


def test_the_tangent_vector_is_meters_and_the_angle_of_roma():
    first, second = some_poses(40), some_poses(40)
    away = difference(first, second)
    torch.testing.assert_close(displaced(first, away), second)
    angle = roma.rotmat_geodesic_distance(first[:, :3, :3], second[:, :3, :3])
    torch.testing.assert_close(away[:, 3:].norm(dim=1), angle)
    torch.testing.assert_close(away[:, :3].norm(dim=1), (first - second)[:, :3, 3].norm(dim=1))
    torch.testing.assert_close(poses_of(pose_vectors(first)), first)


def test_twists_of_small_tangent_vectors():
    poses, by = some_poses(5), 1e-4 * torch.randn(5, 6, generator=SEEDED, dtype=torch.float64)
    twist = (twists_of(poses) @ by[..., None])[..., 0]
    torch.testing.assert_close(exp(twist) @ poses, displaced(poses, by), atol=1e-7, rtol=0)


def test_the_mean_rotation_is_the_closest_one_and_not_the_mean_quaternion_with_signs():
    turns = some_poses(7, 0.8)[:, :3, :3]
    mean = chordal_mean(turns.mean(0))

    def cost(rotation):
        return (turns - rotation).square().sum()

    for step in 0.02 * torch.randn(50, 3, generator=SEEDED, dtype=torch.float64):
        assert cost(mean) < cost(roma.rotvec_to_rotmat(step) @ mean)


def output_of(poses, likelihood, rest):
    """Network outputs (B, 28) whose predicted poses are these."""
    quaternions = roma.rotmat_to_unitquat(poses[:, :3, :3])
    back = quaternions / quaternions[:, 3:]  # the likelihood adds 1 to w
    turned = 2 / likelihood.spread * (back - torch.tensor([0.0, 0, 0, 1]))
    return torch.cat([poses[:, :3, 3] / likelihood.extent, turned, rest.expand(len(poses), -1)], 1).float()


def test_the_density_is_that_of_scipy_in_the_tangent_space():
    law = PoseLikelihood(FullGaussian(6), extent=0.5, spread=0.25)
    poses, rest = some_poses(20, 0.4), torch.randn(21, generator=SEEDED) * 0.3
    output = output_of(poses, law, rest)
    found = law.moments(output).prediction()
    torch.testing.assert_close(found.poses.double(), poses, atol=2e-5, rtol=0)
    away = 0.2 * torch.randn(20, 6, generator=SEEDED, dtype=torch.float64)
    target = pose_vectors(displaced(poses, away)).float()
    covariance = found.covariance[0].double().numpy()
    expected = -multivariate_normal(cov=covariance).logpdf(away.numpy())
    assert law.nll(output, target, torch.ones(20, dtype=torch.bool)).numpy() == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("inner", [FullGaussian(6), FullLaplace(6), Gaussian(6), Laplace(6), L1(6)])
def test_quaternions_of_both_signs_and_any_length_are_one_pose_and_masks_hold(inner):
    law = PoseLikelihood(inner, (1.0, 2.0, 3.0), (0.1, 0.2, 0.3, 0.9), 0.5, 0.25)
    output = torch.randn(4, law.channels, generator=SEEDED)
    flipped = output.clone()
    offset = 2 / law.spread * torch.tensor([0.0, 0, 0, 1])
    flipped[:, 3:7] = -3 * (output[:, 3:7] + offset) - offset
    target, valid = torch.randn(4, 6, generator=SEEDED), torch.tensor([True, True, False, True])
    target[2] = math.nan
    first = law.nll(output.requires_grad_(), target, valid)
    torch.testing.assert_close(first, law.nll(flipped, target, valid), atol=1e-4, rtol=1e-4)
    assert first[2] == 0
    first.sum().backward()
    assert output.grad.isfinite().all()
    assert (output.grad[2] == 0).all()


@pytest.mark.parametrize("inner", [FullGaussian(6), FullLaplace(6), Gaussian(6)])
def test_the_checks_of_every_likelihood_pass(inner):
    check_likelihood(PoseLikelihood(inner), torch.randn(6, 6, generator=SEEDED))


def test_only_distributions_of_six_values_are_taken():
    with pytest.raises(ConfigError, match="no distribution of 6 values"):
        PoseLikelihood(FullGaussian(2))
    with pytest.raises(ConfigError, match="gaussian-full"):
        PoseLikelihood(NormalInverseGamma())
    with pytest.raises(ConfigError, match="a pose is one value for each image"):
        PoseLikelihood(FullGaussian(6)).moments(torch.zeros(1, 28, 4, 4))


def test_draws_add_up_to_their_mean_and_covariance_whatever_their_order():
    law = PoseLikelihood(FullGaussian(6))
    center = rigid(roma.rotvec_to_rotmat(torch.tensor([0.4, -0.9, 0.3])).double(), torch.tensor([1.0, 2, 3]).double())
    factor = torch.randn(6, 6, generator=SEEDED, dtype=torch.float64) * 0.04
    away = torch.randn(1000, 6, generator=SEEDED, dtype=torch.float64) @ factor.T
    output = output_of(displaced(center.expand(1000, 4, 4), away), law, torch.zeros(21))
    found = predict(Fixed(output[:, None]), torch.zeros(1, 3, 4, 4), likelihood=law)
    other = predict(Fixed(output.flip(0)[:, None]), torch.zeros(1, 3, 4, 4), likelihood=law)
    assert found.draws == 1000
    torch.testing.assert_close(found.mean, other.mean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.epistemic_variance, other.epistemic_variance, atol=1e-6, rtol=1e-3)
    mean = difference(center[None].float(), found.poses)
    assert mean.norm() < 0.01
    epistemic = found.covariance[0].double() - torch.eye(6)
    expected = away.T @ away / 1000
    torch.testing.assert_close(epistemic, expected, atol=1e-3, rtol=0.05)
    assert found.total.item() == pytest.approx(6 + expected.trace().item(), rel=0.01)


def test_calibrators_see_tangent_vectors_also_beyond_half_a_turn():
    mean = pose_vectors(some_poses(300, 1.6)).float()
    one = torch.full_like(mean, 0.01)
    prediction = PosePrediction(mean, one, 0 * one)
    away = 0.3 * torch.randn(300, 6, generator=SEEDED)
    target = pose_vectors(displaced(prediction.poses, away))
    held = [(prediction, target, torch.ones(300, dtype=torch.bool))]
    assert VarianceScaling.fit(held).factor.item() == pytest.approx((away / 0.1).square().mean().item(), rel=1e-3)
    moved = QuantileMap.fit([(prediction, pose_vectors(displaced(prediction.poses, away + 1)), held[0][2])])(prediction)
    torch.testing.assert_close(difference(prediction.poses, moved.poses).mean(0), 1 + away.mean() * torch.ones(6),
                               atol=0.05, rtol=0)  # fmt: skip
    with pytest.raises(ConfigError, match="not for poses"):
        ConformalIntervals.fit(held)


def test_a_prediction_is_read_back_from_its_file(tmp_path):
    mean = pose_vectors(some_poses(3)).float()
    found = PosePrediction(mean, mean.square(), mean.square(), draws=3, aleatoric_correlation=torch.zeros(3, 15))
    found.save(tmp_path / "a.safetensors")
    again = PosePrediction.load(tmp_path / "a.safetensors")
    assert again.draws == 3
    assert torch.equal(again.covariance, found.covariance)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p[0, :3, :3].mul_(2), "no rotation"),
        (lambda p: p[0, :3, 0].neg_(), "left-handed"),
        (lambda p: p[:, :3, 3].mul_(1e5), "millimeters"),
        (lambda p: p[0].fill_(math.nan), "NaN"),
    ],
)
def test_poses_that_are_none_are_refused_in_one_line(change, message):
    poses = some_poses(30)
    change(poses)
    with pytest.raises(DataError, match=message) as caught:
        CameraPose.of(poses, "the poses in here")
    assert "the poses in here" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_task_says_where_training_cameras_are():
    poses = some_poses(2000, 0.1)
    task = CameraPose.of(poses)
    assert task.extent == pytest.approx(2, rel=0.05)
    assert task.spread == pytest.approx(0.1, rel=0.05)
    assert task == CameraPose()  # where cameras are does not make it another task
    with pytest.raises(ConfigError, match="above 0"):
        CameraPose(extent=0.0)
