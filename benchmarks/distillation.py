"""How much of an ensemble's uncertainty does a student keep that predicts it in one pass, also on foreign images?

    python benchmarks/distillation.py --camvid DIR --foreign DIR      # train and score what is missing
    python benchmarks/distillation.py --camvid DIR --foreign DIR --jobs 8 --device cuda   # several at a time

The teachers are the ensembles of five of benchmarks/camvid.py, of networks trained for 36 and for 50 epochs. Three of
their members are the single networks, in one pass without dropout. Each kind of student has three seeds, and starts
from the single network of 36 epochs with its seed. So after 14 epochs a student of the teacher of 50 epochs has the
budget of a single network. Some learn the teacher's predictions on generated textures, too. Foreign images are those of
benchmarks/camvid.py, and every fourth image of CamVid val darkened, blurred or noisy; no student has seen any of them.
The textures are stored as PNG and the teacher is asked once for all students. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import camvid
import torch
from camvid import (
    SINGLES,
    SIZE,
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
from sfumato.methods import DeepEnsemble, Deterministic
from sfumato.runs import Run
from sfumato.targets import Image

HERE = Path(__file__).parent
FIRST, BOTH = "plain", f"plain-{camvid.MORE}"  # names of the networks of a teacher: of 36 epochs, and of 50
SHARDS = 4  # processes that ask the teacher


@dataclass(frozen=True)
class Student:
    """A kind of student.

    Args:
        teacher: The name of the networks that teach.
        likelihood: The student's likelihood.
        textures: Number of textures that it learns on, too.
        perturb: Share of images that are perturbed.
        epochs: Passes over the training images.
    """

    teacher: str
    likelihood: str = "distilled"
    textures: int = 0
    perturb: float = 0.0
    epochs: int = camvid.MORE_EPOCHS

    @property
    def lesson(self) -> str:
        """What the teacher must have answered before. Fewer textures are the first ones of more."""
        alike = [
            each for each in STUDENTS.values() if (each.teacher, each.likelihood) == (self.teacher, self.likelihood)
        ]
        return f"{self.teacher}_{self.likelihood}_{max(each.textures for each in alike)}"

    def arguments(self, runs: Path, seed: int) -> tuple[str, ...]:
        """Of ``sfumato distill``."""
        own = (str(ensemble(runs, self.teacher)), f"--init-from={weights_of(folder_of(runs, FIRST, seed))}",
               f"--epochs={self.epochs}", f"--likelihood={self.likelihood}", "--cache=memory",
               "--cache-gb=16")  # fmt: skip
        own += (f"--unlabeled={textures_folder(runs, self.textures)}",) if self.textures else ()
        return (*own, f"--perturb={self.perturb}") if self.perturb else own


STUDENTS = {
    "equal": Student(BOTH),
    "equal-20-textures": Student(BOTH, textures=20),
    "equal-60-textures": Student(BOTH, textures=60),
    "started": Student(FIRST, epochs=16),
    "textures": Student(FIRST, textures=358, epochs=16),
    "textures-probs": Student(FIRST, "distilled-probs", 358, epochs=16),
    "perturbed": Student(FIRST, "distilled-probs", 358, 0.25, 16),
}
ROW = "student"


def ensemble(runs: Path, teacher: str) -> Path:
    return runs / f"camvid-{teacher}-ensemble"


def textures_folder(runs: Path, count: int) -> Path:
    return runs / f"textures-{count}"


def student_folder(runs: Path, kind: str, seed: int) -> Path:
    return runs / f"camvid-student-{kind}-{seed}"


def jobs(options: argparse.Namespace) -> list[Job]:
    """The textures, the teachers' answers, the students and their scores."""
    runs = options.runs
    found = [
        _job(f"textures-{count}", f"--make=textures:{count}", textures_folder(runs, count) / "done", (), options)
        for count in dict.fromkeys(each.textures for each in STUDENTS.values() if each.textures)
    ]
    lessons = {each.lesson: each for each in STUDENTS.values() if not each.perturb}
    for lesson, student in lessons.items():
        count = lesson.rpartition("_")[2]
        needs = (f"gather-{student.teacher}", *((f"textures-{count}",) if count != "0" else ()))
        found += [_job(f"ask-{lesson}-{shard}", f"--make={lesson}:{shard}", runs / f"asked-{lesson}-{shard}", needs,
                       options) for shard in range(SHARDS)]  # fmt: skip
    for kind, student in STUDENTS.items():
        needs = tuple(f"ask-{student.lesson}-{shard}" for shard in range(SHARDS))
        needs = (f"gather-{student.teacher}",) if student.perturb else needs
        needs += (f"textures-{student.textures}",) if student.textures else ()
        for seed in SINGLES:
            folder, name = student_folder(runs, kind, seed), f"student-{kind}-{seed}"
            command = ("distill", *student.arguments(runs, seed), f"--seed={100 * seed}", f"--out={folder}",
                       f"--device={options.device}", f"--workers={options.workers}", "--resume", "--quiet")  # fmt: skip
            score = (f"--score-run={folder}", f"--teacher={student.teacher}")
            found += [training_job(f"fit-{name}", command, weights_of(folder), needs, options),
                      script_job(f"score-{name}", "distillation.py", score, scores_file(folder, ROW),
                                 (f"fit-{name}",), options)]  # fmt: skip
    return found


