"""How much of an ensemble's uncertainty does a student keep that predicts it in one pass, also on foreign images?

    python benchmarks/distillation.py --camvid DIR --foreign DIR      # train and score what is missing
    python benchmarks/distillation.py --camvid DIR --foreign DIR --jobs 8 --device cuda   # several at a time

The five networks of benchmarks/camvid.py are the teacher; three of them are the single networks, in one pass without
dropout. Each student has three seeds. ``same-budget`` has the initial weights and the budget of a single network; the
others start from a member of the teacher. ``textures`` also learns on 358 generated textures, ``textures-probs`` the
teacher's probabilities too, and ``perturbed`` all of that with perturbed images. Foreign images are those of
benchmarks/camvid.py, and every fourth image of CamVid val darkened, blurred or noisy; no student has seen any of them.
The textures are stored as PNG and the teacher is asked once for all students. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any

import camvid
import torch
from camvid import (
    SINGLES,
    SIZE,
    fit_job,
    folder_of,
    read,
    scored,
    scores_file,
    script_job,
    table_row,
    training_job,
    weights_of,
)
from foreign import SHIFTS, Shifted, worlds
from jobs import Job, run_jobs
from PIL import Image as Picture

from sfumato.data import DatasetView, Pictures, load
from sfumato.distillation import DistillationDataset, Teacher, student_plan, students_of
from sfumato.methods import Deterministic
from sfumato.runs import Run
from sfumato.targets import Image

HERE = Path(__file__).parent
MEMBER = "MEMBER"  # stands for the run of the single network with the student's seed
TEXTURES = "TEXTURES"  # stands for the folder of textures
STORED = ("--cache=memory", "--cache-gb=16")
STUDENTS = {  # kind of student → arguments of `sfumato distill`
    "textures-probs": (f"--init-from={MEMBER}", "--epochs=16", f"--unlabeled={TEXTURES}",
                       "--likelihood=distilled-probs", *STORED),
    "textures": (f"--init-from={MEMBER}", "--epochs=16", f"--unlabeled={TEXTURES}", *STORED),
    "started": (f"--init-from={MEMBER}", "--epochs=16", *STORED),
    "perturbed": (f"--init-from={MEMBER}", "--epochs=16", f"--unlabeled={TEXTURES}", "--perturb=0.25",
                  "--likelihood=distilled-probs", *STORED),
    "same-budget": STORED,
}  # fmt: skip
LIKELIHOODS = {kind: "distilled-probs" if "--likelihood=distilled-probs" in arguments else "distilled"
               for kind, arguments in STUDENTS.items()}  # fmt: skip
PICTURES, SHARDS = 358, 4  # textures, and processes that ask the teacher
ROW = "student"


def student_folder(runs: Path, kind: str, seed: int) -> Path:
    return runs / f"camvid-student-{kind}-{seed}"


def jobs(options: argparse.Namespace) -> list[Job]:
    """The textures, the teacher's answers, the students and their scores."""
    textures = options.runs / "textures"
    found = [_job("textures", "--make=textures", textures / "done", (), options)]
    for likelihood in set(LIKELIHOODS.values()):
        found += [
            _job(f"ask-{likelihood}-{shard}", f"--make={likelihood}:{shard}",
                 options.runs / f"asked-{likelihood}-{shard}", ("gather-plain", "textures"), options)
            for shard in range(SHARDS)
        ]  # fmt: skip
    for kind, arguments in STUDENTS.items():
        asked = tuple(f"ask-{LIKELIHOODS[kind]}-{shard}" for shard in range(SHARDS))
        needs = ("gather-plain", "textures") if kind == "perturbed" else asked
        for seed in SINGLES:
            folder = student_folder(options.runs, kind, seed)
            places = {MEMBER: str(folder_of(options.runs, "plain", seed)), TEXTURES: str(textures)}
            own = [each.replace(MEMBER, places[MEMBER]).replace(TEXTURES, places[TEXTURES]) for each in arguments]
            command = ("distill", str(options.runs / "camvid-plain-ensemble"), *own,
                       f"--seed={100 * seed}", f"--out={folder}", f"--device={options.device}",
                       f"--workers={options.workers}", "--resume", "--quiet")  # fmt: skip
            name = f"student-{kind}-{seed}"
            found += [training_job(f"fit-{name}", command, weights_of(folder), needs, options),
                      _job(f"score-{name}", f"--score-run={folder}", scores_file(folder, ROW), (f"fit-{name}",),
                           options)]  # fmt: skip
    return found


def _job(name: str, what: str, done: Path, needs: tuple[str, ...], options: argparse.Namespace) -> Job:
    """A part of this script in a process of its own."""
    return script_job(name, "distillation.py", (what,), done, needs, options)


def make_textures(folder: Path) -> None:
    """Textures as PNG, drawn by all cores."""
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(_texture, range(PICTURES), [folder] * PICTURES))
    (folder / "done").touch()


