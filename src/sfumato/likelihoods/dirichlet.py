"""Classes: a law over class probabilities, which the network predicts in one pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn.functional import softplus

from sfumato.likelihoods.for_task import ClassTarget
from sfumato.predictions import ClassMoments
from sfumato.predictions.classes import entropy

STRIP = 1 << 17  # numbers at a time


@dataclass(frozen=True)
class Dirichlet:
    """``p ~ Dirichlet(α)`` with ``α = 1 + softplus(f)``; the evidence ``α − 1`` counts pixels as good as seen.

    One pass gives both parts, in closed form: with ``S = Σ α`` the mean law is ``α / S``, the aleatoric part the mean
    entropy ``−Σ α_k/S (ψ(α_k + 1) − ψ(S + 1))``, the epistemic part the rest of the total.

    Args:
        classes: K ≥ 2, the number of classes and of output channels.
        regularization: ≥ 0, weight of the divergence that takes evidence for wrong classes back.

    Raises:
        ValueError: for fewer than 2 classes, or a negative weight.

    Source: Sensoy et al. (2018), "Evidential deep learning to quantify classification uncertainty", eq. 4 and 5; the
    closed form of the mean entropy is that of Malinin and Gales (2018).
    Pitfall: no data fix the amount of evidence, the loss does: its epistemic part ranks pixels, its size means little
    (Bengs et al. 2022). The paper raises ``regularization`` from 0 during training; here it is constant.
    """

    classes: int
    regularization: float = 0.05
    target: ClassVar[str] = "class"

    def __post_init__(self) -> None:
        if self.classes < 2:
            raise ValueError(f"classes is {self.classes}, expected at least 2: a yes-or-no question has two classes")
        if self.regularization < 0:
            raise ValueError(f"regularization is {self.regularization}, expected at least 0")

    @classmethod
    def for_task(cls, task: ClassTarget) -> Self:
        """The likelihood for the classes of a task."""
        return cls(task.classes)

    @property
    def channels(self) -> int:
        """K."""
        return self.classes

    def nll(self, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """``E_p[−log p_y] = ψ(S) − ψ(α_y)`` and the weighted divergence (B, H, W), 0 where not valid."""
        index = target.where(valid, 0)[:, None]
        alpha = 1 + softplus(output.where(valid[:, None], 0.0))
        surprise = torch.digamma(alpha.sum(1)) - torch.digamma(alpha.gather(1, index)[:, 0])
        wrong = alpha.scatter(1, index, 1.0)  # the evidence for the true class is kept
        return (surprise + self.regularization * _from_uniform(wrong)).where(valid, 0.0)

    def moments(self, output: Tensor) -> ClassMoments:
        """The mean law and the mean entropy of a law drawn from the Dirichlet."""
        rows = max(1, STRIP // (output.shape[1] * output.shape[3]))
        # By a few rows, so that what is made on the way stays in the cache; a compiler makes one loop of it all.
        strips = (output,) if torch.compiler.is_compiling() else output.split(rows, 2)
        probs, entropies = zip(*map(_mean_law, strips))
        return ClassMoments(1, torch.cat(probs, 2), torch.cat(entropies, 1))


def _mean_law(output: Tensor) -> tuple[Tensor, Tensor]:
    """The mean law (B, K, H, W) and the mean entropy (B, H, W)."""
    alpha = 1 + softplus(output)
    total = alpha.sum(1, keepdim=True)
    probs = alpha / total
    # Rounding must not make the mean entropy exceed that of the mean law.
    return probs, torch.minimum((probs * (_digamma(total + 1) - _digamma(alpha + 1))).sum(1), entropy(probs))


def _digamma(x: Tensor) -> Tensor:
    """``ψ(x)`` for x ≥ 2 to single precision, on a CPU faster than torch's own, which is not vectorized.

    ``ψ(x) = ψ(x + 2) − 1/x − 1/(x + 1)``, and ψ(w + ½) in powers of 1/w², whose next term is below 2e-7 there.
    """
    w = x + 1.5
    z = w.square().reciprocal()
    series = w.log() + z * (1 / 24 - z * (7 / 960 - z * (31 / 8064)))
    return series - (2 * x + 1) / (x * (x + 1))


def _from_uniform(alpha: Tensor) -> Tensor:
    """Kullback–Leibler divergence (B, H, W) of Dirichlet(α) from the uniform law over the simplex."""
    total, classes = alpha.sum(1), torch.tensor(float(alpha.shape[1]), device=alpha.device)
    slope = ((alpha - 1) * (torch.digamma(alpha) - torch.digamma(total)[:, None])).sum(1)
    return torch.lgamma(total) - torch.lgamma(alpha).sum(1) - torch.lgamma(classes) + slope
