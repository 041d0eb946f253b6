"""Several tasks of one network: the product of their likelihoods."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import ClassVar, Protocol, cast

import torch
from torch import Tensor

from sfumato.contracts import Likelihood, Loss, Moments
from sfumato.errors import ConfigError
from sfumato.likelihoods.soft_targets import expected
from sfumato.likelihoods.standardized import has_location, in_units
from sfumato.predictions.joint import JointMoments, TaskPrediction


class HomoscedasticPart(Likelihood[TaskPrediction], Protocol):
    """A likelihood whose noise, a log-variance s, is given from outside."""

    def loss(self, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """The loss L (B, *event) without noise, 0 where not valid."""
        ...

    def term(self, output: Tensor, log_variance: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """``e^{−s} L + s/2`` (B, *event), or what the likelihood has in its place."""
        ...

    def moments_at(self, output: Tensor, log_variance: Tensor) -> Moments[TaskPrediction]:
        """The moments of one draw with this noise."""
        ...


Part = Likelihood[TaskPrediction]
Targets = Tensor | Mapping[str, Tensor]
"""A mapping by task. The protocol of likelihoods declares a tensor."""


@dataclass(frozen=True)
class Joint:
    """``p(y₁, y₂, … | f) = Π p(y_k | f_k)``: any tasks, each with its own likelihood, mask and unit.

    The noise of a task is counted once. A part is one of two kinds:

    - *Homoscedastic*: :class:`Categorical`, :class:`Tempered` and :class:`L1` have no scale of their own. So the joint
      likelihood gives each one log-variance s for all pixels, which is learned with the network. It enters the loss as
      ``e^{−s} L + s/2``, which is defined for every s. ``e^{−s}`` is the weight of the task.
    - *Heteroscedastic*: every other part (:class:`Gaussian`, :class:`Laplace`, :class:`LogitNormal`, …) has a noise for
      each pixel in its own output. It enters the loss by its negative log likelihood in nats. An s for it would repeat
      the mean of its own log scale, and ``e^{−s} L`` would have no lower bound, because L can be negative.

    The output (B, C, *event) holds the channels of each part in turn, then one s for each homoscedastic part, which
    :class:`sfumato.Heads` learns and adds. So methods draw it like any output, each member of an ensemble has its own
    noise, and the predictions of all tasks come from the same draws.

    **Soft labels.** The target of classes may be their probabilities (B, K, *event). Then the loss is the expected one.

    **Units.** ``scales`` gives the center and the spread of the values of a task. The outputs are then numbers around 0
    with a spread of about 1, and the loss is counted in spreads. So the training does not depend on the unit.

    Args:
        parts: The likelihood of each task by name, at least one.
        scales: Center and spread > 0 of the values of a task by name, behind their link. Default (0, 1). Only for parts
            with ``dims`` whose output is locations, then none, one or two log scales each.

    Raises:
        ConfigError: If there is no part, or a scale is not above 0, of an unknown task or of one without a location.

    Source: Kendall, Gal and Cipolla (2018), "Multi-task learning using uncertainty to weigh losses".
    Pitfall: At the minimum ``e^s = 2 L``, so the loss is that of ½ log L. The weight of a task with L → 0 has no bound.

    >>> from sfumato.likelihoods import L1, Categorical
    >>> joint = Joint({"classes": Categorical(2), "centers": L1(2)})
    >>> joint.channels, joint.homoscedastic_tasks
    (6, ('classes', 'centers'))
    """

    parts: Mapping[str, Part]
    scales: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    target: ClassVar[str] = "multi-task"

    def __post_init__(self) -> None:
        if not self.parts:
            raise ConfigError("a joint likelihood of no task: give at least one, as in {'classes': Categorical(11)}")
        for name, (center, spread) in self.scales.items():
            if name not in self.parts:
                raise ConfigError(f"scales name {name!r}, which is none of the tasks {', '.join(self.parts)}")
            part = self.parts[name]
            if not has_location(part):
                raise ConfigError(f"scales name {name!r}, but a {type(part).__name__} has no location: leave it out")
            if not (math.isfinite(center) and 0 < spread < math.inf):
                raise ConfigError(f"the scale of {name} is {(center, spread)}, expected a center and a spread above 0")

    @property
    def channels(self) -> int:
        """The channels of all parts, and one for each of :attr:`homoscedastic_tasks`."""
        return sum(self.heads.values()) + len(self.homoscedastic_tasks)

    @property
    def heads(self) -> dict[str, int]:
        """The output channels of each part."""
        return {name: part.channels for name, part in self.parts.items()}

    @property
    def homoscedastic_tasks(self) -> tuple[str, ...]:
        """The tasks whose noise is one learned number for all pixels."""
        return tuple(name for name, part in self.parts.items() if hasattr(part, "moments_at"))

    def losses(self, output: Tensor, targets: Mapping[str, Tensor], valids: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The loss without learned noise (B, *event) of each task of ``targets``, 0 where not valid.

        For homoscedastic parts this is L ≥ 0, with values counted in spreads. For others it is the negative log
        likelihood.
        """
        found = {}
        for name, part, read, _ in self._read(output, targets):
            truth = targets[name], valids[name]
            if name in self.homoscedastic_tasks:
                found[name] = _loss(part, cast(HomoscedasticPart, part).loss, read, *truth) / self._scale(name)[1]
            else:
                found[name] = _loss(part, part.nll, read, *truth)
        return found

    def terms(self, output: Tensor, targets: Mapping[str, Tensor], valids: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The loss term (B, *event) of each task of ``targets``, 0 where not valid."""
        found = {}
        for name, part, read, noise in self._read(output, targets):
            truth = targets[name], valids[name]
            if noise is None:
                found[name] = _loss(part, part.nll, read, *truth)
            else:  # s counts in spreads: the loss is that of s in units minus the logarithm of the spread
                spread = math.log(self._scale(name)[1])
                with_noise = partial(_term, cast(HomoscedasticPart, part), noise + spread)
                term = _loss(part, with_noise, read, *truth)
                found[name] = (term - spread / 2).where(valids[name], 0.0)
        return found

    def log_variances(self, output: Tensor) -> dict[str, Tensor]:
        """The log-variance s (B, *event) of each homoscedastic task, with values counted in spreads."""
        return dict(zip(self.homoscedastic_tasks, output[:, sum(self.heads.values()) :].unbind(1)))

    def nll(self, output: Tensor, target: Targets, valid: Targets) -> Tensor:
        """The sum of :meth:`terms` (B, *event). ``target`` and ``valid`` are mappings by task.

        Pitfall: The mean of this sum over all pixels weights a task by its number of pixels. Training takes the mean of
        each task over its own valid pixels.
        """
        targets, valids = cast("Mapping[str, Tensor]", target), cast("Mapping[str, Tensor]", valid)
        found = list(self.terms(output, targets, valids).values())
        if not found:
            raise ConfigError(f"targets of no task: expected some of {', '.join(self.parts)}")
        return reduce(torch.add, found)

    def moments(self, output: Tensor) -> JointMoments:
        """The moments of each task."""
        return self.moments_of(output, self.parts)

    def moments_of(self, output: Tensor, names: Collection[str]) -> JointMoments:
        """The moments of some tasks."""
        found = self._read(output, names)
        return JointMoments({name: self._moments(name, part, read, noise) for name, part, read, noise in found})

    def output_of(self, name: str, output: Tensor) -> Tensor:
        """The part (B, C_k, *event) of the output that is of one task, in the unit of its values."""
        ((_, _, read, _),) = self._read(output, {name})
        return read

    def select_task(self, name: str) -> TaskLikelihood:
        """The likelihood that reads one task from the output of all.

        Raises:
            ConfigError: If there is no such task.
        """
        if name not in self.parts:
            raise ConfigError(f"{name!r} is none of the tasks {', '.join(self.parts)}")
        return TaskLikelihood(self, name)

    def _moments(self, name: str, part: Part, read: Tensor, noise: Tensor | None) -> Moments[TaskPrediction]:
        if noise is None:
            return part.moments(read)
        return cast(HomoscedasticPart, part).moments_at(read, noise + math.log(self._scale(name)[1]))

    def _scale(self, name: str) -> tuple[float, float]:
        return self.scales.get(name, (0.0, 1.0))

    def _read(self, output: Tensor, wanted: Collection[str]) -> Iterator[tuple[str, Part, Tensor, Tensor | None]]:
        """Name, part, its output in the unit of its values, and its s (B, *event), if any, of each wanted task."""
        if unknown := sorted(set(wanted) - set(self.parts)):
            raise ConfigError(f"there is no task {unknown[0]!r}: expected some of {', '.join(self.parts)}")
        log_variances = self.log_variances(output)
        start = 0
        for name, part in self.parts.items():
            own = output[:, start : start + part.channels]
            start += part.channels
            if name not in wanted:
                continue
            if name in self.scales:
                center, spread = self.scales[name]
                own = in_units(own, getattr(part, "dims", 0), center, spread)
            yield name, part, own, log_variances.get(name)


def _loss(part: Part, loss: Loss, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """The loss of classes or values, or the expected loss of probabilities (B, K, *event) of classes."""
    classes = getattr(part, "target", "") == "class" and not getattr(part, "student", False)
    return (expected(loss) if classes and target.ndim > valid.ndim else loss)(output, target, valid)


def _term(part: HomoscedasticPart, log_variance: Tensor, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    return part.term(output, log_variance, target, valid)


@dataclass(frozen=True)
class TaskLikelihood:
    """The likelihood of one task of a :class:`Joint`, which reads the output of all tasks.

    Args:
        joint: The likelihood of all tasks.
        name: Name of the task.
    """

    joint: Joint
    name: str

    @property
    def channels(self) -> int:
        """The channels of all tasks."""
        return self.joint.channels

    @property
    def unit(self) -> str:
        """The unit of the values. Empty for classes."""
        return getattr(self.joint.parts[self.name], "unit", "")

    def nll(self, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """The loss term of the task (B, *event), 0 where not valid."""
        return self.joint.terms(output, {self.name: target}, {self.name: valid})[self.name]

    def moments(self, output: Tensor) -> Moments[TaskPrediction]:
        """The moments of the task."""
        return self.joint.moments_of(output, {self.name}).parts[self.name]
