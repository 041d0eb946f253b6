"""Predictions of classes, and the moments they are folded from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from sfumato.predictions.notebook import strip
from sfumato.predictions.resize import resized
from sfumato.storage import Stored


def entropy(probs: Tensor, dim: int = 1) -> Tensor:
    """Shannon entropy ``−Σ p log p`` along ``dim``, in nats, in [0, log K]; ``0 log 0 = 0``.

    >>> entropy(torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
    tensor([0.6931, 0.0000])
    """
    # Three times faster than torch.special.entr, which decides element by element what 0 log 0 is.
    return (probs * -probs.clamp_min(torch.finfo(probs.dtype).tiny).log()).sum(dim)


@dataclass(frozen=True)
class ClassPrediction(Stored):
    """The law of a class at every pixel.

    ``total = H[mean p]``, ``aleatoric = mean H[p]``, ``epistemic = total − aleatoric``: the mutual information
    between the class and the network.

    Args:
        probs: (B, K, H, W) in [0, 1], summing to 1 over K: the mean over draws.
        aleatoric: (B, H, W) nats, the mean entropy of a draw; between 0 and ``total``.
        draws: how many draws were folded; with 1 the epistemic part is 0 because it was not asked for.
        image: (B, 3, H, W) in [0, 1], only to be looked at.

    Source: Houlsby et al. (2011), "Bayesian active learning by disagreement"; Depeweg et al. (2018).
    Pitfall: an entropy of softmaxes is not a probability of error; calibrate before acting on its size.
    """

    probs: Tensor
    aleatoric: Tensor
    draws: int = 1
    image: Tensor | None = None

    @property
    def label(self) -> Tensor:
        """The most probable class (B, H, W), int64."""
        return self.probs.argmax(1)

    @property
    def confidence(self) -> Tensor:
        """The probability of :attr:`label` (B, H, W) in [1/K, 1]."""
        return self.probs.amax(1)

    @property
    def total(self) -> Tensor:
        """Entropy of the mean law (B, H, W) in nats."""
        return entropy(self.probs)

    @property
    def epistemic(self) -> Tensor:
        """Mutual information between class and network (B, H, W) in nats, ≥ 0."""
        return (self.total - self.aleatoric).clamp_min(0)

    @property
    def best(self) -> Tensor:
        """The best guess to compare with a target: :attr:`label`."""
        return self.label

    def with_probs(self, probs: Tensor) -> Self:
        """The same prediction with another law (B, K, H, W); its parts keep their shares of the total."""
        before = self.total
        share = (self.aleatoric / before).where(before > 0, 1.0)
        return replace(self, probs=probs, aleatoric=share.clamp(0, 1) * entropy(probs))

    def resized(self, size: tuple[int, int]) -> Self:
        """The same prediction at another (height, width).

        Between two pixels that disagree the interpolated law is a mixture; that doubt is about where the edge lies, not
        about the network, so the epistemic part is interpolated and the aleatoric part is what is left of the total.
        """
        probs, epistemic = resized(self.probs, size), resized(self.epistemic, size)
        image = None if self.image is None else resized(self.image, size)
        return replace(self, probs=probs, aleatoric=(entropy(probs) - epistemic).clamp_min(0), image=image)

    def _repr_html_(self) -> str:
        return strip(self, {"label": self.label, "total": self.total, "aleatoric": self.aleatoric,
                            "epistemic": self.epistemic}, unit="nats", categorical=("label",))  # fmt: skip


@dataclass(frozen=True)
class ClassMoments:
    """Sums over draws: ``Σ p`` (B, K, H, W) and ``Σ H[p]`` (B, H, W), of one draw at most H of its law."""

    draws: int
    probs: Tensor
    entropy: Tensor

    @classmethod
    def of(cls, probs: Tensor) -> Self:
        """The contribution of one draw whose law is ``probs`` (B, K, H, W)."""
        return cls(1, probs, entropy(probs))

    def merge(self, other: Self) -> Self:
        """Both together; adds into the memory of ``self``."""
        return type(self)(self.draws + other.draws, self.probs.add_(other.probs), self.entropy.add_(other.entropy))

    def prediction(self) -> ClassPrediction:
        """Mean law and mean entropy; rounding never makes the aleatoric part exceed the total.

        One draw is taken as it is: the likelihood that made it has seen to that.
        """
        if self.draws == 1:
            return ClassPrediction(self.probs, self.entropy)
        probs = self.probs / self.draws
        aleatoric = torch.minimum(self.entropy / self.draws, entropy(probs))
        return ClassPrediction(probs, aleatoric, self.draws)
