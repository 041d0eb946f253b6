"""The pinhole camera against hand-made numbers, the scenes, and its own inverse."""

import pytest
import torch

from sfumato.data import Scenes
from sfumato.errors import DataError
from sfumato.geometry import (
    camera_from_camera,
    check_intrinsics,
    hidden,
    pixel_grid,
    project,
    sample_at,
    transform,
    unproject,
)

CAMERA = torch.tensor([[[100.0, 0, 32], [0, 90, 24], [0, 0, 1]]])


def test_a_point_by_hand():
    points = unproject(torch.full((1, 1, 3, 3), 2.0), torch.tensor([[[1.0, 0, 1], [0, 1, 1], [0, 0, 1]]]))
    assert points[0, :, 0, 2].tolist() == [2.0, -2.0, 2.0]  # one pixel to the right and one up, at depth 2


def test_project_undoes_unproject():
    depth = 1 + 5 * torch.rand(2, 1, 48, 64, dtype=torch.float64)
    pixels, found = project(unproject(depth, CAMERA.expand(2, -1, -1)), CAMERA.expand(2, -1, -1))
    assert torch.allclose(found, depth)
    assert torch.allclose(pixels, pixel_grid((48, 64), depth).expand(2, -1, -1, -1), atol=1e-9)


def test_points_behind_the_camera_are_finite_and_tell_so():
    pixels, depth = project(torch.tensor([0.3, 0.2, -1.0]).view(1, 3, 1, 1), CAMERA)
    assert pixels.isfinite().all()
    assert depth.item() == -1


@pytest.mark.parametrize(("other", "pose"), [("right", "world_from_right"), ("next", "world_from_next")])
def test_scenes_move_as_their_disparity_and_flow_say(other, pose):
    batch = {key: value[None] for key, value in Scenes(1, (48, 64), views=True)[0].items() if key != "name"}
    known = batch["depth_valid"]
    depth = batch["depth_true"].where(known[:, None], 10.0)
    motion = camera_from_camera(batch["world_from_camera"], batch[pose])
    pixels, _ = project(transform(unproject(depth, batch["intrinsics"]), motion), batch["intrinsics"])
    moved = pixels - pixel_grid((48, 64), depth)
    if other == "right":
        assert torch.allclose(-moved[:, :1][known[:, None]], batch["disparity"][known[:, None]], atol=1e-3)
        assert moved[:, 1][known].abs().max() < 1e-3
        return
    still = known & batch["flow_valid"]
    assert (moved - batch["flow"]).abs().amax(1)[still].quantile(0.5) < 1e-3


def test_sampling_at_whole_pixels_is_indexing():
    image = torch.rand(2, 3, 5, 7)
    pixels = pixel_grid((5, 7), image).expand(2, -1, -1, -1)
    found, inside = sample_at(image, pixels)
    assert torch.allclose(found, image, atol=1e-6)
    assert inside.all()
    shifted, inside = sample_at(image, pixels + torch.tensor([2.0, -1.0]).view(2, 1, 1))
    assert torch.allclose(shifted[..., 1:, :-2], image[..., :-1, 2:], atol=1e-6)
    assert not inside[:, 0].any()
    assert not inside[:, :, -2:].any()
    assert inside[:, 1:, :-2].all()


def test_relative_pose_by_hand():
    turn = torch.tensor([[0.0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]])[None]
    assert torch.allclose(camera_from_camera(turn, turn), torch.eye(4)[None], atol=1e-6)
    point = torch.tensor([0.5, 0.25, 2.0]).view(1, 3, 1, 1)
    other = turn.clone()
    other[:, 0, 3] += 1
    direct = transform(transform(point, turn), torch.linalg.inv(other))
    assert torch.allclose(transform(point, camera_from_camera(turn, other)), direct, atol=1e-6)


@pytest.mark.parametrize(
    "wrong", [torch.zeros(1, 4, 4), 1000 * torch.eye(4)[None], torch.diag(torch.tensor([-1.0, 1, 1, 1]))[None]]
)
def test_poses_that_are_no_poses(wrong):
    with pytest.raises(DataError, match="a pose"):
        camera_from_camera(torch.eye(4)[None], wrong)


def test_intrinsics_that_do_not_fit():
    check_intrinsics(CAMERA, (48, 64))
    with pytest.raises(DataError, match="scale the intrinsics with the images"):
        check_intrinsics(torch.tensor([[[585.0, 0, 320], [0, 585, 240], [0, 0, 1]]]), (120, 160))
    check_intrinsics(torch.tensor([[[585.0, 0, 320], [0, 585, 240], [0, 0, 1]]]), (120, 160), beyond=(360, 480))
    for wrong in (torch.zeros(1, 3, 3), CAMERA.mT, CAMERA * float("nan")):
        with pytest.raises(DataError, match="focal lengths above 0"):
            check_intrinsics(wrong, (48, 64))
    with pytest.raises(DataError, match="shape"):
        check_intrinsics(CAMERA[0], (48, 64))


def test_a_nearer_point_on_the_same_pixel_hides():
    """Two columns of a near board move by two pixels, onto the wall behind it."""
    depth = torch.full((1, 1, 2, 6), 8.0)
    depth[..., 3:5] = 2.0
    shift = torch.zeros(1, 2, 2, 6)
    shift[:, 0, :, 3:5] = -2
    found = hidden(pixel_grid((2, 6), depth) + shift, depth)
    assert found[0].tolist() == [[False, True, True, False, False, False]] * 2
    assert not hidden(pixel_grid((2, 6), depth) + shift, torch.full_like(depth, 8.0)).any()
    assert not hidden(pixel_grid((2, 6), depth) + 100, depth).any()


def test_scenes_hide_what_their_masks_say():
    batch = torch.utils.data.default_collate([Scenes(4, (96, 128), views=True)[index] for index in range(4)])
    known = batch["depth_valid"]
    depth = batch["depth_true"].where(known[:, None], 500.0)
    motion = camera_from_camera(batch["world_from_camera"], batch["world_from_right"])
    pixels, distance = project(transform(unproject(depth, batch["intrinsics"]), motion), batch["intrinsics"])
    found, true = hidden(pixels, distance) & known, batch["disparity_occluded"] & (pixels[:, 0] >= 0)
    assert (found & true).sum() > 0.8 * true.sum()
    assert (found & ~true).sum() < 0.03 * known.sum()
