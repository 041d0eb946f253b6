"""The filter of poses against closed forms, an independent Kalman filter, and simulated paths."""

import numpy as np
import pytest
import torch

from sfumato.errors import ConfigError
from sfumato.geometry import Trajectory, absolute_pose_errors, filter_poses
from sfumato.geometry.pose import displaced, poses_of, rigid, twists_of

SEEDED = torch.Generator().manual_seed(0)


def path_of(poses, covariance):
    into = twists_of(poses)
    return Trajectory(torch.arange(len(poses)), poses, into @ covariance @ into.mT)


def test_positions_alone_are_a_linear_kalman_filter():
    places = torch.randn(30, 3, generator=SEEDED, dtype=torch.float64)
    poses = rigid(torch.eye(3).double().expand(30, 3, 3), places)
    noise = torch.rand(30, 6, generator=SEEDED, dtype=torch.float64) + 0.1
    found = filter_poses(path_of(poses, torch.diag_embed(noise)), 0.3, 1.0)
    state, variance = places[0].numpy(), noise[0, :3].numpy()
    for place, own in zip(places[1:].numpy(), noise[1:, :3].numpy()):
        variance = variance + 0.3**2
        gain = variance / (variance + own)
        state, variance = state + gain * (place - state), (1 - gain) * variance
    assert found.world_from_camera[-1, :3, 3].numpy() == pytest.approx(state)
    assert np.diag(found.position_covariance[-1]) == pytest.approx(variance, rel=1e-6)


def test_it_removes_independent_noise_and_its_covariance_is_right():
    walk = torch.tensor([0.02] * 3 + [0.01] * 3, dtype=torch.float64)
    steps = walk * torch.randn(400, 6, generator=SEEDED, dtype=torch.float64)
    truth = [poses_of(torch.tensor([1.0, 2, 3, 0.3, 1.2, -0.5], dtype=torch.float64))]
    for step in steps[1:]:
        truth.append(displaced(truth[-1], step))
    truth = torch.stack(truth)
    covariance = torch.diag_embed(torch.tensor([0.04] * 3 + [0.01] * 3, dtype=torch.float64)).expand(400, 6, 6)
    errors = covariance[0].diagonal().sqrt() * torch.randn(400, 6, generator=SEEDED, dtype=torch.float64)
    raw = path_of(displaced(truth, errors), covariance)
    found = filter_poses(raw, 0.02, float(np.degrees(0.01)))
    right = Trajectory(raw.times, truth)
    before, after = (absolute_pose_errors(path, right, "none") for path in (raw, found))
    assert after.meters.mean() < 0.5 * before.meters.mean()
    assert after.degrees.mean() < 0.5 * before.degrees.mean()
    predicted = found.position_covariance.diagonal(dim1=1, dim2=2).sum(1)
    assert after.meters.square().mean().item() == pytest.approx(predicted.mean().item(), rel=0.3)
    # Errors that several frames share are not averaged away, so less is gained and less is claimed.
    shared = filter_poses(raw, 0.02, float(np.degrees(0.01)), shared=30)
    assert shared.position_covariance[-1].trace() > 3 * found.position_covariance[-1].trace()


def test_bad_arguments_are_refused():
    poses = torch.eye(4).double().expand(2, 4, 4)
    with pytest.raises(ConfigError, match="no covariance"):
        filter_poses(Trajectory(torch.arange(2), poses), 1.0, 1.0)
    for arguments in ((0.0, 1.0), (1.0, float("nan")), (1.0, 1.0, 0.5)):
        with pytest.raises(ConfigError, match="motions above 0"):
            filter_poses(path_of(poses, torch.eye(6).double().expand(2, 6, 6)), *arguments)
