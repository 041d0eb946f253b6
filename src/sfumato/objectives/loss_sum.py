"""Objectives for classes of very different frequency: weighted likelihood, focal loss, Dice, and their sum."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from sfumato.contracts import Likelihood, Loss
from sfumato.errors import ConfigError
from sfumato.likelihoods.soft_targets import SOFT, expected
from sfumato.objectives.base import BaseObjective, Losses, MethodLoss, TargetsOf, TrainingPlan
from sfumato.objectives.class_losses import BALANCED, class_weights_of, soft_dice

LEAST = 1e-6  # smallest base of the focal factor, so that a power below 1 has a finite gradient at a sure pixel


@runtime_checkable
class WithProbabilities(Protocol):
    """A likelihood of classes whose predicted probabilities have a gradient."""

    def probabilities(self, output: Tensor) -> Tensor:
        """The probabilities (B, K, *event) of an output (B, C, *event)."""
        ...


class LossSum(BaseObjective):
    """A weighted sum of losses of classes (``sum``): negative log likelihood, Dice and focal loss.

    * ``nll``: the mean of ``w_y · (−log p_y)`` over the valid pixels, with the weight ``w_y`` of the true class.
    * ``focal``: the mean of ``w_y · (1 − p_y)^γ · (−log p_y)``, where ``p_y`` is ``exp(−nll)`` of the likelihood.
    * ``dice``: one minus the mean of ``2 Σ p_k t_k / (Σ p_k + Σ t_k)`` over the classes k that the batch shows. The
      sums are over all valid pixels of the batch, of the predicted probability ``p_k`` and of ``t_k``, which is 1 where
      the true class is k.

    Only the negative log likelihood with equal weights makes the predicted probabilities those of the data. Class
    weights multiply them by the weights (and divide by their sum), the focal loss makes them less sure, and Dice makes
    nearly all of them 0 or 1. Calibrate afterwards: ``vector`` undoes class weights, ``temperature`` the focal loss.

    If samples hold probabilities of the classes (the entry ``classes_soft``), the losses of pixels are expectations
    under them, and ``t_k`` is a probability.

    Args:
        task: What is predicted.
        likelihood: A likelihood of classes. Dice needs one with ``probabilities``: categorical, tempered, logit-normal
            or dirichlet.
        inputs: The sample entries that the network takes, in order.
        nll: Factor ≥ 0 of the negative log likelihood. Default 0.
        dice: Factor ≥ 0 of the Dice loss. Default 0.
        focal: Factor ≥ 0 of the focal loss. Default 0.
        class_weights: Weights ≥ 0 of the K classes in ``nll`` and ``focal``, or ``"balanced"`` for weights that are
            inverse to the number of training pixels of the class. Their scale does not matter: they are scaled to a
            mean of 1 over the training pixels. Default: equal weights.
        gamma: γ ≥ 0 of the focal loss. Default 2.
        counts: Number of training pixels of each class (K,). Default: unknown, which counts as equal.
        loss: What a method computes in place of the mean over pixels, such as a bound of it. None for the mean.

    Raises:
        ConfigError: If the likelihood is not of classes or lacks what a loss needs, a number is out of range, or there
            is not one weight for each class.

    Source: Lin et al. (2017), "Focal loss for dense object detection"; Drozdzal et al. (2016), "The importance of skip
    connections in biomedical image segmentation", and Sudre et al. (2017), for Dice.
    Pitfall: A class with few training pixels gets a large balanced weight, so single pixels dominate a step. A class
    without any gets the largest weight of the others.
    """

    class_weights: Tensor

    def __init__(
        self,
        task: TargetsOf,
        likelihood: Likelihood[object],
        inputs: tuple[str, ...] = ("image",),
        *,
        nll: float = 0.0,
        dice: float = 0.0,
        focal: float = 0.0,
        class_weights: Sequence[float] | str = (),
        gamma: float = 2.0,
        counts: Sequence[int] = (),
        loss: MethodLoss | None = None,
    ) -> None:
        super().__init__(task, likelihood, inputs)
        if getattr(likelihood, "target", "") != "class":
            raise ConfigError(
                f"this objective is for one task of classes, not for a {type(likelihood).__name__}: use nll, or "
                "multi-task for several tasks"
            )
        factors = {"nll": nll, "dice": dice, "focal": focal}
        for name, number in (factors | {"gamma": gamma}).items():
            if not (isinstance(number, int | float) and 0 <= number < math.inf):
                raise ConfigError(f"{name} is {number!r}, expected a number of at least 0")
        if not any(factors.values()):
            raise ConfigError('the sum has no loss: give factors, as in --objective-args \'{"nll": 1, "dice": 1}\'')
        if dice and not isinstance(likelihood, WithProbabilities):
            raise ConfigError(f"Dice needs probabilities with a gradient, which a {type(likelihood).__name__} lacks")
        if dice and loss is not None:
            raise ConfigError("this method has a loss of its own, over pixels: Dice cannot be part of it")
        self.factors, self.gamma, self.loss, self.soft = factors, gamma, loss, f"{getattr(task, 'key', '')}{SOFT}"
        self.further = (self.soft,)
        classes = int(getattr(likelihood, "classes"))  # noqa: B009  (a likelihood of classes has them)
        self.register_buffer("class_weights", class_weights_of(class_weights, counts, classes), persistent=False)
        self.weighted = bool(len(class_weights))

    @classmethod
    def build(cls, task: TargetsOf, likelihood: Likelihood[object], plan: TrainingPlan) -> Self:
        """The objective of a plan, with its counts of classes, and the loss of its method if that has one."""
        inputs, counts = tuple(plan.facts.inputs), plan.facts.counts
        return cls(task, likelihood, inputs, counts=counts, loss=plan.training.loss, **plan.config.objective_args)  # pyright: ignore[reportArgumentType] # __init__ checks what a user wrote

    def forward(self, network: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Losses, Losses]:
        """The losses ``nll`` (``weighted_nll`` with class weights), ``focal`` and ``dice_loss`` that have a factor."""
        inputs = self.inputs_of(batch)
        target, valid = self.task.target_and_mask(batch)
        names = {"nll": "weighted_nll" if self.weighted else "nll", "focal": "focal"}
        losses = {name: loss for name, loss in (("nll", self._nll), ("focal", self._focal)) if self.factors[name]}
        if self.soft in batch:
            target, losses = batch[self.soft], {name: expected(loss) for name, loss in losses.items()}
        each = {names[name]: _times(self.factors[name], loss) for name, loss in losses.items()}
        if self.loss is not None:  # one pass for all
            return {"_and_".join(each): self.loss(network, inputs, target, valid, _together(list(each.values())))}, {}
        output, counted = network(*inputs).float(), valid.sum().clamp_min(1)
        found = {name: loss(output, target, valid).sum() / counted for name, loss in each.items()}
        if self.factors["dice"]:
            assert isinstance(self.likelihood, WithProbabilities)
            probs = self.likelihood.probabilities(output)
            truth = target if self.soft in batch else one_hot(target.where(valid, 0), probs.shape[1]).movedim(-1, 1)
            found["dice_loss"] = self.factors["dice"] * soft_dice(probs, truth, valid)
        return found, {}

    def _nll(self, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """The weighted negative log likelihood (B, *event), 0 where not valid."""
        nll = self.likelihood.nll(output, target, valid)
        return nll * self.class_weights.to(nll)[target.where(valid, 0)] if self.weighted else nll

    def _focal(self, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """The weighted focal loss (B, *event), 0 where not valid."""
        nll = self.likelihood.nll(output, target, valid)
        factor = (-torch.expm1(-nll)).clamp_min(LEAST) ** self.gamma
        return factor * nll * self.class_weights.to(nll)[target.where(valid, 0)] if self.weighted else factor * nll


def _times(factor: float, loss: Loss) -> Loss:
    return lambda output, target, valid: factor * loss(output, target, valid)


def _together(losses: Sequence[Loss]) -> Loss:
    return lambda output, target, valid: torch.stack([loss(output, target, valid) for loss in losses]).sum(0)


class WeightedNLL(LossSum):
    """The negative log likelihood with a weight for each class (``weighted-nll``): :class:`LossSum` with ``nll`` alone.

    Args:
        task, likelihood, inputs: As of :class:`LossSum`.
        class_weights: As of :class:`LossSum`. Default ``"balanced"``.
        counts, loss: As of :class:`LossSum`.

    Pitfall: The predicted probabilities are those of data in which each class is as frequent as its weight times its
    share. So NLL and ECE on real data get worse. ``sfumato calibrate --method vector`` corrects this.
    """

    def __init__(
        self,
        task: TargetsOf,
        likelihood: Likelihood[object],
        inputs: tuple[str, ...] = ("image",),
        *,
        class_weights: Sequence[float] | str = BALANCED,
        counts: Sequence[int] = (),
        loss: MethodLoss | None = None,
    ) -> None:
        super().__init__(task, likelihood, inputs, nll=1.0, class_weights=class_weights, counts=counts, loss=loss)


class Focal(LossSum):
    """The focal loss (``focal``): :class:`LossSum` with ``focal`` alone. It is no likelihood: calibrate afterwards.

    Args:
        task, likelihood, inputs: As of :class:`LossSum`.
        gamma: γ ≥ 0; 0 is the negative log likelihood. Default 2.
        class_weights, counts, loss: As of :class:`LossSum`.
    """

    def __init__(
        self,
        task: TargetsOf,
        likelihood: Likelihood[object],
        inputs: tuple[str, ...] = ("image",),
        *,
        gamma: float = 2.0,
        class_weights: Sequence[float] | str = (),
        counts: Sequence[int] = (),
        loss: MethodLoss | None = None,
    ) -> None:
        weights = {"class_weights": class_weights, "counts": counts}
        super().__init__(task, likelihood, inputs, focal=1.0, gamma=gamma, loss=loss, **weights)


class Dice(LossSum):
    """The Dice loss (``dice``): :class:`LossSum` with ``dice`` alone. It is no likelihood: calibrate afterwards.

    Args:
        task, likelihood, inputs: As of :class:`LossSum`.
        counts: Not used.
        loss: None: methods with a loss of their own are refused.
    """

    def __init__(
        self,
        task: TargetsOf,
        likelihood: Likelihood[object],
        inputs: tuple[str, ...] = ("image",),
        *,
        counts: Sequence[int] = (),
        loss: MethodLoss | None = None,
    ) -> None:
        super().__init__(task, likelihood, inputs, dice=1.0, counts=counts, loss=loss)
