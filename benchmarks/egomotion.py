"""Ego-motion on 7-Scenes and on generated scenes: PnP on flow and depth, weighted by their covariances, against ORB.

    python benchmarks/egomotion.py --data SEVENSCENES                          # on one core of a CPU, no training
    python benchmarks/egomotion.py --data SEVENSCENES --networks runs/flow/tuned-0   # and add rows of networks
    python benchmarks/egomotion.py --data SEVENSCENES --tiny --out /tmp/tiny.json

7-Scenes has the depth of an infrared camera beside the color camera, not registered. ``one camera`` takes both for the
same camera with f = 585 px, as the files say. ``color camera`` moves the depths to a color camera with f = 525 px,
25 mm to the side, the usual numbers of a first Kinect. The reference poses come from tracking the depth camera.
Generated scenes have exact poses, and exact depth or depth with a known noise. Nothing is fitted to any of these
frames. The result is written after each part. With ``--networks`` rows of these runs of flow are added to a result that
exists; the path is that of the first one.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jobs import HERE, absolute
from torch import Tensor
from torch.nn.functional import interpolate

from sfumato.contracts import Sample
from sfumato.data import SevenScenes
from sfumato.data.scenes import Scenes
from sfumato.errors import DataError
from sfumato.geometry import (
    Motion,
    Trajectory,
    absolute_pose_errors,
    camera_motion,
    check_poses,
    project,
    relative_pose_errors,
    solve_pnp,
    transform,
    unproject,
)
from sfumato.geometry.pose import exp, inverse, log
from sfumato.runs import Run
from sfumato.runs.predictor import Predictor, RunBackend
from sfumato.serving.camera_path import dis_flow_of

RESULT = HERE / "results" / "egomotion.json"
PICTURE = HERE.parent / "docs" / "images" / "egomotion.png"
GAPS = (1, 10, 30)
DEPTH_NOISE = 0.0028  # m at 1 m, growing with the square of the distance: Khoshelham and Elberink (2012), first Kinect
COLOR = torch.tensor([[525.0, 0, 320], [0, 525, 240], [0, 0, 1]], dtype=torch.float64)
COLOR_FROM_DEPTH = exp(torch.tensor([0.025, 0, 0, 0, 0, 0], dtype=torch.float64))
SEEN = (240, 320)  # the size at which networks see 7-Scenes: vectors of a quarter of the area are a half as long
INDEPENDENT = ("orb, ours", "dis, weighted with depth")  # two motions that share the depth only
CHI2 = 10.645  # the 90 % quantile of χ² with 6 degrees of freedom


@dataclass(frozen=True)
class Pair:
    """Two images, the depth of the first (1, H, W) with its variance, the camera, and the true motion."""

    first: Tensor
    second: Tensor
    depth: Tensor
    variance: Tensor
    intrinsics: Tensor
    truth: Tensor


@dataclass
class Errors:
    """What a method did on some pairs."""

    meters: list[float] = field(default_factory=list)
    degrees: list[float] = field(default_factory=list)
    distances: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    failed: int = 0

    def add(self, estimate: Tensor, truth: Tensor, covariance: Tensor) -> None:
        """Compare an estimated motion with the true one, and with the covariance of their difference."""
        found = relative_pose_errors(path(inverse(estimate)), path(inverse(truth)), 1)
        self.meters.append(found.meters.item())
        self.degrees.append(found.degrees.item())
        if covariance.isfinite().all():
            twist = log(truth @ inverse(estimate))
            self.distances.append((twist @ torch.linalg.solve(covariance, twist)).item())

    def row(self) -> dict[str, Any]:
        """Medians, means, and how the errors compare with the covariances."""
        if not self.meters:
            return {"pairs": 0, "failed": self.failed}
        found: dict[str, Any] = {
            "pairs": len(self.meters), "failed": self.failed,
            "median_m": round(statistics.median(self.meters), 5),
            "mean_m": round(statistics.mean(self.meters), 5),
            "median_deg": round(statistics.median(self.degrees), 4),
            "mean_deg": round(statistics.mean(self.degrees), 4),
        }  # fmt: skip
        if self.seconds:
            found["ms"] = round(1000 * statistics.median(self.seconds))
        if self.distances:
            found["median_chi2_6"] = round(statistics.median(self.distances), 1)
            found["inside_90"] = round(statistics.mean(value < CHI2 for value in self.distances), 3)
        return found


def seven_pair(data: SevenScenes, index: int, gap: int, camera: str) -> Pair:
    """Frames ``index`` and ``index + gap``."""
    first, second = data[index], data[index + gap]
    depth, intrinsics = tensor(first, "depth").double(), tensor(first, "intrinsics").double()
    poses = [check_poses(tensor(each, "world_from_camera")) for each in (first, second)]
    truth = inverse(poses[1]) @ poses[0]
    if camera == "color camera":
        depth, intrinsics = registered(depth, intrinsics), COLOR
        truth = COLOR_FROM_DEPTH @ truth @ inverse(COLOR_FROM_DEPTH)
    variance = (DEPTH_NOISE * depth.square()).square()
    images = [tensor(each, "image")[None].float() / 255 for each in (first, second)]
    return Pair(images[0], images[1], depth, variance, intrinsics, truth)


def registered(depth: Tensor, intrinsics: Tensor) -> Tensor:
    """The depths (1, H, W) that the color camera sees, 0 where none is known. The nearest one counts."""
    import cv2

    height, width = depth.shape[-2:]
    points = transform(unproject(depth[None], intrinsics[None]), COLOR_FROM_DEPTH[None])
    pixels, z = project(points, COLOR[None])
    x, y = pixels[0].round().long()
    inside = (z[0, 0] > 0) & (depth[0] > 0) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    place, near = (y * width + x)[inside], z[0, 0][inside]
    found = torch.full((height * width,), torch.inf, dtype=torch.float64).scatter_reduce(0, place, near, "amin")
    found = found.where(found.isfinite(), 0).reshape(height, width).numpy()
    return torch.from_numpy(cv2.morphologyEx(found, cv2.MORPH_CLOSE, np.ones((3, 3))))[None]  # holes of one pixel


def scene_pair(sample: Sample, noisy: bool) -> Pair:
    """A generated scene now and a moment later."""
    poses = [check_poses(tensor(sample, f"world_from_{name}")) for name in ("camera", "next")]
    depth = tensor(sample, "depth" if noisy else "depth_true").double() * tensor(sample, "depth_valid")
    variance = (tensor(sample, "depth_sigma").double() * depth).square() * noisy
    images = [tensor(sample, name)[None].float() for name in ("image", "next")]
    truth = inverse(poses[1]) @ poses[0]
    return Pair(images[0], images[1], depth, variance, tensor(sample, "intrinsics").double(), truth)


def tensor(sample: Sample, name: str) -> Tensor:
    value = sample[name]
    assert isinstance(value, Tensor)
    return value


def gray(image: Tensor) -> np.ndarray:
    return ((image[0] * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0) * 255).round().byte().numpy()


def orb(pair: Pair) -> tuple[Tensor, Tensor]:
    """Points (N, 3) and where they are seen (N, 2), from matches of 2000 ORB features."""
    import cv2

    detector = cv2.ORB.create(2000)
    (first, one), (second, two) = (detector.detectAndCompute(gray(each), None) for each in (pair.first, pair.second))
    if one is None or two is None:
        return torch.zeros(0, 3, dtype=torch.float64), torch.zeros(0, 2, dtype=torch.float64)
    matches = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True).match(one, two)
    from_pixels = torch.tensor([first[match.queryIdx].pt for match in matches], dtype=torch.float64)
    to_pixels = torch.tensor([second[match.trainIdx].pt for match in matches], dtype=torch.float64)
    x, y = from_pixels.round().long().unbind(1)
    depth = pair.depth[0][y, x]
    rays = torch.cat([from_pixels, torch.ones(len(matches), 1)], 1) @ torch.linalg.inv(pair.intrinsics).mT
    return (rays * depth[:, None])[depth > 0], to_pixels[depth > 0]


def opencv(points: Tensor, pixels: Tensor, intrinsics: Tensor) -> Motion:
    """OpenCV's PnP-RANSAC: 3 px, 300 rounds. It gives no covariance."""
    import cv2

    if len(points) < 6:
        raise DataError("too few matches")
    solved, turn, move, _ = cv2.solvePnPRansac(
        points.numpy(), pixels.numpy(), intrinsics.numpy(), None, reprojectionError=3.0, iterationsCount=300
    )
    if not solved:
        raise DataError("no motion")
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3], pose[:3, 3] = torch.from_numpy(cv2.Rodrigues(turn)[0]), torch.from_numpy(move[:, 0])
    return Motion(pose, torch.full((6, 6), torch.nan), torch.ones(len(points), dtype=torch.bool), torch.nan)


