import math

import pytest
import torch

from sfumato.errors import ConfigError, DataError, MissingFileError
from sfumato.geometry import (
    Motion,
    Trajectory,
    absolute_pose_errors,
    read_kitti,
    read_tum,
    relative_pose_errors,
    write_covariances,
    write_kitti,
    write_tum,
)
from sfumato.geometry.pose import exp, inverse, log

GENERATOR = torch.Generator().manual_seed(0)
SCALES = torch.tensor([0.1, 0.1, 0.1, 0.05, 0.05, 0.05], dtype=torch.float64)


def walk(count=20, seed=0):
    """A random path."""
    generator = torch.Generator().manual_seed(seed)
    poses = [exp(torch.randn(6, generator=generator, dtype=torch.float64))]
    for _ in range(count - 1):
        poses.append(poses[-1] @ exp(SCALES * torch.randn(6, generator=generator, dtype=torch.float64)))
    return Trajectory(torch.arange(count), torch.stack(poses))


def moved(path, by):
    return Trajectory(path.times, by @ path.world_from_camera)


@pytest.mark.parametrize(("write", "read"), [(write_tum, read_tum), (write_kitti, read_kitti)])
def test_files_hold_the_poses(tmp_path, write, read):
    path = walk()
    write(tmp_path / "path.txt", path)
    torch.testing.assert_close(read(tmp_path / "path.txt").world_from_camera, path.world_from_camera, atol=1e-7, rtol=0)
    assert read(tmp_path / "path.txt", 0.001).world_from_camera[5, 0, 3] == pytest.approx(
        path.world_from_camera[5, 0, 3].item() / 1000, abs=1e-7
    )


def test_tum_columns_are_time_position_and_quaternion_with_w_last(tmp_path):
    turned = exp(torch.tensor([[0.0, 0, 0, 0, 0, 3]]).double())
    turned[0, :3, 3] = torch.tensor([1.0, 2, 3])
    write_tum(tmp_path / "path.txt", Trajectory(torch.tensor([2.5]), turned))
    numbers = [float(word) for word in (tmp_path / "path.txt").read_text().splitlines()[1].split()]
    assert numbers[0] == 2.5
    assert numbers[1:] == pytest.approx([1, 2, 3, 0, 0, math.sin(1.5), math.cos(1.5)], abs=1e-6)


def test_relative_errors_do_not_depend_on_the_world():
    truth = walk()
    estimate = moved(truth, exp(torch.tensor([5.0, 1, 2, 1, 0.5, 0.2]).double()))
    for gap in (1, 10):
        errors = relative_pose_errors(estimate, truth, gap)
        assert len(errors.meters) == 20 - gap
        assert errors.meters.max() < 1e-9
        assert errors.degrees.max() < 1e-5


def test_relative_errors_are_in_meters_and_degrees():
    truth = Trajectory(torch.arange(3), torch.eye(4).repeat(3, 1, 1))
    step = exp(torch.tensor([0.03, 0, 0.04, 0, torch.deg2rad(torch.tensor(2.0)), 0]).double())
    step[:3, 3] = torch.tensor([0.03, 0, 0.04])
    estimate = Trajectory(torch.arange(3), torch.stack([torch.eye(4).double(), step, step @ step]))
    errors = relative_pose_errors(estimate, truth, 1)
    assert errors.meters.tolist() == pytest.approx([0.05, 0.05])
    assert errors.degrees.tolist() == pytest.approx([2, 2])


def test_a_scale_is_no_relative_error_that_disappears():
    truth = walk()
    longer = truth.world_from_camera.clone()
    longer[:, :3, 3] *= 1.5
    assert relative_pose_errors(Trajectory(truth.times, longer), truth, 1).meters.median() > 0.03


def test_the_first_pose_is_not_counted_where_it_is_right_by_construction():
    """A path of one true pose and garbage. With the first pose in the mean its error would be a fifth smaller."""
    truth = walk(5)
    estimate = Trajectory(truth.times, truth.world_from_camera @ exp(torch.tensor([0.0] * 6).double()))
    wrong = estimate.world_from_camera.clone()
    wrong[1:, 0, 3] += 1.0
    errors = absolute_pose_errors(Trajectory(truth.times, wrong), truth, "first")
    assert errors.meters.tolist() == pytest.approx([1, 1, 1, 1])


def test_a_camera_that_never_moves_is_not_good():
    """Short pieces, scaled each for itself, make the error of a still camera look small. Ours is the whole motion."""
    truth = walk(5)
    still = Trajectory(truth.times, truth.world_from_camera[:1].repeat(5, 1, 1))
    away = truth.world_from_camera[1:, :3, 3] - truth.world_from_camera[0, :3, 3]
    torch.testing.assert_close(absolute_pose_errors(still, truth, "first").meters, away.norm(dim=1))
    with pytest.raises(DataError, match="still"):
        absolute_pose_errors(still, truth, "similarity")


