"""Students: what a network means that learns, beside the labels, how sure its teacher is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from sfumato.likelihoods.for_task import ClassTarget, ValueTarget
from sfumato.likelihoods.gaussian import Gaussian
from sfumato.likelihoods.laplace import Laplace
from sfumato.predictions import ClassMoments, ValueMoments
from sfumato.predictions.classes import entropy


@dataclass(frozen=True)
class DistilledClasses:
    """Classes, and how far the draws of a teacher spread, in one pass; output channels are K logits and one head h.

    The law is ``softmax(f)``, learned from labels. The head says the epistemic part, ``e = log K · sigmoid(h)`` nats;
    the aleatoric part is what is left of the total. A target is stacked, see :meth:`nll`; :meth:`lesson` makes what
    the teacher adds to it.

    As ``published``, the head says instead the standard deviation ``u = sigmoid(h)`` of the teacher's probability of
    its label. Read as nats to second order, that is ``e = u² / (2 p (1 − p))`` for two classes, p the probability of
    the label.

    Args:
        classes: K ≥ 2.
        published: whether to learn as the paper did.
        probs: whether the teacher's law is learned beside the label too, and not only where there is none.

    Raises:
        ValueError: for fewer than 2 classes, or both at once.

    Source: Landgraf et al. (2023), "DUDES: deep uncertainty distillation using ensembles for semantic segmentation",
    for the loss as published; its code trains on void pixels too, which are masked here.
    Pitfall: a teacher is surer of the images it was trained on than of others, and those are what it is asked about;
    unlabeled images that it has not seen teach more.
    """

    classes: int
    published: bool = False
    probs: bool = False
    target: ClassVar[str] = "class"
    student: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.published and self.probs:
            raise ValueError("published and probs: the paper's student does not learn its teacher's law")
        if self.classes < 2:
            raise ValueError(f"classes is {self.classes}, expected at least 2: a yes-or-no question has two classes")

    @classmethod
    def for_task(cls, task: ClassTarget) -> Self:
        """The likelihood for the classes of a task."""
        return cls(task.classes)

    @property
    def channels(self) -> int:
        """K + 1."""
        return self.classes + 1

    def nll(self, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Loss (B, H, W) in nats: cross-entropy with the label, and divergence from what the teacher says.

        The latter is ``log K · KL(e / log K ‖ sigmoid(h))`` of its epistemic part e, whose pull on h is ``ê − e``; and,
        where there is no label or with ``probs``, ``KL(p ‖ softmax(f))`` of its law p.

        As published it is ``RMSLE = √mean (log(1 + û) − log(1 + u))²``, one number for the batch, added to each of its
        valid pixels.

        Args:
            output: (B, K + 1, H, W).
            target: (B, 2 + L, H, W): the label; 1 where there is one, else 0; and the lesson.
            valid: (B, H, W) bool, where there is a lesson.
        """
        known = valid[:, None]
        target = target.float().where(known, 0.0)
        output = output.where(known, 0.0)
        label, labeled, lesson = target[:, 0], target[:, 1] > 0, target[:, 2:]
        label = label.long().where(labeled & valid, -100)
        loss = cross_entropy(output[:, :-1], label, ignore_index=-100, reduction="none")
        if self.published:
            return loss.where(valid, 0.0) + valid * rmsle(self._head(output), lesson[:, 0], valid)
        probs, share = lesson[:, 1:], (lesson[:, 0] / math.log(self.classes)).clamp(0, 1)
        law = -entropy(probs) - (probs * output[:, :-1].log_softmax(1)).sum(1)
        law = law if self.probs else law.where(~labeled, 0.0)
        # Of the epistemic part as a share of the most it can be.
        least = torch.special.entr(share) + torch.special.entr(1 - share)
        spread = binary_cross_entropy_with_logits(output[:, -1], share, reduction="none") - least
        return (loss + law + math.log(self.classes) * spread).where(valid, 0.0)

    def _head(self, output: Tensor) -> Tensor:
        return output[:, -1].sigmoid() * (1.0 if self.published else math.log(self.classes))

    def moments(self, output: Tensor) -> ClassMoments:
        """The softmax, and its entropy less what the head says, which is at most all of it."""
        probs, said = output[:, :-1].softmax(1), self._head(output)
        if self.published:
            top = probs.amax(1)
            said = said.square() / (2 * top * (1 - top)).clamp_min(1e-6)
        return ClassMoments(1, probs, (entropy(probs) - said).clamp_min(0))

    def teacher_statistics(self, draw: ClassMoments) -> ClassMoments | Squares:
        """The draw; as published, with its squared probabilities."""
        return Squares(draw, draw.probs.square()) if self.published else draw

    def distillation_target(self, heard: ClassMoments | Squares) -> Tensor:
        """What a teacher's draws teach (B, L, H, W): its epistemic part in nats and its mean law, L = 1 + K.

        As published, L = 1: the standard deviation (unbiased) over draws of the probability of the teacher's label.

        Raises:
            ValueError: if there is nothing to learn, because the teacher has one draw and no epistemic part.
        """
        if isinstance(heard, ClassMoments):
            found = heard.prediction()
            _spread(found.epistemic, heard.draws)
            return torch.cat([found.epistemic[:, None], found.probs], 1)
        found, count = heard.draw.prediction(), heard.draw.draws
        if count < 2:
            raise ValueError("the teacher draws once, which has no spread: distil an ensemble or MC dropout")
        label = found.label[:, None]
        mean, square = found.probs.gather(1, label), heard.squares.gather(1, label) / count
        return ((square - mean.square()).clamp_min(0) * (count / (count - 1))).sqrt()


