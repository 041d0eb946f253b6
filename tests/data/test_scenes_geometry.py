"""The geometry of scenes against itself and against cameras and solids written down a second time."""

import numpy as np
import pytest
import torch
from torch.nn.functional import grid_sample

from sfumato.data import Augmentation, Scenes
from sfumato.data.scenes.lens import camera, intrinsics, moved, pose
from sfumato.data.scenes.motion import motions
from sfumato.data.scenes.rays import Sight
from sfumato.data.scenes.solids import normal
from sfumato.data.scenes.world import build

SIZE = (60, 80)
COUNT = 4


@pytest.fixture(scope="module")
def samples():
    scenes = Scenes(COUNT, SIZE, views=("right", "next", "previous"), novel=True)
    return [scenes[i] for i in range(COUNT)]


@pytest.fixture(scope="module")
def varied():
    scenes = Scenes(8, SIZE, seed=3, views=("right", "next", "previous"), varied=True)
    return [scenes[i] for i in range(8)]


@pytest.fixture(scope="module")
def world():
    return build(np.random.default_rng(5), np.random.default_rng(6))


def pixels():
    y, x = torch.meshgrid(torch.arange(SIZE[0]), torch.arange(SIZE[1]), indexing="ij")
    return torch.stack([x, y]).double()


def reprojected(sample, other):
    """Where ``other`` sees the camera's pixels (2, H, W), by the textbook, in double precision."""
    k, depth = sample["intrinsics"].double(), sample["depth_true"].double()
    rays = torch.linalg.inv(k) @ torch.cat([pixels(), torch.ones(1, *SIZE).double()]).reshape(3, -1)
    points = torch.cat([rays * depth.reshape(1, -1), torch.ones(1, depth.numel()).double()])
    moved = torch.linalg.inv(sample[f"world_from_{other}"].double()) @ sample["world_from_camera"].double() @ points
    seen = k @ moved[:3]
    return (seen[:2] / seen[2]).reshape(2, *SIZE), moved[2].reshape(SIZE)


def warped(image, place):
    scale = torch.tensor([SIZE[1] - 1, SIZE[0] - 1])[:, None, None]
    grid = (place.float() / scale * 2 - 1).permute(1, 2, 0)[None]
    return grid_sample(image[None], grid, align_corners=True, padding_mode="border")[0]


def test_disparity_is_focal_length_times_baseline_over_depth(samples):
    for sample in samples:
        valid = sample["depth_valid"]
        focal = float(sample["intrinsics"][0, 0])
        torch.testing.assert_close(sample["disparity"][0][valid], focal * 0.25 / sample["depth_true"][0][valid])
        assert (sample["disparity"][0][~valid] == 0).all()
        assert not sample["disparity_valid"][~valid].any()
        assert not sample["flow_valid"][~valid].any()


def test_poses_and_intrinsics_explain_disparity_and_flow(samples):
    for sample in samples:
        valid = sample["depth_valid"]
        right, _ = reprojected(sample, "right")
        found = pixels() - torch.cat([sample["disparity"], torch.zeros(1, *SIZE)])
        torch.testing.assert_close(right[:, valid], found[:, valid], atol=2e-3, rtol=0)
        later, depth = reprojected(sample, "next")
        front = valid & (depth > 0.5)
        still = front & ~sample["moving"]
        assert still.sum() > 0.5 * front.sum()
        torch.testing.assert_close(later[:, still], (pixels() + sample["flow"])[:, still], atol=2e-3, rtol=0)


def test_both_disparities_name_the_same_pairs_of_pixels(samples):
    for sample in samples:
        x = pixels()[0]
        for here, there, sign in (("disparity", "disparity_right", -1), ("disparity_right", "disparity", 1)):
            place = x + sign * sample[here][0]
            near = place.round().long().clamp(0, SIZE[1] - 1)
            back = sample[there][0].gather(1, near)
            valid = sample[f"{here}_valid"]
            # Rounding may meet another surface at an edge, nowhere else.
            assert ((back - sample[here][0]).abs() < 0.05)[valid].float().mean() > 0.9


