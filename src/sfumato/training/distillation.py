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

from sfumato.contracts import Student
from sfumato.predictions.store import whole
from sfumato.training.plan import Plan
from sfumato.training.questions import JOINT_NETWORK
from sfumato.training.run import Run, fit, learnt, question, vacant, weights_path

LESSONS = "lessons"


@dataclass(frozen=True)
class Teacher:
    """A run that teaches; calling it with images (B, 3, H, W) in [0, 1] gives their lessons (B, L, H, W).

    Args:
        run: whose draws, before any calibration, are what is learnt.
        student: the likelihood that learns.
        samples: of MC dropout; None for the plan's.
    """

    run: Run
    student: Student
    samples: int | None = None

    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The lessons of a batch."""
        for network in self.run.networks:
            network.to(images.device)  # no copy where it is there already
        chunks = self.run.method(self.samples).draws(images, generator=generator)
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            return self.student.lesson(
                self.run.likelihood.moments(output.float()) for chunk in chunks for output in chunk
            )

    def on(self, batch: dict[str, Any]) -> dict[str, Any]:
        """An augmented batch with lessons in its targets, given by the teacher now."""
        key = self.run.task.key
        # A generator of its own, seeded by the step's: the student's dropout is then that of lessons which were kept.
        lesson = self(batch["image"], torch.Generator().manual_seed(int(torch.randint(2**62, ()))))
        return batch | {key: torch.cat([batch[key].float(), lesson], 1)}

    @cached_property
    def digest(self) -> str:
        """Of everything that a lesson depends on but the image."""
        plan = self.run.plan
        parts = [plan.method, plan.likelihood, str(self.samples or plan.samples), plan.network, repr(self.student)]
        found = hashlib.blake2b("\n".join(parts).encode(), digest_size=16)
        for member in range(plan.members):
            found.update(weights_path(self.run.folder, member).read_bytes())
        return found.hexdigest()

    def lesson(self, image: Tensor) -> Tensor:
        """The lesson (L, H, W) of an image (3, H, W), half precision: read if the teacher has given it, else kept.

        Raises:
            ValueError: if the file kept is cut off, or of another teacher.
        """
        name = hashlib.blake2b(image.contiguous().numpy().tobytes(), digest_size=16).hexdigest()
        path = self.run.folder / LESSONS / self.digest[:16] / f"{name}.safetensors"
        if path.exists():
            return _read(path, self.digest)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        # Seeded by what the image shows, so that a lesson depends on nothing else.
        found = self(image[None].to(device), torch.Generator().manual_seed(int(name[:15], 16)))[0].cpu()
        half = found.half()
        found = half if bool(half.isfinite().all()) else found  # millimetres may be more than half precision holds
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as part:
            save_file({"lesson": found}, part, {"teacher": self.digest})
        return found


def _read(path: Path, teacher: str) -> Tensor:
    try:
        with safe_open(path, "pt") as file:
            of, lesson = (file.metadata() or {}).get("teacher"), file.get_tensor("lesson")
    except SafetensorError as error:
        raise ValueError(f"{path} is cut off ({error}): delete it and distil again with --resume") from error
    if of != teacher:
        raise ValueError(f"{path} is of another teacher ({of}, expected {teacher}): delete {path.parent}")
    return lesson


class Taught(Dataset[dict[str, Any]]):
    """Images whose targets hold, beside the label, what a teacher says of them.

    Args:
        teacher: gives the lessons.
        labelled: images with labels; lessons count where labels do, so that void pixels teach nothing.
        unlabelled: further images, any labels of which are not looked at; their lessons count everywhere.
        kept: whether lessons are computed once for the whole image and kept on disk; else they are left out, for
            :meth:`Teacher.on` to add after augmentation.
    """

    def __init__(self, teacher: Teacher, labelled: Dataset, unlabelled: Dataset | None, kept: bool) -> None:
        self.teacher, self.kept, self.parts = teacher, kept, [labelled, *([unlabelled] if unlabelled else [])]

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)  # pyright: ignore[reportArgumentType]

    def __getitem__(self, index: int) -> dict[str, Any]:
        first = len(self.parts[0])  # pyright: ignore[reportArgumentType]
        labelled = index < first
        sample = self.parts[0][index] if labelled else self.parts[1][index - first]
        key, (height, width) = self.teacher.run.task.key, sample["image"].shape[-2:]
        valid = sample[key + "_valid"] if labelled else torch.ones(height, width, dtype=torch.bool)
        target = sample[key] if labelled else torch.zeros_like(self.parts[0][0][key])
        target = target.expand(-1, height, width) if target.ndim == 3 else target[None]
        # Class ids are exact in half precision, of which many images fit into memory.
        kind = torch.float32 if target.is_floating_point() else torch.half
        target = torch.cat([target.to(kind), torch.full((1, height, width), float(labelled), dtype=kind)])
        if self.kept:
            target = torch.cat([target, self.teacher.lesson(sample["image"]).to(kind)])
        return {"name": str(sample["name"]), "image": sample["image"], key: target, key + "_valid": valid}


def distil(
    run: Run,
    train: Dataset,
    val: Dataset | None,
    folder: Path,
    *,
    likelihood: str = "",
    unlabelled: Dataset | None = None,
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
        run: the teacher: an ensemble, MC dropout, or any other whose predictions have an epistemic part.
        train: labelled images at the size of the run's plan.
        val: images that are scored now and then; None for none.
        folder: is made; holds the student.
        likelihood: one of the task's ``students``; empty for the one that fits the teacher's likelihood.
        unlabelled: further images to learn from the teacher alone, at the same size.
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
        ValueError: if the teacher has nothing to teach, or the likelihood is no student's.
    """
    plan = student_plan(run, likelihood, choices)
    student: Any = question(plan)[1]
    teacher = Teacher(run, student, samples)
    teacher(torch.rand(1, 3, *plan.crop))  # what has no spread is refused before anything is written
    taught = Taught(teacher, learnt(train, run.task, plan.limit), unlabelled, kept=not on_the_fly)
    plan = replace(plan, limit=0, images=len(taught))
    vacant(plan, folder, resume)  # before the long wait, not after it
    if not on_the_fly:
        for index in track(range(len(taught)), "ask the teacher", disable=not progress, transient=True):
            _ = taught[index]
    return fit(
        plan, taught, val, folder, resume=resume, devices=devices, num_nodes=num_nodes, progress=progress,
        teach=teacher.on if on_the_fly else None,
    )  # fmt: skip


def student_plan(run: Run, likelihood: str, choices: dict[str, Any]) -> Plan:
    """The teacher's plan as a student follows it: one network, one pass.

    Raises:
        ValueError: if the likelihood is no student's.
    """
    known = run.task.students
    fitting = next((name for name in known if name.endswith(run.plan.likelihood)), known[0])
    if likelihood and likelihood not in known:
        raise ValueError(f"likelihood is {likelihood!r}, expected that of a student: one of {', '.join(known)}")
    network = Plan.network if run.plan.network == JOINT_NETWORK else run.plan.network  # it learns one task
    student = {"likelihood": likelihood or fitting, "method": "deterministic", "members": 1, "network": network}
    return replace(run.plan, **(student | choices), teacher=str(run.folder.absolute()))


def teacher_of(run: Run) -> Run | None:
    """The run that taught this one; None if none did, or it is gone."""
    folder = Path(run.plan.teacher)
    return Run.open(folder).one(run.plan.task) if run.plan.teacher and (folder / "plan.yaml").exists() else None