class DistilledProbs(DistilledClasses):
    """:class:`DistilledClasses` that learns the teacher's probabilities beside the labels too."""

    @classmethod
    def for_task(cls, task: ClassTarget) -> Self:
        """The likelihood for the classes of a task."""
        return cls(task.classes, probs=True)


class Dudes(DistilledClasses):
    """:class:`DistilledClasses` as published: the student learns the standard deviation of the teacher's label."""

    @classmethod
    def for_task(cls, task: ClassTarget) -> Self:
        """The likelihood for the classes of a task."""
        return cls(task.classes, published=True)


@dataclass(frozen=True)
class Squares:
    """Moments of draws of classes, and the sums (B, K, H, W) of their squared probabilities."""

    draw: ClassMoments
    squares: Tensor

    def merge(self, other: Self) -> Self:
        """Of both sets of draws together."""
        return type(self)(self.draw.merge(other.draw), self.squares + other.squares)


@dataclass(frozen=True)
class DistilledValues:
    """Values with their own noise, and the spread of a teacher's means; output channels are those of ``law``, then D.

    The last D are log standard deviations h: the epistemic variance is ``e^{2h}`` in the value's unit squared.

    Args:
        law: the student's likelihood of a value.

    Source: Landgraf et al. (2024), "Efficient multi-task uncertainties for joint semantic segmentation and monocular
    depth estimation" (EMUFormer), §3. The paper's ``log(1 + u)`` changes with the unit of u; here it is ``log u``.
    Pitfall: see :class:`DistilledClasses`.
    """

    law: Gaussian | Laplace
    target: ClassVar[str] = "value"
    student: ClassVar[bool] = True

    @property
    def dims(self) -> int:
        """D."""
        return self.law.dims

    @property
    def channels(self) -> int:
        """3D."""
        return 3 * self.law.dims

    def nll(self, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Loss (B, H, W): that of the law, and ``√mean (log û − log u)²`` of the batch at each of its valid pixels.

        Where there is no label, the law is that of the teacher's mean.

        Args:
            output: (B, 3D, H, W).
            target: (B, D + 1 + 2D, H, W): the value; above 0 where there is one, else 0; and the lesson.
            valid: (B, H, W) bool, where there is a lesson.
        """
        dims = self.law.dims
        value, labeled, mean, std = target.float().split([dims, 1, dims, dims], 1)
        value = value.where(labeled > 0, mean)
        said = output[:, 2 * dims :].where(valid[:, None], 0.0)
        # A spread below a thousandth of the value is nothing, however much smaller it is still.
        asked = torch.maximum(std, 1e-3 * mean.abs()).where(valid[:, None], 1.0).clamp_min(1e-12).log()
        miss = (said - asked).square().sum(1)
        return self.law.nll(output[:, : 2 * dims], value, valid) + valid * _root_mean(miss, valid)

    def moments(self, output: Tensor) -> ValueMoments:
        """Those of the law, and the epistemic variance that the head says."""
        dims = self.law.dims
        found = self.law.moments(output[:, : 2 * dims])
        spread = (2 * output[:, 2 * dims :].clamp(-10, 10)).exp()
        return ValueMoments(1, found.mean, spread, found.variance, found.unit)

    def teacher_statistics(self, draw: ValueMoments) -> ValueMoments:
        """The draw."""
        return draw

    def distillation_target(self, heard: ValueMoments) -> Tensor:
        """What a teacher's draws teach (B, 2D, H, W): mean and epistemic standard deviation, in the value's unit.

        Raises:
            ValueError: if there is nothing to learn, because the teacher has one draw and no epistemic part.
        """
        found = heard.prediction()
        _spread(found.epistemic, heard.draws)
        return torch.cat([found.mean, found.epistemic_variance.sqrt()], 1)


class DistilledGaussian(DistilledValues):
    """:class:`DistilledValues` with a :class:`Gaussian` of its own."""

    @classmethod
    def for_task(cls, task: ValueTarget) -> Self:
        """The likelihood for the values of a task."""
        return cls(Gaussian.for_task(task))


class DistilledLaplace(DistilledValues):
    """:class:`DistilledValues` with a :class:`Laplace` of its own."""

    @classmethod
    def for_task(cls, task: ValueTarget) -> Self:
        """The likelihood for the values of a task."""
        return cls(Laplace.for_task(task))


def _spread(epistemic: Tensor, draws: int) -> None:
    if draws < 2 and not bool(epistemic.any()):
        raise ValueError(
            "the teacher draws once and has no epistemic part to batch_transform: distil an ensemble, MC dropout or an "
            "evidential likelihood"
        )


def rmsle(said: Tensor, asked: Tensor, valid: Tensor) -> Tensor:
    """``√mean (log(1 + said) − log(1 + asked))²`` over valid pixels, a number; 0 where none is valid."""
    miss = (said.log1p() - asked.log1p()).square()
    return _root_mean(miss, valid)


def _root_mean(miss: Tensor, valid: Tensor) -> Tensor:
    # The root has no slope at 0, which is where a student is that has learned everything.
    return (miss.where(valid, 0.0).sum() / valid.sum().clamp_min(1) + 1e-12).sqrt()
