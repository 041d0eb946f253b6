"""What likelihoods of classes share: the number of classes and the task that gives it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from sfumato.errors import ConfigError
from sfumato.likelihoods.for_task import ClassTarget


@dataclass(frozen=True)
class ClassLikelihood:
    """Base of the likelihoods of classes.

    Args:
        classes: Number K ≥ 2 of classes.

    Raises:
        ConfigError: If ``classes`` is less than 2.
    """

    classes: int
    target: ClassVar[str] = "class"

    def __post_init__(self) -> None:
        if self.classes < 2:
            raise ConfigError(f"classes is {self.classes}, expected at least 2: a yes-or-no question has two classes")

    @classmethod
    def for_task(cls, task: ClassTarget) -> Self:
        """The likelihood for the classes of a task."""
        return cls(task.classes)


def check_weight(name: str, weight: float) -> None:
    """Check the weight of a regularization.

    Raises:
        ConfigError: If it is less than 0.
    """
    if not weight >= 0:
        raise ConfigError(f"{name} is {weight}, expected at least 0")
