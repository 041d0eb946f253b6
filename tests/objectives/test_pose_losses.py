"""Losses of poses against the papers' formulas, and trainings that end where they should."""

import math

import pytest
import torch
from torch import nn

from sfumato.errors import ConfigError, DataError
from sfumato.geometry import project, unproject
from sfumato.geometry.pose import inverse, pose_vectors, poses_of
from sfumato.likelihoods import L1, FullGaussian, Gaussian, PoseLikelihood
from sfumato.objectives import PoseNetGeometric, PoseNetLearned, PoseNetLoss
from sfumato.tasks import CameraPose

roma = pytest.importorskip("roma")
TASK = CameraPose()
LAW = PoseLikelihood(FullGaussian(6))


class Constant(nn.Module):
    """A network whose outputs (B, C) are its parameters."""

    def __init__(self, output):
        super().__init__()
        self.output = nn.Parameter(output.clone())

    def forward(self, image):
        return self.output


def batch(count=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    poses = poses_of(torch.randn(count, 6, generator=generator) * torch.tensor([1.0] * 3 + [0.3] * 3))
    depth = torch.rand(count, 1, 6, 8, generator=generator) * 2 + 1
    return {
        "image": torch.zeros(count, 3, 6, 8),
        "pose": pose_vectors(poses),
        "pose_valid": torch.ones(count, dtype=torch.bool),
        "depth": depth,
        "depth_valid": torch.rand(count, 6, 8, generator=generator) < 0.8,
        "intrinsics": torch.tensor([[7.0, 0, 3.5], [0, 7.0, 2.5], [0, 0, 1]]).expand(count, 3, 3),
    }


def outputs(count=4, channels=28, seed=1):
    return 0.3 * torch.randn(count, channels, generator=torch.Generator().manual_seed(seed))


def test_posenet_is_the_formula_of_the_paper_for_both_signs():
    given, output = batch(), outputs()
    losses, _ = PoseNetLoss(TASK, LAW, beta=120.0)(Constant(output), given)
    position, quaternion = LAW.position_and_quaternion(output)
    unit = quaternion / quaternion.norm(dim=1, keepdim=True)
    truth = roma.rotmat_to_unitquat(poses_of(given["pose"])[:, :3, :3])
    away = torch.minimum((unit - truth).norm(dim=1), (unit + truth).norm(dim=1))
    assert losses["position"].item() == pytest.approx(
        (position - given["pose"][:, :3]).norm(dim=1).mean().item(), rel=1e-4
    )
    assert losses["rotation"].item() == pytest.approx(120 * away.mean().item(), rel=1e-4)
    # The covariance has its own loss, without a gradient to the pose.
    assert losses["covariance"].item() == pytest.approx(
        LAW.nll(output, given["pose"], given["pose_valid"]).mean().item(), rel=1e-5
    )
    network = Constant(output)
    PoseNetLoss(TASK, LAW)(network, given)[0]["covariance"].backward()
    assert (network.output.grad[:, :7] == 0).all()
    assert (network.output.grad[:, 7:] != 0).any()


def test_learned_weights_start_as_in_the_paper_and_end_at_the_log_of_the_loss():
    given, output = batch(), outputs()
    objective = PoseNetLearned(TASK, LAW)
    losses, logs = objective(Constant(output), given)
    assert (logs["log_position"].item(), logs["log_rotation"].item()) == (0.0, -3.0)
    position, _ = LAW.position_and_quaternion(output)
    distance = (position - given["pose"][:, :3]).abs().sum(1).mean().item()
    assert losses["position"].item() == pytest.approx(distance, rel=1e-5)
    optimizer = torch.optim.Adam(objective.parameters(), 0.1)
    fixed = Constant(output)
    for _ in range(100):
        optimizer.zero_grad()
        found, logs = objective(fixed, given)
        (found["position"] + found["rotation"]).backward()
        optimizer.step()
    assert logs["log_position"].item() == pytest.approx(math.log(distance), abs=0.02)


def test_reprojection_is_the_distance_of_projected_points_and_0_at_the_true_pose():
    given = batch()
    true = poses_of(given["pose"])
    quaternions = roma.rotmat_to_unitquat(true[:, :3, :3])
    exact = outputs()
    exact[:, :3] = true[:, :3, 3]
    exact[:, 3:7] = 2 * (quaternions - torch.tensor([0.0, 0, 0, 1]))
    objective = PoseNetGeometric(TASK, LAW)
    assert objective(Constant(exact), given)[0]["reprojection"].item() == pytest.approx(0, abs=1e-5)
    moved = exact.clone()
    moved[:, :3] += torch.tensor([0.1, 0.0, 0.0])
    found = objective(Constant(moved), given)[0]["reprojection"].item()
    points = unproject(given["depth"], given["intrinsics"])
    world = true[:, :3, :3] @ points.flatten(2) + true[:, :3, 3:]
    camera = LAW.poses(moved)
    seen = inverse(camera)[:, :3, :3] @ world + inverse(camera)[:, :3, 3:]
    pixels, _ = project(seen.unflatten(2, (6, 8)), given["intrinsics"])
    truth, _ = project(points, given["intrinsics"])
    away = (pixels - truth).abs().sum(1)[given["depth_valid"]].mean().item()
    assert found == pytest.approx(away / 7.0, rel=1e-4)  # without the focal length
    del given["depth"]
    with pytest.raises(DataError, match="no 'depth'"):
        objective(Constant(exact), given)


@pytest.mark.parametrize(
    ("objective", "inner"), [(PoseNetLoss, L1(6)), (PoseNetLearned, FullGaussian(6)), (PoseNetGeometric, Gaussian(6))]
)
def test_every_loss_finds_the_true_poses(objective, inner):
    law, given = PoseLikelihood(inner), batch()
    start = torch.zeros(4, law.channels)
    if objective is PoseNetGeometric:  # far from the truth points are behind the camera, and it does not converge
        start[:, :3] = given["pose"][:, :3] + 0.2
        start[:, 3:6] = given["pose"][:, 3:] + 0.2
    network = Constant(start)
    loss = objective(TASK, law)
    optimizer = torch.optim.Adam([*network.parameters(), *loss.parameters()], 0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 150)
    for _ in range(150):
        optimizer.zero_grad()
        sum(loss(network, given)[0].values()).backward()
        optimizer.step()
        schedule.step()
    assert (law.poses(network.output.detach()) - poses_of(given["pose"])).abs().max() < 0.05


def test_samples_without_a_pose_take_no_part():
    given, network = batch(), Constant(outputs())
    given["pose_valid"][1:] = False
    given["pose"][1:] = math.nan
    for objective in (PoseNetLoss(TASK, LAW), PoseNetLearned(TASK, LAW), PoseNetGeometric(TASK, LAW)):
        network.zero_grad()
        sum(objective(network, given)[0].values()).backward()
        assert network.output.grad.isfinite().all()
        assert (network.output.grad[1:] == 0).all()
    given["pose_valid"][:] = False
    assert PoseNetLoss(TASK, LAW)(network, given)[0]["position"].item() == 0


def test_other_tasks_and_weights_are_refused():
    with pytest.raises(ConfigError, match="--task pose"):
        PoseNetLoss(TASK, FullGaussian(6))
    with pytest.raises(ConfigError, match="beta is -1"):
        PoseNetLoss(TASK, LAW, beta=-1.0)
    with pytest.raises(ConfigError, match="finite log weights"):
        PoseNetLearned(TASK, LAW, position=math.inf)