def test_a_flipped_stereo_scene_is_still_one(samples):
    """After a flip, the disparity of the new left view warps the new right view onto it."""
    keys = ("image", "right", "disparity", "disparity_valid", "disparity_right", "disparity_right_valid", "intrinsics")
    batch = {key: torch.stack([sample[key] for sample in samples]) for key in keys}
    torch.manual_seed(1)
    out = Augmentation(scale=(1, 1), color=0.0)(batch)
    flipped = [not torch.allclose(out["image"][i], batch["image"][i], atol=1e-4) for i in range(COUNT)]
    assert any(flipped)
    for i in range(COUNT):
        motion = torch.cat([out["disparity"][i], torch.zeros(1, *SIZE)])
        valid = out["disparity_valid"][i]
        right, wrong = (
            (warped(out["right"][i], pixels() - sign * motion) - out["image"][i]).abs().mean(0)[valid]
            for sign in (1, -1)
        )
        assert right.median() < 0.012
        assert right.mean() < 0.6 * wrong.mean()


@pytest.mark.parametrize(("other", "key"), [("right", "disparity"), ("next", "flow")])
def test_the_other_picture_warps_onto_the_first(samples, other, key):
    for sample in samples:
        motion = torch.cat([-sample["disparity"], torch.zeros(1, *SIZE)]) if key == "disparity" else sample["flow"]
        valid = sample[f"{key}_valid"]
        true, wrong = (
            (warped(sample[other], pixels() + sign * motion) - sample["image"]).abs().mean(0)[valid] for sign in (1, -1)
        )
        assert true.median() < 0.012
        assert true.mean() < 0.6 * wrong.mean()


def height(solid, points):
    """1 on the surface of a solid, less inside, more outside: the definition of a shape, (N,)."""
    c, s = np.cos(solid.yaw), np.sin(solid.yaw)
    own = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]) @ (points - np.array(solid.center)[:, None])
    own /= np.array(solid.half)[:, None]
    parts = [np.abs(np.array(slab) @ own) for slab in solid.shape.slabs]
    if solid.shape.round:
        parts.append(np.linalg.norm(np.array(solid.shape.round) @ own, axis=0))
    return np.max(parts, axis=0)


def look(world, yaw=0.0, at=(0.0, 0.0, 1.5)):
    lens = camera(pose(np.array(at), yaw, -0.05), intrinsics(SIZE))
    sight = Sight(world.bodies, lens)
    depth, index = sight.first(SIZE)
    rays = lens.axes @ torch.cat([pixels(), torch.ones(1, *SIZE).double()]).reshape(3, -1).numpy()
    return lens, depth.ravel(), index.ravel(), rays


@pytest.mark.parametrize("yaw", [-0.3, 0.0, 0.3])
def test_rays_end_on_surfaces_and_pass_through_nothing(world, yaw):
    lens, depth, index, rays = look(world, yaw)
    chosen = np.random.default_rng(0).choice(len(depth), 200, replace=False)
    assert len(np.unique(index)) > 8
    steps = np.linspace(0.01, 0.998, 120)
    walks = lens.origin[:, None, None] + (rays[:, chosen] * np.minimum(depth[chosen], 60))[..., None] * steps
    assert min(height(solid, walks.reshape(3, -1)).min() for solid in world.solids) > 0.9995
    for number, solid in enumerate(world.solids):
        rows = np.flatnonzero(index == number)
        if rows.size:
            on = height(solid, lens.origin[:, None] + rays[:, rows] * depth[rows])
            np.testing.assert_allclose(on, 1, atol=2e-3)


def test_normals_are_the_gradient_of_the_surface(world):
    lens, depth, index, rays = look(world)
    for number, solid in enumerate(world.solids):
        rows = np.flatnonzero(index == number)
        if rows.size == 0:
            continue
        points = lens.origin[:, None] + rays[:, rows] * depth[rows]
        offset = (points - np.array(solid.center)[:, None]).astype(np.float32)
        outward = np.stack(normal(solid, tuple(offset)))
        np.testing.assert_allclose((outward**2).sum(0), 1, atol=1e-4)
        assert ((outward * rays[:, rows]).sum(0) < 1e-2).all()  # what a camera sees faces it
        assert (height(solid, points + 0.01 * outward) > height(solid, points) - 1e-6).all()


