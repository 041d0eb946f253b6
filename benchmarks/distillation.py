"""What is kept of an ensemble's uncertainty when one network learns to say it in one pass?

    python benchmarks/distillation.py --camvid DIR --sevenscenes DIR            # train what is missing, then score
    python benchmarks/distillation.py --camvid DIR --sevenscenes DIR --score    # score what is there

Classes on CamVid train → val at 180 × 240: five networks of benchmarks/camvid.py are the teacher; three of them, alone,
are the single network; a student has the same network, seed (so the same initial weights), epochs and batches as one of
these. Out of distribution are 7-Scenes frames, and every fourth CamVid image darkened, blurred or noisy, severity 3.
Depth on 7-Scenes likewise, with three teachers. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.utils.data import Dataset, Subset

from sfumato.cli.evaluate import without_nan
from sfumato.data import load
from sfumato.data.scenes.shifts import shift
from sfumato.methods import DeepEnsemble, Deterministic
from sfumato.metrics import FidelityScores, OODScores
from sfumato.predictions import predict
from sfumato.training import Plan, Run

HERE = Path(__file__).parent
SINGLES = (0, 1, 2)
MEMBERS = {"camvid-categorical": 5, "sevenscenes-heteroscedastic": 3}
STUDENTS = {  # kind of student → arguments of `sfumato distill`, and its seeds
    "student": ([], SINGLES),
    "student-started": (["--start", "--epochs=11"], (0,)),  # a quarter of the budget, from a member
    "student-probs": (["--likelihood=distilled-probs"], (0,)),
    "student-dudes": (["--likelihood=dudes"], (0,)),
}
SHIFTS, SEVERITY, REJECTED = ("darkness", "blur", "noise"), 3, (0, 10, 20, 30, 40, 50)
CLASS_SCORES = ("miou", "nll", "ece", "error_auroc", "error_aupr", "aurc")
DEPTH_SCORES = ("abs_rel", "rmse", "nll", "ause")


def gathered(name: str, runs: Path) -> Path:
    """The networks of several runs as one run, an ensemble."""
    folder = runs / f"{name}-ensemble"
    if not (folder / "plan.yaml").exists():
        sources = [runs / f"{name}-{seed}" for seed in range(MEMBERS[name])]
        folder.mkdir(parents=True, exist_ok=True)
        for member, source in enumerate(sources):
            shutil.copy(source / "weights-0.safetensors", folder / f"weights-{member}.safetensors")
        replace(Plan.load(sources[0] / "plan.yaml"), method="ensemble", members=len(sources)).save(folder / "plan.yaml")
    return folder


def folder_of(name: str, kind: str, seed: int, runs: Path) -> Path:
    return runs / f"{name}-{kind}-{seed}"


def fit(name: str, kind: str, seed: int, runs: Path) -> None:
    """Distil with the command a user would type; goes on with what was interrupted, leaves what is finished."""
    arguments = [f"{a}={runs / f'{name}-{seed}'}" if a == "--start" else a for a in STUDENTS[kind][0]]
    arguments += [f"--seed={100 * seed}", f"--out={folder_of(name, kind, seed, runs)}", "--resume", "--quiet"]
    subprocess.run(
        [sys.executable, "-m", "sfumato", "distill", str(gathered(name, runs)), *arguments], check=True, cwd=HERE
    )


class Shifted(Dataset):
    """A data set darkened, blurred or noisy."""

    def __init__(self, dataset: Any, kind: str) -> None:
        self.dataset, self.kind = dataset, kind

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.dataset[index]
        noise = torch.Generator().manual_seed(index)
        return sample | {"image": shift(sample["image"], self.kind, SEVERITY, generator=noise)}


def said(run: Run, dataset: Any, alone: bool) -> Iterator[tuple[dict[str, Any], Any]]:
    """Each sample with its prediction, of one pass with dropout deterministic or of all members."""
    method = Deterministic(run.networks[0]) if alone else DeepEnsemble(run.networks)
    for index in range(len(dataset)):
        sample = dataset[index]
        yield sample, predict(method, sample["image"][None], likelihood=run.likelihood)


def scored(run: Run, teacher: Run | None, dataset: Any, worlds: dict[str, Any]) -> dict[str, Any]:
    """Scores of one run on every image, against its teacher, and against other worlds."""
    alone, key = len(run.networks) == 1, run.task.key
    scores, fidelity = run.task.scores(), FidelityScores(len(getattr(run.task, "names", ("",))))
    rejection = Rejection(len(getattr(run.task, "names", ())))
    ood = {world: OODScores() for world in worlds}
    for sample, prediction in said(run, dataset, alone):
        everywhere = torch.ones_like(prediction.total, dtype=torch.bool)
        for each in ood.values():
            each.update(prediction, ~everywhere, everywhere)
        truth = sample[key][None], sample[key + "_valid"][None]
        scores.update(prediction, *truth)
        rejection.add(prediction, *truth)
        if teacher is not None:
            theirs = predict(DeepEnsemble(teacher.networks), sample["image"][None], likelihood=teacher.likelihood)
            fidelity.update(prediction, theirs, truth[1])
    found = {name: float(value) for name, value in scores.compute().items()} | rejection.miou()
    if teacher is not None:
        found |= {f"fidelity_{name}": float(value) for name, value in fidelity.compute().items()}
    for world, foreign in worlds.items():
        for _, prediction in said(run, foreign, alone):
            everywhere = torch.ones_like(prediction.total, dtype=torch.bool)
            ood[world].update(prediction, everywhere, everywhere)
        columns = ood[world].compute()
        found |= {f"ood_{world}_{part}": float(columns[f"ood_auroc_{part}"]) for part in ("total", "epistemic")}
    return found


class Rejection:
    """mIoU of the pixels that are left when the most uncertain are rejected, over classes that all pixels hold."""

    def __init__(self, classes: int) -> None:
        self.classes, self.rows = classes, []

    def add(self, prediction: Any, target: torch.Tensor, valid: torch.Tensor) -> None:
        """Keep the pixels of an image."""
        if self.classes:
            rows = prediction.total[valid], prediction.label[valid].byte(), target[valid].byte()
            self.rows.append(rows)

    def miou(self) -> dict[str, float]:
        """MIoU at each share rejected."""
        if not self.classes:
            return {}
        total, label, target = (torch.cat(column) for column in zip(*self.rows))
        order, found = total.argsort(), {}
        present = torch.bincount(target.long(), minlength=self.classes) > 0
        for share in REJECTED:
            kept = order[: round(len(order) * (1 - share / 100))]
            pairs = torch.bincount(target[kept].long() * self.classes + label[kept], minlength=self.classes**2)
            pairs = pairs.view(self.classes, -1)
            # A class none of whose pixels are left was rejected altogether: it counts as 0.
            hits = pairs.diagonal()
            iou = hits / (pairs.sum(0) + pairs.sum(1) - hits).clamp_min(1)
            found[f"miou_rejecting_{share}"] = float(iou[present].mean())
        return found


def row(runs: list[Path], teacher: Run | None, dataset: Any, worlds: dict[str, Any]) -> dict[str, Any]:
    """Score → [mean, standard deviation] over the runs that are there."""
    each = []
    for folder in runs:
        if not list(folder.glob("weights-*.safetensors")):
            continue
        kept = folder / "benchmark-distillation.json"  # so that an interrupted scoring goes on too
        if not kept.exists():
            kept.write_text(json.dumps(scored(Run.open(folder), teacher, dataset, worlds)))
        each.append(json.loads(kept.read_text()))
    if not each:
        return {}
    spread = {k: _spread([e[k] for e in each]) for k in each[0]}
    wanted = [k for k in spread if k in (*CLASS_SCORES, *DEPTH_SCORES) or k.startswith(("ood", "fidelity", "miou_"))]
    network = Run.open(next(f for f in runs if f.exists())).networks
    parameters = sum(p.numel() for member in network for p in member.parameters())
    return {"seeds": len(each), "parameters": parameters} | {k: spread[k] for k in wanted}


def _spread(values: list[float]) -> tuple[float, float | None]:
    found = torch.tensor(values, dtype=torch.float64)  # statistics.stdev fails on NaN
    return float(found.mean()), float(found.std()) if len(values) > 1 else None


def passes(single: Run, others: dict[str, Run], repeats: int = 15) -> dict[str, float]:
    """Median time of a prediction relative to one plain pass of the single network, rounds interleaved."""
    image = torch.rand(1, 3, 180, 240, generator=torch.Generator().manual_seed(0))
    works = {"single": single, **others}
    times: dict[str, list[float]] = {name: [] for name in works}
    with torch.no_grad():
        for _ in range(repeats):
            for name, run in works.items():
                start = time.perf_counter()
                if name == "single":
                    single.networks[0](image)
                else:
                    method = Deterministic(run.networks[0]) if len(run.networks) == 1 else DeepEnsemble(run.networks)
                    predict(method, image, likelihood=run.likelihood)
                times[name].append(time.perf_counter() - start)
    base = median(times["single"])
    return {name: median(column) / base for name, column in times.items() if name != "single"}


def table(name: str, dataset: Any, worlds: dict[str, Any], runs: Path) -> dict[str, Any]:
    teacher = Run.open(gathered(name, runs))
    rows = {
        "single": row([runs / f"{name}-{seed}" for seed in SINGLES], teacher, dataset, worlds),
        "teacher": row([teacher.folder], None, dataset, worlds),
    }
    for kind, (_, seeds) in STUDENTS.items():
        rows[kind] = row([folder_of(name, kind, seed, runs) for seed in seeds], teacher, dataset, worlds)
    rows = {kind: each for kind, each in rows.items() if each}
    for kind, each in rows.items():
        print(name, kind, each, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--camvid", type=Path, required=True)
    parser.add_argument("--sevenscenes", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=HERE.parent / "runs")
    parser.add_argument("--score", action="store_true")
    options = parser.parse_args()
    runs = options.runs.absolute()
    if not options.score:
        for kind, (_, seeds) in STUDENTS.items():
            for seed in seeds:
                fit("camvid-categorical", kind, seed, runs)
        for seed in SINGLES:
            fit("sevenscenes-heteroscedastic", "student", seed, runs)
    camvid = load("camvid", options.camvid, "val", (180, 240))
    rooms = load("sevenscenes", options.sevenscenes, "val", (180, 240))
    every = range(0, len(camvid), 4)  # pyright: ignore[reportArgumentType]
    worlds: dict[str, Any] = {"sevenscenes": Subset(rooms, range(0, len(rooms), 2))}  # pyright: ignore
    worlds |= {kind: Subset(Shifted(camvid, kind), every) for kind in SHIFTS}
    classes = table("camvid-categorical", camvid, worlds, runs)
    depth = table("sevenscenes-heteroscedastic", load("sevenscenes", options.sevenscenes, "val", (96, 128)), {}, runs)
    gain = {
        kind: (classes[kind]["error_auroc"][0] - classes["single"]["error_auroc"][0])
        / (classes["teacher"]["error_auroc"][0] - classes["single"]["error_auroc"][0])
        for kind in classes
        if kind.startswith("student")
    }
    named = {"teacher": gathered("camvid-categorical", runs), "student": runs / "camvid-categorical-student-0"}
    cost = passes(Run.open(runs / "camvid-categorical-0"), {name: Run.open(path) for name, path in named.items()})
    result = {
        "auroc_gain_kept": gain["student"],
        "student_passes": cost["student"],
        "teacher_passes": cost["teacher"],
        "auroc_gain_kept_by": gain,
        "classes": classes,
        "depth": depth,
    }
    result = without_nan(result)  # what one pass leaves undefined, such as the ranks of an epistemic part of 0
    (HERE / "results" / "distillation.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