def test_alignments_find_what_they_are_for():
    truth = walk(30)
    turned = moved(truth, exp(torch.tensor([5.0, 1, 2, 1, 0.5, 0.2]).double()))
    assert absolute_pose_errors(turned, truth, "none").meters.min() > 1
    for align in ("first", "rigid", "similarity"):
        assert absolute_pose_errors(turned, truth, align).meters.max() < 1e-9
    scaled = turned.world_from_camera.clone()
    scaled[:, :3, 3] *= 2
    scaled = Trajectory(truth.times, scaled)
    assert absolute_pose_errors(scaled, truth, "similarity").meters.max() < 1e-9
    assert absolute_pose_errors(scaled, truth, "rigid").meters.median() > 0.05


def test_rotations_count_although_alignment_looks_at_positions_only():
    truth = walk(30)
    turned = Trajectory(truth.times, truth.world_from_camera @ exp(torch.tensor([0, 0, 0, 0.1, 0, 0]).double()))
    errors = absolute_pose_errors(turned, truth, "rigid")
    assert errors.meters.max() < 1e-9
    assert errors.degrees.tolist() == pytest.approx([5.7296] * 30, abs=1e-3)


def test_covariances_add_up_along_the_path():
    """Against samples of noisy motions."""
    clean = [exp(SCALES * torch.randn(6, generator=GENERATOR, dtype=torch.float64)) for _ in range(6)]
    deviation = torch.tensor([0.01, 0.02, 0.01, 0.005, 0.01, 0.005], dtype=torch.float64)
    motions = [Motion(motion, torch.diag(deviation**2), torch.ones(8, dtype=torch.bool), 1.0) for motion in clean]
    path = Trajectory.of_motions(motions)
    assert path.covariance[0].abs().max() == 0
    found = path.world_from_camera[-1]
    samples = torch.eye(4, dtype=torch.float64).repeat(4000, 1, 1)
    for motion in clean:
        noise = deviation * torch.randn(4000, 6, generator=GENERATOR, dtype=torch.float64)
        samples = samples @ inverse(exp(noise) @ motion)
    errors = log(samples @ inverse(found))
    measured = errors.mT @ errors / 4000
    scale = path.covariance[-1].diagonal().sqrt()
    assert ((measured - path.covariance[-1]).abs() < 0.1 * scale[:, None] * scale).all()
    away = samples[:, :3, 3] - found[:3, 3]
    spread = path.position_covariance[-1]
    assert (away.mT @ away / 4000 - spread).abs().max() < 0.1 * spread.diagonal().max()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 0 0 0 0 0 0 1\n1 0 0 0 0 0 1\n", "line 2: expected 8"),
        ("0 0 0 0 0 0 0 one\n", "line 1"),
        ("0 0 0 nan 0 0 0 1\n", "line 1"),
        ("0 0 0 0 0 0 0 2\n", "quaternion"),
        ("1 0 0 0 0 0 0 1\n1 0 0 0 0 0 0 1\n", "increase"),
        ("0 0 0 0 0 0 0 1\n1 900 0 0 0 0 0 1\n", "millimeters"),
        ("# nothing\n", "no pose"),
    ],
)
def test_bad_tum_files_are_refused(tmp_path, text, message):
    (tmp_path / "path.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        read_tum(tmp_path / "path.txt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("-1 0 0 0 0 1 0 0 0 0 1 0\n", "left-handed"),
        ("2 0 0 0 0 2 0 0 0 0 2 0\n", "no rotation"),
        ("1 0 0 0 0 1 0 0 0 0 1\n", "expected 12"),
    ],
)
def test_bad_kitti_files_are_refused(tmp_path, text, message):
    (tmp_path / "path.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        read_kitti(tmp_path / "path.txt")


def test_paths_that_do_not_belong_together_are_refused(tmp_path):
    truth = walk()
    with pytest.raises(DataError, match="same times"):
        relative_pose_errors(walk(19), truth, 1)
    for gap in (0, 20):
        with pytest.raises(ConfigError, match="gap"):
            relative_pose_errors(truth, truth, gap)
    millimeters = truth.world_from_camera.clone()
    millimeters[:, :3, 3] *= 1000
    with pytest.raises(DataError, match="millimeters"):
        relative_pose_errors(Trajectory(truth.times, millimeters), truth, 1)
    with pytest.raises(ConfigError, match="align"):
        absolute_pose_errors(truth, truth, "sim3")
    with pytest.raises(MissingFileError):
        read_tum(tmp_path / "none.txt")


def test_a_path_without_covariance_has_none_to_write(tmp_path):
    with pytest.raises(ConfigError, match="no covariance"):
        write_covariances(tmp_path / "none.txt", walk())
