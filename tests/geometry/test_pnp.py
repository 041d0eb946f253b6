import math

import pytest
import torch

from sfumato.errors import DataError
from sfumato.geometry import camera_motion, solve_pnp
from sfumato.geometry.pose import angles, exp, inverse, log

CAMERA = torch.tensor([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]], dtype=torch.float64)
TWIST = torch.tensor([0.1, -0.05, 0.2, 0.03, -0.06, 0.02], dtype=torch.float64)


def world(seed, count=400, twist=TWIST):
    """Points before the first camera, and where the second one sees them."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.rand(count, 2, generator=generator, dtype=torch.float64) * torch.tensor([640.0, 480.0])
    depth = 1 + 5 * torch.rand(count, 1, generator=generator, dtype=torch.float64)
    rays = torch.cat([pixels, torch.ones(count, 1)], 1) @ torch.linalg.inv(CAMERA).mT
    points = rays * depth
    return points, seen(points, exp(twist)), generator


def seen(points, pose):
    moved = (points @ pose[:3, :3].mT + pose[:3, 3]) @ CAMERA.mT
    return moved[:, :2] / moved[:, 2:]


def error(motion, twist=TWIST):
    return log(exp(twist) @ inverse(motion.second_from_first))


def test_exact_matches_give_the_exact_motion():
    points, pixels, _ = world(0)
    motion = solve_pnp(points, pixels, CAMERA)
    assert error(motion).abs().max() < 1e-8
    assert motion.inliers.all()
    assert motion.covariance.abs().max() < 1e-10


@pytest.mark.parametrize("twist", [torch.zeros(6), torch.tensor([0, 0, 0, 0.3, -0.2, 0.4])], ids=["static", "rotation"])
def test_static_and_purely_rotating_cameras_have_a_motion(twist):
    twist = twist.double()
    points, pixels, generator = world(1, twist=twist)
    motion = solve_pnp(points, pixels + 0.2 * torch.randn(400, 2, generator=generator), CAMERA)
    assert (error(motion, twist).abs() < 5 * motion.covariance.diagonal().sqrt()).all()
    assert motion.second_from_first[:3, 3].norm() < 0.01


def test_the_covariance_is_that_of_the_errors():
    """6-D χ²: mean 6, and 90 % below 10.64."""
    distances = []
    for seed in range(40):
        points, pixels, generator = world(seed)
        deviation = 0.1 + 2 * torch.rand(400, 1, generator=generator, dtype=torch.float64)
        noisy = pixels + deviation * torch.randn(400, 2, generator=generator, dtype=torch.float64)
        noise = deviation[..., None] ** 2 * torch.eye(2, dtype=torch.float64)
        motion = solve_pnp(points, noisy, CAMERA, pixel_covariance=noise)
        found = error(motion)
        distances.append((found @ torch.linalg.solve(motion.covariance, found)).item())
    distances = torch.tensor(distances)
    assert 4 < distances.mean() < 8
    assert 0.75 < (distances < 10.64).float().mean() <= 0.99


def test_weights_by_covariance_are_better_than_none():
    weighted, plain = [], []
    for seed in range(12):
        points, pixels, generator = world(seed)
        deviation = 10 ** (2 * torch.rand(400, 1, generator=generator, dtype=torch.float64) - 1)
        noisy = pixels + deviation * torch.randn(400, 2, generator=generator, dtype=torch.float64)
        noise = deviation[..., None] ** 2 * torch.eye(2, dtype=torch.float64)
        weighted.append(error(solve_pnp(points, noisy, CAMERA, pixel_covariance=noise)).norm())
        plain.append(error(solve_pnp(points, noisy, CAMERA)).norm())
    assert sum(weighted) < 0.7 * sum(plain)


def test_a_factor_on_all_covariances_changes_only_the_scale():
    points, pixels, generator = world(3)
    noisy = pixels + 0.5 * torch.randn(400, 2, generator=generator)
    eye = torch.eye(2, dtype=torch.float64).expand(400, 2, 2)
    one, four = (solve_pnp(points, noisy, CAMERA, pixel_covariance=factor * eye) for factor in (1, 4))
    torch.testing.assert_close(one.second_from_first, four.second_from_first, atol=1e-7, rtol=0)
    torch.testing.assert_close(one.covariance, four.covariance, atol=1e-10, rtol=1e-3)
    assert one.scale == pytest.approx(2 * four.scale, rel=1e-3)
    assert one.scale == pytest.approx(0.5, rel=0.15)


def test_uncertain_depth_counts_less():
    told, untold = [], []
    for seed in range(12):
        points, pixels, generator = world(seed)
        share = 10 ** (2 * torch.rand(400, 1, generator=generator, dtype=torch.float64) - 2.5)
        noisy = points * (1 + share * torch.randn(400, 1, generator=generator, dtype=torch.float64)).clamp_min(0.2)
        rays = noisy / noisy[:, 2:]
        spread = (share * noisy[:, 2:])[..., None] ** 2 * rays[:, :, None] * rays[:, None]
        pixels = pixels + 0.2 * torch.randn(400, 2, generator=generator)
        noise = 0.04 * torch.eye(2, dtype=torch.float64).expand(400, 2, 2)
        motion = solve_pnp(noisy, pixels, CAMERA, pixel_covariance=noise, point_covariance=spread)
        told.append(error(motion).norm())
        untold.append(error(solve_pnp(noisy, pixels, CAMERA)).norm())
    assert sum(told) < 0.8 * sum(untold)


def test_half_of_the_matches_may_be_wrong():
    points, pixels, generator = world(5)
    pixels[:200] = torch.rand(200, 2, generator=generator, dtype=torch.float64) * 480
    pixels = pixels + 0.3 * torch.randn(400, 2, generator=generator)
    motion = solve_pnp(points, pixels, CAMERA)
    assert error(motion).abs().max() < 0.01
    assert motion.inliers[200:].float().mean() > 0.95
    assert motion.inliers[:200].float().mean() < 0.1


def test_it_agrees_with_opencv():
    cv2 = pytest.importorskip("cv2")
    points, pixels, generator = world(6)
    pixels = pixels + 0.5 * torch.randn(400, 2, generator=generator)
    _, turn, move = cv2.solvePnP(points.numpy(), pixels.numpy(), CAMERA.numpy(), None)
    theirs = torch.eye(4, dtype=torch.float64)
    theirs[:3, :3], theirs[:3, 3] = torch.from_numpy(cv2.Rodrigues(turn)[0]), torch.from_numpy(move[:, 0])
    ours = solve_pnp(points, pixels, CAMERA)
    apart = log(theirs @ inverse(ours.second_from_first))
    assert (apart.abs() < 1.5 * ours.covariance.diagonal().sqrt()).all()


def test_the_same_seed_gives_the_same_motion():
    points, pixels, generator = world(7)
    pixels = pixels + torch.randn(400, 2, generator=generator)
    one, two = (solve_pnp(points, pixels, CAMERA, seed=1) for _ in range(2))
    assert torch.equal(one.second_from_first, two.second_from_first)


def line(points, pixels):
    points = torch.tensor([[0.0, 0.0, 2.0]]) + torch.arange(400)[:, None] * torch.tensor([[0.01, 0.0, 0.0]])
    return points.double(), seen(points.double(), exp(TWIST))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, p: (x[:7], p[:7]), "7 points"),
        (lambda x, p: (x * 1000, p), "millimeters"),
        (lambda x, p: (x * torch.tensor([1, 1, -1.0]), p), "behind"),
        (lambda x, p: (x, p.index_fill(0, torch.tensor([3]), math.nan)), "NaN"),
        (lambda x, p: (x, p[:, :1]), "shape|expected"),
        (lambda x, p: (x, torch.rand(400, 2, generator=torch.Generator().manual_seed(0)) * 480), "agree"),
        (lambda x, p: (x[:1].expand(400, 3), p[:1].expand(400, 2)), "open"),
        (line, "open"),
    ],
    ids=["few", "millimeters", "behind", "nan", "shape", "random", "one place", "line"],
)
def test_bad_points_are_refused(change, message):
    points, pixels, _ = world(8)
    with pytest.raises(DataError, match=message):
        solve_pnp(*change(points, pixels), CAMERA)


def test_bad_covariances_are_refused():
    points, pixels, _ = world(8)
    negative = -torch.eye(2, dtype=torch.float64).expand(400, 2, 2)
    with pytest.raises(DataError, match="positive"):
        solve_pnp(points, pixels, CAMERA, pixel_covariance=negative)
    with pytest.raises(DataError, match="negative variance"):
        solve_pnp(points, pixels, CAMERA, point_covariance=-torch.eye(3).expand(400, 3, 3))
    with pytest.raises(DataError, match="shape"):
        solve_pnp(points, pixels, CAMERA, pixel_covariance=negative[:5])


def maps(twist=TWIST, size=(48, 64)):
    """Flow, depth and camera matrix of a wavy wall that the camera moves by."""
    camera = torch.tensor([[50.0, 0, 31.5], [0, 50, 23.5], [0, 0, 1]], dtype=torch.float64)
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in size), indexing="ij")
    depth = 3 + torch.sin(x / 5) + torch.cos(y / 7)
    points = torch.stack([x, y, torch.ones_like(x)], -1) @ torch.linalg.inv(camera).mT * depth[..., None]
    pose = exp(twist)
    moved = (points @ pose[:3, :3].mT + pose[:3, 3]) @ camera.mT
    flow = (moved[..., :2] / moved[..., 2:] - torch.stack([x, y], -1)).movedim(-1, 0)
    return flow, depth[None], camera


def test_the_motion_of_exact_maps_is_exact():
    flow, depth, camera = maps()
    assert error(camera_motion(flow, depth, camera)).abs().max() < 1e-8


def test_unknown_depths_are_left_out():
    flow, depth, camera = maps()
    depth[:, :10], depth[:, 10:12], depth[:, 12:14] = 0, math.nan, math.inf
    assert error(camera_motion(flow, depth, camera)).abs().max() < 1e-8
    valid = torch.zeros(48, 64, dtype=torch.bool)
    with pytest.raises(DataError, match="0 points"):
        camera_motion(flow, depth, camera, valid=valid)
    with pytest.raises(DataError, match="0 points"):
        camera_motion(flow, 0 * depth, camera)


def test_uncertain_flow_counts_less():
    flow, depth, camera = maps()
    flow[:, :, 32:] += 3.0 * torch.randn(2, 48, 32, generator=torch.Generator().manual_seed(0))
    variance = torch.full((48, 64), 0.01)
    variance[:, 32:] = 9.0
    covariance = torch.zeros(2, 2, 48, 64)
    covariance[0, 0] = covariance[1, 1] = variance
    depth_variance = torch.full((1, 48, 64), 1e-4)
    motion = camera_motion(flow, depth, camera, flow_covariance=covariance, depth_variance=depth_variance)
    assert error(motion).abs().max() < 0.01


def test_maps_that_do_not_fit_are_refused():
    flow, depth, camera = maps()
    with pytest.raises(DataError, match="flow has the shape"):
        camera_motion(flow[..., 1:], depth, camera)
    with pytest.raises(DataError, match="principal point"):
        camera_motion(flow, depth, CAMERA)


def test_a_rotation_of_a_half_turn_is_no_larger_than_pi():
    half = exp(torch.tensor([0, 0, 0, math.pi, 0, 0], dtype=torch.float64))
    assert angles(half[:3, :3]) == pytest.approx(math.pi)
