"""Values: a categorical distribution over planes, such as those of a stereo cost volume."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self

import torch
from torch import Tensor

from sfumato.errors import ConfigError
from sfumato.likelihoods.links import check_targets
from sfumato.predictions import ValueMoments

WIDTH = 0.6
"""Standard deviation of the target over planes, in steps. From about 0.5, mean and variance over planes are exact."""

FLOOR = 0.04
"""Variances far above this number of squared steps stay as they are. Smaller ones stay above 0 and in their order."""

NEAR = 2
"""Planes on each side of the most probable one from which the value is computed."""


class PlaneTarget(Protocol):
    """A task whose values lie between 0 and a largest one."""

    @property
    def planes(self) -> int:
        """Number of planes that reach the largest value."""
        ...

    @property
    def unit(self) -> str:
        """Unit of the values."""
        ...


@dataclass(frozen=True)
class Planes:
    """``p(plane k) = softmax(f)_k`` for planes at the values 0, step, 2 step, …, one output channel for each.

    The scores f are those of a cost volume, so this is the softmin of the costs. The target y is a distribution over
    planes too, ``q_k ∝ exp(−(y − y_k)² / 2τ²)`` with τ = 0.6 steps: its mean is y, also between planes. The loss is the
    cross-entropy of both.

    The predicted value is the mean over the most probable plane and two planes on either side. Between two surfaces the
    mean over all planes would be a value that neither of them has. The variance is the mean squared distance from the
    predicted value under the whole distribution, less the τ² that the target adds. So it is large where a second value
    is possible. Everything is computed in float32.

    ``sfumato.likelihoods.Categorical(planes)`` reads the same output as classes: its predictions have the mutual
    information of the draws, and temperatures.

    Args:
        planes: Number of planes ≥ 2, and of output channels.
        step: Distance of two planes > 0, in ``unit``. Default 1.
        unit: Unit of the values. Default: none.

    Raises:
        ConfigError: If a number is too small.

    Source: Kendall et al. (2017), GC-Net, for the softmin; Tulyakov et al. (2018), "Practical deep stereo", for the
    cross-entropy and the mean around the mode.
    Pitfall: Values beyond the last plane cannot be predicted. ``fit`` refuses data that have them. Values within a step
    of the first or the last plane are drawn inwards, by 0.2 steps at the plane itself.

    >>> output = torch.full((1, 8), -20.0)
    >>> output[0, 5] = 20.0
    >>> Planes(8, unit="px").moments(output).prediction().mean
    tensor([[5.]])
    """

    planes: int
    step: float = 1.0
    unit: str = ""
    target: ClassVar[str] = "value"
    absolute: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.planes < 2 or not 0 < self.step < math.inf:
            raise ConfigError(
                f"planes is {self.planes} and step {self.step}, expected at least 2 planes, apart by more than 0"
            )

    @classmethod
    def for_task(cls, task: PlaneTarget) -> Self:
        """The likelihood for a task with planes, one unit apart.

        Raises:
            ConfigError: If the task has none.
        """
        if not getattr(task, "planes", 0):
            raise ConfigError("likelihood 'planes' is for tasks with planes, such as disparity: choose another one")
        return cls(task.planes, unit=task.unit)

    @property
    def dims(self) -> int:
        """1: one value per pixel."""
        return 1

    @property
    def channels(self) -> int:
        """The number of planes."""
        return self.planes

    @property
    def largest(self) -> float:
        """The value of the last plane, in ``unit``."""
        return (self.planes - 1) * self.step

    def nll(self, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """``−Σ_k q_k log softmax(f)_k`` (B, *event) in nats, 0 where not valid.

        Args:
            output: Scores (B, planes, *event).
            target: Values y (B, 1, *event) in ``unit``. Those beyond the planes count as the first or the last.
            valid: Mask (B, *event).

        Raises:
            DataError: If the targets have another shape.
        """
        check_targets(output, target, 1, "one value for each pixel of the output {}")
        known = valid.unsqueeze(1)
        scores = _wide(output).where(known, 0.0)
        y = (target.to(scores.dtype).where(known, 0.0) / self.step).clamp(0, self.planes - 1)
        q = (-0.5 / WIDTH**2 * (y - _places(scores)).square()).softmax(1)
        return (scores.logsumexp(1) - (q * scores).sum(1)).where(valid, 0.0)

    def moments(self, output: Tensor) -> ValueMoments:
        """Value and variance in ``unit``. The variance is above 0 everywhere."""
        probs = _wide(output).softmax(1)
        places = _places(probs)
        mode = probs.argmax(1, keepdim=True)
        near = probs * ((places - mode).abs() <= NEAR)
        value = (near * places).sum(1, keepdim=True) / near.sum(1, keepdim=True)
        excess = (probs * (places - value).square()).sum(1, keepdim=True) - WIDTH**2
        # Above 0 and increasing everywhere, so that no two pixels get the same number by a limit.
        variance = 0.5 * (excess + (excess.square() + FLOOR**2).sqrt())
        return ValueMoments.of(self.step * value, self.step**2 * variance, self.unit)


def _wide(output: Tensor) -> Tensor:
    return output.to(torch.promote_types(output.dtype, torch.float32))


def _places(like: Tensor) -> Tensor:
    """The numbers of the planes (planes, 1, …), for tensors (B, planes, *event)."""
    places = torch.arange(like.shape[1], device=like.device, dtype=like.dtype)
    return places.view(-1, *[1] * (like.ndim - 2))
