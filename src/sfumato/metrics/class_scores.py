"""All scores of class predictions, in one pass over the pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from sfumato.contracts import Task
from sfumato.errors import DataError, NotFiniteError
from sfumato.metrics import calibration, confusion, histogram, ranking, sparsification
from sfumato.metrics.scores import Scores, class_names
from sfumato.predictions import UNCERTAINTIES, ClassPrediction, check_mask, select

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
    """

    overlap: Tensor
    bins: Tensor
    confidence: Tensor
    class_bins: Tensor
    class_gap: Tensor
    proper: Tensor
    ranks: Tensor
    doubt: Tensor

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
            "ece": self.class_gap.abs().sum(-1) / self.class_bins.sum(-1).double(),
            "pixels": self.overlap[..., 2, :],
        }

    def curves(self) -> dict[str, dict[str, Tensor]]:
        """Reliability of the confidence; and by total uncertainty: accuracy over coverage, ROC of errors, PAvPU."""
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
        }


def count(probs: Tensor, aleatoric: Tensor, target: Tensor) -> tuple[ClassStatistics, dict[str, Tensor]]:
    """Statistics of the valid pixels of one image.

    Args:
        probs: Probabilities (K, N), with sum 1 over K.
        aleatoric: Aleatoric uncertainty (N,) in nats.
        target: Classes (N,), int64, in [0, K).

    Returns:
        The statistics with coarse histograms, and the fine ranks (4, 2, 65536) and doubt (65536,).

    Raises:
        NotFiniteError: If a pixel has no finite probabilities that sum to 1.
        DataError: If a target is not a class.
    """
    _check_target(target, len(probs))
    label, top, total, square = _over_classes(probs)
    _check_probs(probs, total, aleatoric)
    wrong = label != target
    # Entropies have rounding errors of this size, so a smaller difference of two entropies means nothing.
    epistemic = torch.nn.functional.threshold(total - aleatoric, 2**-20, 0.0)
    half = wrong.int() * histogram.KEYS
    ranks = torch.stack([
        torch.bincount(histogram.key(u) + half, minlength=2 * histogram.KEYS).view(2, -1)
        for u in (total, aleatoric, epistemic, 1 - top)
    ])  # fmt: skip
    doubt = torch.bincount(histogram.key(1 - top), (1 - top).double(), histogram.KEYS).double()
    true = probs.gather(0, target[None])[0]
    nll = -true.clamp_min(_TINY).log()
    bins, confidence = calibration.reliability(top, ~wrong)
    statistics = ClassStatistics(
        confusion.overlap(confusion.confusion(label, target, len(probs))),
        bins,
        confidence,
        *calibration.classwise(probs, label, top, target, true),
        torch.stack([x.sum(dtype=torch.float64) for x in (nll, 1 + square - 2 * true)]),
        histogram.coarsen(ranks),
        histogram.coarsen(doubt),
    )
    return statistics, {"ranks": ranks, "doubt": doubt}


_TINY = torch.finfo(torch.float32).tiny


def _over_classes(probs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Label, confidence, entropy and Σp² of pixels (K, N), class by class: faster than argmax, without a copy."""
    top = probs.amax(0)
    label = torch.zeros(top.shape, dtype=torch.int32, device=top.device)
    total, square = torch.zeros_like(top), torch.zeros_like(top)
    for k in reversed(range(len(probs))):  # backwards, so that the first of equal classes wins, as in argmax
        p = probs[k]
        label.masked_fill_(p == top, k)
        total.addcmul_(p, p.clamp_min(_TINY).log_(), value=-1)
        square.addcmul_(p, p)
    return label, top, total, square


def _check_target(target: Tensor, classes: int) -> None:
    low, high = (int(end) for end in target.aminmax()) if len(target) else (0, 0)
    if low < 0 or high >= classes:
        raise DataError(
            f"target holds class {low if low < 0 else high}, expected 0 to {classes - 1}: set valid to False there"
        )


def _check_probs(probs: Tensor, total: Tensor, aleatoric: Tensor) -> None:
    if not len(total):
        return
    low, high = (float(end) for end in probs.sum(0).aminmax())
    least, most = float(probs.min()), float(aleatoric.max())
    if not (least >= 0 and low > 0.99 and high < 1.01 and math.isfinite(float(total.max()) + most)):
        raise NotFiniteError(
            f"probabilities are at least {least:.3g} and sum to {low:.3g} … {high:.3g}, aleatoric is up to {most:.3g}: "
            f"expected finite probabilities that sum to 1 over dim 1 (were logits passed?)"
        )


class ClassScores(Scores[ClassStatistics]):
    """All scores of class predictions over the valid pixels of a data set.

    Args:
        classes: K ≥ 2.

    Memory: 4 MB, and about 5 KB per image and 180 B per image and class.
    """

    target: ClassVar[str] = "class"
    headline: tuple[str, ...] = (
        "miou",
        "accuracy",
        "class_accuracy",
        "nll",
        "brier",
        "ece",
        "error_auroc",
        "ause",
    )

    def __init__(self, classes: int) -> None:
        super().__init__(*count(torch.zeros(classes, 0), torch.zeros(0), torch.zeros(0, dtype=torch.int64)))
        self.classes = classes

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Fresh scores, with as many classes as the task has."""
        return cls(len(class_names(task)))

    def update(self, prediction: ClassPrediction, target: Tensor, valid: Tensor) -> None:
        """Add the pixels of a batch.

        Args:
            prediction: Predictions of B images.
            target: Classes (B, *event), int64, in [0, K), anything where not ``valid``.
            valid: (B, *event) bool.

        Raises:
            DataError: If the shapes differ, or a valid target is not a class.
            NotFiniteError: If a valid pixel has no finite probabilities that sum to 1.
        """
        expected = (len(target), self.classes, *target.shape[1:])
        if tuple(prediction.probs.shape) != expected:
            raise DataError(
                f"probs {tuple(prediction.probs.shape)}, target {tuple(target.shape)}: "
                f"expected (B, {self.classes}, H, W) and (B, H, W) of the same B, H and W"
            )
        check_mask(valid, target.shape, "target")
        for probs, aleatoric, classes, mask in zip(prediction.probs, prediction.aleatoric, target, valid):
            maps = (probs.float(), aleatoric.float(), classes.long())
            self.add(*count(*(select(x, mask) for x in maps)))

    def per_class(self) -> dict[str, Tensor]:
        """Pooled IoU, F1, precision, recall, ECE and number of pixels of each class (K,).

        A score is NaN for a class that does not define it. All processes must call this.
        """
        with self.sync_context():
            return self._pooled().per_class()
