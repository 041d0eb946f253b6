"""The objective that a plan names."""

from __future__ import annotations

from sfumato import registry
from sfumato.contracts import Likelihood
from sfumato.errors import ConfigError
from sfumato.likelihoods.joint import Joint
from sfumato.objectives.base import BaseObjective, TargetsOf, TrainingPlan


def objective_class(name: str, several: bool = False, trust: registry.Trust = registry.NO_TRUST) -> type[BaseObjective]:
    """The class of the objective called ``name``.

    Args:
        name: Name or class path. Empty for ``nll``, for several tasks ``multi-task``.
        several: Whether there are several tasks. Default False.
        trust: Which class paths outside this package may be imported.

    Raises:
        ConfigError: If it is no objective.
        PluginError: If there is no such name.
    """
    kind = registry.load("objectives", name or ("multi-task" if several else "nll"), trust)
    if not (isinstance(kind, type) and issubclass(kind, BaseObjective)):
        raise ConfigError(f"objective is {name!r}, expected a subclass of sfumato.objectives.BaseObjective")
    return kind


def build_objective(
    plan: TrainingPlan, task: TargetsOf, likelihood: Likelihood[object], trust: registry.Trust = registry.NO_TRUST
) -> BaseObjective:
    """The objective of a plan.

    Args:
        plan: A plan that names the objective and its arguments.
        task: What is predicted.
        likelihood: The meaning of the network's output.
        trust: Which class paths outside this package may be imported.

    Raises:
        ConfigError: If the objective cannot be built with the arguments in the plan, or does not fit the tasks.
    """
    kind = objective_class(plan.config.objective, isinstance(likelihood, Joint), trust)
    try:
        return kind.build(task, likelihood, plan)
    except TypeError as error:
        raise ConfigError(
            f"the objective {kind.__name__} cannot be built with {dict(plan.config.objective_args)}: {error}"
        ) from error
