"""The motion of a camera from points at known depth and where the next image shows them, with its covariance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.errors import DataError
from sfumato.geometry.pose import check_poses, exp, skew

LEAST = 8  # points: 16 numbers for 6 unknowns
SAMPLE = 4  # points of one hypothesis: 8 numbers for 6 unknowns
HYPOTHESES = 300
SCORED = 500  # points that hypotheses are compared on
BEST = 8  # hypotheses that are improved before they are compared again
SHARE = 0.25  # of the points that must agree on a motion; the scale is that of the closest quarter
WIDTH = 3.0  # of the kernel, in standard deviations
FAR = 16.0  # a squared distance in 2-D that one inlier in 3000 exceeds
BLOCKS = 8  # for each axis: errors of neighboring pixels are taken for one error
LOOSE = 0.2  # of the spread of the pixels; points that only agree to this agree by chance
ROUNDS = 60
NEAR = 1e-3  # meters; points that come closer to the camera do not project


@dataclass(frozen=True)
class Motion:
    """The motion of a camera between two images.

    Args:
        second_from_first: (4, 4) float64, maps points in the axes of the first camera to those of the second.
        covariance: (6, 6) float64 of the twist ξ (meters, radians) with ``truth = exp(ξ) @ second_from_first``.
        inliers: (N,) bool, points that the motion explains.
        scale: How many times the standard deviations of the pixels were larger than given; in pixels if none were.
    """

    second_from_first: Tensor
    covariance: Tensor
    inliers: Tensor
    scale: float


def solve_pnp(
    points: Tensor,
    pixels: Tensor,
    intrinsics: Tensor,
    *,
    pixel_covariance: Tensor | None = None,
    point_covariance: Tensor | None = None,
    start: Tensor | None = None,
    seed: int = 0,
) -> Motion:
    """The rigid motion that carries points to where they are seen, by robust weighted least squares on SE(3).

    ``min over T of Σ ρ(rᵀ Σ⁻¹ r / s²)`` with ``r = pixel − π(K T X)``, ``Σ = Σ_pixel + J Σ_point Jᵀ`` and the
    Geman–McClure kernel ρ. The common factor s² is estimated from the residuals, so covariances have to be right up to
    a factor only. The start is the best of some motions of random samples of points. The covariance of the result is a
    sandwich over blocks of pixels: neighbors in one block may have any common error.

    Args:
        points: (N, 3) in the axes of the first camera, meters. N ≥ 8.
        pixels: (N, 2) where the second image shows them, (x, y) in pixels.
        intrinsics: Camera matrix (3, 3) of the second image, pixels.
        pixel_covariance: (N, 2, 2) of ``pixels``, px². None for the same in all pixels. Default None.
        point_covariance: (N, 3, 3) of ``points``, m². None if they are exact. Default None.
        start: A first guess ``second_from_first`` (4, 4), which competes with the others. Default: no motion.
        seed: Seed of the samples. Default 0.

    Returns:
        The motion. Without a translation it is a pure rotation, and without any the identity, each with its covariance.

    Raises:
        DataError: If there are fewer than 8 points, values are not finite or not in meters, a covariance is not
            positive, less than a quarter of the points agree on a motion or all of them only roughly, or the points
            leave it open (as when they lie on a line).

    Source: Qiu et al. (2025), "MAC-VO", for weights by covariance; Geman and McClure (1987) for the kernel; Liang and
    Zeger (1986) for the sandwich.
    Pitfall: Moving objects are outliers only while they are the smaller part of the points.
    """
    points, pixels, intrinsics = (value.detach().cpu().double() for value in (points, pixels, intrinsics))
    _check(points, pixels, intrinsics)
    count = len(points)
    noise = torch.eye(2, dtype=torch.float64).expand(count, 2, 2)
    if pixel_covariance is not None:
        noise = _covariance(pixel_covariance, (count, 2, 2), "pixel_covariance")
        if not (torch.linalg.eigvalsh(noise) > 0).all():
            raise DataError("pixel_covariance is not positive definite: add the smallest error that is possible")
    spread = None
    if point_covariance is not None:
        spread = _covariance(point_covariance, (count, 3, 3), "point_covariance")
        values = torch.linalg.eigvalsh(spread)
        if not (values[:, 0] >= -1e-6 * values[:, 2].abs()).all():
            raise DataError("point_covariance has a negative variance: expected covariances in m²")
    problem = _Problem(points, pixels, intrinsics, noise, spread)
    guess = torch.eye(4, dtype=torch.float64) if start is None else check_poses(start, "start")
    pose = _start(problem, guess, seed)
    pose, scale = _refine(problem, pose)
    return _result(problem, pose, scale)


@dataclass(frozen=True)
class _Problem:
    points: Tensor
    pixels: Tensor
    intrinsics: Tensor
    noise: Tensor
    spread: Tensor | None

    def take(self, index: Tensor) -> _Problem:
        """Some of the points, with the leading shape of ``index``."""
        spread = None if self.spread is None else self.spread[index]
        return _Problem(self.points[index], self.pixels[index], self.intrinsics, self.noise[index], spread)

    def linear(self, pose: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Whitened residuals (…, N, 2), their derivatives (…, N, 2, 6) by the twist, and which points project.

        ``pose`` is (…, 4, 4). Points that do not project have residuals and derivatives of 0.
        """
        rotation = pose[..., None, :3, :3]
        moved = (rotation @ self.points[..., None])[..., 0] + pose[..., None, :3, 3]
        front = moved[..., 2] > NEAR
        moved = torch.where(front[..., None], moved, moved.new_tensor([0.0, 0, 1]))
        seen = moved @ self.intrinsics.mT
        z = seen[..., 2:]
        residual = self.pixels - seen[..., :2] / z
        by_point = (self.intrinsics[:2] - (seen[..., :2] / z)[..., None] * self.intrinsics[2]) / z[..., None]
        covariance = self.noise
        if self.spread is not None:
            by_first = by_point @ rotation
            covariance = covariance + by_first @ self.spread @ by_first.mT
        by_twist = torch.cat([by_point, -by_point @ skew(moved)], -1)
        white = _whitened(covariance, torch.cat([residual[..., None], by_twist], -1)) * front[..., None, None]
        return white[..., 0], white[..., 1:], front


