"""``sfumato distill``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.cli.console import echo
from sfumato.errors import ConfigError

if TYPE_CHECKING:
    from sfumato.sections import Json


def distill(
    run: Path,
    out: Path | None = None,
    likelihood: str = "",
    network: str = "",
    network_args: dict[str, Json] | None = None,
    init_from: Path | None = None,
    epochs: int = 0,
    batch: int = 0,
    learning_rate: float = 0.0,
    seed: int | None = None,
    samples: int | None = None,
    unlabeled: str = "",
    unlabeled_root: str = "",
    on_the_fly: bool = False,
    perturb: float = 0.0,
    task: str = "",
    resume: bool = False,
    device: str = "auto",
    devices: int = 1,
    num_nodes: int = 1,
    workers: int = -1,
    cache: str = "auto",
    cache_gb: float = 2.0,
    deterministic: bool = False,
    cuda_graph: bool = False,
    trust: str = "",
    quiet: bool = False,
) -> None:
    """Train a student that predicts in one pass what an ensemble or MC dropout predicts in many; leave it as a run.

    Args:
        run: Folder of the teacher, a run. The student learns its draws, not its calibration: calibrate the student.
        out: Folder of the student's run. Default RUN-student.
        likelihood: For classes distilled (the default: labels and the teacher's epistemic part), distilled-probs (also
            its probabilities) or dudes (the spread of the teacher's label); for values distilled-gaussian or
            distilled-laplace, or self-laplace (the mean of a teacher that may be a single network, and how far the
            student is from it); for several tasks one for each, with commas.
        network: Name or class path of the student's network. Default: that of the teacher.
        network_args: Its keyword arguments.
        init_from: What the weights of the student start from: the folder of a run, such as RUN itself, or a checkpoint
            of any program. Default: those that the network is made with.
        epochs: Passes over the training images. Default: as the teacher.
        batch: Images per step and device. Default: as the teacher.
        learning_rate: The largest learning rate. Default: as the teacher.
        seed: Seed of everything random. Default: as the teacher.
        samples: Number of draws of a stochastic teacher. Default: as in its plan.
        unlabeled: Further images to learn the teacher's predictions on, as DATA or DATA:SPLIT, with commas: scenes and
            textures (both generated), other data sets, or folders of images. Default split train.
        unlabeled_root: Folder where they lie.
        on_the_fly: Predict every augmented image with the teacher at every step, instead of every image once.
        perturb: Share of images that get noise, blur, other colors and parts of other images before teacher and student
            see them, such as 0.5. Turns on --on-the-fly. Default 0.
        task: For a teacher of several tasks, the one to learn. Default: all of them.
        resume: Continue an interrupted distillation.
        device: auto, cpu, cuda or mps. Default auto.
        devices: Number of processes or GPUs on this node. Default 1.
        num_nodes: Number of nodes. Default 1.
        workers: Processes that read images. Default -1, as many as suit this machine.
        cache: Where decoded images are kept: none, memory, disk or auto. Default auto.
        cache_gb: Memory that may be used for them, GB. Default 2.
        deterministic: Use only algorithms that give the same result every time, which may be slower.
        cuda_graph: Record the passes of the network once and replay them, which is faster where a GPU waits for Python.
        trust: Class paths outside sfumato that may be imported, with commas; without a value all of them.
        quiet: Show no progress bar.
    """
    from sfumato.data.views import splits_of
    from sfumato.distillation import distill as train_student
    from sfumato.evaluation import dataset_for, unlabeled_dataset
    from sfumato.registry import Trust
    from sfumato.runs import Run

    if unlabeled_root and not unlabeled:
        raise ConfigError(f"unlabeled_root is {unlabeled_root}, but no --unlabeled is given: add it, or leave this out")
    named = [name.strip().partition(":")[0] for name in unlabeled.split(",")]
    allowed = Trust.of(trust).naming(network, *named, *likelihood.split(","))
    teacher = Run.open(run, device=device, trust=allowed)
    teacher = teacher.select_task(task) if task else teacher
    given = {"network": network, "epochs": epochs, "batch": batch, "learning_rate": learning_rate}
    choices: dict[str, object] = {name: value for name, value in given.items() if value}
    if network or network_args is not None:
        choices["network_args"] = network_args or {}
    if init_from is not None:
        choices["init_from"] = str(init_from)
    if seed is not None:
        choices["seed"] = seed
    train = dataset_for(teacher, split="train")
    val = dataset_for(teacher, split="val") if "val" in (splits_of(train) or ("val",)) else None
    folder = out or run.with_name(f"{run.name}-student")
    more = unlabeled_dataset(teacher, unlabeled, unlabeled_root) if unlabeled else None
    train_student(
        teacher, train, val, folder, likelihood=likelihood, unlabeled=more, samples=samples, on_the_fly=on_the_fly,
        perturb=perturb, resume=resume, device=device, devices=devices, num_nodes=num_nodes, workers=workers,
        cache=cache, cache_gb=cache_gb, deterministic=deterministic, cuda_graph=cuda_graph, trust=allowed,
        progress=not quiet, **choices,  # pyright: ignore[reportArgumentType] entries of Config only
    )  # fmt: skip
    echo(f"The student is in {folder}. Next: sfumato evaluate {folder}")
