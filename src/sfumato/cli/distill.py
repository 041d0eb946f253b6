"""``sfumato distill``."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def distill(
    run: Path,
    out: Path | None = None,
    likelihood: str = "",
    network: str = "",
    network_args: dict[str, Any] | None = None,
    start: Path | None = None,
    epochs: int = 0,
    batch: int = 0,
    learning_rate: float = 0.0,
    seed: int | None = None,
    samples: int | None = None,
    unlabeled: str = "",
    unlabeled_root: str = "",
    on_the_fly: bool = False,
    resume: bool = False,
    devices: int = 1,
    num_nodes: int = 1,
    quiet: bool = False,
    task: str = "",
) -> None:
    """Train a student that says in one pass what an ensemble or MC dropout says in many; leave it as a run.

    Args:
        run: the teacher, a folder that `fit` left. Its draws are learned, not its calibration: calibrate the student.
        out: folder of the student's run; RUN-student if not given.
        likelihood: of classes distilled (the default: labels and the teacher's epistemic part), distilled-probs (its
            probabilities too) or dudes (the spread of the teacher's label, as published); of values distilled-gaussian
            or distilled-laplace; of several tasks one for each, with commas.
        network: class path of the student's network; the teacher's if not given.
        network_args: its keyword arguments.
        start: folder of a run whose weights the student starts from, such as RUN itself; random ones if not given.
        epochs: passes over the training images; the teacher's if not given, as the next four.
        batch: images a step and device.
        learning_rate: the largest.
        seed: of everything random.
        samples: how many outputs a teacher draws that is MC dropout.
        unlabeled: further images to ask the teacher about, as DATA or DATA:SPLIT.
        unlabeled_root: where they lie.
        on_the_fly: ask the teacher about every augmented image, at every step, instead of once about every image.
        resume: go on with an interrupted distillation.
        devices: processes or GPUs on this node.
        num_nodes: how many nodes.
        quiet: show no progress bar.
        task: of a run of several tasks, the one to learn; all of them if not given.
    """
    from sfumato import training
    from sfumato.cli.evaluate import data_of
    from sfumato.cli.worlds import other_world

    teacher = training.Run.open(run)
    teacher = teacher.select_task(task) if task else teacher
    given = {"epochs": epochs, "batch": batch, "learning_rate": learning_rate, "network": network}
    choices: dict[str, Any] = {name: value for name, value in given.items() if value}
    if network or network_args is not None:
        choices["network_args"] = network_args
    if start is not None:
        choices["start"] = str(start.absolute())
    if seed is not None:
        choices["seed"] = seed
    train = data_of(teacher, "", "", "train")
    has_val = "val" in getattr(train, "splits", ("val",))
    folder = out or run.with_name(run.name + "-student")
    training.distil(
        teacher, train, data_of(teacher, "", "", "val") if has_val else None, folder, likelihood=likelihood,
        unlabeled=other_world(teacher, unlabeled, unlabeled_root) if unlabeled else None, samples=samples,
        on_the_fly=on_the_fly, resume=resume, devices=devices, num_nodes=num_nodes, progress=not quiet, **choices,
    )  # fmt: skip
    training.print_rank_zero(f"The student is in {folder}. Next: sfumato evaluate {folder}")
