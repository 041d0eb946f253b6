"""A generated place: poses and depths of two cameras agree, and splits are independent."""

import pytest
import torch

from sfumato.data import SceneTour, load
from sfumato.data.posed import frames_between
from sfumato.errors import ConfigError
from sfumato.geometry import project, sample_at, transform, unproject
from sfumato.geometry.pose import inverse, poses_of

pytest.importorskip("roma")


def test_points_of_one_camera_have_the_depth_that_another_camera_sees():
    tour = SceneTour(6, (48, 64))
    first, second = tour[0], tour[3]
    points = unproject(first["depth"][None], first["intrinsics"][None])
    motion = inverse(second["world_from_camera"]) @ first["world_from_camera"]
    pixels, depth = project(transform(points, motion[None]), second["intrinsics"][None])
    seen, inside = sample_at(second["depth"][None], pixels)
    known = first["depth_valid"] & inside[0] & (depth[0, 0] > 0) & (seen[0, 0] > 0)
    error = ((seen[0, 0] - depth[0, 0]).abs() / depth[0, 0])[known]
    assert known.float().mean() > 0.2
    assert error.median() < 0.01  # others are hidden, or at edges
    torch.testing.assert_close(poses_of(first["pose"]), first["world_from_camera"], atol=1e-5, rtol=0)


def test_the_same_seed_gives_the_same_camera_and_splits_are_no_video():
    tour = SceneTour(3, (24, 32))
    assert torch.equal(tour[1]["image"], SceneTour(5, (24, 32))[1]["image"])
    assert not torch.equal(tour[1]["pose"], SceneTour(3, (24, 32), seed=1)[1]["pose"])
    train, val = (load("scene-tour", split=split, size=(24, 32)) for split in ("train", "val"))
    assert (len(train), len(val)) == (400, 100)
    assert frames_between(train.names, val.names) == []
    task = train.tasks["pose"]
    assert task.extent == pytest.approx(0.72, abs=0.05)  # of uniform places: √((9 + 9 + 0.64) / 12 / 3)
    with pytest.raises(ConfigError, match="expected at least 1 camera"):
        SceneTour(0)
    with pytest.raises(IndexError):
        tour[3]
