"""Camera pose on 7-Scenes blocks and on generated rooms: three losses, methods, a filter, and retrieval beside them.

    python benchmarks/pose.py --root SEVENSCENES --runs runs/pose                      # everything, on a CPU
    python benchmarks/pose.py --root SEVENSCENES --runs runs/pose --only retrieval     # no training
    python benchmarks/pose.py --root SEVENSCENES --runs /tmp/tiny --tiny               # all parts, small

SEVENSCENES holds the frames of one sequence. Training: frames 0 to 349. Test: frames 400 to 499. Nothing is chosen on
the test frames. A finished training is not repeated. Results are written after each part.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from sfumato.calibration import VarianceScaling
from sfumato.contracts import Sample
from sfumato.data import SceneTour, SevenScenes
from sfumato.data.transforms import resize
from sfumato.geometry import absolute_pose_errors, filter_poses
from sfumato.geometry.pose import difference, pose_vectors, poses_of, rigid, rotations
from sfumato.methods import DeepEnsemble, Deterministic, FeatureDensity, MCDropout
from sfumato.metrics import PoseScores
from sfumato.metrics.ranking import spearman_of_values
from sfumato.predictions import PosePrediction, predict
from sfumato.runs import Config, Run
from sfumato.targets import Image
from sfumato.tasks import CameraPose
from sfumato.training import fit, make_plan

RESULT = Path(__file__).parent / "results" / "pose.json"
SEEDS = (0, 1, 2)
TRAIN, BETWEEN, TEST = range(350), range(360, 390), range(400, 500)
DRAWS = 40
THUMBNAIL = (24, 32)
LOSSES = ("nll", "posenet", "posenet-learned", "posenet-geometric")
AGAIN = "posenet-learned-again"  # from the weights of posenet-learned, as posenet-geometric, so trained equally long
KEPT = ("position_median", "rotation_median", "position_mean", "rotation_mean", "nll", "ellipsoid90", "ellipsoid50",
        "position_spearman", "rotation_spearman", "novelty_spearman", "position_area", "position_ause")  # fmt: skip
Row = dict[str, float]


class Held:
    """Samples in memory, as a data set of poses."""

    inputs = ("image",)

    def __init__(self, samples: Sequence[Sample], task: CameraPose) -> None:
        self.samples, self.tasks = list(samples), {"pose": task}
        self.names = [str(sample["name"]) for sample in samples]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def stacked(self, key: str) -> Tensor:
        """An entry of all samples."""
        return torch.stack([each for sample in self.samples if isinstance(each := sample[key], Tensor)])


def held(root: Path, size: tuple[int, int], numbers: Sequence[int]) -> Held:
    """Frames at the size of the networks, with thumbnails of the pictures as they are."""
    frames = SevenScenes(root, "all")
    samples = []
    for number in numbers:
        sample = frames[number]
        image = sample["image"]
        assert isinstance(image, Tensor)
        samples.append(resize(sample, size) | {"thumbnail": thumbnail(image)})
    poses = torch.stack([each for sample in samples if isinstance(each := sample["world_from_camera"], Tensor)])
    return Held(samples, CameraPose.of(poses))


@dataclass(frozen=True)
class Split:
    """Training and test images of one place."""

    name: str
    train: Held
    test: Held


def trained(args: argparse.Namespace, split: Split, loss: str, seed: int, network: str) -> Run:
    folder = args.runs / f"{split.name}-{network}-{loss}-{seed}"
    if (folder / "weights-0.safetensors").exists():
        return Run.open(folder)
    later = loss in ("posenet-geometric", AGAIN)
    start = args.runs / f"{split.name}-{network}-posenet-learned-{seed}" if later else ""
    config = Config(
        data=split.name, task="pose", network=network, method="mc-dropout", objective=loss.removesuffix("-again"),
        seed=seed, size=args.size, epochs=args.epochs, batch=8, color=0.2, init_from=str(start), members=1,
        network_args=args.network_args,
    )  # fmt: skip
    plan, train, _ = make_plan(config, split.train, None, device="cpu")
    began = time.process_time()
    run = fit(plan, train, None, folder, resume=folder.exists(), device="cpu", progress=False, workers=0,
              cache="none", logger="csv")  # fmt: skip
    print(f"{folder.name}: {time.process_time() - began:.0f} s of one core", flush=True)
    return run


def predictions(run: Run, method: Any, images: Tensor, seed: int = 0) -> PosePrediction:
    """All test images in one batch."""
    generator = torch.Generator().manual_seed(seed)
    found = predict(method, images, likelihood=run.likelihood, generator=generator)
    assert isinstance(found, PosePrediction)
    return found


def scored(found: PosePrediction, truth: Tensor) -> Row:
    scores = PoseScores()
    scores.update(found, truth, torch.ones(len(truth), dtype=torch.bool))
    values = scores.compute()
    return {name: float(values[name]) for name in KEPT}


def filtered(found: PosePrediction, truth: Tensor, motion: tuple[float, float], shared: float) -> Row:
    path = filter_poses(found.path(), *motion, shared=shared)
    right = type(path)(path.times, poses_of(truth.double()))
    errors = absolute_pose_errors(path, right, "none")
    return {
        "position_median": errors.meters.median().item(), "rotation_median": errors.degrees.median().item(),
        "position_mean": errors.meters.mean().item(), "rotation_mean": errors.degrees.mean().item(),
    }  # fmt: skip


def step_of(poses: Tensor) -> tuple[float, float]:
    """Standard deviation along each axis of the motion between neighbors, meters and degrees."""
    away = difference(poses[:-1], poses[1:])
    return away[:, :3].square().mean().sqrt().item(), torch.rad2deg(away[:, 3:].square().mean().sqrt()).item()


def errors_of(found: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    away = difference(poses_of(found), poses_of(truth))
    return away[:, :3].norm(dim=1), torch.rad2deg(away[:, 3:].norm(dim=1))


def stated(found: Tensor, truth: Tensor, score: Tensor | None = None) -> Row:
    meters, degrees = errors_of(found, truth)
    row = {
        "position_median": meters.median().item(), "rotation_median": degrees.median().item(),
        "position_mean": meters.mean().item(), "rotation_mean": degrees.mean().item(),
    }  # fmt: skip
    if score is None:
        return row
    order = meters[score.argsort()]
    area = (order.cumsum(0) / torch.arange(1, len(order) + 1)).mean().item()
    best = meters.sort().values
    oracle = (best.cumsum(0) / torch.arange(1, len(order) + 1)).mean().item()
    return row | {
        "position_spearman": float(spearman_of_values(score, meters)), "position_area": area,
        "position_ause": area - oracle,
    }  # fmt: skip


def thumbnail(image: Tensor) -> Tensor:
    gray = interpolate(image[None].float().mean(1, keepdim=True), THUMBNAIL, mode="area").flatten()
    return normalize(gray - gray.mean(), dim=0)


def nearest(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """For unit vectors of both: the index of the nearest training image, and 1 − cosine."""
    closest = (test @ train.T).max(1)
    return closest.indices, 1 - closest.values


def retrieval(split: Split) -> dict[str, Row]:
    known, truth = split.train.stacked("pose"), split.test.stacked("pose")
    index, score = nearest(split.train.stacked("thumbnail"), split.test.stacked("thumbnail"))
    task = split.train.tasks["pose"]
    middle = torch.tensor(task.center)
    mean = pose_vectors(rigid(rotations(torch.tensor([task.rotation])), middle[None])).expand_as(truth)
    closest = torch.cdist(truth[:, :3], known[:, :3]).argmin(1)
    return {
        "mean pose": stated(mean, truth),
        "nearest thumbnail": stated(known[index], truth, score),
        "oracle nearest": stated(known[closest], truth),
    }


def interleaved(frames: Held) -> Row:
    """What a leaking split would give: every fifth frame is a test frame, between training frames."""
    places = torch.arange(len(frames))
    test = places % 5 == 2
    both, poses = frames.stacked("thumbnail"), frames.stacked("pose")
    index, score = nearest(both[~test], both[test])
    return stated(poses[~test][index], poses[test], score)


def by_features(run: Run, split: Split) -> Row:
    """Nearest training image in the features before the last layer."""
    network = run.networks[0].eval()
    read_by_head: list[Tensor] = []
    handle = network.network.head.register_forward_pre_hook(lambda _, read: read_by_head.append(read[0].flatten(1)))
    with torch.no_grad():
        for side in (split.train, split.test):
            network(seen(side, run.config.size))
    handle.remove()
    index, score = nearest(*(normalize(each, dim=1) for each in read_by_head))
    return stated(split.train.stacked("pose")[index], split.test.stacked("pose"), score)


def seen(side: Held, size: tuple[int, int]) -> Tensor:
    """The images of a side at the size at which networks are trained."""
    images = floats(side.stacked("image"))
    return Image().resize(images, (images.shape[-2], images.shape[-1]), size)


def floats(images: Tensor) -> Tensor:
    return images if images.is_floating_point() else images.float() / 255


def network_rows(args: argparse.Namespace, split: Split, network: str, losses: Sequence[str]) -> dict[str, list[Row]]:
    images, truth = seen(split.test, args.size), split.test.stacked("pose")
    motion = step_of(split.train.stacked("world_from_camera"))
    rows: dict[str, list[Row]] = {}

    def add(name: str, row: Row) -> None:
        rows.setdefault(name, []).append(row)

    for loss in losses:
        runs = [trained(args, split, loss, seed, network) for seed in args.seeds]
        for run in runs:
            inner = run.networks[0]
            one = predictions(run, Deterministic(inner), images)
            add(f"{loss}, one pass", scored(one, truth))
            add(f"{loss}, MC dropout", scored(predictions(run, MCDropout(inner, DRAWS), images), truth))
            batches = [((seen(split.train, args.size),), split.train.stacked("pose"),
                        split.train.stacked("pose_valid"))]  # fmt: skip
            density = FeatureDensity.fit(inner, "network.head", batches, 1)
            add(f"{loss}, feature density", scored(predictions(run, density, images), truth))
            add(f"{loss}, nearest features", by_features(run, split))
            for shared in (1, 30):
                add(f"{loss}, filter, errors shared by {shared}", filtered(one, truth, motion, shared))
        together = predictions(runs[0], DeepEnsemble([run.networks[0] for run in runs]), images)
        add(f"{loss}, ensemble of {len(runs)}", scored(together, truth))
        add(f"{loss}, ensemble of {len(runs)}, filter, errors shared by 30", filtered(together, truth, motion, 30))
    return rows


def calibrated_rows(args: argparse.Namespace, split: Split) -> dict[str, list[Row]]:
    """Networks of the blocks, whose covariance is scaled by the errors on the frames between the blocks."""
    between = held(args.root, args.size, BETWEEN)
    inside, outside = floats(between.stacked("image")), floats(split.test.stacked("image"))
    rows: dict[str, list[Row]] = {}
    for loss in LOSSES:
        for seed in args.seeds:
            run = trained(args, split, loss, seed, "pose-net")
            method = MCDropout(run.networks[0], DRAWS)
            known = [(predictions(run, method, inside), between.stacked("pose"), between.stacked("pose_valid"))]
            scaling = VarianceScaling.fit(known)
            found = scaling(predictions(run, method, outside))
            row = scored(found, split.test.stacked("pose")) | {"factor": float(scaling.factor)}
            rows.setdefault(f"{loss}, MC dropout, calibrated", []).append(row)
    return rows


def table(rows: dict[str, list[Row]]) -> dict[str, Any]:
    """Mean over seeds of each number, and the numbers of each seed where there are several."""
    found: dict[str, Any] = {}
    for name, each in rows.items():
        keys = [key for key in each[0] if all(row[key] == row[key] for row in each)]
        found[name] = {key: statistics.fmean(row[key] for row in each) for key in keys}
        if len(each) > 1:
            found[name]["seeds"] = {key: [row[key] for row in each] for key in keys[:2]}
    return found


def seven_scenes(args: argparse.Namespace) -> Split:
    step = 10 if args.tiny else 1
    sides = [held(args.root, args.size, numbers[::step]) for numbers in (TRAIN, TEST)]
    return Split("sevenscenes-blocks", *sides)


def tour(args: argparse.Namespace) -> Split:
    count = 20 if args.tiny else 400
    size = (48, 64)
    sides = [SceneTour(count, size, 0), SceneTour(max(20, count // 4), size, 1)]
    return Split("scene-tour", *(with_thumbnails(side) for side in sides))


def with_thumbnails(tour: SceneTour) -> Held:
    samples = [tour[index] for index in range(len(tour))]
    task = tour.tasks["pose"]
    assert isinstance(task, CameraPose)
    return Held([sample | {"thumbnail": thumbnail(sample["image"])} for sample in samples], task)


def parts(args: argparse.Namespace) -> dict[str, Callable[[], dict[str, Any]]]:
    def only_retrieval() -> dict[str, Any]:
        split = seven_scenes(args)
        frames = Held([*split.train.samples, *split.test.samples], split.train.tasks["pose"])
        return {"blocks": retrieval(split), "interleaved (a leak), nearest thumbnail": interleaved(frames)}

    def blocks() -> dict[str, Any]:
        return table(network_rows(args, seven_scenes(args), "pose-net", LOSSES))

    def pretrained() -> dict[str, Any]:
        return table(network_rows(args, seven_scenes(args), "efficient-pose-net", LOSSES[2:3]))

    def exact() -> dict[str, Any]:
        split = tour(args)
        return {
            **retrieval(split),
            **table(network_rows(args, split, "pose-net", ("posenet-learned", "posenet", "posenet-geometric", AGAIN))),
        }

    def calibrated() -> dict[str, Any]:
        return table(calibrated_rows(args, seven_scenes(args)))

    def longer() -> dict[str, Any]:
        args.runs, args.network_args = args.runs / "longer", {"dropout": 0.05}
        args.runs.mkdir(exist_ok=True)
        return table(network_rows(args, tour(args), "pose-net", ("posenet-learned", "posenet-geometric")))

    return {
        "retrieval": only_retrieval,
        "calibrated": calibrated,
        "blocks": blocks,
        "scene-tour": exact,
        "scene-tour-longer": longer,
        "pretrained": pretrained,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--size", type=int, nargs=2, default=(60, 80))
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    args.size, args.network_args = tuple(args.size), {}
    if args.tiny:
        args.epochs, args.seeds = 1, (0, 1)
    torch.set_num_threads(1)
    result: dict[str, Any] = {}
    path = args.runs / "pose.json" if args.tiny else RESULT
    if path.exists():
        result = json.loads(path.read_text())
    args.runs.mkdir(parents=True, exist_ok=True)
    for name, part in parts(args).items():
        if args.only is None or name in args.only:
            result[name] = {
                "rows": part(), "size": list(args.size), "epochs": args.epochs, "seeds": list(args.seeds),
                "machine": platform.machine(), "torch": torch.__version__,
            }  # fmt: skip
            path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
