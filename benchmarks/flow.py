"""Optical flow: trained on generated pairs, tested on RubberWhale and FlyingChairs, against OpenCV's DIS.

    python benchmarks/flow.py --data FLOW --runs runs/flow --processes 16 --only pairs            # no GPU is needed
    python benchmarks/flow.py --data FLOW --runs runs/flow --device cuda --seconds 90 --only train
    python benchmarks/flow.py --data FLOW --runs runs/flow --only score                           # weights are enough
    python benchmarks/flow.py --data FLOW --runs /tmp/tiny --tiny                                 # all parts, small

FLOW holds ``RubberWhale1.png``, ``RubberWhale2.png``, ``RubberWhale.flo`` and the FlyingChairs pairs 0 to 4.

Networks are trained by ``sfumato fit`` on the pairs of flow_data.py, for three seeds with a full covariance and one
with a Laplace distribution for each axis; those of the first kind are then fine-tuned on the FlyingChairs pairs 0 to 3.
The time limits of the trainings follow from ``--seconds``, and a finished job is not repeated. Scores are written after
every network. Nothing is chosen on the test pairs.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import flow_data
import torch
from jobs import HERE, Job, absolute, run_jobs
from torch import Tensor

from sfumato.contracts import Method, Sample
from sfumato.data import FlyingChairs
from sfumato.geometry import dis_flow, forward_backward_error
from sfumato.likelihoods import FullLaplace
from sfumato.methods import DeepEnsemble, Deterministic, MCDropout
from sfumato.metrics import VectorScores
from sfumato.models import LightFlow
from sfumato.predictions import ValuePrediction, predict
from sfumato.runs import Run

RESULT = HERE / "results" / "flow.json"
SEEDS = (0, 1, 2)
TINY = {"widths": [8, 16], "width": 8, "radius": 1}
STARTING = 15.0  # seconds in which processes start and plans are made
PARTS = {"scenes": 0.78, "tuned": 0.22}  # shares of the remaining time
DENSITY = ("nll2d", "ellipse90", "ellipse50", "ellipse_area90")  # scores that need a distribution
Scored = dict[str, dict[str, float | None]]
Predict = Callable[[Tensor, Tensor], ValuePrediction]


def training(args: argparse.Namespace, name: str, kind: str, seed: int, share: float) -> Job:
    """A training of one network by the command line."""
    folder = args.runs / name
    tuned = kind == "tuned"
    data, root = ("flow_data.Chairs", args.data) if tuned else ("flow_data.MovingPatches", args.runs / "pairs")
    options = {
        "data": data, "root": root, "trust": "flow_data", "task": "flow", "network": "light-flow",
        "network-args": json.dumps(TINY if args.tiny else {}), "method": "mc-dropout", "samples": 20,
        "likelihood": "laplace" if kind == "axes" else "laplace-full", "seed": seed, "device": args.device,
        "crop": "32x48" if args.tiny else "192x256" if tuned else "160x224",
        "batch": args.batch, "epochs": 1 if args.tiny else 100_000,
        "max-time": round(max(args.seconds - args.spare, 1) * share / 60, 4),
        "learning-rate": 5e-4 if tuned else 2e-3, "ema": 0.995,
        "precision": "32-true", "workers": args.workers, "cache": "none", "logger": "csv", "out": folder,
    }  # fmt: skip
    if tuned:
        options["init-from"] = args.runs / f"scenes-{seed}"
    words = [f"--{option}={value}" for option, value in options.items()]
    plain = ("-m", "sfumato", "fit", *words, "--quiet")
    needs, done = (f"scenes-{seed}",) if tuned else ("pairs",), folder / "weights-0.safetensors"
    return Job(name, (*plain, "--cuda-graph"), done, needs, plain) if args.cuda_graph else Job(name, plain, done, needs)


def jobs(args: argparse.Namespace) -> list[Job]:
    """Generating the pairs, then all trainings."""
    pairs = Job(
        "pairs",
        (str(HERE / "flow_data.py"), f"--out={args.runs / 'pairs'}", f"--count={args.pairs}",
         f"--processes={args.processes}", f"--seconds={args.pair_seconds}"),
        args.runs / "pairs" / "pairs.json",
    )  # fmt: skip
    if args.only == "pairs":
        return [pairs]
    seeds = SEEDS[:1] if args.tiny else SEEDS
    first = [training(args, f"scenes-{seed}", "scenes", seed, PARTS["scenes"]) for seed in seeds]
    first.append(training(args, "axes-0", "axes", 0, PARTS["scenes"]))
    return [pairs, *first, *(training(args, f"tuned-{seed}", "tuned", seed, PARTS["tuned"]) for seed in seeds)]


def samples(args: argparse.Namespace) -> dict[str, list[Sample]]:
    """The test pairs by the name of their set. FlyingChairs 0 to 3 are seen by fine-tuning, 4 is not."""
    chairs = FlyingChairs(args.data)
    found = {
        "rubberwhale": [flow_data.rubber_whale(args.data)],
        "chair4": [chairs[4]],
        "chairs0-3": [chairs[n] for n in range(4)],
    }
    made = args.runs / "pairs" / "pairs.json"
    if made.exists():  # the pairs that training has not seen are generated again
        about = json.loads(made.read_text())
        held = range(about["count"] - min(flow_data.MovingPatches.HELD, about["count"] // 4), about["count"])
        found["generated"] = [flow_data.sample_of(about["seed"], n) for n in held]
    if args.tiny:  # a corner of one pair of each
        found = {name: [cut(pairs[0])] for name, pairs in found.items()}
    return found


def cut(sample: Sample) -> Sample:
    """The upper left corner of a sample."""
    return {k: v[..., :64, :80] if isinstance(v, Tensor) else v for k, v in sample.items()}


def scored(predicted: Predict, pairs: list[Sample], device: str) -> dict[str, float | None]:
    """Scores of a way to predict, and its milliseconds for each pair."""
    scores, took, error, pixels = VectorScores(), [], 0.0, 0
    for sample in pairs:
        first, second, flow, valid = (flow_data.tensor_of(sample, name)[None].to(device) for name in flow_data.ARRAYS)
        images = tuple(each.float() / 255 for each in (first, second))
        start = time.perf_counter()
        found = predicted(*images)
        if device != "cpu":
            torch.cuda.synchronize()
        took.append(1000 * (time.perf_counter() - start))
        scores.to(device).update(found, flow, valid)
        error += float((found.mean - flow).norm(dim=1)[valid].double().sum())
        pixels += int(valid.sum())
    values = {"epe": error / pixels, **{name: float(value) for name, value in scores.compute().items()}}
    named = {name: round(value, 4) if math.isfinite(value) else None for name, value in values.items()}
    return {**named, "ms": round(statistics.median(took), 1)}


def of_network(method: Method, run: Run) -> Predict:
    """Predictions of a method."""

    def predicted(first: Tensor, second: Tensor) -> ValuePrediction:
        generator = torch.Generator().manual_seed(0)
        found = predict(method, first, second, likelihood=run.likelihood, generator=generator)
        assert isinstance(found, ValuePrediction)
        return found

    return predicted


def both_ways(run: Run) -> Predict:
    """One pass there and one back, with the forward–backward error in the place of the learned uncertainty."""
    forward = of_network(Deterministic(run.networks[0]), run)

    def predicted(first: Tensor, second: Tensor) -> ValuePrediction:
        there, back = forward(first, second), forward(second, first)
        return checked(there.mean, back.mean)

    return predicted


def checked(flow: Tensor, back: Tensor) -> ValuePrediction:
    """A prediction whose uncertainty is the forward–backward error: it ranks pixels, and has no density."""
    error = forward_backward_error(flow, back)[:, None].expand_as(flow).square()
    return ValuePrediction(flow, error, torch.zeros_like(error), "px")


def classical(first: Tensor, second: Tensor) -> ValuePrediction:
    """OpenCV's DIS, and its forward–backward error."""
    return checked(dis_flow(first, second), dis_flow(second, first))


