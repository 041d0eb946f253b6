"""Do sets and intervals keep their promise, and how large are they?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.metrics.scores import Scores
from sfumato.predictions import PredictionInterval, PredictionSet


@dataclass(frozen=True)
class SetStatistics:
    """What the scores of a set of pixels are computed from. Adding the fields of two sets gives those of their union.

    Args:
        images: (…) with at least one valid pixel.
        pixels: (…).
        missed: (…) pixels whose truth lies outside.
        sums: (…, 2) the share of missed pixels summed over images, and the size summed over pixels.
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
            "promised_pixels": self.pixels,
        }

    def curves(self) -> dict[str, dict[str, Tensor]]:
        """None."""
        return {}


class SetScores(Scores[SetStatistics]):
    """Scores of prediction sets or intervals over all valid pixels of a data set.

    ``risk`` is the mean over images of the share of missed pixels, which is what a guarantee is about; ``risk_pooled``
    is their share of all pixels; ``set_size`` the mean number of classes, or width in the target's unit.
    """

    headline: tuple[str, ...] = ("risk", "set_size")

    def __init__(self) -> None:
        nothing = torch.zeros((), dtype=torch.int64)
        super().__init__(SetStatistics(nothing, nothing, nothing, torch.zeros(2)), {})

    def update(self, region: PredictionSet | PredictionInterval, target: Tensor, valid: Tensor) -> None:
        """Add the pixels of a batch.

        Args:
            region: of B images.
            target: (B, H, W) int64 classes or (B, D, H, W) values, anything where not ``valid``.
            valid: (B, H, W) bool; False also for pixels that the promise is not about.

        Raises:
            ValueError: if sizes differ.
        """
        if region.size.shape != valid.shape or target.shape[-2:] != valid.shape[-2:]:
            raise ValueError(
                f"sets {tuple(region.size.shape)}, target {tuple(target.shape)}, valid {tuple(valid.shape)}: expected "
                "the same B, H and W"
            )
        outside = region.missed(target.where(valid if target.ndim == valid.ndim else valid[:, None], 0)) & valid
        for missed, size, mask in zip(outside, region.size, valid):
            pixels, lost = mask.sum(), missed.sum()
            sums = torch.stack([lost.double() / pixels.clamp_min(1), size[mask].sum(dtype=torch.float64)])
            self.add(SetStatistics((pixels > 0).long(), pixels, lost, sums), {})
