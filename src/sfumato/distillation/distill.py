"""Train a student that predicts in one pass what its teacher predicts in many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

from rich.progress import track
from torch import Tensor

from sfumato.contracts import Task
from sfumato.data.sizes import at_factors
from sfumato.data.views import Samples, subset
from sfumato.distillation.dataset import DistillationDataset
from sfumato.distillation.perturbation import Perturbation
from sfumato.distillation.teacher import Student, Teacher
from sfumato.errors import ConfigError
from sfumato.objectives import objective_class
from sfumato.registry import NO_TRUST, Trust
from sfumato.runs import Config, Plan, Run, likelihood_names, task_and_likelihood
from sfumato.runs.resolve import build_likelihood
from sfumato.training import check_output_dir, fit
from sfumato.training.folder import is_first
from sfumato.training.job import first_network
from sfumato.training.prepare import with_network_facts


def distill(
    run: Run,
    train: Samples,
    val: Samples | None,
    folder: str | Path,
    *,
    likelihood: str = "",
    unlabeled: Samples | None = None,
    samples: int | None = None,
    on_the_fly: bool = False,
    perturb: float = 0.0,
    resume: bool = False,
    device: str = "",
    devices: int = 1,
    num_nodes: int = 1,
    progress: bool = True,
    workers: int = -1,
    cache: str = "auto",
    cache_gb: float = 2.0,
    deterministic: bool = False,
    cuda_graph: bool = False,
    trust: Trust | bool | str = NO_TRUST,
    **choices: object,
) -> Run:
    """Train a student of a run, and leave it as a run of its own.

    Args:
        run: The teacher: an ensemble, MC dropout, or any other run whose predictions have an epistemic part. Its draws
            are learned and not its calibration. A run of several tasks teaches all of them; seen as one of its tasks
            (``run.select_task(name)``), it teaches that one.
        train: Labeled images at their original sizes. The student of a teacher that was trained without labels does not
            read them.
        val: Validation images; None for none.
        folder: The folder of the student. It is made if it does not exist.
        likelihood: A student's likelihood, with commas between those of several tasks. Empty for the one that fits the
            teacher's.
        unlabeled: Further images, of which only the teacher's predictions are learned. Default: none.
        samples: Number of samples of a stochastic teacher. None for that in its plan.
        on_the_fly: Whether the teacher predicts every augmented image, which costs its passes at every step, instead of
            every image once. Default False.
        perturb: The share of the images of a batch that are changed by a :class:`Perturbation` before the teacher is
            asked, in [0, 1]. Above 0 the teacher predicts on the fly. Default 0.
        resume: Whether an interrupted distillation is continued. Stored distillation targets are used in any case.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``. Empty for the device of the run.
        devices: Number of processes or GPUs on this node. Default 1.
        num_nodes: Number of nodes. Default 1.
        progress: Whether a bar is shown. Default True.
        workers: As of :func:`sfumato.training.fit`.
        cache: As of :func:`sfumato.training.fit`.
        cache_gb: As of :func:`sfumato.training.fit`.
        deterministic: As of :func:`sfumato.training.fit`.
        cuda_graph: As of :func:`sfumato.training.fit`.
        trust: Further class paths outside this package that may be imported. Those in ``choices`` are trusted.
        **choices: Fields of the configuration that differ from the teacher's, such as ``network``, ``epochs``, ``seed``
            or ``init_from``.

    Returns:
        The student's run.

    Raises:
        ConfigError: If the likelihood is not a student's, or ``perturb`` is no share.
        DataError: If the teacher has no epistemic part.
        RunExistsError: If the folder holds a run and ``resume`` is False.
    """
    folder, perturbation = Path(folder), Perturbation(perturb)
    on_the_fly = on_the_fly or perturb > 0
    plan = student_plan(run, likelihood, choices, trust)
    teacher = Teacher(run, students_of(plan), samples)
    labeled = at_factors(subset(train, plan.config.limit), plan.factors)
    unlabeled, val = (None if each is None else at_factors(each, plan.factors) for each in (unlabeled, val))
    _probe(teacher, labeled)  # a teacher without a spread is refused before anything is written
    if "network" in choices or "network_args" in choices:
        plan = with_network_facts(plan, train)
    images = len(labeled) + (0 if unlabeled is None else len(unlabeled))
    plan = replace(plan, config=replace(plan.config, limit=0), facts=replace(plan.facts, images=images))
    check_output_dir(plan, folder, resume)  # before the teacher predicts for a long time
    first_network(plan, folder)  # so that a start that does not fit is noticed, too
    dataset = DistillationDataset(teacher, labeled, unlabeled, cached=not on_the_fly, labels=_reads_labels(run))
    if not on_the_fly and is_first():
        for index in track(range(len(dataset)), "ask the teacher", disable=not progress, transient=True):
            _ = dataset[index]

    def changed(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return teacher.add_targets(perturbation(batch, dataset.entries) if perturb else batch)

    return fit(
        plan, dataset, val, folder, resume=resume, device=device or run.device.type, devices=devices,
        num_nodes=num_nodes, progress=progress, batch_transform=changed if on_the_fly else None,
        workers=workers, cache=cache, cache_gb=cache_gb, deterministic=deterministic, cuda_graph=cuda_graph,
    )  # fmt: skip


def student_plan(
    run: Run,
    likelihood: str = "",
    choices: Mapping[str, object] | None = None,
    trust: Trust | bool | str = NO_TRUST,
) -> Plan:
    """The plan of a student: that of its teacher, with one network and one pass.

    Args:
        run: The teacher.
        likelihood: A student's likelihood, with commas between those of several tasks. Empty for the one that fits.
        choices: Fields of the configuration that differ from the teacher's.
        trust: Further class paths outside this package that may be imported.

    Raises:
        ConfigError: If the likelihood is not a student's, or a choice is no field of the configuration.
    """
    given, config, tasks = dict(choices or {}), run.config, list(run.task.parts.values())
    if unknown := [name for name in given if name not in Config.__dataclass_fields__]:
        raise ConfigError(f"{unknown[0]!r} is no choice of a training, expected a field of Config")
    requested = likelihood.split(",") if likelihood else [""] * len(tasks)
    if len(requested) != len(tasks):
        raise ConfigError(f"likelihood is {likelihood!r}, expected one for each of {','.join(run.task.parts)}")
    pairs = zip(tasks, requested, config.likelihood_names, strict=True)
    fixed: dict[str, object] = {
        "likelihood": ",".join(_student(*each) for each in pairs), "method": "deterministic", "members": 1,
        "objective": "", "objective_args": {}, "max_time": "", "init_from": "",
        "output": "" if "network" in given else config.output,
        "encoder_rate": 0.0 if "network" in given else config.encoder_rate,
    }  # fmt: skip
    if config.tasks:  # the loss of a student has a noise of its own
        fixed |= {"weighting": "uncertainty", "weights": ()}
    elif run.prefix and config.network in ("", "joint-unet"):  # it learns one task of several
        fixed["network"] = ""
    if start := given.get("init_from"):
        given["init_from"] = str(Path(str(start)).absolute())
    known = replace(config, **{**fixed, **given}, teacher=str(run.folder.absolute()))  # pyright: ignore[reportArgumentType] # fields were checked above, Config checks their values
    named = [name for name in known.code_paths() if name not in config.code_paths()]
    trusted = Trust.of(trust)
    mine = Trust(run.plan.trust.everything or trusted.everything, (*run.plan.trust.paths, *trusted.paths))
    return Plan(known, run.facts, mine.naming(*named))


def students_of(plan: Plan) -> dict[str, Student]:
    """The likelihood of each task of a student's plan, by key.

    Raises:
        ConfigError: If one does not learn from a teacher.
    """
    task, _ = task_and_likelihood(plan)
    found: dict[str, Student] = {}
    for name, (key, each) in zip(plan.config.likelihood_names, task.parts.items(), strict=True):
        likelihood = build_likelihood(name, each, plan.trust, taught=True)
        if not hasattr(likelihood, "distillation_target"):
            raise ConfigError(f"the likelihood {name} of {key} does not learn from a teacher: name that of a student")
        found[key] = cast("Student", likelihood)
    return found


def _student(task: Task, likelihood: str, teacher: str) -> str:
    """The name of the likelihood that was requested, or of the one that fits the teacher's."""
    known = likelihood_names(task, student=True)
    if likelihood and "." not in likelihood and likelihood not in known:
        raise ConfigError(f"likelihood is {likelihood!r}, expected that of a student: one of {', '.join(known)}")
    if not known and not likelihood:
        raise ConfigError(f"no likelihood of a student is known for {task.key}: name one with --likelihood")
    kind = "laplace" if teacher == "l1" else teacher
    return likelihood or next((name for name in known if name.endswith(f"-{kind}")), known[0])


def _reads_labels(run: Run) -> bool:
    """Whether the teacher was trained with labels. If it was not, its student is not, either."""
    config = run.config
    return objective_class(config.objective, bool(config.tasks), run.plan.trust).needs_targets


def _probe(teacher: Teacher, dataset: Samples) -> None:
    """Ask the teacher about the first image, cut to the size of a crop.

    Raises:
        DataError: If the teacher has no epistemic part.
    """
    run, sample = teacher.run, dataset[0]
    height, width = run.config.crop
    ready = run.prepare(*run.inputs_of(sample))
    teacher(*(value[..., :height, :width] if value.ndim == 4 and height else value for value in ready))
