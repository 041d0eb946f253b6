"""Which student keeps more of its teacher: one scalar or a Dirichlet distribution, a plain head or one of all depths?

    python benchmarks/students.py                       # trains what is missing, then scores

Classes of generated scenes at 48 × 64. The teacher is an ensemble of four small U-Nets, the students have their network
and budget, three seeds each. Judged on other scenes, on scenes with novel objects (by their marked pixels), and on
textures, none of which a student has seen. The last line is JSON, and results/students.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from members import gather_members
from torch import Tensor

import sfumato
from sfumato.data import Scenes, Textures
from sfumato.distillation import distill
from sfumato.metrics import ClassScores, FidelityScores, OODScores
from sfumato.runs import Run

HERE = Path(__file__).parent
SIZE = (48, 64)
TRAIN, VAL = Scenes(256, SIZE, seed=11), Scenes(8, SIZE, seed=12)
JUDGED, NOVEL, TEXTURES = Scenes(100, SIZE, seed=13), Scenes(100, SIZE, seed=13, novel=True), Textures(50, SIZE, 3)
NETWORK = {"widths": (16, 32, 48), "dropout": 0.2}
BUDGET: dict[str, Any] = {"batch": 16, "epochs": 10, "progress": False, "workers": 0, "device": "cpu"}
OWN = {"trust": "student_variants"}
DEEP = {"network": "student_variants.DeepHeadUNet", "network_args": NETWORK, **OWN}
SEEDS = (0, 1, 2)
STUDENTS: dict[str, dict[str, Any]] = {
    "distilled": {"likelihood": "distilled"},
    "distilled, small start": {"likelihood": "student_variants.SmallStart", **OWN},
    "dirichlet": {"likelihood": "student_variants.DirichletStudent", **OWN},
    "distilled, head of all depths": {"likelihood": "distilled", **DEEP},
}
SCORES = ("miou", "nll", "aurc", "error_auroc")


def teacher(runs: Path) -> Run:
    """The ensemble, and its members as runs of their own."""
    for seed in range(4):
        if not (runs / f"member-{seed}" / "weights-0.safetensors").exists():
            sfumato.fit((TRAIN, VAL), task="classes", likelihood="categorical", method="deterministic", seed=100 * seed,
                        out=runs / f"member-{seed}", network_args=NETWORK, precision="32-true", **BUDGET)  # fmt: skip
    if not (runs / "teacher" / "plan.yaml").exists():
        gather_members([runs / f"member-{seed}" for seed in range(4)], runs / "teacher")
    return Run.open(runs / "teacher")


def scored(run: Run, taught_by: Run | None) -> dict[str, float]:
    """Scores of one run, which are kept in its folder."""
    kept = run.folder / "benchmark-students.json"
    if not kept.exists():
        kept.write_text(json.dumps(_scored(run, taught_by)))
    return json.loads(kept.read_text())


def _scored(run: Run, taught_by: Run | None) -> dict[str, float]:
    scores = ClassScores.for_task(run.single_task)
    fidelity = FidelityScores.for_task(run.single_task)
    novel, textures = OODScores(), OODScores()
    for index in range(len(JUDGED)):
        sample = JUDGED[index]
        found = run.predict(*run.inputs_of(sample))
        target, valid = (each[None] for each in run.single_task.target_and_mask(sample))
        scores.update(found, target, valid)
        textures.update(found, torch.zeros_like(valid), torch.ones_like(valid))
        if taught_by is not None:
            fidelity.update(found, taught_by.predict(*taught_by.inputs_of(sample)), valid)
        other = NOVEL[index]
        marked = other["novel"]
        assert isinstance(marked, Tensor)
        novel.update(run.predict(*run.inputs_of(other)), marked[None], torch.ones_like(valid))
    for index in range(len(TEXTURES)):
        found = run.predict(*run.inputs_of(TEXTURES[index]))
        every = torch.ones_like(found.total, dtype=torch.bool)
        textures.update(found, every, every)
    row = {name: float(value) for name, value in scores.compute().items() if name in SCORES}
    part = "total" if taught_by is None and len(run.networks) == 1 else "epistemic"
    row |= {"novel_auroc": float(novel.compute()[f"ood_auroc_{part}"])}
    row |= {"textures_auroc": float(textures.compute()[f"ood_auroc_{part}"])}
    if taught_by is not None:
        near = fidelity.compute()
        row |= {name: float(near[name]) for name in ("spearman_epistemic", "mae_epistemic")}
    return row


def spread(rows: list[dict[str, float]]) -> dict[str, list[float | None]]:
    """Mean and standard deviation over seeds."""
    table = {name: torch.tensor([row[name] for row in rows], dtype=torch.float64) for name in rows[0]}
    return {name: [float(v.mean()), float(v.std()) if len(v) > 1 else None] for name, v in table.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=HERE.parent / "runs" / "students")
    runs: Path = parser.parse_args().runs
    sys.path.insert(0, str(HERE))
    taught_by = teacher(runs)
    rows: dict[str, list[dict[str, float]]] = {"teacher": [scored(taught_by, None)]}
    rows["single"] = [scored(Run.open(runs / f"member-{seed}"), None) for seed in SEEDS]
    for seed in SEEDS:
        for kind, options in STUDENTS.items():
            folder = runs / f"{kind.replace(', ', '-').replace(' ', '-')}-{seed}"
            if not (folder / "weights-0.safetensors").exists():
                distill(taught_by, TRAIN, VAL, folder, seed=100 * seed, **{**BUDGET, **options})
            found = scored(Run.open(folder, trust="all"), taught_by)
            rows.setdefault(kind, []).append(found)
            print(kind, seed, json.dumps(found), flush=True)
    result = {"seeds": len(SEEDS), **{kind: spread(each) for kind, each in rows.items()}}
    (HERE / "results" / "students.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
