"""One network for several tasks, weighted by learned noise: are the results those of Kendall, Gal and Cipolla (2018)?

    python benchmarks/multitask.py                        # everything; continues where it was stopped
    python benchmarks/multitask.py --only equal uw-so     # some settings
    python benchmarks/multitask.py --seeds 1 --epochs 4   # fewer and shorter runs
    python benchmarks/multitask.py --learning-rate 0.009  # a larger learning rate
    python benchmarks/multitask.py --list                 # the settings

Their table 1 on procedural scenes. One encoder with a decoder for each task learns semantic classes (cross-entropy),
vectors to the centers of instances (L1, on instances only) and inverse depth (L1, 0 in the sky). Settings: every task
alone, equal weights, every way of weighting, a coarse grid of fixed weights, every pair; other initial log variances;
losses in the units of the data instead of standardized ones; and wrong class labels. Each setting and seed has a run in
a folder of its own. Scores are those of one pass over 100 other scenes. The tables, one for each learning rate, hold
every setting whose run with these epochs and this size exists. They are the last line, as JSON, and in
results/multitask.json.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from sfumato.contracts import DataSet, Sample
from sfumato.data import DatasetView, Scenes
from sfumato.runs import Config, Plan, Run
from sfumato.training import fit, make_plan

HERE = Path(__file__).parent
TRAIN, VAL, BATCH, DROPOUT, WIDTHS = 384, 100, 8, 0.1, (8, 16, 32, 64)
ALL = ("classes", "centers", "inverse_depth")
LIKELIHOODS = {"classes": "categorical", "centers": "l1", "inverse_depth": "l1"}
SCORES = {"classes": ("iou", "miou"), "centers": ("instance_px", "epe"), "inverse_depth": ("inverse_depth", "epe")}
WRONG = 0.5  # share of random labels in the settings with wrong labels
RATES = (3e-3, 9e-3)  # largest learning rates: the default of the library, and three times that


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


def planned(setting: Setting, train: DataSet, epochs: int, rate: float, seed: int) -> Plan:
    likelihoods = LIKELIHOODS | dict(setting.likelihoods)
    config = Config(
        tasks=",".join(setting.tasks), likelihood=",".join(likelihoods[task] for task in setting.tasks),
        weighting=setting.weighting, weights=setting.weights, log_variance=setting.start, method="deterministic",
        batch=BATCH, epochs=epochs, seed=seed, learning_rate=rate,
        network_args={"dropout": DROPOUT, "widths": list(WIDTHS)},
    )  # fmt: skip
    plan, _, _ = make_plan(config, train)
    return replace(plan, facts=replace(plan.facts, scales={})) if setting.raw else plan


def scored(run: Run, val: DataSet) -> dict[str, float]:
    """The scores of one pass."""
    scores = {name: view.single_task.scores() for name, view in run.per_task.items()}
    for index in range(len(val)):
        sample = val[index]
        found = run.predict(*run.inputs_of(sample), index=index)
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


def table(runs: Path, ending: str, val: DataSet) -> dict[str, Any]:
    """A row for each setting whose runs exist, over its seeds. Each run is scored once."""
    rows: dict[str, Any] = {}
    for name in SETTINGS:
        found = []
        for folder in sorted(runs.glob(f"multitask-{name}-{ending}-[0-9]*")):
            if not (folder / "weights-0.safetensors").exists():
                continue
            kept = folder / "scores.json"
            run = Run.open(folder)
            if not kept.exists():
                kept.write_text(json.dumps(scored(run, val)))
            found.append({"scores": json.loads(kept.read_text()), "weights": weights(run)})
        if found:
            each = {score: [one["scores"][score] for one in found] for score in found[0]["scores"]}
            rows[name] = {
                "seeds": len(found),
                **{score: mean(values) for score, values in each.items()},
                **{f"{score}_sd": stdev(values) for score, values in each.items() if len(values) > 1},
                "weights": {task: mean(one["weights"][task][-1] for one in found) for task in found[0]["weights"]},
                "weights_by_epoch": found[0]["weights"],
            }
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(SETTINGS), choices=list(SETTINGS), metavar="SETTING")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--size", type=int, nargs=2, default=(64, 128), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--learning-rate", type=float, choices=RATES, default=RATES[0])
    parser.add_argument("--images", type=int, default=TRAIN)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, default=HERE / "results" / "multitask.json")
    parser.add_argument("--list", action="store_true")
    given = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    if given.list:
        print(*SETTINGS, sep="\n")
        return
    size = (given.size[0], given.size[1])
    scenes = Scenes(given.images, size=size, seed=0)
    val = Scenes(min(VAL, given.images), size=size, seed=1)
    wrong = Mislabeled(scenes, len(getattr(scenes.tasks["classes"], "names", ())))
    budget = f"{given.images}x{given.epochs}x{size[0]}x{size[1]}"
    endings = {rate: budget + (f"x{rate:g}" if rate != RATES[0] else "") for rate in RATES}
    ending = endings[given.learning_rate]
    for seed in range(given.seeds):  # so that a table of one seed is complete first
        for name in given.only:
            setting, folder = SETTINGS[name], given.runs / f"multitask-{name}-{ending}-{seed}"
            if (folder / "weights-0.safetensors").exists():
                continue
            data, start = wrong if setting.wrong else scenes, time.process_time()
            plan = planned(setting, data, given.epochs, given.learning_rate, seed)
            fit(plan, data, None, folder, resume=True, progress=False)
            print(f"{folder.name}: {(time.process_time() - start) / 60:.1f} CPU minutes", flush=True)
    result = {
        "images": given.images, "validated": len(val), "epochs": given.epochs, "batch": BATCH, "size": size,
        "network": "JointUNet", "widths": WIDTHS, "dropout": DROPOUT, "wrong_labels": WRONG,
        "rows": {f"{rate:g}": table(given.runs, name, val) for rate, name in endings.items()},
    }  # fmt: skip
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