def grid_points(pair: Pair, flow: Tensor) -> tuple[Tensor, Tensor]:
    """The pixels of a grid of about 5000 with a known depth, as points and where the flow leads."""
    step = max(1, round((pair.depth.numel() / 5000) ** 0.5))
    cut = (..., slice(step // 2, None, step), slice(step // 2, None, step))
    known = pair.depth[0][cut] > 0
    y, x = (torch.arange(n, dtype=torch.float64) for n in pair.depth.shape[-2:])
    ends = flow.double() + torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))])
    points = unproject(pair.depth[None], pair.intrinsics[None])[0]
    return points[cut][:, known].T.contiguous(), ends[cut][:, known].T.contiguous()


Flow = Callable[[Pair], tuple[Tensor, Tensor]]


def dis(pair: Pair) -> tuple[Tensor, Tensor]:
    """DIS flow (2, H, W), and the covariance (2, 2, H, W) that its forward–backward error stands for."""
    return dis_flow_of(pair.first, pair.second)


def network(predictor: Predictor, size: tuple[int, int]) -> Flow:
    """The flow of a network and its covariance. Images are predicted at ``size``, on which the network is at home."""

    def flow(pair: Pair) -> tuple[Tensor, Tensor]:
        smaller = pair.first.shape[-1] > size[1]
        images = [interpolate(each, size, mode="area") if smaller else each for each in (pair.first, pair.second)]
        found = predictor(*images).prediction
        height, width = pair.depth.shape[-2:]
        seen = found.mean.shape[-2:]
        scale = torch.tensor([width / seen[1], height / seen[0]], device=found.mean.device)
        found = found.resized((height, width))
        covariance = found.covariance[0] * (scale[:, None] * scale)[:, :, None, None]
        return (found.mean[0] * scale[:, None, None]).cpu(), covariance.cpu()

    return flow


