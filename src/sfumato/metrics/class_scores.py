"""All scores of class predictions, in one pass over the pixels."""

from __future__ import annotations

import math
from typing import ClassVar, Self

import torch
from torch import Tensor

from sfumato.contracts import Task
from sfumato.errors import DataError, NotFiniteError
from sfumato.metrics import calibration, confusion, detection, histogram
from sfumato.metrics.class_statistics import ClassStatistics
from sfumato.metrics.scores import Scores, class_names
from sfumato.predictions import ClassPrediction, check_mask, select


def count(probs: Tensor, aleatoric: Tensor, target: Tensor) -> tuple[ClassStatistics, dict[str, Tensor]]:
    """Statistics of the valid pixels of one image.

    Args:
        probs: Probabilities (K, N), with sum 1 over K.
        aleatoric: Aleatoric uncertainty (N,) in nats.
        target: Classes (N,), int64, in [0, K).

    Returns:
        The statistics with coarse histograms, and the fine ranks (4, 2, 65536), doubt (65536,) and odds (K, 2, 3072).

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
    odds = detection.count(probs, target, true)
    bins, confidence = calibration.reliability(top, ~wrong)
    statistics = ClassStatistics(
        confusion.overlap(confusion.confusion(label, target, len(probs))),
        bins,
        confidence,
        *calibration.classwise(probs, label, top, target, true),
        torch.stack([x.sum(dtype=torch.float64) for x in (nll, 1 + square - 2 * true)]),
        histogram.coarsen(ranks),
        histogram.coarsen(doubt),
        detection.coarsen(odds),
    )
    return statistics, {"ranks": ranks, "doubt": doubt, "odds": odds}


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

    Memory: 4 MB and 50 KB per class, and about 5 KB per image and 600 B per image and class.
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
        """Pooled scores of each class (K,) against the rest.

        IoU, F1 (Dice), precision, recall (sensitivity), specificity, area under the ROC, average precision (area under
        the precision–recall curve), ECE and number of pixels. A score is NaN for a class that does not define it. All
        processes must call this.
        """
        with self.sync_context():
            return self._pooled().per_class()
