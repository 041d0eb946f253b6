"""Decisions by expected cost, and what it is worth to look again before deciding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import torch
from torch import Tensor

from sfumato.contracts import Likelihood
from sfumato.errors import ConfigError, DataError
from sfumato.predictions import ClassMoments, ClassPrediction, entropy
from sfumato.sections import Json, read_yaml, short
from sfumato.storage import Stored


class Loss(Protocol):
    """What a decision costs, given probabilities of the classes."""

    def least(self, probs: Tensor) -> Tensor:
        """The expected cost (B, *event) of the best decision for probabilities (B, K, *event), concave in them."""
        ...


@dataclass(frozen=True)
class LogLoss:
    """The decision is a distribution q, which costs ``−log q`` of the true class. The best one costs the entropy."""

    def least(self, probs: Tensor) -> Tensor:
        """The entropy (B, *event) of probabilities (B, K, *event), in nats."""
        return entropy(probs)


@dataclass(frozen=True)
class Costs(Stored):
    """The cost of each action for each true class.

    Args:
        actions: Names of the A ≥ 2 actions. Abstaining is one of them.
        matrix: Cost (A, K) of each action where each class is true, in any unit. Finite.

    Raises:
        ConfigError: If the matrix has another size, or a cost is not finite.

    >>> costs = Costs(("go", "stop"), torch.tensor([[0.0, 100.0], [1.0, 0.0]]))
    >>> costs.best(torch.tensor([[0.999, 0.001], [0.9, 0.1]]))
    (tensor([0, 1]), tensor([0.1000, 0.9000]))
    """

    actions: Sequence[str]
    matrix: Tensor

    def __post_init__(self) -> None:
        if len(self.actions) < 2 or self.matrix.ndim != 2 or len(self.matrix) != len(self.actions):
            raise ConfigError(
                f"the cost matrix has the shape {tuple(self.matrix.shape)} and {len(self.actions)} actions: expected a "
                "row for each of at least two actions, and a column for each class"
            )
        if not bool(self.matrix.isfinite().all()):
            raise ConfigError(
                "the cost matrix holds NaN or infinity: expected finite costs; a large one rules an action out"
            )

    @classmethod
    def read(cls, path: str | Path, classes: Sequence[str]) -> Self:
        """Costs from a YAML file.

        It has the entry ``classes``, the names of all classes in any order, and the entry ``costs`` with a row for each
        action: a list with a cost for each of these classes, or one number that holds for all of them, as for
            abstaining.

        Args:
            path: The file.
            classes: Names of the classes in the order of the prediction.

        Raises:
            ConfigError: If it holds something else, other classes, a row of the wrong length, or a cost that is NaN.
        """
        path = Path(path)
        try:
            found = read_yaml(path)
            return cls(*_table(found, classes))
        except ValueError as error:  # ConfigError is one
            raise ConfigError(f"{path}: {error}") from error

    def expected(self, probs: Tensor) -> Tensor:
        """The expected cost (B, A, *event) of each action for probabilities (B, K, *event).

        Raises:
            DataError: If the probabilities are of another number of classes.
        """
        if probs.shape[1] != self.matrix.shape[1]:
            raise DataError(f"the costs are of {self.matrix.shape[1]} classes, the probabilities of {probs.shape[1]}")
        return torch.einsum("ak,bk...->ba...", self.matrix.to(probs), probs)

    def best(self, probs: Tensor) -> tuple[Tensor, Tensor]:
        """The action (B, *event), int64, with the least expected cost, and that cost (B, *event)."""
        cost, action = self.expected(probs).min(1)
        return action, cost

    def least(self, probs: Tensor) -> Tensor:
        """The expected cost (B, *event) of the best action for probabilities (B, K, *event)."""
        return self.expected(probs).amin(1)

    def realized(self, action: Tensor, target: Tensor) -> Tensor:
        """The cost (B, *event) of actions (B, *event) where the true classes (B, *event) are known."""
        return self.matrix.to(action.device)[action, target]


def _table(found: Json, classes: Sequence[str]) -> tuple[tuple[str, ...], Tensor]:
    rows = found.get("costs") if isinstance(found, dict) else None
    if not isinstance(found, dict) or set(found) != {"classes", "costs"} or not isinstance(rows, dict):
        raise ConfigError("expected the entries `classes`, a list of names, and `costs`, with a row for each action")
    names = found["classes"]
    if not isinstance(names, list) or sorted(map(str, names)) != sorted(classes):
        raise ConfigError(f"classes are {short(names)}, expected {', '.join(classes)}, in any order")
    places = [list(map(str, names)).index(name) for name in classes]
    matrix: list[list[float]] = []
    for action, row in rows.items():
        costs = [row] * len(classes) if isinstance(row, int | float) else row
        if not isinstance(costs, list) or len(costs) != len(classes):
            raise ConfigError(
                f"costs of {action!r} are {short(row)}, expected {len(classes)} numbers or one for all classes"
            )
        if any(isinstance(cost, bool) or not isinstance(cost, int | float) for cost in costs):
            raise ConfigError(f"costs of {action!r} are {short(row)}, expected numbers")
        matrix.append([float(str(costs[place])) for place in places])
    return tuple(map(str, rows)), torch.tensor(matrix, dtype=torch.float64).reshape(len(matrix), len(classes)).float()


@dataclass(frozen=True)
class Look:
    """A prediction of classes, and what it is worth to know which of the draws is right.

    Args:
        prediction: The prediction.
        value: ``min_a C·p̄ − mean_t min_a C·p_t`` (B, *event), ≥ 0, in the unit of the cost: the expected value of
            perfect information about the network. With one draw it is 0, because it is not measured.
    """

    prediction: ClassPrediction
    value: Tensor


@dataclass(frozen=True)
class LookMoments:
    """Sums over draws: those of :class:`~sfumato.predictions.ClassMoments`, and the least expected cost of each draw.

    Args:
        moments: The moments of the probabilities.
        cost: ``Σ_t min_a C·p_t`` (B, *event).
        loss: What a decision costs.
    """

    moments: ClassMoments
    cost: Tensor
    loss: Loss

    @classmethod
    def of(cls, moments: ClassMoments, loss: Loss) -> Self:
        """The moments of one draw, given its class moments."""
        return cls(moments, loss.least(moments.probs), loss)

    def merge(self, other: Self) -> Self:
        """Moments of both sets of draws together. The sums are added into the memory of ``self``."""
        return type(self)(self.moments.merge(other.moments), self.cost.add_(other.cost), self.loss)

    def prediction(self) -> Look:
        """The prediction of the mean distribution, and the value of looking again."""
        found = self.moments.prediction()
        value = self.loss.least(found.probs) - self.cost / self.moments.draws
        return Look(found, value.clamp_min(0))


@dataclass(frozen=True)
class Looking:
    """A likelihood of classes whose prediction also says what it is worth to look again.

    A decision that is made once depends on the mean distribution only. Epistemic uncertainty tells whether it pays to
    measure first: whether the draws disagree about the best action. With :class:`LogLoss` the value is the mutual
    information.

    Args:
        likelihood: A likelihood of classes.
        loss: What a decision costs.

    Source: Raiffa and Schlaifer (1961), "Applied statistical decision theory" (expected value of perfect information).
    """

    likelihood: Likelihood[ClassPrediction]
    loss: Loss

    @property
    def channels(self) -> int:
        """C, the number of output channels that the network must have."""
        return self.likelihood.channels

    def nll(self, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """The negative log likelihood (B, *event) of the likelihood."""
        return self.likelihood.nll(output, target, valid)

    def moments(self, output: Tensor) -> LookMoments:
        """What one draw (B, C, *event) contributes.

        Raises:
            ConfigError: If the likelihood is not one of classes.
        """
        moments = self.likelihood.moments(output)
        if not isinstance(moments, ClassMoments):
            raise ConfigError("costs are of classes, and this run predicts values: name a task of classes")
        return LookMoments.of(moments, self.loss)