def test_occluded_is_what_something_stands_in_front_of(samples):
    scenes = Scenes(COUNT, SIZE, views=True)
    rng = np.random.default_rng(0)
    hidden = 0
    for i in range(2):
        sample, world = scenes[i], build(np.random.default_rng((0, i, 0)))
        place, depth = reprojected(sample, "right")
        limit = torch.tensor([SIZE[1] - 1, SIZE[0] - 1])[:, None, None]
        inside = ((place >= -0.01) & (place <= limit + 0.01)).all(0)
        inside &= (depth > 0) & sample["depth_valid"]
        assert not sample["disparity_valid"][~inside].any()
        for valid in (True, False):
            rows = np.flatnonzero((inside & (sample["disparity_valid"] == valid)).numpy().ravel())
            rows = rng.permutation(rows)[:40]
            blocked = _blocked(world, sample, rows)
            assert not blocked.any() if valid else blocked.sum() >= 0.9 * len(rows)  # steps may miss a thin edge
            hidden += 0 if valid else len(rows)
    assert hidden > 20


def _blocked(world, sample, rows):
    """Whether a walk from the right camera to these pixels' points (N,) leads through a solid."""
    k, pose = sample["intrinsics"].double().numpy(), sample["world_from_camera"].double().numpy()
    flat = np.concatenate([pixels().reshape(2, -1).numpy(), np.ones((1, SIZE[0] * SIZE[1]))])[:, rows]
    rays = pose[:3, :3] @ np.linalg.inv(k) @ flat
    points = pose[:3, 3:] + rays * sample["depth_true"].double().numpy().ravel()[rows]
    start = sample["world_from_right"].double().numpy()[:3, 3:]
    steps = np.concatenate([np.linspace(0.02, 0.99, 500), np.linspace(0.99, 0.9997, 200)])
    walks = (start[..., None] + (points - start)[..., None] * steps).reshape(3, -1)
    inside = np.min([height(solid, walks) for solid in world.solids], axis=0) < 0.9999
    return inside.reshape(len(rows), -1).any(1)


def test_the_right_camera_is_a_baseline_to_the_right(samples):
    for sample in samples:
        right = torch.linalg.inv(sample["world_from_camera"].double()) @ sample["world_from_right"].double()
        expected = torch.eye(4).double()
        expected[0, 3] = 0.25
        torch.testing.assert_close(right, expected, atol=1e-6, rtol=0)


def test_a_level_camera_looks_north():
    level = pose(np.array([1.0, 2.0, 3.0]), 0, 0)
    np.testing.assert_allclose(level @ [0, 0, 5, 1], [1, 7, 3, 1], atol=1e-12)  # 5 m ahead
    np.testing.assert_allclose(level @ [0, 1, 0, 1], [1, 2, 2, 1], atol=1e-12)  # y points down
    np.testing.assert_allclose(pose(np.zeros(3), np.pi / 2, 0) @ [0, 0, 1, 1], [-1, 0, 0, 1], atol=1e-12)  # to the west
    np.testing.assert_allclose(moved(level, np.array([0.5, 0, 0])), pose(np.array([1.5, 2, 3]), 0, 0), atol=1e-12)


def test_place_inverts_rays():
    lens = camera(pose(np.array([0.3, -0.2, 1.4]), 0.2, -0.1), intrinsics(SIZE))
    u, v, t = 12.25, 30.5, 7.0
    point = lens.origin + t * (lens.axes @ [u, v, 1])
    np.testing.assert_allclose(np.ravel(lens.place(point[:, None])), [u, v, t])
    np.testing.assert_allclose(intrinsics(SIZE) @ np.linalg.inv(intrinsics(SIZE)), np.eye(3), atol=1e-12)


def test_what_moves_by_itself_does_not_follow_the_camera(samples):
    share = 0
    for sample in samples:
        place, _ = reprojected(sample, "next")
        off = ((place - pixels() - sample["flow"]) ** 2).sum(0).sqrt()
        share += (off[sample["moving"] & sample["flow_valid"]] > 0.2).float().mean() / COUNT
        assert not sample["moving"][sample["instances"] == 0].any()
        for number in sample["instances"].unique()[1:]:
            assert sample["moving"][sample["instances"] == number].unique().numel() == 1
    assert share > 0.8


