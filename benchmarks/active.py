"""Active learning on CamVid: which pixels are worth a label?

    python benchmarks/active.py run --camvid DIR --out OUT                      # on a CPU this takes hours
    python benchmarks/active.py run --camvid DIR --out OUT --device cuda --jobs 9 --seconds 170 --cuda-graph
    python benchmarks/active.py run --camvid DIR --out OUT --tiny               # a try: few steps, few draws
    python benchmarks/active.py run --scenes --out OUT                          # generated scenes, a small network

Every experiment is one `sfumato loop`: label at random, train from scratch (from ImageNet weights), choose pixels, and
so on, with the same number of steps in every training. The first round of a seed is shared by all methods. DIR holds
train, trainannot, val and valannot. After each finished experiment OUT/active.json is written. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from jobs import Job, absolute, run_jobs

HERE = Path(__file__).parent
SEEDS = (0, 1, 2)
SPARE = 6.0  # seconds at the end, to write the table
RESAMPLES = 2000
METHODS = {  # selector and score, the most important first
    "class-stratified random": ("class-stratified-random", "entropy"),
    "ClaSP PE": ("class-stratified", "entropy"),
    "entropy": ("top-k", "entropy"),
    "random": ("random", "entropy"),
    "k-center": ("k-center", "entropy"),
    "mutual information": ("top-k", "mutual-information"),
}
FULL, FIRST = "full", "first"  # all labels, and the round that all methods share
REFERENCE = "class-stratified random"


@dataclass(frozen=True)
class Setting:
    """Data, network and budget.

    Args:
        fit: Options of every training.
        images: Number of images of the pool.
        start: Pixels of an image that are labeled at random first.
        more: Pixels of an image, as a mean, that are labeled in each round; at most twice as many of one image.
        rounds: Number of rounds after the first.
        epochs: Passes of every training.
    """

    fit: tuple[str, ...]
    images: int
    start: int
    more: int
    rounds: int
    epochs: int


SETTINGS = {
    "camvid": Setting(
        ("--data=camvid", "--network=efficient-unet", "--size=360,480", "--crop=256,320", "--batch=8",
         "--learning-rate=0.002", "--precision=bf16-mixed", "--samples=5", "--pool-scale=0.5"), 367, 20, 40, 2, 5,
    ),
    "scenes": Setting(
        ("--data=scenes", "--size=64,96", "--limit=96", "--batch=8", "--samples=3",
         '--network-args={"widths": [8, 16, 32]}'), 96, 8, 8, 2, 16,
    ),
}  # fmt: skip


def setting_of(options: argparse.Namespace) -> Setting:
    if options.scenes:
        return SETTINGS["scenes"]
    return replace(SETTINGS["camvid"], images=len(list((options.camvid / "trainannot").iterdir())))


def folder_of(runs: Path, name: str, seed: int) -> Path:
    return runs / f"{name.replace(' ', '-')}-{seed}"


def experiment(name: str, seed: int, options: argparse.Namespace) -> None:
    """Run one experiment by the command line. It goes on where it was stopped."""
    from sfumato.cli import main as sfumato

    setting, folder = setting_of(options), folder_of(options.runs, name, seed)
    selector, score = METHODS.get(name, ("random", "entropy"))
    rounds = 0 if name in (FIRST, FULL) else options.rounds or setting.rounds
    if name in METHODS and not folder.exists():
        part = folder.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(folder_of(options.runs, FIRST, seed) / "round-0", part / "round-0")
        part.replace(folder)
    amount = (
        ("--unit=image", f"--start={setting.images}")
        if name == FULL
        else ("--unit=pixel", f"--start={setting.start * setting.images}", f"--budget={setting.more * setting.images}",
              f"--per-image={2 * setting.more}")
    )  # fmt: skip
    arguments = [
        "loop", *setting.fit, *amount, f"--rounds={rounds}", f"--selector={selector}", f"--score={score}",
        f"--epochs={options.epochs or setting.epochs}", f"--seed={100 * seed}", f"--choice-seed={10 * seed}",
        f"--out={folder}", f"--device={options.device}", "--workers=0", "--resume", "--quiet",
        *([] if options.scenes else [f"--root={options.camvid}"]), *(["--cuda-graph"] if options.cuda_graph else []),
    ]  # fmt: skip
    if sfumato(arguments):
        raise SystemExit(f"`sfumato {' '.join(arguments)}` failed")


def last_round(runs: Path, name: str, seed: int, rounds: int) -> Path:
    return folder_of(runs, name, seed) / f"round-{rounds}" / "scores.json"


def jobs(options: argparse.Namespace) -> list[Job]:
    """All experiments, the most important first."""
    rounds = options.rounds or setting_of(options).rounds

    def job(name: str, seed: int) -> Job:
        own = [f"--{key.replace('_', '-')}={value}" for key, value in vars(options).items()
               if key in ("camvid", "runs", "device", "epochs", "rounds", "out") and value]  # fmt: skip
        flags = [f"--{key.replace('_', '-')}" for key in ("scenes", "cuda_graph") if getattr(options, key)]
        command = (str(HERE / "active.py"), "one", *own, *flags, f"--name={name}", f"--seed={seed}")
        needs = (f"{FIRST}-{seed}",) if name in METHODS else ()
        return Job(
            folder_of(Path(), name, seed).name, command,
            last_round(options.runs, name, seed, rounds if name in METHODS else 0), needs,
        )  # fmt: skip

    wanted = [(FIRST, seed) for seed in SEEDS] + [(name, seed) for name in list(METHODS)[:4] for seed in SEEDS]
    wanted[3:3] = [(FULL, seed) for seed in SEEDS]
    wanted += [(name, seed) for name in list(METHODS)[4:] for seed in SEEDS]
    return [job(name, seed) for name, seed in wanted]


def curves(runs: Path, name: str) -> dict[int, list[dict[str, float]]]:
    """The finished rounds of each seed."""
    found = {}
    for seed in SEEDS:
        files = sorted(folder_of(runs, name, seed).glob("round-*/scores.json"), key=lambda file: file.parent.name)
        if files:
            found[seed] = [json.loads(file.read_text()) for file in files]
    return found


def area(rows: Sequence[Mapping[str, float]]) -> float:
    """The mean mIoU over the labeled pixels, from the first to the last round, by trapezoids."""
    x, y = ([row[key] for row in rows] for key in ("pixels", "miou"))
    return float(np.trapezoid(y, x) / (x[-1] - x[0]))


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The percentile interval at 95 % of the mean, by resampling seeds."""
    drawn = np.random.default_rng(0).choice(np.array(values), (RESAMPLES, len(values))).mean(1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)


