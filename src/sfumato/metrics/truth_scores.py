"""Is the aleatoric uncertainty of classes right? Scores against distributions that are known, or that people chose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from sfumato.contracts import Task
from sfumato.errors import DataError
from sfumato.metrics.pixels import select_uncertainties
from sfumato.metrics.scores import Scores
from sfumato.predictions import ClassPrediction, check_mask, entropy, select


@dataclass(frozen=True)
class TruthStatistics:
    """Statistics of a set of pixels. Adding the fields of two sets gives those of their union.

    Args:
        pixels: Number of valid pixels (…).
        sums: Sums over valid pixels (…, 7): divergence, absolute difference, aleatoric part a, true entropy h, a², h²
            and a h.
    """

    pixels: Tensor
    sums: Tensor

    def scores(self) -> dict[str, Tensor]:
        """All scores (…), the headline first."""
        divergence, gap, a, h, aa, hh, ah = (self.sums / self.pixels.double().unsqueeze(-1)).unbind(-1)
        spreads = ((aa - a.square()).clamp_min(0) * (hh - h.square()).clamp_min(0)).sqrt()
        return {
            "truth_kl": divergence,
            "aleatoric_error": gap,
            "aleatoric_correlation": (ah - a * h) / spreads.where(spreads > 0, torch.nan),
            "aleatoric_mean": a,
            "truth_entropy": h,
            "truth_pixels": self.pixels,
        }

    def curves(self) -> dict[str, dict[str, Tensor]]:
        """No curves."""
        return {}


class TruthScores(Scores[TruthStatistics]):
    """How close class predictions are to true distributions, over all valid pixels of a data set.

    ``truth_kl`` is the mean of ``KL(t ‖ p)`` of the true distribution t from the predicted probabilities p, in nats.
    ``aleatoric_error`` is the mean absolute difference of the aleatoric part and the entropy ``H[t]``, in nats, and
    ``aleatoric_correlation`` their correlation over pixels.

    Pitfall: The entropy of the shares of few observers is too small on average: that of one observer is 0, and that of
    two is 0 or log 2. ``truth_kl`` compares models on such data, but its size also depends on the number of observers.
    """

    target: ClassVar[str] = "class"
    headline: tuple[str, ...] = ("truth_kl", "aleatoric_error", "aleatoric_correlation")

    def __init__(self) -> None:
        super().__init__(TruthStatistics(torch.zeros((), dtype=torch.int64), torch.zeros(7)), {})

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Fresh scores; they are the same for every task."""
        return cls()

    def update(self, prediction: ClassPrediction, target: Tensor, valid: Tensor) -> None:
        """Add the pixels of a batch.

        Args:
            prediction: Predictions of B images.
            target: True probabilities (B, K, *event); anything where not ``valid``.
            valid: (B, *event) bool, False for pixels to leave out.

        Raises:
            DataError: If the sizes differ.
            NotFiniteError: If an uncertainty is NaN at a valid pixel.
        """
        if target.shape != prediction.probs.shape:
            raise DataError(f"probabilities {tuple(prediction.probs.shape)}, truth {tuple(target.shape)}: expected one")
        check_mask(valid, prediction.total.shape, "predictions")
        logs = prediction.probs.double().clamp_min(torch.finfo(torch.float32).tiny).log()
        for log, part, truth, mask in zip(logs, prediction.aleatoric, target.double(), valid):
            known = select(truth, mask)
            a, h = select_uncertainties(part, mask).double(), entropy(known[None])[0]
            divergence = -(known * select(log, mask)).sum(0) - h
            columns = [divergence.clamp_min(0), (a - h).abs(), a, h, a.square(), h.square(), a * h]
            self.add(TruthStatistics(mask.sum(), torch.stack(columns).sum(-1)), {})