def motions(pair: Pair, flows: dict[str, Flow]) -> Iterator[tuple[str, Callable[[], Motion], float]]:
    """Every method by name, as a call, and the seconds that its input took."""
    if "dis" in flows:  # what needs no training
        start = time.perf_counter()
        matches = orb(pair)
        took = time.perf_counter() - start
        yield "orb, opencv", partial(opencv, *matches, pair.intrinsics), took
        yield "orb, ours", partial(solve_pnp, *matches, pair.intrinsics), took
    for name, flow in flows.items():
        start = time.perf_counter()
        vectors, covariance = flow(pair)
        took = time.perf_counter() - start
        ours = partial(camera_motion, vectors, pair.depth, pair.intrinsics)
        yield f"{name}, opencv", partial(opencv, *grid_points(pair, vectors), pair.intrinsics), took
        yield f"{name}, unweighted", ours, took
        yield f"{name}, weighted", partial(ours, flow_covariance=covariance), took
        if pair.variance.any():
            both = partial(ours, flow_covariance=covariance, depth_variance=pair.variance)
            yield f"{name}, weighted with depth", both, took


def measured(pairs: Iterator[Pair], flows: dict[str, Flow]) -> dict[str, Any]:
    """Errors of all methods on some pairs."""
    table: dict[str, Errors] = {}
    for pair in pairs:
        solved: dict[str, Motion] = {}
        for name, solve, before in motions(pair, flows):
            errors = table.setdefault(name, Errors())
            start = time.perf_counter()
            try:
                motion = solve()
            except DataError:
                errors.failed += 1
                continue
            errors.seconds.append(before + time.perf_counter() - start)
            errors.add(motion.second_from_first, pair.truth, motion.covariance)
            solved[name] = motion
        if set(INDEPENDENT) <= set(solved):
            one, two = (solved[name] for name in INDEPENDENT)
            both = one.covariance + two.covariance
            table.setdefault(" against ".join(INDEPENDENT), Errors()).add(
                one.second_from_first, two.second_from_first, both
            )
    return {name: errors.row() for name, errors in table.items()}


def path(step: Tensor) -> Trajectory:
    """A path of one step."""
    return Trajectory(torch.arange(2), torch.stack([torch.eye(4, dtype=torch.float64), step]))


