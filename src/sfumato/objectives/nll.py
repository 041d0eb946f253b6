"""The negative log likelihood of one task, and of several tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from torch import Tensor, nn

from sfumato.contracts import Likelihood, Loss
from sfumato.errors import ConfigError
from sfumato.likelihoods.joint import Joint
from sfumato.likelihoods.soft_targets import SOFT, expected
from sfumato.objectives.base import BaseObjective, Losses, MethodLoss, TargetsOf, TrainingPlan
from sfumato.objectives.weightings import Weighting, weighting


class NLL(BaseObjective):
    """The mean of ``−log p(y | f(x))`` over the valid pixels of a batch, in nats (``nll``).

    If samples hold probabilities of the classes (the entry ``classes_soft``), it is the mean of the expected loss
    ``−Σ_k t_k log p(k | f(x))`` under them.

    Args:
        task: What is predicted.
        likelihood: The meaning of the network's output.
        inputs: The sample entries that the network takes, in order.
        loss: What a method computes in place of the negative log likelihood of the output, such as a bound of it.
            None for the likelihood itself.

    Raises:
        ConfigError: If the likelihood is that of several tasks.

    Pitfall: A batch without a valid pixel has the loss 0.
    """

    def __init__(
        self,
        task: TargetsOf,
        likelihood: Likelihood[object],
        inputs: tuple[str, ...] = ("image",),
        loss: MethodLoss | None = None,
    ) -> None:
        super().__init__(task, likelihood, inputs)
        if isinstance(likelihood, Joint):
            raise ConfigError("the objective nll is for one task: use multi-task for several")
        self.loss, self.soft = loss, f"{getattr(task, 'key', '')}{SOFT}"
        self.further = (self.soft,)

    @classmethod
    def build(cls, task: TargetsOf, likelihood: Likelihood[object], plan: TrainingPlan) -> Self:
        """The objective of a plan, with the loss of its method if that has one."""
        # A user may write any arguments: __init__ checks them.
        arguments = plan.config.objective_args
        return cls(task, likelihood, tuple(plan.facts.inputs), loss=plan.training.loss, **arguments)

    def forward(self, network: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Losses, Losses]:
        """The loss ``nll``, and nothing else to log."""
        inputs = self.inputs_of(batch)
        if self.loss is None:
            return {"nll": self.of_output(network(*inputs).float(), batch)}, {}
        target, valid, loss = self._compared(batch)
        return {"nll": self.loss(network, inputs, target, valid, loss)}, {}

    def of_output(self, output: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """The loss of an output (B, C, *event) of the network."""
        target, valid, loss = self._compared(batch)
        return loss(output, target, valid).sum() / valid.sum().clamp_min(1)

    def _compared(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Loss]:
        """Target, mask and loss of a batch; for probabilities of the classes they are the target."""
        target, valid = self.task.target_and_mask(batch)
        if self.soft in batch:
            return batch[self.soft], valid, expected(self.likelihood.nll)
        return target, valid, self.likelihood.nll


class MultiTaskNLL(BaseObjective):
    """The losses of several tasks, weighted (``multi-task``).

    If samples hold probabilities of the classes (the entry ``classes_soft``), they take the place of the classes.

    Args:
        task: The tasks.
        likelihood: The likelihood of all tasks.
        inputs: The sample entries that the network takes, in order.
        weighting: How the losses are weighted. None for the joint negative log likelihood.

    Raises:
        ConfigError: If the likelihood is that of one task.
    """

    def __init__(
        self,
        task: TargetsOf,
        likelihood: Likelihood[object],
        inputs: tuple[str, ...] = ("image",),
        weighting: Weighting | None = None,
    ) -> None:
        super().__init__(task, likelihood, inputs)
        if not isinstance(likelihood, Joint):
            raise ConfigError("the objective multi-task is for several tasks: name them, as in --tasks classes,depth")
        self.weighting = weighting or Weighting(likelihood)
        self.soft = {name: f"{name}{SOFT}" for name in likelihood.parts}
        self.further = tuple(self.soft.values())

    @classmethod
    def build(cls, task: TargetsOf, likelihood: Likelihood[object], plan: TrainingPlan) -> Self:
        """The objective of a plan, with the weighting that its configuration names.

        Raises:
            ConfigError: If the weighting or its weights do not fit the tasks, or the method has a loss of its own.
        """
        if plan.training.loss is not None:
            raise ConfigError("this method has a loss of its own, for one task: train each task alone")
        chosen = _weighting(likelihood, plan.config.weighting, plan.config.weights)
        arguments = plan.config.objective_args  # a user may write any arguments: __init__ checks them
        return cls(task, likelihood, tuple(plan.facts.inputs), weighting=chosen, **arguments)

    def forward(self, network: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Losses, Losses]:
        """The weighted sum as loss ``nll``; ``weight_TASK`` and ``loss_TASK`` of each task that has a valid pixel."""
        targets, valids = self.task.target_and_mask(batch)
        targets = {name: batch.get(self.soft[name], target) for name, target in targets.items()}
        total, weights, losses = self.weighting.detailed(network(*self.inputs_of(batch)).float(), targets, valids)
        logs = {f"weight_{name}": value for name, value in weights.items()}
        return {"nll": total}, logs | {f"loss_{name}": value for name, value in losses.items()}

    def end_epoch(self) -> None:
        """Some weightings compare epochs."""
        self.weighting.end_epoch()


def _weighting(likelihood: Likelihood[object], name: str, weights: tuple[float, ...]) -> Weighting | None:
    if not isinstance(likelihood, Joint):
        return None  # the constructor refuses it
    tasks = list(likelihood.parts)
    if weights and len(weights) != len(tasks):
        raise ConfigError(f"weights are {weights}, expected one for each of {','.join(tasks)}")
    return weighting(name or "uncertainty", likelihood, dict(zip(tasks, weights)))
