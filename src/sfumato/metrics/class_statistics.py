"""Statistics of class predictions, and the scores that are computed from them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.metrics import calibration, confusion, detection, ranking, sparsification
from sfumato.predictions import UNCERTAINTIES

KINDS = (*UNCERTAINTIES, "confidence")
"""What pixels are ranked by: the three uncertainties in nats, and one minus the confidence."""


@dataclass(frozen=True)
class ClassStatistics:
    """Statistics of a set of pixels. Adding the fields of two sets gives those of their union.

    Args:
        overlap: Hits, predicted and true pixels of each class (…, 3, K).
        bins: Wrong and right pixels by confidence (…, 2, 15).
        confidence: Sum of the confidences in each bin (…, 15).
        class_bins: Pixels by the probability of each class (…, K, 15).
        class_gap: Sum of the probabilities minus number of pixels of the class (…, K, 15).
        proper: Sums of the negative log likelihood (nats) and of the Brier score (…, 2).
        ranks: Right and wrong pixels by uncertainty (…, 4, 2, keys), one histogram for each of :data:`KINDS`.
        doubt: Sum of 1 − confidence by 1 − confidence (…, keys).
        odds: Pixels of other classes and of the class by the probability of the class (…, K, 2, keys).
    """

    overlap: Tensor
    bins: Tensor
    confidence: Tensor
    class_bins: Tensor
    class_gap: Tensor
    proper: Tensor
    ranks: Tensor
    doubt: Tensor
    odds: Tensor

    def scores(self) -> dict[str, Tensor]:
        """All scores (…), the headline first."""
        pixels = self.bins.sum((-2, -1))
        nll, brier = (self.proper / pixels[..., None]).unbind(-1)
        good, bad = self.ranks.unbind(-2)
        ranked = ranking.scores(good, bad) | sparsification.scores(good + bad, bad)
        iou = confusion.iou(self.overlap)
        calibrated = calibration.brier_calibration(self.class_bins, self.class_gap)
        return {
            "miou": iou.nanmean(-1),
            "accuracy": self.overlap[..., 0, :].sum(-1) / pixels.double(),
            "class_accuracy": confusion.recall(self.overlap).nanmean(-1),
            "nll": nll,
            "brier": brier,
            "ece": calibration.ece(self.bins, self.confidence),
            "error_auroc": ranked["error_auroc"][..., 0],
            "ause": ranked["ause"][..., 0],
            "f1": confusion.f1(self.overlap).nanmean(-1),
            "mce": calibration.mce(self.bins, self.confidence),
            "adaptive_ece": calibration.adaptive_ece(good[..., -1, :], bad[..., -1, :], self.doubt),
            "classwise_ece": calibration.classwise_ece(self.class_bins, self.class_gap),
            "brier_calibration": calibrated,
            "brier_refinement": brier - calibrated,
            **{name: column[..., 0] for name, column in ranked.items() if name not in ("error_auroc", "ause")},
            **{f"{name}_{KINDS[k]}": column[..., k] for k in range(1, len(KINDS)) for name, column in ranked.items()},
            "absent_classes": iou.isnan().sum(-1),
            "pixels": pixels,
        }

    def per_class(self) -> dict[str, Tensor]:
        """Scores of each class (…, K). A score is NaN for a class that does not define it."""
        return {
            "iou": confusion.iou(self.overlap),
            "f1": confusion.f1(self.overlap),
            "precision": confusion.precision(self.overlap),
            "recall": confusion.recall(self.overlap),
            "specificity": confusion.specificity(self.overlap),
            **detection.scores(self.odds),
            "ece": self.class_gap.abs().sum(-1) / self.class_bins.sum(-1).double(),
            "pixels": self.overlap[..., 2, :],
        }

    def curves(self) -> dict[str, dict[str, Tensor]]:
        """Reliability of the confidence; by total uncertainty: accuracy over coverage, ROC of errors, PAvPU.

        And ``precision_recall_K`` of each class K.
        """
        total = self.bins.sum(-2)
        good, bad = self.ranks[..., 0, :, :].unbind(-2)
        coverage = torch.arange(1, 101, dtype=torch.float64, device=total.device) / 100
        false, true = ranking.roc(good, bad)
        return {
            "reliability": {
                "confidence": self.confidence / total,
                "accuracy": self.bins[..., 1, :] / total.double(),
                "count": total,
            },
            "rejection": {
                "coverage": coverage,
                "accuracy": 1 - sparsification.risk_at_coverage(good + bad, bad, coverage),
            },
            "roc": {"false_positive_rate": false, "true_positive_rate": true},
            "pavpu": {"certain": coverage, **ranking.pavpu(good, bad, coverage)},
            **{f"precision_recall_{k}": detection.precision_recall(each) for k, each in enumerate(self.odds)},
        }