def untrained(first: Tensor, second: Tensor) -> ValuePrediction:
    """The network before training, which matches patches. It has no uncertainty yet."""
    torch.manual_seed(0)
    method = Deterministic(LightFlow(FullLaplace().channels).eval())
    found = predict(method, first, second, likelihood=FullLaplace(unit="px"))
    assert isinstance(found, ValuePrediction)
    return found


def score(args: argparse.Namespace, about: Mapping[str, Any]) -> dict[str, Any]:
    """Score every network that exists, and write the result after each of them."""
    known, device = samples(args), args.device
    rows: dict[str, Scored] = {"dis": ranked(classical, known, "cpu"), "untrained": ranked(untrained, known, "cpu")}
    for row in rows["untrained"].values():  # all its uncertainties are the same
        for key in set(row) - {"epe", "fl_all", "ms"}:
            del row[key]
    for kind in ("scenes", "tuned", "axes"):
        runs = []
        for seed in SEEDS:
            folder = args.runs / f"{kind}-{seed}"
            if not (folder / "weights-0.safetensors").exists():
                continue
            run = Run.open(folder, device=device, trust="flow_data")
            runs.append(run)
            ways = {"one pass": of_network(Deterministic(run.networks[0]), run)}
            if seed == 0:
                ways["mc dropout"] = of_network(MCDropout(run.networks[0], 20), run)
                rows[f"{kind}-0 both ways"] = ranked(both_ways(run), known, device)
            for way, predicted in ways.items():
                rows[f"{kind}-{seed} {way}"] = {name: scored(predicted, pairs, device) for name, pairs in known.items()}
            write(args, rows, about)
        if len(runs) > 1:
            together = of_network(DeepEnsemble([run.networks[0] for run in runs]), runs[0])
            rows[f"{kind} ensemble of {len(runs)}"] = {
                name: scored(together, pairs, device) for name, pairs in known.items()
            }
    return write(args, rows, about)


