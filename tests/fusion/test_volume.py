"""Volumes: weighted sums against numpy, surfaces against the scene they were made of, files, bad frames."""

import numpy as np
import pytest
import torch

from sfumato.errors import ConfigError, DataError
from sfumato.fusion import View, Volume, depth_camera, fuse_classes, fuse_values, mesh_of, render, write_ply
from sfumato.fusion.blocks import Blocks
from sfumato.geometry import exp, pixel_grid
from sfumato.predictions import ClassPrediction, ValuePrediction, entropy

SIZE = (48, 64)
CAMERA = torch.tensor([[60.0, 0, 31.5], [0, 60, 23.5], [0, 0, 1]])
BALL = torch.tensor([0.1, -0.05, 1.6])
RADIUS = 0.5


def plane(depth, std, probs=None, pose=None):
    """A wall at a depth that the camera looks at straight, with one standard deviation."""
    mean = torch.full((1, 1, *SIZE), depth)
    classes = None
    if probs is not None:
        spread = torch.tensor(probs)[None, :, None, None].expand(1, -1, *SIZE)
        classes = ClassPrediction(spread, entropy(spread))
    prediction = ValuePrediction(mean, torch.full_like(mean, std**2), torch.zeros_like(mean), "m")
    valid = torch.ones(1, *SIZE, dtype=torch.bool)
    return View(prediction, valid, CAMERA, torch.eye(4) if pose is None else pose, classes)


def ball(pose, noise=0.0, seed=0):
    """A ball, as a camera at a pose sees it; exact."""
    x, y = pixel_grid(SIZE, torch.zeros(())).double()
    rays = torch.stack([(x - CAMERA[0, 2]) / CAMERA[0, 0], (y - CAMERA[1, 2]) / CAMERA[1, 1], torch.ones_like(x)])
    center = torch.linalg.inv(pose.double()) @ torch.cat([BALL, torch.ones(1)]).double()
    a, b = rays.square().sum(0), -2 * (rays * center[:3, None, None]).sum(0)
    root = b.square() - 4 * a * (center[:3].square().sum() - RADIUS**2)
    valid = root > 0
    depth = ((-b - root.clamp_min(0).sqrt()) / (2 * a)).float()
    depth = depth + noise * torch.randn(SIZE, generator=torch.Generator().manual_seed(seed))
    image = torch.full((1, 3, *SIZE), 0.25)
    mean = depth.where(valid, 1.0)[None, None]
    prediction = ValuePrediction(mean, torch.full_like(mean, 0.01**2), torch.zeros_like(mean), "m", image=image)
    return View(prediction, valid[None], CAMERA, pose)


def poses():
    """Cameras around the ball that look at it."""
    turns = [torch.tensor([0.0, 0, 0, 0, angle, 0]) for angle in (-0.8, -0.4, 0.0, 0.4, 0.8)]
    to_ball = torch.eye(4)
    to_ball[:3, 3] = BALL
    return [(to_ball @ exp(turn) @ torch.linalg.inv(to_ball)).float() for turn in turns]


@pytest.fixture(scope="module")
def ball_volume():
    volume = Volume(0.03)
    for pose in poses():
        volume.add(ball(pose))
    return volume


def test_a_voxel_keeps_the_weighted_statistics_of_its_distances():
    depths, stds = np.array([1.0, 1.03, 0.98, 1.01]), np.array([0.01, 0.02, 0.01, 0.05])
    volume = Volume(0.02, 0.1)
    for depth, std in zip(depths, stds):
        volume.add(plane(depth, std))
    voxel = volume.blocks.find(torch.tensor([0, 0, 49]))  # its center is at 0.99 m
    weights = 1 / stds**2
    distances = depths - 0.99
    mean = (weights * distances).sum() / weights.sum()
    expected = {
        "weight": weights.sum(), "squares": (weights**2).sum(), "distance": mean, "count": 4,
        "spread": (weights * (distances - mean) ** 2).sum(),
    }  # fmt: skip
    for name, number in expected.items():
        assert volume.sums(name)[voxel].item() == pytest.approx(number, rel=1e-4), name