def _texture(index: int, folder: Path) -> None:
    image = load("textures", "", "train", SIZE)[index]["image"]
    assert isinstance(image, torch.Tensor)
    picture = Picture.fromarray(Image().to_float(image).mul(255).round().byte().permute(1, 2, 0).numpy())
    picture.save(folder / f"{index:03d}.png", compress_level=1)


def ask(options: argparse.Namespace, likelihood: str, shard: int) -> None:
    """Store what the teacher says about a share of the images."""
    run = Run.open(options.runs / "camvid-plain-ensemble", device=options.device)
    teacher = Teacher(run, students_of(student_plan(run, likelihood)))
    train = load("camvid", options.camvid, "train", SIZE)
    dataset = DistillationDataset(teacher, train, Pictures(options.runs / "textures"))
    for index in range(shard, len(dataset), SHARDS):
        _ = dataset[index]
    (options.runs / f"asked-{likelihood}-{shard}").touch()


def score_run(options: argparse.Namespace) -> None:
    """Score one network in one pass, or the ensemble, on everything."""
    run = Run.open(options.score_run, device=options.device)
    teacher = Run.open(options.runs / "camvid-plain-ensemble", device=options.device)
    dataset = load("camvid", options.camvid, "val", SIZE)
    others = worlds(options.foreign)
    others |= {kind: DatasetView(Shifted(dataset, kind), range(0, len(dataset), 4)) for kind in SHIFTS}
    method = Deterministic(run.networks[0]) if len(run.networks) == 1 else camvid.methods(run, "members")[0]
    found = scored(run, method, dataset, others, teacher)
    scores_file(options.score_run, ROW).write_text(json.dumps(found))


def reference_jobs(options: argparse.Namespace) -> list[Job]:
    """Scores of the single networks and of the teacher on the same images."""
    names = [*(folder_of(options.runs, "plain", seed) for seed in SINGLES), options.runs / "camvid-plain-ensemble"]
    return [
        _job(f"compare-{folder.name}", f"--score-run={folder}", scores_file(folder, ROW), ("gather-plain",), options)
        for folder in names
    ]


def table(runs: Path) -> dict[str, Any]:
    """Every row whose runs are scored, and the numbers of the best student."""
    folders = {"single": [folder_of(runs, "plain", seed) for seed in SINGLES],
               "teacher": [runs / "camvid-plain-ensemble"]}  # fmt: skip
    folders |= {kind: [student_folder(runs, kind, seed) for seed in SINGLES] for kind in STUDENTS}
    rows = {}
    for name, each in folders.items():
        if found := [one for one in [read(folder, ROW) for folder in each] if one]:
            rows[name] = table_row(found)
    kept = {name: gains(rows, name) for name in rows if name in STUDENTS and {"single", "teacher"} <= rows.keys()}
    best = max(kept, key=lambda name: min(kept[name].values()), default="")
    return {"best": best, **kept.get(best, {}), "kept": kept, "rows": rows}


def gains(rows: Mapping[str, Any], name: str) -> dict[str, float]:
    """The share of the teacher's gain over a single network that a student keeps, and the rank correlation.

    Foreign images are found by the epistemic part of teacher and student, and by the only uncertainty of one network.
    """
    single, teacher, student = rows["single"], rows["teacher"], rows[name]

    def share(of: Any) -> float:
        low, high = of(single, "total"), of(teacher, "epistemic")
        return (of(student, "epistemic") - low) / (high - low)

    foreign = [key.removesuffix("_ood_auroc_total") for key in single if key.endswith("_ood_auroc_total")]
    foreign = [each for each in foreign if each not in SHIFTS]
    return {
        "aurc_gain_kept": share(lambda row, _: row["aurc"][0]),
        "nll_gain_kept": share(lambda row, _: row["nll"][0]),
        "epistemic_spearman": student["fidelity_spearman_epistemic"][0],
        "ood_auroc_kept": share(lambda row, kind: mean(row[f"{each}_ood_auroc_{kind}"][0] for each in foreign)),
    }


def main() -> None:
    parser = camvid.parser(__doc__)
    parser.add_argument("--score-run", type=Path, help="score one run only")
    parser.add_argument("--make", default="", help="textures, or LIKELIHOOD:SHARD of the teacher's answers, only")
    options = parser.parse_args()
    if options.score_run:
        score_run(options)
        return
    if options.make == "textures":
        make_textures(options.runs / "textures")
        return
    if options.make:
        likelihood, _, shard = options.make.partition(":")
        ask(options, likelihood, int(shard))
        return
    teacher = [fit_job("plain", seed, options) for seed in range(camvid.MEMBERS)]
    gather = camvid.ensemble_jobs("plain", camvid.MEMBERS, options)[:1]
    every = [*teacher, *gather, *reference_jobs(options), *jobs(options)]
    run_jobs(every, options.runs / "logs", options.jobs)
    result = table(options.runs)
    (HERE / "results" / "distillation.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
