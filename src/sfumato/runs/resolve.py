"""From the names in a plan to a task and a likelihood."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass, replace
from typing import cast

from sfumato import registry
from sfumato.contracts import Likelihood, Task
from sfumato.errors import ConfigError
from sfumato.likelihoods import Joint, has_location, standardized
from sfumato.predictions import AnyPrediction, TaskPrediction, ValuePrediction
from sfumato.runs.config import Config
from sfumato.runs.plan import Plan
from sfumato.sections import Json
from sfumato.tasks import MultiTask


def task_and_likelihood(plan: Plan) -> tuple[Task | MultiTask, Likelihood[AnyPrediction]]:
    """The task and the likelihood that a plan names. For several tasks a :class:`MultiTask` and a :class:`Joint`.

    Raises:
        ConfigError: If a likelihood is not one of the task, or is a student's without a teacher.
        PluginError: If there is no such name.
    """
    config, facts = plan.config, plan.facts
    tasks = {name: build_task(name, facts.task_args.get(name, {}), plan.trust) for name in config.task_names}
    likelihoods = {
        name: build_likelihood(kind, tasks[name], plan.trust, taught=bool(config.teacher))
        for name, kind in zip(tasks, config.likelihood_names)
    }
    scales = {
        name: (float(facts.scales[name][0]), float(facts.scales[name][1])) for name in tasks if name in facts.scales
    }
    for name in [name for name in scales if not config.tasks or not has_location(likelihoods[name])]:
        likelihoods[name] = standardized(cast("Likelihood[ValuePrediction]", likelihoods[name]), *scales.pop(name))
    if config.tasks:
        return MultiTask(tasks), Joint(likelihoods, scales)
    return tasks[config.task], likelihoods[config.task]


def build_task(name: str, arguments: Mapping[str, Json], trust: registry.Trust = registry.NO_TRUST) -> Task:
    """The task called ``name``.

    Raises:
        ConfigError: If it cannot be made of these arguments.
        PluginError: If there is no such task.
    """
    kind = registry.load("tasks", name, trust)
    if not (isinstance(kind, type) and is_dataclass(kind) and hasattr(kind, "default_likelihood")):
        raise ConfigError(f"{name!r} is no task: expected a frozen dataclass such as sfumato.tasks.Depth")
    try:
        return cast(Task, kind(**arguments))
    except TypeError as error:
        raise ConfigError(f"task {name!r} cannot be made of {sorted(arguments)}: {error}") from error


def build_likelihood(
    name: str, task: Task, trust: registry.Trust = registry.NO_TRUST, taught: bool = False
) -> Likelihood[TaskPrediction]:
    """The likelihood called ``name`` for a task.

    Args:
        name: Name or class path.
        task: The task whose targets it describes.
        trust: Which class paths outside this package may be imported.
        taught: Whether there is a teacher to learn from.

    Raises:
        ConfigError: If it is for another kind of target, or learns from a teacher and there is none.
        PluginError: If there is no such likelihood.
    """
    kind = registry.load("likelihoods", name, trust)
    if getattr(kind, "target", "") != task.kind or not hasattr(kind, "for_task"):
        raise ConfigError(f"likelihood is {name!r}, expected one of {', '.join(likelihood_names(task))} for {task.key}")
    if getattr(kind, "student", False) and not taught:
        raise ConfigError(f"likelihood {name!r} learns from a teacher: use `sfumato distill TEACHER`")
    return _for_task(cast("type[LikelihoodClass]", kind), task)


class LikelihoodClass(Likelihood[TaskPrediction]):
    """What the class of a likelihood offers beside the likelihood itself."""

    @classmethod
    def for_task(cls, task: Task) -> Likelihood[TaskPrediction]:
        """The likelihood for the targets of a task."""
        raise NotImplementedError


def likelihood_names(task: Task, student: bool = False) -> list[str]:
    """Names of the likelihoods for a task: the task's default first."""
    found = []
    for name in registry.names("likelihoods"):
        kind = registry.load("likelihoods", name)
        fits = getattr(kind, "target", "") == task.kind and getattr(kind, "student", False) is student
        if fits and hasattr(kind, "for_task") and _takes(kind, task):
            found.append(name)
    return sorted(found, key=lambda name: name != task.default_likelihood)


def _takes(kind: object, task: Task) -> bool:
    """Whether a likelihood suits a task of its kind: some are for vectors, or for tasks with planes."""
    try:
        _for_task(cast("type[LikelihoodClass]", kind), task)
    except ConfigError:
        return False
    return True


def _for_task(kind: type[LikelihoodClass], task: Task) -> Likelihood[TaskPrediction]:
    """The likelihood for the targets of a task. A task whose targets are no plain numbers gives it their meaning."""
    found, on_target = kind.for_task(task), getattr(task, "on_target", None)
    return found if on_target is None else on_target(found)


def calibrator_classes(task: Task) -> dict[str, type]:
    """Calibrators for the predictions of a task by name, the default first."""
    found = {name: registry.load("calibrators", name) for name in registry.names("calibrators")}
    return {name: kind for name, kind in found.items() if isinstance(kind, type) and _fits(kind, task)}


def _fits(kind: type, task: Task) -> bool:
    return getattr(kind, "target", "") == task.kind


def resolve_tasks(config: Config, known: Mapping[str, Task]) -> tuple[Config, dict[str, dict[str, Json]]]:
    """The configuration with its tasks and likelihoods filled in, and what each task is made of.

    Args:
        config: What was requested.
        known: The tasks of the data by name.

    Raises:
        ConfigError: For a task that the data does not have, or choices that exclude each other.
    """
    names = config.task_names if config.tasks or config.task else [next(iter(known))]
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"{config.data} has no task {unknown[0]!r}, expected one of {', '.join(known)}")
    if not config.tasks and (config.weighting or config.weights):
        raise ConfigError("a weighting is for several tasks: name them, as in --tasks classes,depth")
    if config.tasks and config.task:
        raise ConfigError(f"both task {config.task!r} and tasks {config.tasks!r} are given: leave one out")
    likelihood = config.likelihood or ",".join(known[name].default_likelihood for name in names)
    filled = replace(config, likelihood=likelihood)
    if config.tasks:
        filled = replace(filled, tasks=",".join(names), weighting=config.weighting or "uncertainty")
    else:
        filled = replace(filled, task=names[0])
    return filled, {name: task_arguments(known[name]) for name in names}


def task_arguments(task: Task) -> dict[str, Json]:
    """What a task is made of, as a plan stores it."""
    if not is_dataclass(task):
        raise ConfigError(f"{type(task).__name__} is no dataclass: make it one, so that a run can store its arguments")
    return asdict(task)
