import pytest
import torch

from sfumato.errors import DataError
from sfumato.geometry import check_poses
from sfumato.geometry.pose import adjoint, angles, exp, inverse, log, quaternions, rotations

SEEDED = torch.Generator().manual_seed(0)
TWISTS = torch.randn(50, 6, generator=SEEDED, dtype=torch.float64) * torch.tensor([2.0, 2, 2, 0.7, 0.7, 0.7])


def test_log_is_the_inverse_of_exp_also_for_tiny_and_almost_half_turns():
    turns = TWISTS[:, 3:] / TWISTS[:, 3:].norm(dim=1, keepdim=True)
    for length in (0.0, 1e-12, 1e-6, 1e-3, 1.0, 3.14159):
        twists = torch.cat([TWISTS[:, :3], length * turns], 1)
        torch.testing.assert_close(exp(log(exp(twists))), exp(twists), atol=1e-7, rtol=0)
        found = angles(exp(twists)[:, :3, :3])
        torch.testing.assert_close(found, torch.full_like(found, length), atol=1e-6, rtol=0)


def test_log_agrees_with_scipy():
    rotation = pytest.importorskip("scipy.spatial.transform").Rotation
    poses = exp(TWISTS)
    theirs = rotation.from_matrix(poses[:, :3, :3].numpy())
    torch.testing.assert_close(log(poses)[:, 3:], torch.from_numpy(theirs.as_rotvec()))
    ours = quaternions(poses[:, :3, :3])
    torch.testing.assert_close(ours, torch.from_numpy(theirs.as_quat(canonical=True)))
    torch.testing.assert_close(rotations(-3 * ours), poses[:, :3, :3])


def test_adjoint_carries_twists_to_the_other_side():
    pose, twist = exp(TWISTS[0]), 0.1 * TWISTS[1]
    torch.testing.assert_close(pose @ exp(twist), exp(adjoint(pose) @ twist) @ pose)
    torch.testing.assert_close(inverse(pose) @ pose, torch.eye(4, dtype=torch.float64))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p[:3, :3].mul_(1000), "no rotation"),
        (lambda p: p[:3, 0].mul_(-1), "left-handed"),
        (lambda p: p[0, :2].add_(0.2), "no rotation"),
        (lambda p: p[0, 3:].fill_(float("nan")), "NaN"),
        (lambda p: p[3, :1].fill_(0.5), "0 0 0 1"),
    ],
)
def test_poses_that_are_no_rigid_motions_are_refused(change, message):
    pose = exp(TWISTS[0])
    check_poses(pose)
    change(pose)
    with pytest.raises(DataError, match=message):
        check_poses(pose)


def test_rounded_rotations_become_orthonormal():
    rough = (exp(TWISTS) * 1000).round() / 1000
    fine = check_poses(rough)[:, :3, :3]
    torch.testing.assert_close(fine @ fine.mT, torch.eye(3, dtype=torch.float64).expand(50, 3, 3))
