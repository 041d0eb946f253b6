"""One network for several tasks, weighted by learned noise: are the results those of Kendall, Gal and Cipolla (2018)?

    python benchmarks/multitask.py                        # everything; continues where it was stopped
    python benchmarks/multitask.py --only equal uw-so     # some settings
    python benchmarks/multitask.py --seeds 1 --epochs 4   # fewer and shorter runs
    python benchmarks/multitask.py --learning-rate 0.003  # a smaller learning rate
    python benchmarks/multitask.py --device cuda --jobs 3 --minutes 8  # three runs at a time on a GPU
    python benchmarks/multitask.py --list                 # the settings

Their table 1 on procedural scenes. One encoder with a decoder for each task learns semantic classes (cross-entropy),
vectors to the centers of instances (L1, on instances only) and inverse depth (L1, 0 in the sky). Settings: every task
alone, equal weights, every way of weighting, a coarse grid of fixed weights, every pair; other initial log variances;
losses in the units of the data instead of standardized ones; and wrong class labels. Each setting and seed has a run in
a folder of its own. Scenes are generated once. Scores are those of one pass over 100 other scenes. The tables, one for
each learning rate, hold every setting whose run with this size, network and length exists. They are the last line, as
JSON, and in results/multitask.json below the size of the scenes; that file is written after each run.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from processes import finished
from stored_scenes import StoredScenes, stored

from sfumato.contracts import DataSet, Sample
from sfumato.data import DatasetView, Scenes
from sfumato.runs import Config, Plan, Run
from sfumato.storage import atomic_write
from sfumato.training import fit, make_plan

HERE = Path(__file__).parent
VAL, DROPOUT = 100, 0.1
ALL = ("classes", "centers", "inverse_depth")
LIKELIHOODS = {"classes": "categorical", "centers": "l1", "inverse_depth": "l1"}
SCORES = {"classes": ("iou", "miou"), "centers": ("instance_px", "epe"), "inverse_depth": ("inverse_depth", "epe")}
WRONG = 0.5  # share of random labels in the settings with wrong labels
RATES = (9e-3, 3e-3)  # largest learning rates: three times the default of the library, and the default
SEEDS = 3
ENTRIES = ("image", *(name + mask for name in ALL for mask in ("", "_valid")))


@dataclass(frozen=True)
class Setting:
    """One row of the table."""

    tasks: tuple[str, ...] = ALL
    weighting: str = "uncertainty"
    weights: tuple[float, ...] = ()
    likelihoods: tuple[tuple[str, str], ...] = ()
    start: float = 0.0
    raw: bool = False  # losses in pixels and 1/m
    wrong: bool = False  # wrong labels


PAIRS = {f"{a}+{b}": Setting((a, b)) for a, b in ((ALL[0], ALL[1]), (ALL[0], ALL[2]), (ALL[1], ALL[2]))}
SETTINGS: dict[str, Setting] = {
    **{f"{task}-alone": Setting((task,), "equal") for task in ALL},
    **{weighting: Setting(weighting=weighting) for weighting in ("equal", "uncertainty", "uw-so", "log1p", "dwa")},
    **PAIRS,
    **{
        f"grid-{centers:g}-{depth:g}": Setting(weighting="fixed", weights=(1.0, centers, depth))
        for centers in (0.25, 1.0, 4.0)
        for depth in (0.25, 1.0, 4.0)
        if (centers, depth) != (1.0, 1.0)  # these are equal weights
    },
    **{f"start{start:+g}": Setting(start=start) for start in (-2.0, 5.0)},
    "raw-equal": Setting(weighting="equal", raw=True),
    "raw-uncertainty": Setting(raw=True),
    "wrong-equal": Setting(weighting="equal", wrong=True),
    "wrong-uncertainty": Setting(wrong=True),
    "tempered": Setting(likelihoods=(("classes", "tempered"),)),
    "heteroscedastic": Setting(likelihoods=(("centers", "laplace"), ("inverse_depth", "laplace"))),
}


class Mislabeled(DatasetView):
    """Samples half of whose labels are random. The labels of a sample are the same each time it is read."""

    def __init__(self, dataset: DataSet, classes: int) -> None:
        super().__init__(dataset)
        self.classes = classes

    def __getitem__(self, index: int) -> Sample:
        sample: Any = self.whole[index]
        generator = torch.Generator().manual_seed(index)
        size = sample["classes"].shape
        drawn = torch.randint(self.classes, size, generator=generator)
        return {**sample, "classes": sample["classes"].where(torch.rand(size, generator=generator) >= WRONG, drawn)}


@dataclass(frozen=True)
class Budget:
    """What all runs of a table share."""

    size: tuple[int, int]
    images: int
    epochs: int
    batch: int
    widths: tuple[int, ...]

    @property
    def name(self) -> str:
        """The part of the name of a run that stands for it."""
        return "x".join(map(str, (self.images, self.epochs, *self.size, self.batch, *self.widths)))


@dataclass(frozen=True)
class Job:
    """One run: a setting, a learning rate and a seed."""

    setting: str
    budget: Budget
    rate: float
    seed: int
    runs: Path
    device: str

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return self.runs / f"multitask-{self.setting}-{self.budget.name}-{self.rate:g}-{self.seed}"

    @property
    def scores(self) -> Path:
        """The file with the row of a run that was scored."""
        return self.folder / "scores.json"


def planned(job: Job, train: DataSet) -> Plan:
    setting, budget = SETTINGS[job.setting], job.budget
    likelihoods = LIKELIHOODS | dict(setting.likelihoods)
    config = Config(
        tasks=",".join(setting.tasks), likelihood=",".join(likelihoods[task] for task in setting.tasks),
        weighting=setting.weighting, weights=setting.weights, log_variance=setting.start, method="deterministic",
        batch=budget.batch, epochs=budget.epochs, seed=job.seed, learning_rate=job.rate, precision="32-true",
        network_args={"dropout": DROPOUT, "widths": list(budget.widths)},
    )  # fmt: skip
    plan, _, _ = make_plan(config, train, device=job.device)
    return replace(plan, facts=replace(plan.facts, scales={})) if setting.raw else plan


def trained(scenes: StoredScenes, job: Job) -> dict[str, Any]:
    """Train and score one run. Its row is kept beside its weights."""
    start = time.perf_counter()
    wrong = Mislabeled(scenes, len(getattr(scenes.tasks["classes"], "names", ())))
    data = wrong if SETTINGS[job.setting].wrong else scenes
    run = fit(planned(job, data), data, None, job.folder, resume=True, device=job.device, progress=False,
              cache="memory", logger="csv")  # fmt: skip
    seconds = time.perf_counter() - start
    scores = scored(run, shown(min(VAL, job.budget.images), job.budget.size))
    row = {"scores": scores, "weights": weights(run), "seconds": round(seconds, 1)}
    with atomic_write(job.scores) as part:
        part.write_text(json.dumps(row))
    return row


@cache
def shown(count: int, size: tuple[int, int]) -> Sequence[Sample]:
    """Scenes to score on, which no run was trained on."""
    scenes = Scenes(count, size=size, seed=1)
    return [scenes[index] for index in range(count)]


def scored(run: Run, samples: Sequence[Sample]) -> dict[str, float]:
    """The scores of one pass."""
    scores = {name: view.single_task.scores() for name, view in run.per_task.items()}
    for index, sample in enumerate(samples):
        found = run.predict(*run.inputs_of(sample), index=index).to("cpu")
        for name, view in run.per_task.items():
            target, valid = view.single_task.target_and_mask(sample)
            scores[name].update(found[name], target[None], valid[None])
    return {SCORES[name][0]: float(each.compute()[SCORES[name][1]]) for name, each in scores.items()}


def weights(run: Run) -> dict[str, list[float]]:
    """The weight of each task after every epoch."""
    with (run.folder / "log/member-0/metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["train_nll"]]
    names = run.per_task
    return {name: [float(row[f"weight_{name}"]) for row in rows if row[f"weight_{name}"]] for name in names}


def table(jobs: Sequence[Job]) -> dict[str, Any]:
    """A row for each setting, over the seeds whose runs were scored."""
    rows: dict[str, Any] = {}
    for name in SETTINGS:
        found = [json.loads(job.scores.read_text()) for job in jobs if job.setting == name and job.scores.exists()]
        if found:
            each = {score: [one["scores"][score] for one in found] for score in found[0]["scores"]}
            rows[name] = {
                "seeds": len(found),
                **{score: mean(values) for score, values in each.items()},
                **{f"{score}_sd": stdev(values) for score, values in each.items() if len(values) > 1},
                **{f"{score}_by_seed": values for score, values in each.items()},
                "weights": {task: mean(one["weights"][task][-1] for one in found) for task in found[0]["weights"]},
                "weights_by_epoch": found[0]["weights"],
                "seconds": mean(one["seconds"] for one in found),
            }
    return rows


def write(out: Path, budget: Budget, runs: Path) -> dict[str, Any]:
    """Write the tables of a budget. Those of other sizes stay in the file."""
    every = {
        f"{rate:g}": table([Job(name, budget, rate, seed, runs, "") for name in SETTINGS for seed in range(SEEDS)])
        for rate in RATES
    }
    found = {
        "images": budget.images, "validated": min(VAL, budget.images), "epochs": budget.epochs, "batch": budget.batch,
        "size": budget.size, "network": "JointUNet", "widths": budget.widths, "dropout": DROPOUT,
        "wrong_labels": WRONG, "rows": {rate: rows for rate, rows in every.items() if rows},
    }  # fmt: skip
    height, width = budget.size
    result = (json.loads(out.read_text()) if out.exists() else {}) | {f"{height}x{width}": found}
    with atomic_write(out) as part:
        part.write_text(json.dumps(result, indent=1) + "\n")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(SETTINGS), choices=list(SETTINGS), metavar="SETTING")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--size", type=int, nargs=2, default=(128, 256), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--learning-rate", type=float, choices=RATES, default=RATES[0])
    parser.add_argument("--images", type=int, default=768)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--widths", type=int, nargs="+", default=(16, 32, 64, 96, 144))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_argument("--minutes", type=float, default=math.inf, help="no run is begun after this time")
    parser.add_argument("--runs", type=Path, default=HERE.parent / "runs")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "multitask.json")
    parser.add_argument("--list", action="store_true")
    given = parser.parse_args()
    if given.list:
        print(*SETTINGS, sep="\n")
        return
    end = time.time() + 60 * given.minutes
    budget = Budget(tuple(given.size), given.images, given.epochs, given.batch, tuple(given.widths))
    scenes = stored(Scenes(given.images, size=budget.size, seed=0), ENTRIES, given.runs, os.cpu_count() or 1)
    jobs = [  # so that a table of one seed is complete first
        Job(name, budget, given.learning_rate, seed, given.runs, given.device)
        for seed in range(given.seeds)
        for name in given.only
    ]
    missing = [job for job in jobs if not job.scores.exists()]
    for job, row in finished(partial(trained, scenes), missing, given.jobs, end):
        print(f"{job.folder.name}: {row['seconds']} s, {row['scores']}", flush=True)
        write(given.out, budget, given.runs)
    print(json.dumps(write(given.out, budget, given.runs)))


if __name__ == "__main__":
    main()
