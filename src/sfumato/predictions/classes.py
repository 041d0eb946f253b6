"""Predictions of classes, and the moments of draws that they are computed from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from sfumato.predictions.event import EventPrediction, resample_all, shape_text
from sfumato.predictions.notebook import strip
from sfumato.predictions.uncertainties import uncertainties


def entropy(probs: Tensor, dim: int = 1) -> Tensor:
    """Shannon entropy ``−Σ p log p`` along ``dim``, in nats, in [0, log K]; ``0 log 0 = 0``.

    >>> entropy(torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
    tensor([0.6931, 0.0000])
    """
    # Twice as fast as torch.special.entr. Without gradients the logarithms and their products take no new memory.
    logs = probs.clamp_min(torch.finfo(probs.dtype).tiny)
    products = logs.log() * probs if logs.requires_grad else logs.log_().mul_(probs)
    return 0.0 - products.sum(dim)


@dataclass(frozen=True, repr=False)
class ClassPrediction(EventPrediction):
    """The distribution of a class at every pixel, or of one class for each image.

    ``total = H[mean p]``, ``aleatoric = mean H[p]``, ``epistemic = total − aleatoric``. The epistemic part is the
    mutual information between the class and the network.

    Args:
        probs: Probabilities (B, K, *event) in [0, 1], with sum 1 over K: the mean over draws.
        aleatoric: Mean entropy of a draw (B, *event) in nats, between 0 and ``total``.
        draws: Number of draws. Default 1. With one draw the epistemic part is 0, because it is not measured.
        image: Image (B, 3, H, W) in [0, 1] that pictures show. Default: none.
        novelty: Score (B, *event), larger for inputs that differ more from the training data. None if the method gives
            none.

    Source: Houlsby et al. (2011), "Bayesian active learning by disagreement"; Depeweg et al. (2018).
    Pitfall: The entropy of a softmax is not a probability of error. Calibrate before you use its size.

    >>> ClassPrediction(torch.full((2, 4, 6, 8), 0.25), torch.zeros(2, 6, 8), draws=20)
    ClassPrediction(2 × 4 classes × 6 × 8, 20 draws)
    """

    probs: Tensor
    aleatoric: Tensor
    draws: int = 1
    image: Tensor | None = None
    novelty: Tensor | None = None

    def __repr__(self) -> str:
        batch, classes = self.probs.shape[:2]
        return f"ClassPrediction({batch} × {classes} classes{shape_text(self.event)}, {self.draws} draws)"

    @property
    def channels(self) -> Tensor:
        """The probabilities (B, K, *event)."""
        return self.probs

    @property
    def label(self) -> Tensor:
        """The most probable class (B, *event), int64."""
        return self.probs.max(1).indices  # several times as fast as argmax, which gives the same

    @property
    def confidence(self) -> Tensor:
        """The probability of :attr:`label` (B, *event) in [1/K, 1]."""
        return self.probs.amax(1)

    @property
    def total(self) -> Tensor:
        """Entropy of the mean distribution (B, *event) in nats."""
        return entropy(self.probs)

    @property
    def epistemic(self) -> Tensor:
        """Mutual information between class and network (B, *event) in nats, ≥ 0."""
        return (self.total - self.aleatoric).clamp_min(0)

    @property
    def best(self) -> Tensor:
        """The best guess, which is compared with a target: :attr:`label`."""
        return self.label

    def derived(self) -> dict[str, Tensor]:
        """Label, its probability, total and epistemic uncertainty, for readers of a file."""
        kind = torch.uint8 if self.probs.shape[1] <= 256 else torch.int32
        total = self.total
        known = {"label": self.label.to(kind), "confidence": self.confidence}
        return known | {"total": total, "epistemic": (total - self.aleatoric).clamp_min(0)}

    def with_probs(self, probs: Tensor) -> Self:
        """The same prediction with other probabilities (B, K, *event). The parts keep their shares of the total."""
        before = self.total
        share = (self.aleatoric / before).where(before > 0, 1.0)
        return replace(self, probs=probs, aleatoric=share.clamp(0, 1) * entropy(probs))

    def resampled(self, how: Callable[[Tensor], Tensor]) -> Self:
        """The same prediction at other places.

        Between two pixels of different classes the interpolated distribution is a mixture. This uncertainty is about
        the place of the edge, not about the network. So the epistemic part is interpolated, and the aleatoric part is
        the rest of the total.

        Args:
            how: Takes maps (B, C, H, W) to maps (B, C, H', W') by interpolation.
        """
        maps = {"probs": self.probs, "epistemic": self.epistemic, "image": self.image, "novelty": self.novelty}
        found = resample_all(maps, how)
        probs, epistemic = found["probs"], found.pop("epistemic")
        assert probs is not None
        assert epistemic is not None
        return replace(self, **found, aleatoric=(entropy(probs) - epistemic).clamp_min(0))

    def _repr_html_(self) -> str:
        return strip(self, {"label": self.label, **uncertainties(self)}, unit="nats", categorical=("label",))


@dataclass(frozen=True)
class ClassMoments:
    """Sums over draws.

    Args:
        draws: Number of draws.
        probs: ``Σ p`` (B, K, *event).
        entropy: ``Σ H[p]`` (B, *event) in nats; for one draw at most the entropy of its distribution.
    """

    draws: int
    probs: Tensor
    entropy: Tensor

    @classmethod
    def of(cls, probs: Tensor) -> Self:
        """The moments of one draw with the probabilities ``probs`` (B, K, *event)."""
        return cls(1, probs, entropy(probs))

    def merge(self, other: Self) -> Self:
        """Moments of both sets of draws together. The sums are added into the memory of ``self``."""
        return type(self)(self.draws + other.draws, self.probs.add_(other.probs), self.entropy.add_(other.entropy))

    def prediction(self) -> ClassPrediction:
        """Mean probabilities and mean entropy. Rounding never makes the aleatoric part exceed the total.

        One draw is returned as it is: its likelihood keeps the aleatoric part below the total.
        """
        if self.draws == 1:
            return ClassPrediction(self.probs, self.entropy)
        probs = self.probs / self.draws
        aleatoric = torch.minimum(self.entropy / self.draws, entropy(probs))
        return ClassPrediction(probs, aleatoric, self.draws)
