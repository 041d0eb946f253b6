"""Several tasks of one network: the product of their likelihoods."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from sfumato.contracts import Moments
from sfumato.likelihoods.standardized import has_location, in_units
from sfumato.predictions.joint import JointMoments


@dataclass(frozen=True)
class Joint:
    """``p(y₁, y₂, … | f) = Π p(y_k | f_k)``: any tasks, each with its own likelihood, mask and unit.

    **The noise of a task is counted once.** A part is one of two kinds:

    - *homoscedastic across tasks*: :class:`Categorical`, :class:`Tempered` and :class:`L1` have no scale of their
      own, so the joint likelihood gives each one log-variance s for all pixels, learned with the network. It enters as
      ``e^{−s} L + s/2``, which needs no division and is defined for every s; ``e^{−s}`` is the weight of the task.
    - *heteroscedastic within a task*: every other part (:class:`Gaussian`, :class:`Laplace`, :class:`LogitNormal`, …)
      has a noise for each pixel in its own output, and enters by its negative log likelihood as it stands, in nats. An
      s before it would be a second name for the mean of its own log scale, and ``e^{−s} L`` without bound below 0,
      since the likelihood of a value is a density. Where the map is constant, its pull on the values is that of a
      homoscedastic part of the same scale.

    The output (B, C, H, W) holds the channels of each part in turn, then one s for each homoscedastic part, which
    :class:`sfumato.Heads` learns and puts there. So every method draws it like any output, an ensemble has a noise for
    each member, and all tasks are folded from the same draws.

    **Units.** ``scales`` says where the values of a task lie and how far they spread: its outputs are then numbers
    around 0 and 1, its loss is counted in spreads, and depth in millimeters trains the very network that meters do.

    Args:
        parts: name of a task → its likelihood; at least one.
        scales: name of a task → (center, spread > 0) of its values, behind their link; (0, 1) for those left out. For
            parts with ``dims`` whose output is locations, or locations and one or two log scales each.

    Raises:
        ValueError: if there is no part, a scale is of an unknown task or of one that has no location, or not above 0.

    Source: Kendall, Gal and Cipolla (2018), "Multi-task learning using uncertainty to weigh losses".
    Pitfall: at its minimum ``e^s = 2 L``, so the sum is that of ½ log L: a task that is learned by heart (L → 0) gains
    weight without bound.

    >>> from sfumato.likelihoods import L1, Categorical
    >>> joint = Joint({"classes": Categorical(2), "centers": L1(2)})
    >>> joint.channels, joint.homoscedastic_tasks
    (6, ('classes', 'centers'))
    """

    parts: Mapping[str, Any]
    scales: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("a joint likelihood of no task: give at least one, as in {'classes': Categorical(11)}")
        for name, (center, spread) in self.scales.items():
            if name not in self.parts:
                raise ValueError(f"scales name {name!r}, which is none of the tasks {', '.join(self.parts)}")
            part = self.parts[name]
            if not has_location(part):
                raise ValueError(f"scales name {name!r}, but a {type(part).__name__} has no location: leave it out")
            if not (math.isfinite(center) and 0 < spread < math.inf):
                raise ValueError(f"the scale of {name} is {(center, spread)}, expected a center and a spread above 0")

    @property
    def channels(self) -> int:
        """Those of all parts, and one for each of :attr:`homoscedastic_tasks`."""
        return sum(self.heads.values()) + len(self.homoscedastic_tasks)

    @property
    def heads(self) -> dict[str, int]:
        """The output channels of each part."""
        return {name: part.channels for name, part in self.parts.items()}

    @property
    def homoscedastic_tasks(self) -> tuple[str, ...]:
        """The tasks whose noise is one number for all pixels."""
        return tuple(name for name, part in self.parts.items() if hasattr(part, "moments_at"))

    def losses(self, output: Tensor, targets: Mapping[str, Tensor], valids: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What weightings weigh, (B, H, W) for each task of ``targets``, 0 where not valid.

        Of homoscedastic parts the loss L ≥ 0 without its noise, values counted in spreads; of others the negative log
        likelihood.
        """
        found = {}
        for name, part, read, _ in self._read(output, targets):
            truth = targets[name], valids[name]
            spread = self._scale(name)[1]
            found[name] = (
                part.loss(read, *truth) / spread if name in self.homoscedastic_tasks else part.nll(read, *truth)
            )
        return found

    def terms(self, output: Tensor, targets: Mapping[str, Tensor], valids: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What each task of ``targets`` adds to the loss (B, H, W), 0 where not valid: see the class."""
        found = {}
        for name, part, read, noise in self._read(output, targets):
            truth = targets[name], valids[name]
            if noise is None:
                found[name] = part.nll(read, *truth)
            else:  # s is that of values in spreads; the constant keeps the loss that of s in units less their logarithm
                spread = math.log(self._scale(name)[1])
                found[name] = (part.term(read, noise + spread, *truth) - spread / 2).where(valids[name], 0.0)
        return found

    def log_variances(self, output: Tensor) -> dict[str, Tensor]:
        """S (B, H, W) of each of :attr:`homoscedastic_tasks`, values counted in spreads."""
        return dict(zip(self.homoscedastic_tasks, output[:, sum(self.heads.values()) :].unbind(1)))

    def nll(self, output: Tensor, target: Any, valid: Any) -> Tensor:
        """The sum of :meth:`terms` (B, H, W); ``target`` and ``valid`` are mappings by task.

        Pitfall: a mean over all pixels of this sum weighs a task by how many pixels it has; training takes the mean of
        each task over its own valid pixels.
        """
        found = list(self.terms(output, target, valid).values())
        if not found:
            raise ValueError(f"targets of no task: expected some of {', '.join(self.parts)}")
        return reduce(torch.add, found)

    def moments(self, output: Tensor) -> JointMoments:
        """Those of each task."""
        return self.moments_of(output, self.parts)

    def moments_of(self, output: Tensor, names: Collection[str]) -> JointMoments:
        """Those of some tasks."""
        found = self._read(output, names)
        return JointMoments({name: self._moments(name, part, read, noise) for name, part, read, noise in found})

    def select_task(self, name: str) -> TaskLikelihood:
        """The likelihood that reads one task from the output of all.

        Raises:
            ValueError: for an unknown task.
        """
        if name not in self.parts:
            raise ValueError(f"{name!r} is none of the tasks {', '.join(self.parts)}")
        return TaskLikelihood(self, name)

    def _moments(self, name: str, part: Any, read: Tensor, noise: Tensor | None) -> Moments:
        if noise is None:
            return part.moments(read)
        return part.moments_at(read, noise + math.log(self._scale(name)[1]))

    def _scale(self, name: str) -> tuple[float, float]:
        return self.scales.get(name, (0.0, 1.0))

    def _read(self, output: Tensor, wanted: Collection[str]) -> Iterator[tuple[str, Any, Tensor, Tensor | None]]:
        """Name, part, its output in the unit of its values, and its s (B, H, W), if any, of each wanted task."""
        if unknown := sorted(set(wanted) - set(self.parts)):
            raise ValueError(f"there is no task {unknown[0]!r}: expected some of {', '.join(self.parts)}")
        homoscedastic_tasks = self.log_variances(output)
        start = 0
        for name, part in self.parts.items():
            own = output[:, start : start + part.channels]
            start += part.channels
            if name not in wanted:
                continue
            if name in self.scales:
                center, spread = self.scales[name]
                own = in_units(own, part.dims, center, spread)
            yield name, part, own, homoscedastic_tasks.get(name)


@dataclass(frozen=True)
class TaskLikelihood:
    """One task of a :class:`Joint`: reads the output of all.

    Args:
        joint: of all tasks.
        name: of the one.
    """

    joint: Joint
    name: str

    @property
    def channels(self) -> int:
        """Those of all tasks."""
        return self.joint.channels

    @property
    def unit(self) -> str:
        """Of its values; empty for classes."""
        return getattr(self.joint.parts[self.name], "unit", "")

    def nll(self, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """What the task adds to the loss (B, H, W), 0 where not valid."""
        return self.joint.terms(output, {self.name: target}, {self.name: valid})[self.name]

    def moments(self, output: Tensor) -> Moments:
        """Those of the task."""
        return self.joint.moments_of(output, {self.name}).parts[self.name]
