"""Every method on the same U-Net and the same images: which one should be used?

    python benchmarks/methods.py --camvid DIR --sevenscenes DIR                 # score the runs that exist
    python benchmarks/methods.py --camvid DIR --sevenscenes DIR --train swag    # train a run that a method needs
    python benchmarks/methods.py … --seeds 0 1 2                                # of each method the seeds that exist

CamVid val at 180 × 240, the networks of benchmarks/camvid_small.py and benchmarks/distillation_small.py. Methods that
work on a trained network take those; others take a run of their own with the same network, epochs and batches. Out of
distribution are 7-Scenes frames, and CamVid darkened, blurred and noisy at severity 3 (every fourth image). The scores
of a seed are stored, so that an interrupted benchmark can be continued. The last line is JSON: means over seeds, and
their standard deviations.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from statistics import mean, median, stdev

import torch
from distillation_small import gathered
from foreign import SHIFTS, Shifted

from sfumato.contracts import Batch, DataSet, Method
from sfumato.data import DatasetView, load, subset
from sfumato.methods import (
    DeepEnsemble,
    Deterministic,
    FeatureDensity,
    LastLayerLaplace,
    MCDropout,
    TestTimeAugmentation,
    VariancePropagation,
    last_layer,
)
from sfumato.metrics import OODScores
from sfumato.runs import Run

HERE = Path(__file__).parent
SAMPLES, FITTED = 10, 60  # draws; training images on which Laplace and feature densities are fitted
SCORES = ("miou", "nll", "ece", "error_auroc", "aurc")
CAMVID = [
    "--data=camvid",
    "--size=[180,240]",
    "--crop=[128,176]",
    "--epochs=44",
    "--batch=4",
    "--likelihood=categorical",
]
TRAINED = ("swag", "snapshot", "variational", "concrete-dropout", "batch-ensemble", "multi-head")


def batches(run: Run, train: DataSet, images: int = FITTED) -> Iterator[Batch]:
    """Evenly spread training images, one at a time."""
    kept = subset(train, images)
    for index in range(len(kept)):
        sample = kept[index]
        target, valid = run.single_task.target_and_mask(sample)
        yield run.prepare(*run.inputs_of(sample)), target[None].to(run.device), valid[None].to(run.device)


def methods(runs: Path, train: DataSet, seed: int) -> dict[str, Callable[[], tuple[Run, Method]]]:
    """Name → the run and its method, of those whose run of this seed exists."""
    base = Run.open(runs / f"camvid-categorical-{seed}")
    network, names = base.networks[0], getattr(base.task, "names", ())
    head = last_layer(network)
    known: dict[str, Callable[[], tuple[Run, Method]]] = {
        "deterministic": lambda: (base, Deterministic(network)),
        "mc-dropout": lambda: (base, MCDropout(network, SAMPLES)),
        "propagation": lambda: (base, VariancePropagation.fit(network, (b[0] for b in batches(base, train, 16)))),
        "flips": lambda: (base, TestTimeAugmentation(network)),
        "laplace": lambda: (
            base,
            LastLayerLaplace.fit(network, head, batches(base, train), base.likelihood.nll, samples=SAMPLES),
        ),
        "density": lambda: (base, FeatureDensity.fit(network, head, batches(base, train), len(names))),
    }
    if seed == 0 and (runs / "camvid-categorical-4" / "weights-0.safetensors").exists():
        ensemble = Run.open(gathered("camvid-categorical", runs))
        known["ensemble"] = lambda: (ensemble, DeepEnsemble(ensemble.networks))
    others = {"student": "categorical-student", "dudes": "categorical-student-dudes", "logit-normal": "logit-normal"}
    for name, kind in (others | {name: name for name in TRAINED}).items():
        folder = runs / f"camvid-{kind}-{seed}"
        if (folder / "weights-0.safetensors").exists():
            run = Run.open(folder)
            one_pass = name == "logit-normal"  # a likelihood: one pass without dropout
            method = Deterministic(run.networks[0]) if one_pass else run.method(SAMPLES)
            known[name] = lambda run=run, method=method: (run, method)
    return known


def scored(
    run: Run, method: Method, plain: Run, dataset: DataSet, ood_data: dict[str, DataSet]
) -> dict[str, float]:  # fmt: skip
    """Scores of one method, and the processor time of a prediction over that of the plain network, median.

    The novelty of feature densities takes the place of the epistemic part.
    """
    task, ood = run.single_task, {name: OODScores() for name in ood_data}
    scores, passes, one_pass = task.scores(), [], Deterministic(plain.networks[0])
    for index in range(len(dataset)):
        sample = dataset[index]
        inputs, (target, valid) = run.inputs_of(sample), task.target_and_mask(sample)
        start = time.process_time()
        found = run.predict_uncalibrated(method, *inputs, index=index)
        middle = time.process_time()
        plain.predict_uncalibrated(one_pass, *inputs)
        passes.append((middle - start) / (time.process_time() - middle))
        scores.update(found, target[None], valid[None])
        everywhere = torch.ones_like(found.total, dtype=torch.bool)
        for each in ood.values():
            each.update(found, ~everywhere, everywhere)
    result = {name: float(scores.compute()[name]) for name in SCORES}
    second = "novelty" if method.gives_novelty else "epistemic"
    for name, other in ood_data.items():
        for index in range(len(other)):
            found = run.predict_uncalibrated(method, *run.inputs_of(other[index]), index=index)
            everywhere = torch.ones_like(found.total, dtype=torch.bool)
            ood[name].update(found, everywhere, everywhere)
        columns = ood[name].compute()
        result[f"{name}_total"] = float(columns["ood_auroc_total"])
        result[f"{name}_epistemic"] = float(columns[f"ood_auroc_{second}"])
    return result | {"passes": median(passes)}


def train_run(name: str, root: Path, runs: Path, seed: int) -> None:
    """Train with the command line. An interrupted run is continued."""
    out = runs / f"camvid-{name}-{seed}"
    options = [*CAMVID, f"--root={root}", f"--seed={seed}", f"--method={name}", f"--out={out}", "--resume", "--quiet"]
    options.append('--network-args={"dropout": 0.2}')
    subprocess.run([sys.executable, "-m", "sfumato", "fit", *options], check=True, cwd=HERE)


def summary(seeds: list[dict[str, float]]) -> dict[str, float]:
    """Means over seeds, and as NAME_sd their standard deviations where there are several."""
    columns = {key: [scores[key] for scores in seeds] for key in seeds[0]}
    spread = {f"{key}_sd": stdev(values) for key, values in columns.items() if len(seeds) > 1}
    return {"seeds": len(seeds), **{key: mean(values) for key, values in columns.items()}, **spread}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--camvid", type=Path, required=True)
    parser.add_argument("--sevenscenes", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=HERE.parent / "runs")
    parser.add_argument("--train", choices=TRAINED, nargs="*", default=[])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    runs = options.runs.absolute()
    for name, seed in product(options.train, options.seeds):
        train_run(name, options.camvid.absolute(), runs, seed)
    val = load("camvid", options.camvid, "val", (180, 240))
    rooms = load("sevenscenes", options.sevenscenes, "val", (180, 240))
    ood_data: dict[str, DataSet] = {"sevenscenes": DatasetView(rooms, range(0, len(rooms), 4))}
    ood_data |= {kind: DatasetView(Shifted(val, kind), range(0, len(val), 4)) for kind in SHIFTS}
    train = load("camvid", options.camvid, "train", (180, 240))
    found: dict[str, list[dict[str, float]]] = {}
    (runs / "methods").mkdir(exist_ok=True)
    plain = Run.open(runs / "camvid-categorical-0")
    for seed in options.seeds:
        for name, made in methods(runs, train, seed).items():
            kept = runs / "methods" / f"{name}-{seed}.json"
            if not kept.exists():
                kept.write_text(json.dumps(scored(*made(), plain, val, ood_data)))
            found.setdefault(name, []).append(json.loads(kept.read_text()))
            print(name, seed, {key: round(value, 4) for key, value in found[name][-1].items()}, flush=True)
    rows = {name: summary(scores) for name, scores in found.items()}
    result = {"samples": SAMPLES, "images": len(val), "rows": rows}
    (HERE / "results" / "methods.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