def test_flow_there_and_back(samples):
    for sample in samples:
        place = (pixels() + sample["flow"]).round().long()
        x, y = place[0].clamp(0, SIZE[1] - 1), place[1].clamp(0, SIZE[0] - 1)
        back = sample["flow_back"][:, y, x]
        good = sample["flow_valid"]
        # Rounding may meet another surface at an edge, nowhere else.
        assert ((back + sample["flow"]).norm(dim=0) < 0.7)[good].float().mean() > 0.9
        place = pixels() + sample["flow_back"]
        valid = sample["flow_back_valid"]
        true, wrong = (
            (warped(sample["image"], pixels() + sign * sample["flow_back"]) - sample["next"]).abs().mean(0)[valid]
            for sign in (1, -1)
        )
        assert true.median() < 0.015
        assert true.mean() < 0.6 * wrong.mean()


def test_occluded_is_known_but_not_seen(samples, varied):
    for sample in (*samples, *varied):
        for key in ("disparity", "disparity_right", "flow", "flow_back"):
            assert not (sample[f"{key}_valid"] & sample[f"{key}_occluded"]).any()
        for key in ("disparity", "flow"):
            assert torch.equal(sample[f"{key}_valid"] | sample[f"{key}_occluded"], sample["depth_valid"])
    hidden, seen = [], []
    for sample in samples:
        place = pixels() - torch.cat([sample["disparity"], torch.zeros(1, *SIZE)])
        error = (warped(sample["right"], place) - sample["image"]).abs().mean(0)
        hidden.append(error[sample["disparity_occluded"] & (place[0] >= 0)])
        seen.append(error[sample["disparity_valid"]])
    assert torch.cat(hidden).mean() > 2 * torch.cat(seen).mean()


def test_the_previous_frame_follows_from_its_pose(samples, varied):
    errors = [[], []]
    for sample in (*samples, *varied):
        place, depth = reprojected(sample, "previous")
        limit = torch.tensor([SIZE[1] - 1, SIZE[0] - 1])[:, None, None]
        inside = ((place >= 0) & (place <= limit)).all(0) & (depth > 0) & sample["depth_valid"] & ~sample["moving"]
        errors[0].append((warped(sample["previous"], place) - sample["image"]).abs().mean(0)[inside])
        errors[1].append((sample["previous"] - sample["image"]).abs().mean(0)[inside])
    right, still = (torch.cat(found).mean() for found in errors)
    assert right < 0.6 * still


def test_solids_move_rigidly(world):
    motion = motions(world.solids, np.random.default_rng(1), 0.1, rise=1.0)
    later = motion.world(world, 1)
    moves = motion.moves[:-1]
    assert 0 < moves.sum() < len(moves)
    _, depth, index, rays = look(world)
    lens = look(world)[0]
    for number in np.unique(index[index >= 0]):
        rows = np.flatnonzero(index == number)
        points = (lens.origin[:, None] + rays[:, rows] * depth[rows]).astype(np.float32)
        moved_points = motion.forward(points[:, None], np.full((1, len(rows)), number))[:, 0]
        np.testing.assert_allclose(height(later.solids[number], moved_points), 1, atol=2e-3)
        back = motion.backward(moved_points[:, None], np.full((1, len(rows)), number))[:, 0]
        np.testing.assert_allclose(back, points, atol=1e-4)
        assert np.array_equal(moved_points, points) != moves[number]


def test_cameras_vary(varied):
    focals = torch.tensor([float(s["intrinsics"][0, 0]) / SIZE[1] for s in varied])
    assert focals.std() > 0.1
    assert ((focals > 0.69) & (focals < 1.61)).all()
    for sample in varied:
        valid = sample["depth_valid"]
        right, _ = reprojected(sample, "right")
        found = pixels() - torch.cat([sample["disparity"], torch.zeros(1, *SIZE)])
        torch.testing.assert_close(right[:, valid], found[:, valid], atol=5e-3, rtol=0)
        later, depth = reprojected(sample, "next")
        still = valid & (depth > 0.3) & ~sample["moving"]
        torch.testing.assert_close(later[:, still], (pixels() + sample["flow"])[:, still], atol=5e-3, rtol=0)
        assert 2 < sample["disparity"].quantile(0.99) < 0.25 * SIZE[1]