@pytest.mark.parametrize("independent", [False, True])
def test_a_wall_is_fused_as_values_are(independent):
    walls = [plane(1.00, 0.01), plane(1.04, 0.02), plane(0.99, 0.03)]
    volume = Volume(0.02, 0.1, independent=independent)
    for wall in walls:
        volume.add(wall)
    view = render(volume, CAMERA, torch.eye(4), SIZE)
    expected = fuse_values([wall.depth for wall in walls], independent=True).prediction
    middle = (0, 0, 24, 32)
    assert view.valid.float().mean() > 0.95
    assert view.depth.mean[middle].item() == pytest.approx(expected.mean[middle].item(), abs=1e-5)
    assert view.depth.epistemic_variance[middle].item() == pytest.approx(
        expected.epistemic_variance[middle].item(), rel=0.01, abs=1e-9
    )
    stds = np.array([0.01, 0.02, 0.03])
    weights = stds**-2 / (stds**-2).sum()
    variance = expected.aleatoric_variance[middle].item() if independent else (weights * stds).sum() ** 2
    assert view.depth.aleatoric_variance[middle].item() == pytest.approx(variance, rel=1e-3)


def test_a_ball_is_found_between_the_views(ball_volume):
    other = poses()[2] @ exp(torch.tensor([0.05, 0.03, -0.1, 0.02, 0.05, 0.1])).float()
    truth, view = ball(other), render(ball_volume, CAMERA, other, SIZE)
    both = truth.valid & view.valid
    assert both.sum() > 0.85 * truth.valid.sum()
    error = (view.depth.mean - truth.depth.mean)[:, 0][both].abs()
    assert error.median() < 0.005
    assert error.quantile(0.9) < 0.03
    color = view.depth.image[:, 0][both]
    assert ((color - 0.25).abs() < 1e-3).float().mean() > 0.95  # at the rim, some neighbors have no color
    assert (color - 0.25).abs().max() < 0.26
    assert (view.normal[0, 2][both[0]] < 0).float().mean() > 0.95  # toward the camera


def test_the_mesh_lies_on_the_ball_and_its_triangles_face_outward(ball_volume):
    mesh = mesh_of(ball_volume)
    away = mesh.vertices - BALL
    assert (away.norm(dim=1) - RADIUS).abs().median() < 0.005
    first, second, third = (mesh.vertices[mesh.faces[:, corner]] for corner in range(3))
    normal = torch.linalg.cross(second - first, third - first)
    outward = (normal * (first + second + third - 3 * BALL)).sum(1)
    assert (outward > 0).float().mean() > 0.95


def test_noise_of_frames_is_measured_as_epistemic_where_they_claim_less():
    volume = Volume(0.02, 0.1)
    for seed in range(12):
        noisy = torch.randn(1, generator=torch.Generator().manual_seed(seed)).item()
        volume.add(plane(1.0 + 0.02 * noisy, 0.001))
    view = render(volume, CAMERA, torch.eye(4), SIZE)
    assert view.depth.epistemic_variance[0, 0, 24, 32].sqrt().item() == pytest.approx(0.02, rel=0.35)
    assert view.depth.aleatoric_variance[0, 0, 24, 32].sqrt().item() == pytest.approx(0.001, rel=0.01)


def test_the_gate_leaves_a_wrong_frame_out():
    means = {}
    for gate in (None, 0.999):
        volume = Volume(0.02, 0.1, gate=gate)
        for depth in (1.0, 1.001, 0.999, 1.0, 1.06):
            volume.add(plane(depth, 0.005))
        means[gate] = render(volume, CAMERA, torch.eye(4), SIZE).depth.mean[0, 0, 24, 32].item()
    assert means[0.999] == pytest.approx(1.0, abs=1e-3)
    assert means[None] > 1.008


