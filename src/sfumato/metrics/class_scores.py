"""Every score of a class prediction, in one pass over its pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.metrics import calibration, confusion, histogram, ranking, sparsification
from sfumato.metrics.scores import Scores
from sfumato.predictions import ClassPrediction

KINDS = ("total", "aleatoric", "epistemic", "confidence")
"""What pixels are ranked by: the three uncertainties in nats, and one minus the confidence."""


@dataclass(frozen=True)
class ClassStatistics:
    """What the scores of a set of pixels are computed from. Adding the fields of two sets gives those of their union.

    Args:
        overlap: (…, 3, K) hits, predicted and true pixels of each class.
        bins: (…, 2, 15) wrong and right pixels by confidence.
        confidence: (…, 15) sum of confidences of each bin.
        class_bins: (…, K, 15) pixels by probability of each class.
        class_gap: (…, K, 15) sum of probabilities minus pixels of the class.
        proper: (…, 2) sums of negative log likelihood (nats) and of the Brier score.
        ranks: (…, 4, 2, keys) right and wrong pixels by uncertainty, one histogram for each of :data:`KINDS`.
        doubt: (…, keys) sum of 1 − confidence, by itself.
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
        """Scores of each class (…, K), NaN for classes that leave them undefined."""
        return {
            "iou": confusion.iou(self.overlap),
            "f1": confusion.f1(self.overlap),
            "precision": confusion.precision(self.overlap),
            "recall": confusion.recall(self.overlap),
            "ece": self.class_gap.abs().sum(-1) / self.class_bins.sum(-1).double(),
            "pixels": self.overlap[..., 2, :],
        }

    def curves(self) -> dict[str, dict[str, Tensor]]:
        """Reliability of confidences; and by total uncertainty: accuracy over coverage, ROC of errors, PAvPU."""
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
        probs: (K, N), summing to 1 over K.
        aleatoric: (N,) in nats.
        target: (N,) int64 classes in [0, K).

    Returns:
        The statistics, their histograms coarse; and the fine ranks (4, 2, 65536) and doubt (65536,).

    Raises:
        ValueError: if a pixel holds no law or an unknown class.
    """
    _check_target(target, len(probs))
    label, top, total, square = _over_classes(probs)
    _check_law(probs, total, aleatoric)
    wrong = label != target
    # Entropies carry rounding errors of this size, so that a smaller difference of two of them means nothing.
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
    """Label, confidence, entropy and Σp² of pixels (K, N), class by class: faster than argmax, and no copy of probs."""
    top = probs.amax(0)
    label = torch.zeros(top.shape, dtype=torch.int32, device=top.device)
    total, square = torch.zeros_like(top), torch.zeros_like(top)
    for k in reversed(range(len(probs))):  # backwards, so that the first of equals wins, as argmax has it
        p = probs[k]
        label.masked_fill_(p == top, k)
        total.addcmul_(p, p.clamp_min(_TINY).log_(), value=-1)
        square.addcmul_(p, p)
    return label, top, total, square


def _check_target(target: Tensor, classes: int) -> None:
    low, high = (int(end) for end in target.aminmax()) if len(target) else (0, 0)
    if low < 0 or high >= classes:
        raise ValueError(
            f"target holds class {low if low < 0 else high}, expected 0 to {classes - 1}: mark such pixels as not valid"
        )


def _check_law(probs: Tensor, total: Tensor, aleatoric: Tensor) -> None:
    if not len(total):
        return
    low, high = (float(end) for end in probs.sum(0).aminmax())
    least, most = float(probs.min()), float(aleatoric.max())
    if not (least >= 0 and low > 0.99 and high < 1.01 and math.isfinite(float(total.max()) + most)):
        raise ValueError(
            f"probabilities are at least {least:.3g} and sum to {low:.3g} … {high:.3g}, aleatoric is up to {most:.3g}: "
            f"expected finite probabilities that sum to 1 over dim 1 (were logits passed?)"
        )


class ClassScores(Scores[ClassStatistics]):
    """Every score of class predictions over all valid pixels of a data set.

    Args:
        classes: K ≥ 2.

    Memory: 4 MB, and about 5 KB per image and 180 B per image and class.
    """

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

    def update(self, prediction: ClassPrediction, target: Tensor, valid: Tensor) -> None:
        """Add the pixels of a batch.

        Args:
            prediction: of B images.
            target: (B, H, W) int64 classes in [0, K), anything where not ``valid``.
            valid: (B, H, W) bool.

        Raises:
            ValueError: if shapes differ, or valid pixels hold no law or an unknown class.
        """
        expected = (len(target), self.classes, *target.shape[1:])
        if tuple(prediction.probs.shape) != expected or valid.shape != target.shape:
            raise ValueError(
                f"probs {tuple(prediction.probs.shape)}, target {tuple(target.shape)}, valid {tuple(valid.shape)}: "
                f"expected (B, {self.classes}, H, W) and twice (B, H, W) of the same B, H and W"
            )
        for probs, aleatoric, truth, mask in zip(prediction.probs, prediction.aleatoric, target, valid):
            index = mask.flatten().nonzero()[:, 0]
            maps = (probs.flatten(1).float(), aleatoric.flatten().float(), truth.flatten().long())
            self.add(*count(*(x.index_select(-1, index) for x in maps)))

    def per_class(self) -> dict[str, Tensor]:
        """Pooled IoU, F1, precision, recall, ECE and pixels of each class (K,); NaN for one that leaves it undefined.

        All processes must call this.
        """
        with self.sync_context():
            return self._pooled().per_class()
