"""What likelihoods of classes share: the number of classes, the task that gives it, and the cross-entropy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

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


def class_nll(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """``−log softmax(logits)_target`` (B, *event) in nats, 0 where not valid.

    The cross-entropy of torch is faster. On a GPU it is refused where only deterministic algorithms are allowed.

    Args:
        logits: Logits (B, K, *event).
        target: Classes (B, *event), int64, anything where not valid.
        valid: Mask (B, *event).
    """
    if torch.are_deterministic_algorithms_enabled():
        own = logits.log_softmax(1).gather(1, target.where(valid, 0).unsqueeze(1)).squeeze(1)
        return (-own).where(valid, 0.0)
    target = target.where(valid, -100)  # cross_entropy ignores this class: its loss and gradient are 0
    return cross_entropy(logits, target, ignore_index=-100, reduction="none")


def check_weight(name: str, weight: float) -> None:
    """Check the weight of a regularization.

    Raises:
        ConfigError: If it is less than 0.
    """
    if not weight >= 0:
        raise ConfigError(f"{name} is {weight}, expected at least 0")