def test_occupancy_is_high_at_the_surface_and_low_before_it():
    sure, blurred = Volume(0.02, 0.1), Volume(0.02, 0.1)
    for _ in range(5):
        sure.add(plane(1.01, 0.001))
        blurred.add(plane(1.01, 0.05))
    before, at, behind = (sure.blocks.find(torch.tensor([0, 0, z])) for z in (47, 50, 53))
    assert sure.occupancy()[before] < 0.2
    assert sure.occupancy()[at] > 0.9
    assert sure.occupancy()[behind].item() == pytest.approx(0.5, abs=0.01)
    assert blurred.occupancy()[blurred.blocks.find(torch.tensor([0, 0, 50]))] < 0.6


def test_classes_of_a_surface_are_the_pool_of_its_frames():
    laws = [(0.7, 0.2, 0.1), (0.5, 0.4, 0.1), (0.2, 0.7, 0.1)]
    walls = [plane(1.0, 0.01, law) for law in laws]
    volume = Volume(0.02, 0.1, classes=3)
    for wall in walls:
        volume.add(wall)
    found = render(volume, CAMERA, torch.eye(4), SIZE).classes
    expected = fuse_classes([wall.classes for wall in walls], independent=False).prediction
    assert torch.allclose(found.probs[..., 24, 32], expected.probs[..., 24, 32], atol=1e-4)
    assert torch.allclose(found.epistemic[..., 24, 32], expected.epistemic[..., 24, 32], atol=1e-4)
    assert mesh_of(volume).classes.label.unique().tolist() == [int(expected.label[0, 24, 32])]


def test_a_volume_is_read_as_it_was_written_and_goes_on(ball_volume, tmp_path):
    ball_volume.save(tmp_path / "v.safetensors")
    again = Volume.load(tmp_path / "v.safetensors")
    first, second = (render(each, CAMERA, poses()[0], SIZE) for each in (ball_volume, again))
    assert torch.equal(first.depth.mean, second.depth.mean)
    assert torch.equal(first.depth.variance, second.depth.variance)
    again.add(ball(poses()[3]))
    assert again.frames == ball_volume.frames + 1
    (tmp_path / "v.safetensors").write_bytes(b"no")
    with pytest.raises(DataError, match=r"v\.safetensors"):
        Volume.load(tmp_path / "v.safetensors")


def test_a_ply_file_holds_vertices_colors_and_deviations(ball_volume, tmp_path):
    mesh = mesh_of(ball_volume)
    write_ply(mesh, tmp_path / "m.ply")
    header, _, body = (tmp_path / "m.ply").read_bytes().partition(b"end_header\n")
    names = [line.split()[-1] for line in header.decode().splitlines() if line.startswith("property")]
    assert names == ["x", "y", "z", "red", "green", "blue", "sigma", "sigma_epistemic", "vertex_indices"]
    kind = [(n, "<f4") for n in "xyz"] + [(n, "u1") for n in "rgb"] + [("sigma", "<f4"), ("between", "<f4")]
    read = np.frombuffer(body, kind, len(mesh.vertices))
    assert np.array_equal(np.stack([read[n] for n in "xyz"], 1), mesh.vertices.numpy())
    assert np.array_equal(read["sigma"], mesh.std.numpy())
    assert np.median(read["r"]) == 64
    faces = np.frombuffer(body[read.nbytes :], [("count", "u1"), ("numbers", "<i4", 3)])
    assert np.array_equal(faces["numbers"], mesh.faces.numpy())
    with pytest.raises(DataError, match="colors have the shape"):
        write_ply(mesh, tmp_path / "m.ply", torch.zeros(3, 3, dtype=torch.uint8))