def _job(name: str, what: str, done: Path, needs: tuple[str, ...], options: argparse.Namespace) -> Job:
    """A part of this script in a process of its own."""
    return script_job(name, "distillation.py", (what,), done, needs, options)


def make_textures(folder: Path, count: int) -> None:
    """Textures as PNG, drawn by all cores."""
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(_texture, range(count), [folder] * count))
    (folder / "done").touch()


def _texture(index: int, folder: Path) -> None:
    image = load("textures", "", "train", SIZE)[index]["image"]
    assert isinstance(image, torch.Tensor)
    picture = Picture.fromarray(Image().to_float(image).mul(255).round().byte().permute(1, 2, 0).numpy())
    picture.save(folder / f"{index:03d}.png", compress_level=1)


def ask(options: argparse.Namespace, lesson: str, shard: int) -> None:
    """Store what a teacher says about a share of the images."""
    name, likelihood, count = lesson.split("_")
    run = Run.open(ensemble(options.runs, name), device=options.device)
    teacher = Teacher(run, students_of(student_plan(run, likelihood)))
    train = load("camvid", options.camvid, "train", SIZE)
    pictures = Pictures(textures_folder(options.runs, int(count))) if int(count) else None
    dataset = DistillationDataset(teacher, train, pictures)
    for index in range(shard, len(dataset), SHARDS):
        _ = dataset[index]
    (options.runs / f"asked-{lesson}-{shard}").touch()


def score_run(options: argparse.Namespace) -> None:
    """Score one network in one pass, or the ensemble, on everything."""
    run = Run.open(options.score_run, device=options.device)
    teacher = Run.open(ensemble(options.runs, options.teacher), device=options.device)
    dataset = load("camvid", options.camvid, "val", SIZE)
    others = worlds(options.foreign)
    others |= {kind: DatasetView(Shifted(dataset, kind), range(0, len(dataset), 4)) for kind in SHIFTS}
    method = Deterministic(run.networks[0]) if len(run.networks) == 1 else DeepEnsemble(run.networks)
    found = scored(run, method, dataset, others, teacher)
    scores_file(options.score_run, ROW).write_text(json.dumps(found))


def reference_jobs(options: argparse.Namespace) -> list[Job]:
    """Scores of the single networks and of the teachers on the same images."""
    return [
        script_job(f"compare-{folder.name}", "distillation.py", (f"--score-run={folder}", f"--teacher={teacher}"),
                   scores_file(folder, ROW), (f"gather-{teacher}",), options)
        for teacher in (BOTH, FIRST)
        for folder in [*(folder_of(options.runs, teacher, seed) for seed in SINGLES), ensemble(options.runs, teacher)]
    ]  # fmt: skip


def table(runs: Path) -> dict[str, Any]:
    """Every row whose runs are scored, for each teacher, and the numbers of the best student."""
    tables = {teacher: _table(runs, teacher) for teacher in (BOTH, FIRST)}
    chosen = tables[BOTH if tables[BOTH]["kept"] else FIRST]
    best = max(chosen["kept"], key=lambda name: min(chosen["kept"][name].values()), default="")
    passes = json.loads((HERE / "results" / "latency_efficient_unet.json").read_text())["student_over_plain"]
    return {
        "best": best,
        **chosen["kept"].get(best, {}),
        "student_passes": passes["compiled"],
        f"teacher_of_{camvid.EPOCHS + camvid.MORE_EPOCHS}_epochs": tables[BOTH],
        f"teacher_of_{camvid.EPOCHS}_epochs": tables[FIRST],
    }


def _table(runs: Path, teacher: str) -> dict[str, Any]:
    folders = {"single": [folder_of(runs, teacher, seed) for seed in SINGLES], "teacher": [ensemble(runs, teacher)]}
    kinds = [kind for kind, student in STUDENTS.items() if student.teacher == teacher]
    folders |= {kind: [student_folder(runs, kind, seed) for seed in SINGLES] for kind in kinds}
    rows = {}
    for name, each in folders.items():
        if found := [one for one in [read(folder, ROW) for folder in each] if one]:
            rows[name] = table_row(found)
    known = {"single", "teacher"} <= rows.keys()
    return {"kept": {name: gains(rows, name) for name in rows if name in kinds and known}, "rows": rows}


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
    parser.add_argument("--teacher", default=FIRST, help="the name of the networks that teach the run to score")
    parser.add_argument("--make", default="", help="textures:COUNT, or LESSON:SHARD of a teacher's answers, only")
    options = parser.parse_args()
    if options.score_run:
        score_run(options)
        return
    if options.make:
        what, _, number = options.make.partition(":")
        if what == "textures":
            make_textures(textures_folder(options.runs, int(number)), int(number))
        else:
            ask(options, what, int(number))
        return
    teachers = [job for job in camvid.fit_jobs(options) if job.name.startswith(f"fit-{FIRST}-")]
    gathers = [camvid.ensemble_jobs(name, camvid.MEMBERS, options)[0] for name in (FIRST, BOTH)]
    run_jobs([*teachers, *gathers, *reference_jobs(options), *jobs(options)], options.runs / "logs", options.jobs)
    result = table(options.runs)
    (HERE / "results" / "distillation.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
