"""What a plan asks of each pixel: one task, or several that are learned together."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from sfumato.contracts import Likelihood, Task
from sfumato.likelihoods import Joint, weighting
from sfumato.likelihoods.links import LINKS
from sfumato.tasks import CenterOffsets, Depth, InverseDepth, MultiTask, Semantic
from sfumato.training.plan import Plan

TASKS: dict[str, type[Any]] = {kind.key: kind for kind in (Semantic, Depth, InverseDepth, CenterOffsets)}
JOINT_NETWORK = "sfumato.models.JointUNet"


def question(plan: Plan) -> tuple[Task, Likelihood]:
    """The task and likelihood that a plan names; of several tasks a :class:`MultiTask` and a :class:`Joint`.

    Raises:
        ValueError: if it names one that does not exist.
    """
    if not plan.tasks:
        task, likelihood = _one(plan.task, dict(plan.task_args or {}), plan.likelihood)
        if plan.likelihood in task.students and not plan.teacher:
            raise ValueError(f"likelihood {plan.likelihood!r} learns from a teacher: use `sfumato distill TEACHER`")
        return task, likelihood
    names, kinds = _names(plan.tasks), [kind.strip() for kind in plan.likelihood.split(",")]
    if len(kinds) != len(names):
        raise ValueError(f"likelihood is {plan.likelihood!r}, expected one for each of {plan.tasks}, with commas")
    asked = {name: _one(name, (plan.task_args or {})[name], kind) for name, kind in zip(names, kinds)}
    taught = [kind for kind, (task, _) in zip(kinds, asked.values()) if kind in task.students]
    if taught and not plan.teacher:
        raise ValueError(f"likelihood {taught[0]!r} learns from a teacher: use `sfumato distill TEACHER`")
    scales = {name: (float(center), float(spread)) for name, (center, spread) in (plan.scales or {}).items()}
    joint: Any = Joint({name: likelihood for name, (_, likelihood) in asked.items()}, scales)
    several: Any = MultiTask({name: task for name, (task, _) in asked.items()})
    return several, joint


def _one(name: str, given: dict[str, Any], kind: str) -> tuple[Task, Likelihood]:
    if name not in TASKS:
        raise ValueError(f"task is {name!r}, expected one of {sorted(TASKS)}")
    task: Task = TASKS[name](**{k: _tuples(v) for k, v in given.items()})
    if kind not in (*task.likelihoods, *task.students):
        raise ValueError(f"likelihood is {kind!r}, expected one of {list(task.likelihoods)} for {name}")
    return task, task.likelihood(kind)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list | tuple) else value


def _names(tasks: str) -> list[str]:
    names = [name.strip() for name in tasks.split(",")]
    if len(set(names)) != len(names) or not all(names):
        raise ValueError(f"tasks is {tasks!r}, expected names with commas, each once, as in classes,depth")
    return names


def resolve_tasks(plan: Plan, known: dict[str, Any]) -> Plan:
    """The plan with its task, or tasks, filled in from those that the data has.

    Args:
        plan: what was asked for.
        known: the tasks of the data by name.

    Raises:
        ValueError: for a task that the data does not have, or choices that do not belong together.
    """
    names = _names(plan.tasks) if plan.tasks else [plan.task or next(iter(known))]
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"{plan.data} has no task {unknown[0]!r}, it has {sorted(known)}")
    if not plan.tasks:
        if plan.weighting or plan.weights:
            raise ValueError("a weighting is of several tasks: name them, as in --tasks classes,depth")
        task = known[names[0]]
        return replace(
            plan, task=names[0], task_args=asdict(task), likelihood=plan.likelihood or task.likelihoods[0]
        )  # fmt: skip
    if plan.task:
        raise ValueError(f"both task {plan.task!r} and tasks {plan.tasks!r} are given: leave one out")
    filled = replace(
        plan,
        tasks=",".join(names),
        task_args={name: asdict(known[name]) for name in names},
        likelihood=plan.likelihood or ",".join(known[name].likelihoods[0] for name in names),
        weighting=plan.weighting or "uncertainty",
        network=JOINT_NETWORK if plan.network == Plan.network else plan.network,
    )
    objective(filled, question(filled)[1])  # what cannot be weighed is refused before any image is read
    return filled


def with_target_statistics(plan: Plan, dataset: Dataset, most: int = 200) -> Plan:
    """The plan with ``scales``: mean and standard deviation of the values of each task, behind their link.

    Args:
        plan: of several tasks; any other is returned as it is.
        dataset: training images.
        most: look at no more than this many, evenly spread.
    """
    task, joint = question(plan)
    if not isinstance(joint, Joint):
        return plan
    count = len(dataset)  # pyright: ignore[reportArgumentType]
    laws = {
        name: law
        for name, law in joint.parts.items()
        if hasattr(law, "dims") and law.channels in (law.dims, 2 * law.dims)
    }
    sums = {name: torch.zeros(3, dtype=torch.float64) for name in laws}
    for index in range(0, count, max(1, count // most)):
        targets, valids = task.target_and_mask(dataset[index])
        for name, law in laws.items():
            link = LINKS[getattr(law, "link", "identity")]
            z = link.to_z(targets[name].double()[:, valids[name]]).flatten()
            sums[name] += torch.stack([torch.ones_like(z), z, z.square()], 1).sum(0)
    return replace(plan, scales={name: _center_and_spread(*found.tolist()) for name, found in sums.items()})


def _center_and_spread(count: float, first: float, second: float) -> tuple[float, float]:
    center = first / max(count, 1)
    spread = max(second / max(count, 1) - center**2, 0.0) ** 0.5
    return float(f"{center:.7g}"), float(f"{spread or abs(center) or 1.0:.7g}")


class MeanNLL(nn.Module):
    """The loss of one task: its negative log likelihood, mean over valid pixels."""

    def __init__(self, likelihood: Likelihood) -> None:
        super().__init__()
        self.likelihood = likelihood

    def forward(self, output: Any, target: Any, valid: Any) -> tuple[Any, dict[str, Any]]:
        """The loss, and no weights."""
        return self.likelihood.nll(output, target, valid).sum() / valid.sum().clamp_min(1), {}

    def end_epoch(self) -> None:
        """Nothing to do."""


def objective(plan: Plan, likelihood: Likelihood) -> Any:
    """What training minimizes: of output, targets and masks, the loss and the weight of each task.

    Raises:
        ValueError: for an unknown weighting, or weights that do not fit the tasks.
    """
    if not isinstance(likelihood, Joint):
        return MeanNLL(likelihood)
    names = list(likelihood.parts)
    if plan.weights and len(plan.weights) != len(names):
        raise ValueError(f"weights are {plan.weights}, expected one for each of {plan.tasks}")
    return weighting(plan.weighting or "uncertainty", likelihood, dict(zip(names, plan.weights)))
