"""How often do conformal sets and intervals miss the target, and how large are they?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from sfumato.contracts import Task
from sfumato.errors import DataError
from sfumato.metrics.scores import Scores
from sfumato.predictions import PredictionInterval, PredictionSet, check_mask, with_channels


@dataclass(frozen=True)
class SetStatistics:
    """Statistics of a set of pixels. Adding the fields of two sets gives those of their union.

    Args:
        images: Number of images with at least one valid pixel (…).
        pixels: Number of valid pixels (…).
        missed: Number of valid pixels whose target lies outside (…).
        sums: The share of missed pixels summed over images, and the size summed over pixels (…, 2).
    """

    images: Tensor
    pixels: Tensor
    missed: Tensor
    sums: Tensor

    def scores(self) -> dict[str, Tensor]:
        """All scores (…), the headline first."""
        risk, size = self.sums.unbind(-1)
        pixels = self.pixels.double()
        return {
            "risk": risk / self.images.double(),
            "set_size": size / pixels,
            "risk_pooled": self.missed / pixels,
            "conformal_pixels": self.pixels,
        }

    def curves(self) -> dict[str, dict[str, Tensor]]:
        """No curves."""
        return {}


class SetScores(Scores[SetStatistics]):
    """Scores of conformal sets or intervals over all valid pixels of a data set.

    ``risk`` is the mean over images of the share of missed pixels, which is what a conformal level limits.
    ``risk_pooled`` is their share of all pixels. ``set_size`` is the mean number of classes, or the mean width in the
    unit of the target.
    """

    target: ClassVar[str] = "any"
    headline: tuple[str, ...] = ("risk", "set_size")

    def __init__(self) -> None:
        nothing = torch.zeros((), dtype=torch.int64)
        super().__init__(SetStatistics(nothing, nothing, nothing, torch.zeros(2)), {})

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Fresh scores; they are the same for every task."""
        return cls()

    def update(self, prediction: PredictionSet | PredictionInterval, target: Tensor, valid: Tensor) -> None:
        """Add the pixels of a batch.

        Args:
            prediction: Sets or intervals of B images.
            target: Classes (B, *event) int64 or values (B, D, *event); anything where not ``valid``.
            valid: (B, *event) bool; False also for pixels that the conformal level is not about.

        Raises:
            DataError: If the sizes differ.
        """
        size, values = prediction.size, isinstance(prediction, PredictionInterval)
        target = with_channels(target, prediction.lower) if isinstance(prediction, PredictionInterval) else target
        if (target[:, 0] if values else target).shape != size.shape:
            raise DataError(f"sets {tuple(size.shape)}, target {tuple(target.shape)}: expected the same B, H and W")
        check_mask(valid, size.shape, "sets")
        outside = prediction.missed(target.where(valid[:, None] if values else valid, 0)) & valid
        for missed, each, mask in zip(outside, size, valid):
            pixels, lost = mask.sum(), missed.sum()
            sums = torch.stack([lost.double() / pixels.clamp_min(1), each[mask].sum(dtype=torch.float64)])
            self.add(SetStatistics((pixels > 0).long(), pixels, lost, sums), {})
