"""Classes: a student that learns, beside the labels, how much the draws of a teacher differ."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from sfumato.errors import ConfigError, DataError
from sfumato.likelihoods.class_likelihood import ClassLikelihood, class_nll
from sfumato.likelihoods.for_task import ClassTarget
from sfumato.predictions import ClassMoments, ClassPrediction, entropy


@dataclass(frozen=True)
class DistilledClasses(ClassLikelihood):
    """Classes and the spread of a teacher's draws in one pass. The output channels are K logits f and one number h.

    The probabilities ``softmax(f)`` are learned from labels. The epistemic part is ``e = log K · sigmoid(h)`` nats, and
    the aleatoric part is the rest of the total. :meth:`distillation_target` makes what the teacher adds to a target.

    With ``published``, the standard deviation of the teacher's probability of its label is ``u = sigmoid(h)`` instead.
    In nats this is ``e = u² / (2 p (1 − p))`` to second order for two classes, with the probability p of the label.

    Args:
        classes: Number K ≥ 2 of classes.
        published: Whether the student learns as in the paper. Default False.
        probs: Whether the teacher's probabilities are learned where there is a label too, and not only where there is
            none. Default False.

    Raises:
        ConfigError: If ``classes`` is less than 2, or both options are chosen.

    Source: Landgraf et al. (2023), "DUDES: deep uncertainty distillation using ensembles for semantic segmentation",
    for the published loss. Its code also trains on void pixels; here they are masked.
    Pitfall: A teacher is more certain about its training images than about others. The student should also learn from
    unlabeled images that the teacher has not seen.
    """

    published: bool = False
    probs: bool = False
    student: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.published and self.probs:
            raise ConfigError("published and probs exclude each other: the published student learns no probabilities")

    @property
    def channels(self) -> int:
        """K + 1."""
        return self.classes + 1

    def nll(self, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Cross-entropy with the label and divergence from the teacher (B, *event) in nats, 0 where not valid.

        The divergence is ``log K · KL(e / log K ‖ sigmoid(h))`` of the teacher's epistemic part e. Its gradient in h is
        ``ê − e``. Without a label, or with ``probs``, ``KL(p ‖ softmax(f))`` of the teacher's probabilities p is added.

        With ``published`` it is ``RMSLE = √mean (log(1 + û) − log(1 + u))²`` instead: one number for the batch, added
        to each valid pixel.

        Args:
            output: Output (B, K + 1, *event).
            target: Label, 1 where there is a label and else 0, and the distillation target (B, 2 + L, *event).
            valid: Mask (B, *event), True where there is a distillation target.
        """
        known = valid.unsqueeze(1)
        target = target.float().where(known, 0.0)
        output = output.where(known, 0.0)
        label, labeled, lesson = target[:, 0], target[:, 1] > 0, target[:, 2:]
        loss = class_nll(output[:, :-1], label.long(), labeled & valid)
        if self.published:
            return loss.where(valid, 0.0) + valid * rmsle(self._spread(output), lesson[:, 0], valid)
        probs, share = lesson[:, 1:], (lesson[:, 0] / math.log(self.classes)).clamp(0, 1)
        from_probs = -entropy(probs) - (probs * output[:, :-1].log_softmax(1)).sum(1)
        from_probs = from_probs if self.probs else from_probs.where(~labeled, 0.0)
        # The epistemic part as a share of its largest value.
        least = torch.special.entr(share) + torch.special.entr(1 - share)
        from_share = binary_cross_entropy_with_logits(output[:, -1], share, reduction="none") - least
        return (loss + from_probs + math.log(self.classes) * from_share).where(valid, 0.0)

    def _spread(self, output: Tensor) -> Tensor:
        return output[:, -1].sigmoid() * (1.0 if self.published else math.log(self.classes))

    def moments(self, output: Tensor) -> ClassMoments:
        """The softmax, and its entropy minus the epistemic part, which is at most all of it."""
        probs, epistemic = output[:, :-1].softmax(1), self._spread(output)
        if self.published:
            top = probs.amax(1)
            epistemic = epistemic.square() / (2 * top * (1 - top)).clamp_min(1e-6)
        return ClassMoments(1, probs, (entropy(probs) - epistemic).clamp_min(0))

    def teacher_statistics(self, moments: ClassMoments) -> ClassMoments | SquaredProbs:
        """The moments of a draw; with ``published``, also its squared probabilities."""
        return SquaredProbs(moments, moments.probs.square()) if self.published else moments

    def distillation_target(self, statistics: ClassMoments | SquaredProbs) -> Tensor:
        """The teacher's epistemic part in nats and its mean probabilities (B, 1 + K, *event).

        With ``published`` it is the unbiased standard deviation over draws of the probability of the teacher's label
        (B, 1, *event).

        Raises:
            DataError: If the teacher has one draw and no epistemic part.
        """
        if isinstance(statistics, ClassMoments):
            found = statistics.prediction()
            check_spread(found.epistemic, statistics.draws)
            return torch.cat([found.epistemic.unsqueeze(1), found.probs], 1)
        found, count = statistics.prediction(), statistics.draw.draws
        if count < 2:
            raise DataError("the teacher draws once, so its draws have no spread: distill an ensemble or MC dropout")
        label = found.label.unsqueeze(1)
        mean, square = found.probs.gather(1, label), statistics.squares.gather(1, label) / count
        return ((square - mean.square()).clamp_min(0) * (count / (count - 1))).sqrt()


class DistilledProbs(DistilledClasses):
    """:class:`DistilledClasses` that also learns the teacher's probabilities where there is a label."""

    @classmethod
    def for_task(cls, task: ClassTarget) -> Self:
        """The likelihood for the classes of a task."""
        return cls(task.classes, probs=True)


class Dudes(DistilledClasses):
    """:class:`DistilledClasses` as published: it learns the standard deviation of the probability of the label."""

    @classmethod
    def for_task(cls, task: ClassTarget) -> Self:
        """The likelihood for the classes of a task."""
        return cls(task.classes, published=True)


@dataclass(frozen=True)
class SquaredProbs:
    """Moments of draws of classes, and the sums (B, K, *event) of their squared probabilities."""

    draw: ClassMoments
    squares: Tensor

    def merge(self, other: Self) -> Self:
        """Those of both sets of draws together."""
        return type(self)(self.draw.merge(other.draw), self.squares + other.squares)

    def prediction(self) -> ClassPrediction:
        """The prediction of the draws."""
        return self.draw.prediction()


def check_spread(epistemic: Tensor, draws: int) -> None:
    """Check that a teacher has an epistemic part.

    Raises:
        DataError: If it has one draw and no epistemic part.
    """
    if draws < 2 and not bool(epistemic.any()):
        raise DataError(
            "the teacher draws once and has no epistemic part to learn: distill an ensemble, MC dropout or an "
            "evidential likelihood"
        )


def rmsle(predicted: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """``√mean (log(1 + predicted) − log(1 + truth))²`` over valid pixels, one number. It is 0 if none is valid."""
    return root_mean((predicted.log1p() - truth.log1p()).square(), valid)


def root_mean(squares: Tensor, valid: Tensor) -> Tensor:
    """``√mean squares`` over valid pixels, one number."""
    # The root has no gradient at 0, which is where a perfect student is.
    return (squares.where(valid, 0.0).sum() / valid.sum().clamp_min(1) + 1e-12).sqrt()