def ranked(predicted: Predict, known: Mapping[str, list[Sample]], device: str) -> Scored:
    """Scores of a way to predict that has no distribution."""
    rows = {name: scored(predicted, pairs, device) for name, pairs in known.items()}
    return {name: {key: value for key, value in row.items() if key not in DENSITY} for name, row in rows.items()}


def write(args: argparse.Namespace, rows: dict[str, Scored], about: Mapping[str, Any]) -> dict[str, Any]:
    """Write what is known so far."""
    found = {"about": about, "means": means(rows), "rows": rows}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(found, indent=1) + "\n")
    return found


def means(rows: Mapping[str, Scored]) -> dict[str, Any]:
    """Mean and standard deviation over the seeds of one pass, for the scores that the text names."""
    found: dict[str, Any] = {}
    for kind in ("scenes", "tuned"):
        columns = [row for name, row in rows.items() if name.startswith(kind) and name.endswith("one pass")]
        for name in columns[0] if columns else ():
            for key in ("epe", "fl_all", "nll2d", "ellipse90", "far_auroc", "epe_at_80", "epe_area"):
                values = [value for row in columns if (value := row[name][key]) is not None]
                if not values:
                    continue
                spread = statistics.stdev(values) if len(values) > 1 else 0.0
                found[f"{kind}_{name}_{key}"] = [round(statistics.mean(values), 4), round(spread, 4), len(values)]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=absolute, required=True, help="folder of the test pairs")
    parser.add_argument("--runs", type=absolute, required=True, help="folder for pairs, networks and logs")
    parser.add_argument("--out", type=absolute, default=RESULT, help="file of the result")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--seconds", type=float, default=90.0, help="time for all trainings together")
    parser.add_argument("--pair-seconds", type=float, default=15.0, help="time after which no pairs are generated")
    parser.add_argument("--only", choices=("pairs", "train", "score"), help="one of the three parts")
    parser.add_argument("--pairs", type=int, default=2500, help="number of generated pairs")
    parser.add_argument("--processes", type=int, default=2, help="processes that generate pairs")
    parser.add_argument("--slots", type=int, default=4, help="trainings at a time")
    parser.add_argument("--workers", type=int, default=3, help="processes that read pairs, for each training")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--cuda-graph", action="store_true", help="replay the passes of the network on a GPU")
    parser.add_argument("--tiny", action="store_true", help="a few steps of small networks, to see that all parts run")
    args = parser.parse_args()
    if args.tiny:
        args.pairs, args.batch, args.slots, args.workers, args.pair_seconds = 16, 4, 1, 0, 600.0
        args.out = args.runs / "tiny.json" if args.out == RESULT else args.out
    args.spare = STARTING + (0.0 if (args.runs / "pairs" / "pairs.json").exists() else args.pair_seconds + 5)
    where = torch.cuda.get_device_name() if args.device.startswith("cuda") else platform.processor() or "CPU"
    about: dict[str, Any] = {
        "seconds": args.seconds, "batch": args.batch, "slots": args.slots, "device": where, "torch": torch.__version__,
    }  # fmt: skip
    noted = args.runs / "training.json"
    if args.only != "score":
        limit = float("inf") if args.tiny or args.only == "pairs" else args.seconds
        took = run_jobs(jobs(args), args.runs / "logs", args.slots, limit)
        about["job_seconds"] = {name: round(value, 1) for name, value in took.items()}
        if args.only != "pairs":
            noted.write_text(json.dumps(about))
    if args.only in ("pairs", "train"):
        print(json.dumps(about))
        return
    trained = json.loads(noted.read_text()) if noted.exists() else {}
    found = score(args, {"training": trained, "scored_on": where})
    print(json.dumps({"means": found["means"], "dis": found["rows"]["dis"]}))


if __name__ == "__main__":
    main()