def _whitened(covariance: Tensor, values: Tensor) -> Tensor:
    """``L⁻¹ values`` (…, 2, M) for covariances ``L Lᵀ`` (…, 2, 2). Written out: LAPACK is slow on 2 × 2 matrices."""
    a = covariance[..., 0, 0].sqrt()
    b = covariance[..., 1, 0] / a
    c = (covariance[..., 1, 1] - b.square()).sqrt()
    first = values[..., 0, :] / a[..., None]
    return torch.stack([first, (values[..., 1, :] - b[..., None] * first) / c[..., None]], -2)


def _check(points: Tensor, pixels: Tensor, intrinsics: Tensor) -> None:
    if points.ndim != 2 or points.shape[1] != 3 or pixels.shape != (len(points), 2):
        raise DataError(
            f"points are {tuple(points.shape)} and pixels {tuple(pixels.shape)}, expected (N, 3) and (N, 2)"
        )
    if intrinsics.shape != (3, 3) or not intrinsics.isfinite().all() or not (intrinsics.diagonal() > 0).all():
        raise DataError("intrinsics are not a camera matrix (3, 3) with positive focal lengths in pixels")
    if len(points) < LEAST:
        raise DataError(f"{len(points)} points have a known depth and a match, expected at least {LEAST}")
    if not (points.isfinite().all() and pixels.isfinite().all()):
        raise DataError("points or pixels hold NaN or infinity: leave out pixels without a known depth or flow")
    if not (points[:, 2] > 0).all():
        raise DataError("points lie behind the first camera: expected a depth above 0 m for each of them")
    if (middle := points[:, 2].median().item()) > 1000:
        raise DataError(f"half of the points are more than {middle:.0f} m away: is the depth in millimeters?")


