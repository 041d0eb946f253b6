"""How much of an ensemble's uncertainty does a student keep that predicts it in one pass?

    python benchmarks/distillation_small.py --camvid DIR --sevenscenes DIR            # train missing runs, then score
    python benchmarks/distillation_small.py --camvid DIR --sevenscenes DIR --score    # score the runs that exist

Classes on CamVid train → val at 180 × 240. Five networks of benchmarks/camvid_small.py are the teacher, and three of
them are the single networks. A student has the network, seed (so the initial weights), epochs and batches of one of
these. Out of distribution are 7-Scenes frames, and every fourth CamVid image darkened, blurred or noisy, severity 3.
Depth on 7-Scenes likewise, with three teachers. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch
from foreign import SHIFTS, Shifted
from members import gather_members
from torch import Tensor

from sfumato.contracts import DataSet, Sample
from sfumato.data import DatasetView, load
from sfumato.methods import DeepEnsemble, Deterministic
from sfumato.metrics import FidelityScores, OODScores
from sfumato.runs import Run

HERE = Path(__file__).parent
SINGLES = (0, 1, 2)
MEMBERS = {"camvid-categorical": 5, "sevenscenes-heteroscedastic": 3}
STUDENTS = {  # kind of student → arguments of `sfumato distill`, and its seeds
    "student": ([], SINGLES),
    "student-started": (["--init-from", "--epochs=11"], (0,)),  # a quarter of the epochs, from a member
    "student-probs": (["--likelihood=distilled-probs"], (0,)),
    "student-dudes": (["--likelihood=dudes"], (0,)),
}
REJECTED = (0, 10, 20, 30, 40, 50)
CLASS_SCORES = ("miou", "nll", "ece", "error_auroc", "error_aupr", "aurc")
DEPTH_SCORES = ("abs_rel", "rmse", "nll", "ause")


def gathered(name: str, runs: Path) -> Path:
    """The networks of several runs as one run, an ensemble."""
    folder = runs / f"{name}-ensemble"
    if not (folder / "plan.yaml").exists():
        gather_members([runs / f"{name}-{seed}" for seed in range(MEMBERS[name])], folder)
    return folder


def folder_of(name: str, kind: str, seed: int, runs: Path) -> Path:
    return runs / f"{name}-{kind}-{seed}"


def fit(name: str, kind: str, seed: int, runs: Path) -> None:
    """Distill with the command line. An interrupted run is continued, a finished one is left as it is."""
    member = runs / f"{name}-{seed}"
    options = [f"{option}={member}" if option == "--init-from" else option for option in STUDENTS[kind][0]]
    options += [f"--seed={100 * seed}", f"--out={folder_of(name, kind, seed, runs)}", "--resume", "--quiet"]
    command = [sys.executable, "-m", "sfumato", "distill", str(gathered(name, runs)), *options]
    subprocess.run(command, check=True, cwd=HERE)


def predictions(run: Run, dataset: DataSet) -> Iterator[tuple[Sample, Any]]:
    """Each sample with its prediction: of one pass without dropout, or of all members."""
    method = Deterministic(run.networks[0]) if len(run.networks) == 1 else DeepEnsemble(run.networks)
    for index in range(len(dataset)):
        sample = dataset[index]
        yield sample, run.predict_uncalibrated(method, *run.inputs_of(sample), index=index)


def scored(run: Run, teacher: Run | None, dataset: DataSet, ood_data: Mapping[str, DataSet]) -> dict[str, Any]:
    """Scores of one run on every image, compared with its teacher, and with data out of distribution."""
    task, names = run.single_task, getattr(run.task, "names", ())
    scores, fidelity, rejection = task.scores(), FidelityScores(max(1, len(names))), Rejection(len(names))
    ood = {name: OODScores() for name in ood_data}
    for sample, prediction in predictions(run, dataset):
        everywhere = torch.ones_like(prediction.total, dtype=torch.bool)
        for each in ood.values():
            each.update(prediction, ~everywhere, everywhere)
        target, valid = (value[None] for value in task.target_and_mask(sample))
        scores.update(prediction, target, valid)
        rejection.add(prediction, target, valid)
        if teacher is not None:
            method = DeepEnsemble(teacher.networks)
            fidelity.update(prediction, teacher.predict_uncalibrated(method, *teacher.inputs_of(sample)), valid)
    found = {name: float(value) for name, value in scores.compute().items()} | rejection.miou()
    if teacher is not None:
        found |= {f"fidelity_{name}": float(value) for name, value in fidelity.compute().items()}
    for name, other in ood_data.items():
        for _, prediction in predictions(run, other):
            everywhere = torch.ones_like(prediction.total, dtype=torch.bool)
            ood[name].update(prediction, everywhere, everywhere)
        columns = ood[name].compute()
        found |= {f"ood_{name}_{part}": float(columns[f"ood_auroc_{part}"]) for part in ("total", "epistemic")}
    return found


class Rejection:
    """mIoU of the pixels that are left when the most uncertain are rejected, over the classes that all pixels hold."""

    def __init__(self, classes: int) -> None:
        self.classes, self.rows = classes, []

    def add(self, prediction: Any, target: Tensor, valid: Tensor) -> None:
        """Keep the pixels of an image."""
        if self.classes:
            rows = prediction.total[valid], prediction.label[valid].byte(), target[valid].byte()
            self.rows.append(rows)

    def miou(self) -> dict[str, float]:
        """MIoU for each share of rejected pixels."""
        if not self.classes:
            return {}
        total, label, target = (torch.cat(column) for column in zip(*self.rows))
        order, found = total.argsort(), {}
        present = torch.bincount(target.long(), minlength=self.classes) > 0
        for share in REJECTED:
            kept = order[: round(len(order) * (1 - share / 100))]
            pairs = torch.bincount(target[kept].long() * self.classes + label[kept], minlength=self.classes**2)
            pairs = pairs.view(self.classes, -1)
            # A class without any remaining pixel counts as 0.
            hits = pairs.diagonal()
            iou = hits / (pairs.sum(0) + pairs.sum(1) - hits).clamp_min(1)
            found[f"miou_rejecting_{share}"] = float(iou[present].mean())
        return found


def row(
    folders: list[Path], teacher: Run | None, dataset: DataSet, ood_data: Mapping[str, DataSet]
) -> dict[str, Any]:  # fmt: skip
    """Score → [mean, standard deviation] over the runs that exist."""
    folders = [folder for folder in folders if list(folder.glob("weights-*.safetensors"))]
    each = []
    for folder in folders:
        kept = folder / "benchmark-distillation.json"  # so that an interrupted scoring can be continued
        if not kept.exists():
            kept.write_text(json.dumps(scored(Run.open(folder), teacher, dataset, ood_data)))
        each.append(json.loads(kept.read_text()))
    if not each:
        return {}
    spread = {k: _spread([e[k] for e in each]) for k in each[0]}
    wanted = [k for k in spread if k in (*CLASS_SCORES, *DEPTH_SCORES) or k.startswith(("ood", "fidelity", "miou_"))]
    parameters = sum(p.numel() for network in Run.open(folders[0]).networks for p in network.parameters())
    return {"seeds": len(each), "parameters": parameters} | {k: spread[k] for k in wanted}


def _spread(values: list[float]) -> tuple[float, float | None]:
    found = torch.tensor(values, dtype=torch.float64)  # statistics.stdev fails on NaN
    return float(found.mean()), float(found.std()) if len(values) > 1 else None


def without_nan(value: Any) -> Any:
    """JSON without NaN: None in its place."""
    if isinstance(value, dict):
        return {key: without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def passes(single: Run, others: dict[str, Run], repeats: int = 15) -> dict[str, float]:
    """Median time of a prediction relative to one plain pass of the single network. Rounds alternate."""
    image = torch.rand(1, 3, 180, 240, generator=torch.Generator().manual_seed(0))
    times: dict[str, list[float]] = {name: [] for name in ("single", *others)}
    with torch.no_grad():
        for _ in range(repeats):
            for name, run in {"single": single, **others}.items():
                start = time.perf_counter()
                if name == "single":
                    single.networks[0](image)
                else:
                    method = Deterministic(run.networks[0]) if len(run.networks) == 1 else DeepEnsemble(run.networks)
                    run.predict_uncalibrated(method, image)
                times[name].append(time.perf_counter() - start)
    base = median(times["single"])
    return {name: median(column) / base for name, column in times.items() if name != "single"}


def table(name: str, dataset: DataSet, ood_data: Mapping[str, DataSet], runs: Path) -> dict[str, Any]:
    teacher = Run.open(gathered(name, runs))
    rows = {
        "single": row([runs / f"{name}-{seed}" for seed in SINGLES], teacher, dataset, ood_data),
        "teacher": row([teacher.folder], None, dataset, ood_data),
    }
    for kind, (_, seeds) in STUDENTS.items():
        rows[kind] = row([folder_of(name, kind, seed, runs) for seed in seeds], teacher, dataset, ood_data)
    rows = {kind: each for kind, each in rows.items() if each}
    for kind, each in rows.items():
        print(name, kind, each, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
    ood_data: dict[str, DataSet] = {"sevenscenes": DatasetView(rooms, range(0, len(rooms), 2))}
    ood_data |= {kind: DatasetView(Shifted(camvid, kind), range(0, len(camvid), 4)) for kind in SHIFTS}
    classes = table("camvid-categorical", camvid, ood_data, runs)
    depth = table("sevenscenes-heteroscedastic", load("sevenscenes", options.sevenscenes, "val", (96, 128)), {}, runs)
    single, teacher = (classes[name]["error_auroc"][0] for name in ("single", "teacher"))
    gain = {
        kind: (each["error_auroc"][0] - single) / (teacher - single)
        for kind, each in classes.items()
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
    result = without_nan(result)  # some scores of one pass are undefined, such as the ranks of an epistemic part of 0
    (HERE / "results" / "distillation_small.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