def drive(data: SevenScenes, flow: Flow, gap: int, limit: int, picture: Path) -> dict[str, Any]:
    """The path over many motions, its growing covariance and its error; and a picture of it."""
    count = min(limit, (len(data) - 1) // gap)
    found, truth = [], [torch.eye(4, dtype=torch.float64)]
    for number in range(count):
        pair = seven_pair(data, number * gap, gap, "color camera")
        vectors, covariance = flow(pair)
        both = {"flow_covariance": covariance, "depth_variance": pair.variance}
        found.append(camera_motion(vectors, pair.depth, pair.intrinsics, **both))
        truth.append(truth[-1] @ inverse(pair.truth))
    estimate = Trajectory.of_motions(found)
    reference = Trajectory(torch.arange(count + 1), torch.stack(truth))
    errors = absolute_pose_errors(estimate, reference, "first")
    draw(estimate, reference, picture)
    length = reference.world_from_camera[:, :3, 3].diff(dim=0).norm(dim=1).sum().item()
    return {
        "motions": count, "gap": gap, "length_m": round(length, 3), "end_error_m": round(errors.meters[-1].item(), 4),
        "end_error_deg": round(errors.degrees[-1].item(), 3), "median_error_m": round(errors.meters.median().item(), 4),
        "end_sigma_m": round(estimate.position_covariance[-1].trace().sqrt().item(), 4),
    }  # fmt: skip


def draw(estimate: Trajectory, reference: Trajectory, picture: Path) -> None:
    """Seen from above: both paths, and 2σ ellipses of the estimate."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Ellipse

    figure = Figure((6.4, 3.2), layout="constrained")
    axis = figure.subplots()
    planes = [0, 2]  # right and forward of the first camera
    for each, color, name in ((reference, "#9aa5b1", "reference"), (estimate, "#b4532a", "estimate")):
        x, z = each.world_from_camera[:, planes, 3].T
        axis.plot(x, z, color=color, lw=1.6, marker=".", ms=4, label=name)
    for place, spread in zip(estimate.world_from_camera[:, planes, 3], estimate.position_covariance):
        values, vectors = torch.linalg.eigh(spread[planes][:, planes])
        angle = torch.rad2deg(torch.atan2(vectors[1, 1], vectors[0, 1])).item()
        major, minor = (4 * values.clamp_min(0).sqrt()).flip(0).tolist()
        axis.add_patch(Ellipse(place.tolist(), major, minor, angle=angle, fc="#b4532a", alpha=0.13, lw=0))
    axis.plot(*estimate.world_from_camera[0, planes, 3], "o", color="#1f2933", label="start")
    axis.set(xlabel="right of the first camera (m)", ylabel="forward (m)", aspect="equal")
    axis.legend(frameon=False)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=110)


def networks(folders: list[Path], device: str) -> dict[str, Flow]:
    """The flow of runs."""
    found: dict[str, Flow] = {}
    for folder in folders:
        run = Run.open(folder, device=device, trust="flow_data")
        found[folder.name] = network(Predictor(RunBackend(run)), SEEN)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=absolute, required=True, help="folder of a 7-Scenes sequence")
    parser.add_argument("--networks", type=absolute, nargs="*", default=[], help="runs of flow, whose rows are added")
    parser.add_argument("--out", type=absolute, default=RESULT, help="file of the result")
    parser.add_argument("--picture", type=absolute, default=PICTURE, help="file of the picture")
    parser.add_argument("--device", default="cpu", help="where the networks run")
    parser.add_argument("--every", type=int, default=20, help="frames from one pair to the next")
    parser.add_argument("--scenes", type=int, default=40, help="number of generated scenes")
    parser.add_argument("--tiny", action="store_true", help="a few pairs, to see that all parts run")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.every, args.scenes = (240, 2) if args.tiny else (args.every, args.scenes)
    data = SevenScenes(args.data, "all")
    scenes = Scenes(args.scenes, size=(192, 256), seed=16, views=True)
    flows = networks(args.networks, args.device) or {"dis": dis}
    about = {
        "every": args.every, "frames": len(data), "scenes": args.scenes, "torch": torch.__version__,
        "device": args.device, "machine": platform.machine(),
    }  # fmt: skip
    found: dict[str, Any] = json.loads(args.out.read_text()) if args.networks and args.out.exists() else {}
    found["about"] = found.get("about", {}) | {", ".join(flows): about}

    def note(name: str, part: dict[str, Any]) -> None:
        found[name] = found.get(name, {}) | part
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(found, indent=1) + "\n")

    for camera, gaps in (("color camera", GAPS), ("one camera", (10,))):
        for gap in gaps:
            starts = range(0, len(data) - gap, args.every)
            pairs = (seven_pair(data, index, gap, camera) for index in starts)
            note(f"7-scenes, {camera}, gap {gap}", measured(pairs, flows))
    for noisy in (False, True):
        pairs = (scene_pair(scenes[index], noisy) for index in range(len(scenes)))
        note(f"scenes, {'noisy' if noisy else 'exact'} depth", measured(pairs, flows))
    first, flow = next(iter(flows.items()))
    note("path", {first: drive(data, flow, 10, 3 if args.tiny else 49, args.picture)})
    print(json.dumps({name: part for name, part in found.items() if name != "about"}))


if __name__ == "__main__":
    main()
