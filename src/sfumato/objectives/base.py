"""What all objectives share, and what they read of a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, Self

from torch import Tensor, nn

from sfumato.contracts import Inputs, Likelihood, Loss
from sfumato.errors import ConfigError, DataError

Losses = dict[str, Tensor]
MethodLoss = Callable[[nn.Module, Inputs, Tensor, Tensor, Loss], Tensor]


class NothingToLearnError(DataError):
    """A batch that teaches nothing, such as one of equal pictures. It ends a training; in validation it is left out."""


class Choices(Protocol):
    """What an objective reads of the configuration of a plan."""

    @property
    def objective(self) -> str:
        """Name or class path of the objective; empty for the default."""
        ...

    @property
    def objective_args(self) -> Mapping[str, object]:
        """Keyword arguments of the objective."""
        ...

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images, px."""
        ...

    @property
    def crop(self) -> tuple[int, int]:
        """Height and width of the crops in training, px."""
        ...

    @property
    def weighting(self) -> str:
        """How the losses of several tasks are weighted."""
        ...

    @property
    def weights(self) -> tuple[float, ...]:
        """Weights that the user chose, in the order of the tasks."""
        ...


class DataFacts(Protocol):
    """What an objective reads of the facts of a plan."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The sample entries that the network takes, in order."""
        ...

    @property
    def counts(self) -> tuple[int, ...]:
        """Valid training pixels of each class."""
        ...


class Training(Protocol):
    """What an objective reads of the training of a method."""

    @property
    def loss(self) -> MethodLoss | None:
        """The loss that the method has in place of the likelihood's."""
        ...


class TrainingPlan(Protocol):
    """What an objective reads of a plan, which is a :class:`sfumato.runs.Plan`."""

    @property
    def config(self) -> Choices:
        """What a person chose."""
        ...

    @property
    def facts(self) -> DataFacts:
        """What follows from the data."""
        ...

    @property
    def training(self) -> Training:
        """How networks are trained for the method."""
        ...


class TargetsOf(Protocol):
    """A task, or several tasks together, as far as an objective needs it."""

    def target_and_mask(self, sample: Mapping[str, Tensor | str]) -> tuple[Any, Any]:
        """Target and mask of a batch; for several tasks two mappings."""
        ...


class BaseObjective(nn.Module):
    """What training minimizes. A subclass defines :meth:`forward`.

    Args:
        task: What is predicted.
        likelihood: The meaning of the network's output.
        inputs: The sample entries that the network takes, in order.

    Class attributes:
        needs_targets: Whether it can only use samples that hold the target. If False, data without targets can be
            trained on. Default True.
        further: Names of the sample entries that it reads beside inputs and targets, such as
            ``("next", "intrinsics")``.
        own_loss: Why a method with a loss of its own cannot be trained by it, in a sentence. Empty if it can. Default
            empty.
        moves: Whether augmentation may zoom and mirror images. False for an objective that knows where cameras are: no
            camera sees such an image. Default True.
    """

    needs_targets: bool = True
    own_loss: str = ""
    moves: bool = True
    further: tuple[str, ...] = ()

    def __init__(self, task: TargetsOf, likelihood: Likelihood[object], inputs: tuple[str, ...] = ("image",)) -> None:
        super().__init__()
        self.task, self.likelihood, self.inputs = task, likelihood, inputs

    @classmethod
    def build(cls, task: TargetsOf, likelihood: Likelihood[object], plan: TrainingPlan) -> Self:
        """The objective of a plan, with ``objective_args`` of its configuration as keyword arguments.

        Raises:
            ConfigError: If the method has a loss of its own, and this objective cannot train it.
        """
        if cls.own_loss and plan.training.loss is not None:
            raise ConfigError(cls.own_loss)
        # A user may write any arguments: __init__ checks them.
        return cls(task, likelihood, tuple(plan.facts.inputs), **plan.config.objective_args)

    def inputs_of(self, batch: Mapping[str, Tensor]) -> Inputs:
        """The inputs of the network in a batch."""
        return tuple(batch[name] for name in self.inputs)

    def forward(self, network: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Losses, Losses]:
        """Losses by name, whose sum is minimized, and numbers to log by name.

        Args:
            network: The network in training mode.
            batch: The augmented sample entries (B, …), images as float32 in [0, 1].
        """
        raise NotImplementedError(f"{type(self).__name__} defines no forward")

    def end_epoch(self) -> None:
        """Called after each pass over the data."""
