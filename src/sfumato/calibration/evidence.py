"""How much the held-out images say about each class. Where they say nothing, a calibrator stays the identity."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.predictions import ClassPrediction

ENOUGH = 100
"""Number of wrong pixels from which a fit counts in full. With fewer, it is mixed with the identity in proportion: an
error rate cannot be estimated from images without errors."""


@dataclass(frozen=True)
class Evidence:
    """Counts of the held-out pixels of each class (K,), int64.

    Args:
        right: Pixels of the class that are predicted as it.
        predicted: Pixels that are predicted as the class.
        true: Pixels of the class.
    """

    right: Tensor
    predicted: Tensor
    true: Tensor

    @classmethod
    def of(cls, label: Tensor, target: Tensor, classes: int) -> Evidence:
        """Counts of pixels with these labels (N,) and targets (N,)."""
        columns = (target[label == target], label, target)
        return cls(*(torch.bincount(column.cpu(), minlength=classes) for column in columns))

    def __add__(self, other: Evidence) -> Evidence:
        return Evidence(self.right + other.right, self.predicted + other.predicted, self.true + other.true)

    @property
    def seen(self) -> Tensor:
        """Whether the class has a held-out pixel (K,), bool."""
        return self.true > 0

    @property
    def by_class(self) -> Tensor:
        """Weight (K,) in [0, 1] of what was fitted for each class: by the pixels that miss it or take it wrongly."""
        wrong = self.predicted + self.true - 2 * self.right
        return _share(wrong).where(self.seen, 0.0)

    @property
    def by_label(self) -> Tensor:
        """Weight (K,) in [0, 1] of what was fitted for each label: by the rarer of its right and its wrong pixels."""
        return _share(torch.minimum(self.right, self.predicted - self.right))

    @property
    def overall(self) -> float:
        """Weight in [0, 1] of what was fitted for all pixels: by the rarer of right and wrong pixels."""
        right, pixels = self.right.sum(), self.predicted.sum()
        return float(_share(torch.minimum(right, pixels - right)))


def _share(count: Tensor) -> Tensor:
    return (count / ENOUGH).clamp_max(1)


def keep_unseen(prediction: ClassPrediction, probs: Tensor, seen: Tensor) -> ClassPrediction:
    """The prediction with new probabilities, but classes without a held-out pixel keep theirs.

    Args:
        prediction: The prediction before calibration.
        probs: New probabilities (B, K, *event), 0 for classes that are not ``seen``, with sum 1 over the others.
        seen: (K,) bool.
    """
    seen = seen.to(probs.device).view(-1, *[1] * (probs.ndim - 2))
    unseen = prediction.probs.masked_fill(seen, 0)
    return prediction.with_probs(unseen + probs * (1 - unseen.sum(1, keepdim=True)))
