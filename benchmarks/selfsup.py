"""Depth without labels against labels, and what its uncertainties are worth.

    python benchmarks/selfsup.py --device cuda --jobs 8 --seconds 75 --runs DIR     # train and score what is missing
    python benchmarks/selfsup.py --tiny --runs DIR                                  # a try on a CPU
    python benchmarks/selfsup.py pack --sevenscenes DIR --packed DIR                # frames of 7-Scenes at a small size

One U-Net of the same size and budget in every row. On scenes with exact depth labels: ``supervised`` by the Gaussian
likelihood; ``stereo`` by the right view with Repr, ``stereo-log`` with Log, ``self`` a student of one network of
``stereo`` with half of the budget, ``ensemble`` three networks of ``stereo``; ``video`` by the pictures before and
after with known poses, ``both`` by these and the right view, and ``learned`` with a pose network, whose depths are
scaled by the median of each image. On 7-Scenes: ``seven-supervised``, and ``seven-video`` by the frames ten before and
ten after with known poses. Stereo networks that learn disparity from varied pairs, ``pairs-matching`` over planes and
``pairs-reprojection``, are scored on the Middlebury pairs, as benchmarks/stereo.py scores networks that learn from
labels. Scenes are generated once. Every second image of ``val`` calibrates the standard deviation by one factor, the
others are scored; near points are those that move by two pixels or more to the right view. Results are written after
each job. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from jobs import Job, absolute, run_jobs
from members import gather_members, weights_of
from selfsup_data import ABOUT, KnownScenes, make_scenes, pack
from stereo_baselines import as_views, middlebury
from stereo_data import store
from stereo_scores import mean_of
from stereo_scores import scores as stereo_scores
from torch import Tensor

from sfumato.calibration import VarianceScaling
from sfumato.data import SevenScenes
from sfumato.data.scenes import lens
from sfumato.metrics import ValueScores
from sfumato.predictions import ValuePrediction, predict
from sfumato.runs import Run
from sfumato.storage import atomic_write

HERE = Path(__file__).parent
SEEDS = (0, 1, 2)
NETWORK = ("--method=deterministic", '--network-args={"dropout": 0.0}', "--task=depth", "--precision=32-true",
           "--logger=csv", "--cache=memory", "--workers=0", "--quiet", "--resume")  # fmt: skip
REPROJECTION = "--objective=reprojection"
SCENES: dict[str, tuple[str, ...]] = {  # rows on scenes, and their arguments of `sfumato fit`
    "supervised": (),
    "stereo": (REPROJECTION,),
    "video": (REPROJECTION, '--objective-args={"sources": ["previous", "next"]}'),
    "both": (REPROJECTION, '--objective-args={"sources": ["right", "previous", "next"]}'),
    "stereo-log": (REPROJECTION, '--objective-args={"uncertainty": "log"}'),
    "learned": (REPROJECTION, '--objective-args={"sources": ["previous", "next"], "poses": "learned"}'),
}
SEVEN: dict[str, tuple[str, ...]] = {
    "seven-supervised": (),
    "seven-video": (REPROJECTION, '--objective-args={"sources": ["previous", "next"]}'),
}
PAIRS: dict[str, tuple[str, ...]] = {  # rows of stereo networks on varied scenes, tested on Middlebury
    "pairs-matching": ("--objective=matching", "--likelihood=planes"),
    "pairs-reprojection": (REPROJECTION, "--likelihood=laplace"),
}
SCALED = ("learned",)  # rows whose depths have no unit of their own
KEPT = 0.8  # share of the pixels, the most certain ones, whose error is given
PARALLAX = 2.0  # px that a point moves from the left to the right view, which divides near points from far ones


def folder_of(runs: Path, row: str, seed: int) -> Path:
    return runs / f"selfsup-{row}-{seed}"


def scores_file(folder: Path) -> Path:
    return folder / "benchmark.json"


def jobs(options: argparse.Namespace) -> list[Job]:
    """Everything that is made, trained and scored, the most important first."""
    runs, about = options.runs, options.runs / "scenes" / ABOUT
    made = Job("scenes", (str(HERE / "selfsup.py"), "make", *_common(options)), about)

    def on_scenes(row: str, seed: int) -> Job:
        return _fit(row, seed, "selfsup_data.KnownScenes", runs / "scenes", SCENES[row], options, (made.name,))

    found = [made, *(on_scenes(row, 0) for row in ("supervised", "stereo", "video", "both"))]
    if options.middlebury.is_dir():
        found.append(Job("pairs", (str(HERE / "selfsup.py"), "pairs", *_common(options)), options.pairs / "pairs.json"))
        found += [_fit_pairs(row, arguments, options) for row, arguments in PAIRS.items()]
    if options.packed.is_dir():
        found += [
            _fit(row, 0, "sevenscenes", options.packed, arguments, options, ()) for row, arguments in SEVEN.items()
        ]
    found += [on_scenes("stereo-log", 0), on_scenes("learned", 0), _student(options)]
    seeds = SEEDS[: options.seeds]
    found += [on_scenes(row, seed) for row in ("stereo", "supervised", "video") for seed in seeds[1:]]
    members, ensemble = tuple(f"fit-stereo-{seed}" for seed in seeds), folder_of(runs, "ensemble", 0)
    gather = (str(HERE / "selfsup.py"), "gather", *_common(options))
    if len(members) > 1:
        found.append(Job("gather", gather, ensemble / "plan.yaml", members))
    plain = ("scenes", "pairs")
    return [each for job in found for each in ((job,) if job.name in plain else (job, _score(job, options)))]


def _student(options: argparse.Namespace) -> Job:
    """A student of one network, on the same images."""
    folder = folder_of(options.runs, "self", 0)
    command = ("-m", "sfumato", "distill", str(folder_of(options.runs, "stereo", 0)), f"--out={folder}",
               "--likelihood=self-laplace", "--on-the-fly", f"--epochs={max(1, options.epochs // 2)}", "--seed=100",
               f"--device={options.device}", "--trust=selfsup_data", "--cache=memory", "--workers=0", "--resume",
               "--quiet")  # fmt: skip
    return Job("fit-self-0", command, weights_of(folder), ("fit-stereo-0",))


def _score(job: Job, options: argparse.Namespace) -> Job:
    folder = job.done.parent
    command = (str(HERE / "selfsup.py"), "score", *_common(options), f"--run={folder}")
    return Job(f"score-{folder.name}", command, scores_file(folder), (job.name,))


def _common(options: argparse.Namespace) -> tuple[str, ...]:
    height, width = options.size
    return (*(("--tiny",) if options.tiny else ()), f"--runs={options.runs}", f"--device={options.device}",
            f"--packed={options.packed}", f"--pairs={options.pairs}", f"--middlebury={options.middlebury}",
            f"--seeds={options.seeds}", f"--train={options.train}", f"--val={options.val}", "--size", str(height),
            str(width))  # fmt: skip


def _fit(
    row: str,
    seed: int,
    data: str,
    root: Path,
    arguments: tuple[str, ...],
    options: argparse.Namespace,
    needs: tuple[str, ...],
) -> Job:
    folder = folder_of(options.runs, row, seed)
    epochs = options.epochs * (1 if needs or options.tiny else 4)  # there are fewer frames than scenes
    command = ("-m", "sfumato", "fit", f"--data={data}", f"--root={root}", f"--out={folder}",
               f"--seed={100 * seed}", f"--epochs={epochs}", f"--batch={options.batch}",
               f"--learning-rate={options.rate}", f"--max-time={options.minutes}", f"--device={options.device}",
               *NETWORK, *arguments, *(("--limit=8",) if options.tiny else ()))  # fmt: skip
    return Job(f"fit-{row}-{seed}", command, weights_of(folder), needs)


def _fit_pairs(row: str, arguments: tuple[str, ...], options: argparse.Namespace) -> Job:
    folder = folder_of(options.runs, row, 0)
    size = ("--crop", "64", "96", "--batch=2", "--limit=4") if options.tiny else ("--crop", "192", "288", "--batch=4")
    command = ("-m", "sfumato", "fit", "--data=stereo_data.StoredPairs", f"--root={options.pairs}", f"--out={folder}",
               "--network=light-stereo", "--method=deterministic", "--precision=32-true", *size,
               f"--max-time={options.minutes}", f"--epochs={1 if options.tiny else 4}", f"--device={options.device}",
               "--cache=none", "--workers=1", "--logger=csv", "--quiet", "--resume", *arguments)  # fmt: skip
    return Job(f"fit-{row}-0", command, weights_of(folder), ("pairs",))


def on_middlebury(run: Run, folder: Path, most: int) -> dict[str, float]:
    """Mean scores of the Middlebury pairs."""
    rows = []
    for _, left, right, truth, known in islice(middlebury(folder), most):
        inputs = (view.to(run.device) for view in as_views(left, right))
        found: Any = predict(run.method(), *inputs, likelihood=run.likelihood).to("cpu")
        disparity, spread = found.mean[0, 0].numpy(), found.std[0, 0].numpy()
        rows.append(stereo_scores(disparity, truth, known, {"std": spread}))
    return mean_of(rows)


def predicted(run: Run, scaled: bool) -> Iterator[tuple[ValuePrediction, Tensor, Tensor]]:
    """Predictions (1, 1, H, W) of the images of ``val`` that have a target, with target and mask."""
    dataset = (SevenScenes if run.config.data == "sevenscenes" else KnownScenes)(run.config.root, "val")
    for index in range(len(dataset)):
        sample: Any = dataset[index]
        found = run.predict_uncalibrated(run.method(), *run.inputs_of(sample), index=index).to("cpu")
        assert isinstance(found, ValuePrediction)
        target, valid = sample["depth"][None], sample["depth_valid"][None]
        if not bool(valid.any()):
            continue
        if scaled:
            factor = float(target[0][:, valid[0]].median() / found.mean[0][:, valid[0]].median())
            found = ValuePrediction(factor * found.mean, factor**2 * found.aleatoric_variance,
                                    factor**2 * found.epistemic_variance, found.unit)  # fmt: skip
        yield found, target, valid


Predicted = list[tuple[ValuePrediction, Tensor, Tensor]]


def scored(run: Run, scaled: bool) -> dict[str, float]:
    """Scores of a run: of its total uncertainty, and of the epistemic part alone where there is one."""
    every = list(predicted(run, scaled))
    held, rest = every[::2], every[1::2]
    found = _scores(held, rest)
    if run.config.data != "sevenscenes":
        found |= by_distance(rest)
    if any(bool((each.epistemic_variance > 0).any()) for each, _, _ in rest):
        parts = [[(_epistemic(p), t, v) for p, t, v in half] for half in (held, rest)]
        epistemic = _scores(*parts).items()  # a density may be infinite where all members agree
        found |= {f"epistemic_{name}": value for name, value in epistemic if math.isfinite(value)}
    return found


def by_distance(predictions: Predicted) -> dict[str, float]:
    """The relative error of near points and of far ones, and the share of near ones."""
    size = predictions[0][1].shape[-2:]
    reach = float(lens.intrinsics((size[0], size[1]))[0, 0]) * lens.BASELINE / PARALLAX  # m
    error = torch.cat([((p.mean - t).abs() / t)[0][:, v[0]].flatten() for p, t, v in predictions])
    near = torch.cat([t[0][:, v[0]].flatten() <= reach for _, t, v in predictions])
    return {"abs_rel_near": float(error[near].mean()), "abs_rel_far": float(error[~near].mean()),
            "near": float(near.double().mean())}  # fmt: skip


def _epistemic(found: ValuePrediction) -> ValuePrediction:
    return ValuePrediction(found.mean, found.epistemic_variance, torch.zeros_like(found.mean), found.unit)


def _scores(held: Predicted, rest: Predicted) -> dict[str, float]:
    """Scores on ``rest`` as predicted, and NLL and coverage after one factor that is fitted on ``held``."""
    plain, after, factor = ValueScores("m"), ValueScores("m"), VarianceScaling.fit(held)
    uncertain, error = [], []
    for prediction, target, valid in rest:
        plain.update(prediction, target, valid)
        after.update(factor(prediction), target, valid)
        where = valid[0]
        uncertain.append((prediction.std[0, 0] / prediction.mean[0, 0])[where])
        error.append(((prediction.mean - target).abs()[0, 0])[where] / target[0, 0][where])
    names = ("abs_rel", "rmse", "delta1", "nll", "coverage90", "ause", "ause_abs_rel", "ause_delta1", "aurg",
             "aurg_abs_rel", "aurg_delta1")  # fmt: skip
    scores, calibrated = plain.compute(), after.compute()
    found = {name: float(scores[name]) for name in names}
    found |= {f"calibrated_{name}": float(calibrated[name]) for name in ("nll", "coverage90")}
    return found | kept(torch.cat(uncertain), torch.cat(error)) | {"factor": float(factor.factor.sqrt())}


def kept(uncertain: Tensor, error: Tensor) -> dict[str, float]:
    """Relative errors of the most certain 80 % of all pixels, and over all shares of them (raw and of the oracle).

    The order is that of σ / depth.
    """
    order = error[uncertain.argsort()].double()
    counts = torch.arange(1, len(order) + 1)
    curve, best = order.cumsum(0) / counts, error.sort()[0].double().cumsum(0) / counts
    return {"abs_rel_at_80": float(curve[int(KEPT * len(order)) - 1]), "area": float(curve.mean()),
            "area_of_oracle": float(best.mean()), "area_of_chance": float(error.double().mean()),
            "same_value": _most_common(uncertain)}  # fmt: skip


def _most_common(values: Tensor) -> float:
    """The share of the pixels that have the most common value, to three digits."""
    exponent = values.log10().floor()
    rounded = (values / 10**exponent * 100).round() * 10**exponent
    return float(rounded.unique(return_counts=True)[1].max() / len(values))


def table(runs: Path) -> dict[str, Any]:
    """The mean of every row that is scored, with each seed, and abs-rel over that of the supervised network."""
    rows: dict[str, Any] = {}
    for row in (*SCENES, "self", "ensemble", *SEVEN, *PAIRS):
        files = [scores_file(folder_of(runs, row, seed)) for seed in SEEDS]
        if each := [json.loads(file.read_text()) for file in files if file.exists()]:
            rows[row] = {name: mean(one[name] for one in each) for name in each[0]} | {"seeds": each}
    found = {}
    for row in rows:
        label = "seven-supervised" if row in SEVEN else "supervised"
        if row not in (label, *PAIRS) and label in rows:
            for part in ("", "_near"):
                if f"abs_rel{part}" in rows[row]:
                    found[f"{row}{part}_over_supervised"] = rows[row][f"abs_rel{part}"] / rows[label][f"abs_rel{part}"]
    return {**found, "steps": {folder.name: steps for folder in sorted(runs.glob("selfsup-*-?"))
                               if (steps := _steps(folder))}, "rows": rows}  # fmt: skip


def _steps(folder: Path) -> int:
    """The number of steps of a training."""
    file = folder / "log" / "member-0" / "metrics.csv"
    lines = file.read_text().splitlines() if file.exists() else []
    place = lines[0].split(",").index("step") if lines else 0
    return int(lines[-1].split(",")[place]) + 1 if len(lines) > 1 else 0


def write(options: argparse.Namespace, more: Mapping[str, Any]) -> dict[str, Any]:
    """Write the table of what is finished."""
    settings = {name: getattr(options, name) for name in ("size", "train", "val", "epochs", "batch", "rate", "minutes")}
    result = {**settings, **more, **table(options.runs)}
    with atomic_write(options.out) as part:
        part.write_text(json.dumps(result, indent=1) + "\n")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "command", choices=("run", "make", "pairs", "score", "gather", "pack"), nargs="?", default="run"
    )
    parser.add_argument("--runs", type=absolute, default=HERE.parent / "runs" / "selfsup")
    parser.add_argument("--out", type=absolute, default=HERE / "results" / "selfsup.json")
    parser.add_argument("--packed", type=absolute, default=HERE.parent / "runs" / "sevenscenes-small")
    parser.add_argument("--pairs", type=absolute, default=HERE.parent / "runs" / "selfsup-pairs",
                        help="stored pairs of stereo_data.py; made if they are not there")  # fmt: skip
    parser.add_argument("--middlebury", type=absolute, default=HERE.parent / "data" / "middlebury",
                        help="the Middlebury pairs; without them no stereo network is trained")  # fmt: skip
    parser.add_argument("--sevenscenes", type=absolute, help="frames of 7-Scenes as they are distributed, to pack")
    parser.add_argument("--run", type=absolute, help="the run to score")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=1, help="commands at a time")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="time after which nothing is started")
    parser.add_argument("--minutes", type=float, default=10.0, help="most minutes of one training")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--size", type=int, nargs=2, default=(192, 256), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--train", type=int, default=1536, help="number of training scenes")
    parser.add_argument("--val", type=int, default=100, help="number of scenes to score on")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--tiny", action="store_true", help="few small scenes and one epoch")
    options = parser.parse_args()
    if options.tiny:
        options.size, options.train, options.val, options.epochs, options.batch = (48, 64), 12, 4, 1, 4
    torch.set_num_threads(1)
    if options.command == "pack":
        pack(options.sevenscenes, options.packed)
    elif options.command == "make":
        make_scenes(options.runs / "scenes", tuple(options.size), options.train, options.val, os.cpu_count() or 1)
    elif options.command == "pairs":
        store(options.pairs, 24 if options.tiny else 960, os.cpu_count() or 1)
    elif options.command == "gather":
        sources = [folder_of(options.runs, "stereo", seed) for seed in SEEDS[: options.seeds]]
        gather_members(sources, folder_of(options.runs, "ensemble", 0))
    elif options.command == "score":
        run = Run.open(options.run, device=options.device, trust="selfsup_data,stereo_data")
        scaled = any(options.run.name.startswith(f"selfsup-{row}-") for row in SCALED)
        most = 1 if options.tiny else 8
        pairs = run.config.task == "disparity"
        found = on_middlebury(run, options.middlebury, most) if pairs else scored(run, scaled)
        scores_file(options.run).write_text(json.dumps(found))
    else:
        took = run_jobs(jobs(options), options.runs / "logs", options.jobs, options.seconds,
                        lambda: write(options, {"device": options.device}) and None)  # fmt: skip
        print(json.dumps(write(options, {"device": options.device, "seconds": took})))


if __name__ == "__main__":
    main()