def _covariance(given: Tensor, shape: tuple[int, ...], name: str) -> Tensor:
    if given.shape != shape:
        raise DataError(f"{name} has the shape {tuple(given.shape)}, expected {shape}")
    given = given.detach().cpu().double()
    if not given.isfinite().all():
        raise DataError(f"{name} holds NaN or infinity: leave these points out")
    return (given + given.mT) / 2


def _start(problem: _Problem, guess: Tensor, seed: int) -> Tensor:
    """The motion of a random sample that explains the points best."""
    generator = torch.Generator().manual_seed(seed)
    count = len(problem.points)
    weight = problem.noise.diagonal(dim1=-2, dim2=-1).sum(-1).rsqrt()
    drawn = torch.multinomial(weight.expand(HYPOTHESES, count), SAMPLE, generator=generator)
    samples = problem.take(drawn)
    poses = guess.repeat(HYPOTHESES, 1, 1)
    damping = 1e-9 * torch.eye(6, dtype=torch.float64)
    for _ in range(8):
        residual, by_twist, _ = samples.linear(poses)
        poses = _step(residual, by_twist, torch.ones(HYPOTHESES, SAMPLE, dtype=torch.float64), damping) @ poses
    poses = torch.cat([guess[None], poses[poses.isfinite().all(-1).all(-1)]])
    some = problem.take(torch.randperm(count, generator=generator)[:SCORED])
    poses = poses[_scores(some, poses).argsort()[:BEST]]
    for _ in range(10):
        residual, by_twist, front = some.linear(poses)
        distance = torch.where(front, residual.square().sum(-1), math.inf)
        poses = _step(residual, by_twist, 1 / (1 + distance), damping) @ poses
    return poses[_scores(some, poses).argmin()]


def _scores(problem: _Problem, poses: Tensor) -> Tensor:
    """How badly each motion (M, 4, 4) explains the points: the sum of a kernel that grows as a logarithm."""
    found = [problem.linear(pose) for pose in poses]
    return torch.stack(
        [torch.where(front, residual.square().sum(-1), 1e12).log1p().sum() for residual, _, front in found]
    )


def _step(residual: Tensor, by_twist: Tensor, weight: Tensor, damping: Tensor) -> Tensor:
    """The motion (…, 4, 4) of one damped Gauss–Newton step."""
    weighted = by_twist * weight[..., None, None]
    hessian = (weighted.mT @ by_twist).sum(-3)
    gradient = (weighted * residual[..., None]).sum((-3, -2))
    floor = damping * hessian.diagonal(dim1=-2, dim2=-1).amax(-1)[..., None, None].clamp_min(1e-30)
    step, failed = torch.linalg.solve_ex(hessian + floor, gradient)
    step = torch.where((failed == 0)[..., None] & step.isfinite(), step, 0.0)
    return exp(step * (1 / step.norm(dim=-1, keepdim=True).clamp_min(1)))  # at most a meter or a radian at once


def _weights(distance: Tensor, scale: float) -> Tensor:
    """Weights of the Geman–McClure kernel."""
    return (1 + distance / (scale * WIDTH) ** 2) ** -2


def _scale(distance: Tensor) -> float:
    """The standard deviation of the residuals, from those below the quantile ``SHARE``, which hold no outliers.

    The square of a residual of two standard normal numbers has the quantile ``−2 log(1 − level)``.
    """
    level = distance.kthvalue(max(1, math.ceil(SHARE * len(distance)))).values.item()
    return math.sqrt(max(level / (-2 * math.log(1 - SHARE)), 1e-18))


