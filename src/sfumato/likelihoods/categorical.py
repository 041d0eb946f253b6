"""Classes: the softmax of the output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from torch import Tensor
from torch.nn.functional import cross_entropy

from sfumato.likelihoods.for_task import ClassTarget
from sfumato.predictions import ClassMoments


@dataclass(frozen=True)
class Categorical:
    """``p(y | f) = softmax(f)_y``.

    Args:
        classes: K ≥ 2, the number of classes and of output channels.

    Pitfall: its aleatoric part is the entropy of the softmax, which a network that was trained to be certain
    understates; :class:`LogitNormal` learns the ambiguity, calibration corrects the size.
    """

    classes: int
    target: ClassVar[str] = "class"

    def __post_init__(self) -> None:
        if self.classes < 2:
            raise ValueError(f"classes is {self.classes}, expected at least 2: a yes-or-no question has two classes")

    @classmethod
    def for_task(cls, task: ClassTarget) -> Self:
        """The likelihood for the classes of a task."""
        return cls(task.classes)

    @property
    def channels(self) -> int:
        """K."""
        return self.classes

    def nll(self, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """``−log softmax(output)_target`` (B, H, W) in nats, 0 where not valid."""
        target = target.where(valid, -100)  # cross_entropy's own mark for "no target": loss and gradient are 0
        return cross_entropy(output, target, ignore_index=-100, reduction="none")

    def moments(self, output: Tensor) -> ClassMoments:
        """The softmax and its entropy."""
        return ClassMoments.of(output.softmax(1))

    def loss(self, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """The cross-entropy: :meth:`nll`."""
        return Categorical.nll(self, output, target, valid)

    def term(self, output: Tensor, log_variance: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """``e^{−s} CE + s/2`` (B, H, W), 0 where not valid: nearly the loss of ``softmax(f e^{−s})``.

        It takes ``Σ_c e^{f_c / σ²} ≈ σ (Σ_c e^{f_c})^{1/σ²}`` with ``s = log σ²``, which is exact at σ = 1.

        Source: Kendall, Gal and Cipolla (2018), "Multi-task learning using uncertainty to weigh losses", eq. 10.
        Pitfall: it falls without bound as CE → 0; :class:`Tempered` does not.
        """
        return ((-log_variance).exp() * self.loss(output, target, valid) + log_variance / 2).where(valid, 0.0)

    def moments_at(self, output: Tensor, log_variance: Tensor) -> ClassMoments:
        """The softmax and its entropy: weighing CE by ``e^{−s}`` does not move the law where it is least."""
        return self.moments(output)
