"""Every method on the same U-Net and the same images: which one should be used?

    python benchmarks/methods.py --camvid DIR --sevenscenes DIR                 # what runs are there
    python benchmarks/methods.py --camvid DIR --sevenscenes DIR --train swag    # train a run that a method needs
    python benchmarks/methods.py … --seeds 0 1 2                                # of each method the seeds there are

CamVid val at 180 × 240, the networks of benchmarks/camvid.py and benchmarks/distillation.py; methods that work on a
trained network take those, others a run of their own with the same network, epochs and batches. Unknown are
7-Scenes frames, and CamVid darkened, blurred and noisy at severity 3 (every fourth image). What a seed scores is kept,
so that an interrupted benchmark goes on. The last line is JSON: means over seeds, and their standard deviations.
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
from statistics import mean, stdev
from types import SimpleNamespace
from typing import Any

import torch
from distillation import SHIFTS, Shifted, gathered
from torch.utils.data import Subset

from sfumato.data import load
from sfumato.methods import (
    DeepEnsemble,
    Deterministic,
    FeatureDensity,
    LastLayerLaplace,
    MCDropout,
    TestTimeAugmentation,
    VariancePropagation,
)
from sfumato.metrics import OODScores
from sfumato.predictions import predict
from sfumato.training import Run, generator_for, subset

HERE = Path(__file__).parent
SAMPLES, FITTED = 10, 60  # draws, and training images that Laplace and densities are fitted on
SCORES = ("miou", "nll", "ece", "error_auroc", "aurc")
CAMVID = ["--data=camvid", "--crop=[128,176]", "--epochs=44", "--batch=4", "--likelihood=categorical"]
TRAINED = ("swag", "snapshot", "variational", "concrete-dropout", "batch-ensemble", "multi-head")


def batches(run: Run, train: Any) -> Iterator[tuple[tuple[Any, ...], Any, Any]]:
    """Evenly spread training images, one at a time."""
    kept = subset(train, run.task, FITTED)
    for index in range(len(kept)):
        sample = kept[index]
        yield (sample["image"][None],), sample["classes"][None], sample["classes_valid"][None]


def methods(runs: Path, train: Any, seed: int) -> dict[str, Callable[[], tuple[Run, Any]]]:
    """Name → the run and the method over it; of those whose run of this seed is there."""
    base = Run.open(runs / f"camvid-categorical-{seed}")
    network = base.networks[0]
    head = network.network.head
    known: dict[str, Callable[[], tuple[Run, Any]]] = {
        "deterministic": lambda: (base, Deterministic(network)),
        "mc-dropout": lambda: (base, MCDropout(network, SAMPLES)),
        "propagation": lambda: (base, VariancePropagation(network)),
        "flips": lambda: (base, TestTimeAugmentation(network)),
        "laplace": lambda: (
            base,
            LastLayerLaplace.fit(network, head, batches(base, train), base.likelihood.nll, samples=SAMPLES),
        ),
        "density": lambda: (base, FeatureDensity.fit(network, head, batches(base, train), len(base.task.names))),
    }
    if seed == 0 and (runs / "camvid-categorical-4" / "weights-0.safetensors").exists():
        ensemble = Run.open(gathered("camvid-categorical", runs))
        known["ensemble"] = lambda: (ensemble, DeepEnsemble(ensemble.networks))
    others = {"student": "categorical-student", "dudes": "categorical-student-dudes", "logit-normal": "logit-normal"}
    for name, kind in (others | {name: name for name in TRAINED}).items():
        folder = runs / f"camvid-{kind}-{seed}"
        if (folder / "weights-0.safetensors").exists():
            run = Run.open(folder)
            alone = name == "logit-normal"  # a likelihood: one pass, dropout deterministic
            method = Deterministic(run.networks[0]) if alone else run.method(SAMPLES)
            known[name] = lambda run=run, method=method: (run, method)
    return known


def said(run: Run, method: Any, image: Any, index: int) -> Any:
    """The prediction, with the novelty that feature densities say in place of its epistemic part."""
    if not isinstance(method, FeatureDensity):
        return predict(method, image[None], likelihood=run.likelihood, generator=generator_for(index, 0))
    output, density = method.look(image[None])
    law: Any = run.likelihood.moments(output).prediction()
    novelty = (method.peak - density).clamp_min(0)
    return SimpleNamespace(law=law, total=law.total, aleatoric=law.total, epistemic=novelty)


def scored(run: Run, method: Any, plain: Run, known: Any, worlds: dict[str, Any]) -> dict[str, float]:
    """Scores of one method, and how long a prediction takes in those of the plain network (processor time, median)."""
    scores, ood = run.task.scores(), {world: OODScores() for world in worlds}
    passes: list[tuple[float, float]] = []
    for index in range(len(known)):
        sample = known[index]
        start = time.process_time()
        found = said(run, method, sample["image"], index)
        middle = time.process_time()
        predict(Deterministic(plain.networks[0]), sample["image"][None], likelihood=plain.likelihood)
        passes.append((middle - start, time.process_time() - middle))
        scores.update(getattr(found, "law", found), sample["classes"][None], sample["classes_valid"][None])
        everywhere = torch.ones_like(found.total, dtype=torch.bool)
        for each in ood.values():
            each.update(found, ~everywhere, everywhere)
    for world, foreign in worlds.items():
        for index in range(len(foreign)):
            found = said(run, method, foreign[index]["image"], index)
            everywhere = torch.ones_like(found.total, dtype=torch.bool)
            ood[world].update(found, everywhere, everywhere)
    result = {name: float(scores.compute()[name]) for name in SCORES}
    for world, each in ood.items():
        columns = each.compute()
        result |= {f"{world}_{part}": float(columns[f"ood_auroc_{part}"]) for part in ("total", "epistemic")}
    ratios = sorted(mine / plain for mine, plain in passes)
    return result | {"passes": ratios[len(ratios) // 2]}


def train_run(name: str, root: Path, runs: Path, seed: int) -> None:
    """Train with the command a user would type; goes on with what was interrupted."""
    out = runs / f"camvid-{name}-{seed}"
    arguments = [*CAMVID, f"--root={root}", f"--seed={seed}", f"--method={name}", f"--out={out}", "--resume", "--quiet"]
    arguments.append('--network_args={"dropout": 0.2}')
    subprocess.run([sys.executable, "-m", "sfumato", "fit", *arguments], check=True, cwd=HERE)


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
    val: Any = load("camvid", options.camvid, "val", (180, 240))
    rooms: Any = load("sevenscenes", options.sevenscenes, "val", (180, 240))
    worlds: dict[str, Any] = {"sevenscenes": Subset(rooms, range(0, len(rooms), 4))}
    worlds |= {kind: Subset(Shifted(val, kind), range(0, len(val), 4)) for kind in SHIFTS}
    train = load("camvid", options.camvid, "train", (180, 240))
    found: dict[str, list[dict[str, float]]] = {}
    (runs / "methods").mkdir(exist_ok=True)
    plain = Run.open(runs / "camvid-categorical-0")
    for seed in options.seeds:
        for name, made in methods(runs, train, seed).items():
            kept = runs / "methods" / f"{name}-{seed}.json"
            if not kept.exists():
                kept.write_text(json.dumps(scored(*made(), plain, val, worlds)))
            found.setdefault(name, []).append(json.loads(kept.read_text()))
            print(name, seed, {key: round(value, 4) for key, value in found[name][-1].items()}, flush=True)
    rows = {name: summary(scores) for name, scores in found.items()}
    result = {"samples": SAMPLES, "images": len(val), "rows": rows}
    (HERE / "results" / "methods.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