def _refine(problem: _Problem, pose: Tensor) -> tuple[Tensor, float]:
    damping = 1e-12 * torch.eye(6, dtype=torch.float64)
    scale = math.inf
    for number in range(ROUNDS):
        residual, by_twist, front = problem.linear(pose)
        distance = torch.where(front, residual.square().sum(-1), math.inf)
        found = _scale(distance)
        scale = found if number < ROUNDS // 2 else min(scale, found)  # so that it cannot go to and fro for ever
        step = _step(residual, by_twist, _weights(distance, scale), damping)
        pose = step @ pose
        if (step - torch.eye(4, dtype=torch.float64)).abs().amax() < 1e-10:
            break
    return pose, scale


def _result(problem: _Problem, pose: Tensor, scale: float) -> Motion:
    residual, by_twist, front = problem.linear(pose)
    distance = torch.where(front, residual.square().sum(-1), math.inf)
    inliers = distance < FAR * scale**2
    spread = problem.pixels.std(0).max().item() + 1e-6
    pixel = scale * problem.noise.diagonal(dim1=-2, dim2=-1).mean(-1).median().sqrt().item()
    if int(inliers.sum()) < max(LEAST, SHARE * len(inliers)) or pixel > LOOSE * spread:
        raise DataError(
            f"{int(inliers.sum())} of {len(inliers)} points agree on a motion, to {pixel:.2g} px: the images may show "
            "different things, or the flow, the depth or the intrinsics are wrong"
        )
    width = (scale * WIDTH) ** 2
    weight, slope = _weights(distance, scale), -2 / width * (1 + distance / width) ** -3
    scores = (by_twist * residual[..., None]).sum(1)  # (N, 6)
    bread = weight[:, None, None] * (by_twist.mT @ by_twist)
    bread = bread + 2 * slope[:, None, None] * scores[:, :, None] * scores[:, None]
    scores = scores * weight[:, None]
    hessian = bread.sum(0)
    size = hessian.diagonal().clamp_min(1e-300).sqrt()
    if torch.linalg.eigvalsh(hessian / size / size[:, None])[0] < 1e-9:
        raise DataError("the points leave the motion open: they lie on a line, in one place, or too far away")
    blocks = _blocks(problem.pixels)
    count = int(blocks.max()) + 1
    sums = torch.zeros(count, 6, dtype=torch.float64).index_add_(0, blocks, scores)
    parts = torch.zeros(count, 6, 6, dtype=torch.float64).index_add_(0, blocks, bread)
    moves = torch.linalg.solve(hessian - parts, sums)
    shares = torch.linalg.solve(hessian, parts).diagonal(dim1=-2, dim2=-1).sum(-1) / 6
    number = 1 / shares.square().sum().item()  # of blocks, as if all had the same weight
    covariance = moves.mT @ moves * (number / max(1.0, number - 7))  # 6-D χ² has its mean, as Hotelling's has not
    if not (pose.isfinite().all() and covariance.isfinite().all()):
        raise DataError("the motion is not finite: the depth or the flow holds numbers that are too large")
    return Motion(pose, covariance, inliers, scale)


def _blocks(pixels: Tensor) -> Tensor:
    """The block (N,) of each pixel: the used part of the image is cut into ``BLOCKS`` × ``BLOCKS``."""
    low, high = pixels.amin(0), pixels.amax(0)
    place = ((pixels - low) / (high - low).clamp_min(1e-9) * BLOCKS).long().clamp_max(BLOCKS - 1)
    _, number = torch.unique(place[:, 0] * BLOCKS + place[:, 1], return_inverse=True)
    return number


def _larger(covariance: Tensor, floor: Tensor) -> Tensor:
    """The smallest matrix that is not below any of two."""
    root = torch.linalg.cholesky(floor + 1e-15 * floor.diagonal().amax() * torch.eye(6, dtype=floor.dtype))
    white = torch.linalg.solve_triangular(root, covariance, upper=False)
    white = torch.linalg.solve_triangular(root, white.mT, upper=False)
    values, vectors = torch.linalg.eigh((white + white.mT) / 2)
    half = root @ vectors * values.clamp_min(1).sqrt()
    return half @ half.mT