def test_blocks_are_found_on_both_sides_of_the_origin():
    blocks = Blocks(0.1)
    assert blocks.add(torch.tensor([[-0.01, 0.01, 5.0], [0.01, 0.01, 5.0], [-0.02, 0.02, 5.1]])) == 2
    assert blocks.add(torch.tensor([[-9.0, 0.0, 0.0], [0.01, 0.01, 5.0]])) == 1  # the table grows, the others stay
    numbers = blocks.find(torch.tensor([[-1, 0, 50], [0, 0, 50], [0, 0, -1], [-90, 0, 0]]))
    assert (numbers[[0, 1, 3]] >= 0).all()
    assert len(numbers[[0, 1, 3]].unique()) == 3
    assert numbers[2] == -1
    with pytest.raises(DataError, match="check the units"):
        blocks.add(torch.tensor([[1e6, 1e6, 1e6]]))


def test_the_noise_of_a_depth_camera_grows_with_depth_and_at_edges():
    depth = torch.full((1, 1, 4, 6), 2.0)
    depth[..., 3:] = 3.0
    found, valid = depth_camera(depth, torch.ones(1, 4, 6, dtype=torch.bool))
    std = found.std[0, 0, 1]
    assert std[0].item() == pytest.approx(0.0012 + 0.0019 * 1.6**2)
    assert std[5].item() == pytest.approx(0.0012 + 0.0019 * 2.6**2)
    assert std[2].item() == pytest.approx(1.0, rel=1e-3)  # a pixel to the side is a meter away
    depth[..., 0] = 0
    assert not depth_camera(depth, torch.ones(1, 4, 6, dtype=torch.bool))[1][..., 0].any()
    assert valid.all()


def changed(**other):
    view = plane(1.0, 0.01)
    fields = {"depth": view.depth, "valid": view.valid, "intrinsics": CAMERA, "world_from_camera": torch.eye(4)}
    return View(**(fields | other))


WALL = plane(1.0, 0.01).depth
NAN = ValuePrediction(WALL.mean, WALL.mean * torch.nan, WALL.mean * 0, "m")
BAD = {
    "unit": ({"depth": ValuePrediction(1000 * WALL.mean, WALL.mean, 0 * WALL.mean, "mm")}, "in 'mm', expected meters"),
    "zero": ({"depth": ValuePrediction(WALL.mean, 0 * WALL.mean, 0 * WALL.mean, "m")}, "variance 0, expected a finite"),
    "inf": ({"depth": ValuePrediction(WALL.mean, torch.inf * WALL.mean, 0 * WALL.mean, "m")}, "variance inf"),
    "nan": ({"depth": NAN}, "variance nan"),
    "negative": ({"depth": ValuePrediction(-WALL.mean, WALL.mean, 0 * WALL.mean, "m")}, "depth -1"),
    "mask": ({"valid": torch.ones(1, 3, 3, dtype=torch.bool)}, "the size of the depth"),
    "pose": ({"world_from_camera": 2 * torch.eye(4)}, "does not end with the row"),
    "camera": ({"intrinsics": torch.diag(torch.tensor([60.0, 60, 1])) * 0}, "focal lengths above 0"),
    "classes": ({"classes": ClassPrediction(torch.full((1, 2, 9, 9), 0.5), torch.zeros(1, 9, 9))}, "classes 9 × 9"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_frames_are_refused_and_change_nothing(name):
    volume = Volume(0.05)
    volume.add(plane(1.0, 0.01))
    before = volume.sums("distance").clone()
    fields, message = BAD[name]
    with pytest.raises(DataError, match=message):
        volume.add(changed(**fields))
    assert torch.equal(volume.sums("distance"), before)
    assert volume.frames == 1


def test_bad_choices_are_refused():
    for choices, message in (
        ({"voxel": 0.0}, "voxel is 0.0"), ({"truncation": 0.01}, "at least 2 voxels"), ({"gate": 1.0}, "gate is 1.0"),
        ({"classes": -1}, "classes is -1"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            Volume(**choices)
    with pytest.raises(DataError, match="the frame has 0 classes and the volume 3"):
        Volume(classes=3).add(plane(1.0, 0.01))
    with pytest.raises(DataError, match="is empty"):
        render(Volume(), CAMERA, torch.eye(4), SIZE)
    with pytest.raises(DataError, match="is empty"):
        mesh_of(Volume())
