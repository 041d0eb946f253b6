"""Distil the uncertainty of a run into a student that predicts it in one pass."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import Dataset

from sfumato.contracts import Student, Task
from sfumato.likelihoods import Joint
from sfumato.predictions import JointMoments
from sfumato.storage import atomic_write
from sfumato.training.plan import Plan
from sfumato.training.questions import JOINT_NETWORK
from sfumato.training.run import Run, check_output_dir, fit, question, subset, weights_path

LESSONS = "lessons"


@dataclass(frozen=True)
class Teacher:
    """A run that teaches; calling it with images (B, 3, H, W) in [0, 1] gives their lessons (B, L, H, W) by task.

    Args:
        run: whose draws, before any calibration, are what is learned.
        student: the likelihood that learns; of a run of several tasks a :class:`Joint` of students.
        samples: of MC dropout; None for the plan's.
    """

    run: Run
    student: Student | Joint
    samples: int | None = None

    @property
    def students(self) -> dict[str, Student]:
        """Those that learn, by the key of their task."""
        return dict(self.student.parts) if isinstance(self.student, Joint) else {self.run.task.key: self.student}

    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """The lessons of a batch: of all tasks from the same draws."""
        for network in self.run.networks:
            network.to(images.device)  # no copy where it is there already
        students, heard = self.students, {}
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            for chunk in self.run.method(self.samples).draws(images, generator=generator):
                for output in chunk:
                    draw = self.run.likelihood.moments(output.float())
                    draws = draw.parts if isinstance(draw, JointMoments) else {self.run.task.key: draw}
                    for name, student in students.items():
                        new = student.teacher_statistics(draws[name])
                        heard[name] = heard[name].merge(new) if name in heard else new
            return {name: student.distillation_target(heard[name]) for name, student in students.items()}

    def on(self, batch: dict[str, Any]) -> dict[str, Any]:
        """An augmented batch with lessons in its targets, given by the teacher now."""
        # A generator of its own, seeded by the step's: the student's dropout is then that of lessons which were kept.
        lessons = self(batch["image"], torch.Generator().manual_seed(int(torch.randint(2**62, ()))))
        return batch | {key: torch.cat([batch[key].float(), lesson], 1) for key, lesson in lessons.items()}

    @cached_property
    def digest(self) -> str:
        """Of everything that a lesson depends on but the image."""
        plan = self.run.plan
        parts = [plan.method, plan.likelihood, str(self.samples or plan.samples), plan.network, repr(self.students)]
        found = hashlib.blake2b("\n".join(parts).encode(), digest_size=16)
        for member in range(plan.networks):
            found.update(weights_path(self.run.folder, member).read_bytes())
        return found.hexdigest()

    def distillation_target(self, image: Tensor) -> dict[str, Tensor]:
        """The lessons (L, H, W) of an image (3, H, W), half precision: read if the teacher has given them, else kept.

        Raises:
            ValueError: if the file kept is cut off, or of another teacher.
        """
        name = hashlib.blake2b(image.contiguous().numpy().tobytes(), digest_size=16).hexdigest()
        path = self.run.folder / LESSONS / self.digest[:16] / f"{name}.safetensors"
        if path.exists():
            return _read(path, self.digest)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        # Seeded by what the image shows, so that a lesson depends on nothing else.
        given = self(image[None].to(device), torch.Generator().manual_seed(int(name[:15], 16)))
        found = {key: _compact(lesson[0].cpu()) for key, lesson in given.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as part:
            save_file(found, part, {"teacher": self.digest})
        return found


def _compact(lesson: Tensor) -> Tensor:
    half = lesson.half()
    return half if bool(half.isfinite().all()) else lesson  # millimeters may be more than half precision holds


def _read(path: Path, teacher: str) -> dict[str, Tensor]:
    try:
        with safe_open(path, "pt") as file:
            of, lessons = (file.metadata() or {}).get("teacher"), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is cut off ({error}): delete it and distil again with --resume") from error
    if of != teacher:
        raise ValueError(f"{path} is of another teacher ({of}, expected {teacher}): delete {path.parent}")
    return lessons


class Taught(Dataset[dict[str, Any]]):
    """Images whose targets hold, beside the label, what a teacher says of them.

    Args:
        teacher: gives the lessons.
        labeled: images with labels; lessons count where labels do, so that void pixels teach nothing.
        unlabeled: further images, any labels of which are not looked at; their lessons count everywhere.
        kept: whether lessons are computed once for the whole image and kept on disk; else they are left out, for
            :meth:`Teacher.on` to add after augmentation.
    """

    def __init__(self, teacher: Teacher, labeled: Dataset, unlabeled: Dataset | None, kept: bool) -> None:
        self.teacher, self.kept, self.parts = teacher, kept, [labeled, *([unlabeled] if unlabeled else [])]

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)  # pyright: ignore[reportArgumentType]

    def __getitem__(self, index: int) -> dict[str, Any]:
        first = len(self.parts[0])  # pyright: ignore[reportArgumentType]
        labeled = index < first
        sample = self.parts[0][index] if labeled else self.parts[1][index - first]
        lessons = self.teacher.distillation_target(sample["image"]) if self.kept else {}
        found = {"name": str(sample["name"]), "image": sample["image"]}
        for key, task in self.teacher.run.task.parts.items():
            target, valid = _stacked(task, sample if labeled else {"image": sample["image"]}, labeled)
            target = torch.cat([target, lessons[key].to(target.dtype)]) if self.kept else target
            found |= {key: target, key + "_valid": valid}
        return found


def _stacked(task: Task, sample: dict[str, Any], labeled: bool) -> tuple[Tensor, Tensor]:
    """A target, channels first, with a last channel that says whether it is known; and where a lesson counts."""
    entries = task.entries(sample)
    target, valid = entries[task.key], entries[task.key + "_valid"]
    target = target.expand(-1, *valid.shape) if target.ndim == 3 else target[None]
    # Class ids are exact in half precision, of which many images fit into memory.
    kind = torch.float32 if target.is_floating_point() else torch.half
    known = torch.full((1, *valid.shape), float(labeled), dtype=kind)
    return torch.cat([target.to(kind), known]), valid if labeled else torch.ones_like(valid)


def distil(
    run: Run,
    train: Dataset,
    val: Dataset | None,
    folder: Path,
    *,
    likelihood: str = "",
    unlabeled: Dataset | None = None,
    samples: int | None = None,
    on_the_fly: bool = False,
    resume: bool = False,
    devices: int = 1,
    num_nodes: int = 1,
    progress: bool = True,
    **choices: Any,
) -> Run:
    """Train a student of a run and leave it as a run of its own.

    Args:
        run: the teacher: an ensemble, MC dropout, or any other whose predictions have an epistemic part. One of
            several tasks teaches them all; seen as one of its tasks (``run.select_task(name)``), that one.
        train: labeled images at the size of the run's plan.
        val: images that are scored now and then; None for none.
        folder: is made; holds the student.
        likelihood: one of the task's ``students``, with commas between those of several tasks; empty for what fits
            the teacher's likelihood.
        unlabeled: further images to learn from the teacher alone, at the same size.
        samples: of a teacher that is MC dropout; None for its plan's.
        on_the_fly: ask the teacher about every augmented image anew, which costs its passes at every step, instead of
            once about every image.
        resume: go on with an interrupted distillation; lessons already given are not given again.
        devices: processes or GPUs on this node.
        num_nodes: how many nodes.
        progress: whether to show a bar.
        **choices: entries of the plan that differ from the teacher's: ``network``, ``epochs``, ``seed``, ``start``, ….

    Returns:
        The student's run.

    Raises:
        ValueError: if the teacher has nothing to batch_transform, or the likelihood is no student's.
    """
    plan = student_plan(run, likelihood, choices)
    student: Any = question(plan)[1]
    teacher = Teacher(run, student, samples)
    teacher(torch.rand(1, 3, *plan.crop))  # what has no spread is refused before anything is written
    taught = Taught(teacher, subset(train, run.task, plan.limit), unlabeled, kept=not on_the_fly)
    plan = replace(plan, limit=0, images=len(taught))
    check_output_dir(plan, folder, resume)  # before the long wait, not after it
    if not on_the_fly:
        for index in track(range(len(taught)), "ask the teacher", disable=not progress, transient=True):
            _ = taught[index]
    return fit(
        plan, taught, val, folder, resume=resume, devices=devices, num_nodes=num_nodes, progress=progress,
        batch_transform=teacher.on if on_the_fly else None,
    )  # fmt: skip


def student_plan(run: Run, likelihood: str, choices: dict[str, Any]) -> Plan:
    """The teacher's plan as a student follows it: one network, one pass.

    Raises:
        ValueError: if the likelihood is no student's.
    """
    tasks, taught = list(run.task.parts.values()), run.plan.likelihood.split(",")
    given = likelihood.split(",") if likelihood else [""] * len(tasks)
    if len(given) != len(tasks):
        raise ValueError(f"likelihood is {likelihood!r}, expected one for each of {','.join(run.task.parts)}")
    student = {
        "likelihood": ",".join(_student(task, *pair) for task, *pair in zip(tasks, given, taught, strict=True)),
        "method": "deterministic",
        "members": 1,
    }
    if run.plan.tasks:  # a student's loss says itself how noisy it is
        student |= {"weighting": "uncertainty", "weights": ()}
    elif run.plan.network == JOINT_NETWORK:  # it learns one task of several
        student["network"] = Plan.network
    return replace(run.plan, **(student | choices), teacher=str(run.folder.absolute()))


def _student(task: Task, likelihood: str, taught: str) -> str:
    """The student that was asked for, or the one that fits the teacher's likelihood."""
    known = task.students
    if likelihood and likelihood not in known:
        raise ValueError(f"likelihood is {likelihood!r}, expected that of a student: one of {', '.join(known)}")
    law = "laplace" if taught == "l1" else taught
    return likelihood or next((name for name in known if name.endswith(law)), known[0])


def teacher_of(run: Run) -> Run | None:
    """The run that taught this one, seen as its task if it has one; None if none did, or it is gone."""
    folder = Path(run.plan.teacher)
    if not run.plan.teacher or not (folder / "plan.yaml").exists():
        return None
    return Run.open(folder) if run.plan.tasks else Run.open(folder).select_task(run.plan.task)