def spread(values: Sequence[float]) -> tuple[float, float | None]:
    return mean(values), stdev(values) if len(values) > 1 else None


def table(runs: Path, setting: Setting, rounds: int) -> dict[str, Any]:
    """Every method with the seeds that are finished, and each round with those that have it."""
    every = {name: curves(runs, name) for name in METHODS}
    areas = {name: {seed: area(rows) for seed, rows in found.items() if len(rows) == rounds + 1}
             for name, found in every.items()}  # fmt: skip
    full = [rows[0]["miou"] for rows in curves(runs, FULL).values()]
    result: dict[str, Any] = {"seeds": len(SEEDS), "full": spread(full) if full else None, "methods": {}}
    for name, found in every.items():
        row: dict[str, Any] = {"rounds": _rounds(found, setting, mean(full) if full else None)}
        if own := areas[name]:
            row |= {
                "seeds": len(own),
                "area": spread(list(own.values())),
                "area_interval": interval(list(own.values())),
            }
            differences = [value - areas[REFERENCE][seed] for seed, value in own.items() if seed in areas[REFERENCE]]
            if name != REFERENCE and differences:
                row |= {"over_reference": mean(differences), "over_reference_interval": interval(differences)}
        result["methods"][name] = row
    return result


def _rounds(found: Mapping[int, Sequence[Mapping[str, float]]], setting: Setting, full: float | None) -> list[Any]:
    rows = []
    for number in range(max((len(each) for each in found.values()), default=0)):
        own = [each[number] for each in found.values() if len(each) > number]
        miou = spread([each["miou"] for each in own])
        row = {"pixels_per_image": own[0]["pixels"] / setting.images, "share": own[0]["share"], "seeds": len(own),
               "miou": miou, "nll": spread([each["nll"] for each in own])}  # fmt: skip
        rows.append(row | ({"of_full": miou[0] / full} if full else {}))
    return rows


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that is missing, until the time is over."""
    begun = time.monotonic()
    for folder in (options.out, options.runs):
        folder.mkdir(parents=True, exist_ok=True)
    if options.cuda_graph:
        from gpu import TURNS, share_gpu

        options.jobs = options.jobs if share_gpu(options.runs / "mps") else min(options.jobs, TURNS)
    setting = setting_of(options)

    def write() -> dict[str, Any]:
        found = table(options.runs, setting, options.rounds or setting.rounds)
        found |= {"epochs": options.epochs or setting.epochs, "seconds": time.monotonic() - begun}
        (options.out / "active.json").write_text(json.dumps(found, indent=1) + "\n")
        return found

    left = options.seconds - (time.monotonic() - begun) - SPARE
    run_jobs(jobs(options), options.runs / "logs", options.jobs, left, write)
    for file in options.runs.rglob("scores.json"):  # all numbers, to take along
        place = options.out / "rounds" / file.relative_to(options.runs)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
    return write()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "one"))
    parser.add_argument("--camvid", type=absolute, help="folder with train, trainannot, val and valannot")
    parser.add_argument("--scenes", action="store_true", help="generated scenes and a small network instead")
    parser.add_argument("--out", type=absolute, required=True)
    parser.add_argument("--runs", type=absolute, help="folder of the runs; default OUT/runs")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--jobs", type=int, default=1, help="experiments at the same time")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--epochs", type=int, default=0, help="passes of every training; 0 for those of the setting")
    parser.add_argument("--rounds", type=int, default=0, help="rounds after the first; 0 for those of the setting")
    parser.add_argument("--cuda-graph", action="store_true", help="on a GPU: replay passes, and share the GPU")
    parser.add_argument("--tiny", action="store_true", help="one epoch and one round")
    parser.add_argument("--name", default="", help="for one: the experiment")
    parser.add_argument("--seed", type=int, default=0, help="for one: its seed")
    options = parser.parse_args()
    options.runs = options.runs or options.out / "runs"
    if not options.scenes and not options.camvid:
        parser.error("name the data: --camvid DIR, or --scenes")
    if options.tiny:
        options.epochs, options.rounds = 1, 1
    if options.command == "one":
        sys.path.insert(0, str(HERE))
        experiment(options.name, options.seed, options)
        return
    print(json.dumps(run(options)))


if __name__ == "__main__":
    main()
