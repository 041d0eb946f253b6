"""Does one network for several tasks, weighted by their learned noise, do what Kendall, Gal and Cipolla (2018) say?

    python benchmarks/multitask.py                        # everything; goes on where it was stopped
    python benchmarks/multitask.py --only equal uw-so     # some settings
    python benchmarks/multitask.py --seeds 1 --epochs 4   # less of it
    python benchmarks/multitask.py --learning-rate 0.009  # with larger steps
    python benchmarks/multitask.py --list                 # the settings

Their table 1 on procedural scenes: semantic classes (cross-entropy), vectors to the centers of instances (L1, on
instances only) and inverse depth (L1, the sky at 0) learned by one encoder with a decoder for each: every task alone,
equal weights, every way of weighting, a coarse grid of fixed weights, every pair; the same from other starts of the
log-variances, in the units of the data rather than in spreads, and with wrong labels among the classes. A run of each
setting and seed lies in a folder of its own. Scores are those of one pass over 100 other scenes. The tables, by
learning rate, have every setting that is there for these epochs and this size; they are the last line, as JSON, and in
results/multitask.json.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch.utils.data import Dataset

from sfumato.data import Scenes
from sfumato.methods import Deterministic
from sfumato.predictions import JointPrediction, predict
from sfumato.tasks import MultiTask
from sfumato.training import Plan, Run, derive, fit, question, resolve_tasks, subset, with_target_statistics

HERE = Path(__file__).parent
TRAIN, VAL, BATCH, DROPOUT, WIDTHS = 384, 100, 8, 0.1, (8, 16, 32, 64)
ALL = ("classes", "centers", "inverse_depth")
LAWS = {"classes": "categorical", "centers": "l1", "inverse_depth": "l1"}
SCORES = {"classes": ("iou", "miou"), "centers": ("instance_px", "epe"), "inverse_depth": ("inverse_depth", "epe")}
WRONG = 0.5  # share of the labels that are wrong where labels are
RATES = (3e-3, 9e-3)  # largest learning rates: that of the library, and one three times as large


@dataclass(frozen=True)
class Setting:
    """One row of the table."""

    tasks: tuple[str, ...] = ALL
    weighting: str = "uncertainty"
    weights: tuple[float, ...] = ()
    laws: tuple[tuple[str, str], ...] = ()
    start: float = 0.0
    raw: bool = False  # pixels and 1/m as they are
    wrong: bool = False  # labels


PAIRS = {f"{a}+{b}": Setting((a, b)) for a, b in ((ALL[0], ALL[1]), (ALL[0], ALL[2]), (ALL[1], ALL[2]))}
SETTINGS: dict[str, Setting] = {
    **{f"{task}-alone": Setting((task,), "equal") for task in ALL},
    **{weighting: Setting(weighting=weighting) for weighting in ("equal", "uncertainty", "uw-so", "log1p", "dwa")},
    **PAIRS,
    **{
        f"grid-{centers:g}-{depth:g}": Setting(weighting="fixed", weights=(1.0, centers, depth))
        for centers in (0.25, 1.0, 4.0)
        for depth in (0.25, 1.0, 4.0)
        if (centers, depth) != (1.0, 1.0)  # which is equal
    },
    **{f"start{start:+g}": Setting(start=start) for start in (-2.0, 5.0)},
    "raw-equal": Setting(weighting="equal", raw=True),
    "raw-uncertainty": Setting(raw=True),
    "wrong-equal": Setting(weighting="equal", wrong=True),
    "wrong-uncertainty": Setting(wrong=True),
    "tempered": Setting(laws=(("classes", "tempered"),)),
    "heteroscedastic": Setting(laws=(("centers", "laplace"), ("inverse_depth", "laplace"))),
}


class Mislabeled(Dataset):
    """Samples half of whose labels are drawn at random, the same ones each time."""

    def __init__(self, dataset: Dataset, classes: int) -> None:
        self.dataset, self.classes = dataset, classes

    def __len__(self) -> int:
        return len(self.dataset)  # pyright: ignore[reportArgumentType]

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.dataset[index]
        generator = torch.Generator().manual_seed(index)
        size = sample["classes"].shape
        drawn = torch.randint(self.classes, size, generator=generator)
        return sample | {"classes": sample["classes"].where(torch.rand(size, generator=generator) >= WRONG, drawn)}


def planned(setting: Setting, train: Dataset, scenes: Scenes, epochs: int, rate: float, seed: int) -> Plan:
    laws = LAWS | dict(setting.laws)
    plan = Plan(
        data="scenes", tasks=",".join(setting.tasks), likelihood=",".join(laws[task] for task in setting.tasks),
        weighting=setting.weighting, weights=setting.weights, log_variance=setting.start, original_size=scenes.size, members=1,
        method="deterministic", batch=BATCH, epochs=epochs, seed=seed, learning_rate=rate,
        network_args={"dropout": DROPOUT, "widths": WIDTHS},
    )  # fmt: skip
    plan = resolve_tasks(plan, scenes.tasks)
    plan = derive(train, question(plan)[0], plan, scenes.augmentation)
    return plan if setting.raw else with_target_statistics(plan, train)


def scored(run: Run, val: Dataset) -> dict[str, float]:
    """The scores of one pass."""
    scores = {name: view.task.scores() for name, view in run.per_task.items()}
    for index in range(len(val)):  # pyright: ignore[reportArgumentType]
        sample = val[index]
        found = predict(Deterministic(run.networks[0]), sample["image"][None], likelihood=run.likelihood)
        assert isinstance(found, JointPrediction)
        for name, view in run.per_task.items():
            target, valid = view.task.target_and_mask(sample)
            scores[name].update(found[name], target[None], valid[None])
    return {SCORES[name][0]: float(each.compute()[SCORES[name][1]]) for name, each in scores.items()}


def weights(run: Run) -> dict[str, list[float]]:
    """The weight of each task after every epoch."""
    with (run.folder / "log/member-0/metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["train_nll"]]
    names = run.per_task
    return {name: [float(row[f"weight_{name}"]) for row in rows if row[f"weight_{name}"]] for name in names}


def table(runs: Path, ending: str, val: Dataset) -> dict[str, Any]:
    """A row for each setting that is there, over its seeds; each run is scored once."""
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
    several: Any = MultiTask({name: scenes.tasks[name] for name in ALL})
    train, val = subset(scenes, several), subset(Scenes(min(VAL, given.images), size=size, seed=1), several)
    wrong = subset(Mislabeled(train, len(scenes.tasks["classes"].names)), several)
    budget = f"{given.images}x{given.epochs}x{size[0]}x{size[1]}"
    endings = {rate: budget + (f"x{rate:g}" if rate != RATES[0] else "") for rate in RATES}
    ending = endings[given.learning_rate]
    for seed in range(given.seeds):  # so that a table of one seed is there first
        for name in given.only:
            setting, folder = SETTINGS[name], given.runs / f"multitask-{name}-{ending}-{seed}"
            if (folder / "weights-0.safetensors").exists():
                continue
            data, start = wrong if setting.wrong else train, time.process_time()
            plan = planned(setting, data, scenes, given.epochs, given.learning_rate, seed)
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
