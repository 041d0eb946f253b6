"""Every score of a class prediction, in one pass over its pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

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
        proper: (…, 2) sums of negative log likelihood (nats) and of the Brier score.
        ranks: (…, 4, 2, keys) right and wrong pixels by uncertainty, one histogram for each of :data:`KINDS`.
    """

    overlap: Tensor
    bins: Tensor
    confidence: Tensor
    proper: Tensor
    ranks: Tensor

    def scores(self) -> dict[str, Tensor]:
        """All scores (…), the headline first."""
        pixels = self.bins.sum((-2, -1))
        nll, brier = (self.proper / pixels[..., None]).unbind(-1)
        good, bad = self.ranks.unbind(-2)
        iou = confusion.iou(self.overlap)
        auroc = dict(zip(KINDS, ranking.auroc(good, bad).unbind(-1)))
        ause = dict(zip(KINDS, sparsification.e_aurc(good + bad, bad).unbind(-1)))
        return {
            "miou": iou.nanmean(-1),
            "accuracy": self.overlap[..., 0, :].sum(-1) / pixels.double(),
            "class_accuracy": confusion.recall(self.overlap).nanmean(-1),
            "nll": nll,
            "brier": brier,
            "ece": calibration.ece(self.bins, self.confidence),
            "error_auroc": auroc["total"],
            "ause": ause["total"],
            **{f"error_auroc_{kind}": auroc[kind] for kind in KINDS[1:]},
            **{f"ause_{kind}": ause[kind] for kind in KINDS[1:]},
            "absent_classes": iou.isnan().sum(-1),
            "pixels": pixels,
        }

    def curves(self) -> dict[str, dict[str, Tensor]]:
        """Reliability of confidences; accuracy over coverage and ROC of errors, both by total uncertainty."""
        total = self.bins.sum(-2)
        good, bad = self.ranks[..., 0, :, :].unbind(-2)
        coverage, error = sparsification.curve(good + bad, bad)
        false, true = ranking.roc(good, bad)
        return {
            "reliability": {
                "confidence": self.confidence / total,
                "accuracy": self.bins[..., 1, :] / total.double(),
                "count": total,
            },
            "rejection": {"coverage": coverage, "accuracy": 1 - error},
            "roc": {"false_positive_rate": false, "true_positive_rate": true},
        }


def _over_classes(probs: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    """Label, confidence, p_target, entropy, Σp², Σp of one image (K, H, W), class by class to stay in the cache."""
    top = probs.amax(0)
    label = torch.zeros(top.shape, dtype=torch.int32, device=top.device)
    total, square, mass = (torch.zeros_like(top) for _ in range(3))
    for k in reversed(range(len(probs))):  # backwards, so that the first of equals wins, as argmax has it
        p = probs[k]
        label.masked_fill_(p == top, k)
        total.addcmul_(p, p.clamp_min(torch.finfo(torch.float32).tiny).log_(), value=-1)
        square.addcmul_(p, p)
        mass += p
    true = probs.gather(0, target[None])[0]
    return label, top, true, total, square, mass


def _checked(target: Tensor, mass: Tensor, total: Tensor, aleatoric: Tensor, classes: int) -> None:
    """Raise unless these valid pixels hold laws and known classes."""
    if not len(target):
        return
    low, high = (int(end) for end in target.aminmax())
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        raise ValueError(f"target holds class {wrong}, expected 0 to {classes - 1}: mark such pixels as not valid")
    if not bool(((mass - 1).abs() < 1e-2).all() & total.isfinite().all() & aleatoric.isfinite().all()):
        raise ValueError(
            f"probabilities sum to {float(mass.min()):.3g} to {float(mass.max()):.3g}, with entropies from "
            f"{float(total.min()):.3g}: expected finite probabilities that sum to 1 over dim 1 (did you pass logits?)"
        )


def count(probs: Tensor, aleatoric: Tensor, target: Tensor, valid: Tensor) -> tuple[ClassStatistics, Tensor]:
    """Statistics of one image.

    Args:
        probs: (K, H, W), summing to 1 over K.
        aleatoric: (H, W) in nats.
        target: (H, W) int64 classes, anything where not valid.
        valid: (H, W) bool.

    Returns:
        The statistics with coarse ranks, and the fine ranks (4, 2, 65536).

    Raises:
        ValueError: if valid pixels hold no law or an unknown class.
    """
    classes = len(probs)
    index = valid.flatten().nonzero()[:, 0]
    maps = (*_over_classes(probs, target.clamp(0, classes - 1)), aleatoric, target)
    label, top, true, total, square, mass, aleatoric, target = (x.flatten().index_select(0, index) for x in maps)
    _checked(target, mass, total, aleatoric, classes)
    wrong = label != target
    # Entropies carry rounding errors of this size, so that a smaller difference of two of them means nothing.
    epistemic = torch.nn.functional.threshold(total - aleatoric, 2**-20, 0.0)
    half = wrong.int() * histogram.KEYS
    fine = torch.stack([
        torch.bincount(histogram.key(u) + half, minlength=2 * histogram.KEYS).view(2, -1)
        for u in (total, aleatoric, epistemic, 1 - top)
    ])  # fmt: skip
    matrix = confusion.confusion(label, target, classes)
    bins, confidence = calibration.reliability(top, ~wrong)
    nll = -true.clamp_min(torch.finfo(torch.float32).tiny).log()
    proper = torch.stack([nll.sum(dtype=torch.float64), (1 + square - 2 * true).sum(dtype=torch.float64)])
    coarse = histogram.coarsen(fine)
    return ClassStatistics(confusion.overlap(matrix), bins, confidence, proper, coarse), fine


class ClassScores(Scores[ClassStatistics]):
    """Every score of class predictions over all valid pixels of a data set.

    Args:
        classes: K ≥ 2.

    Memory: 4 MB, and about 4.4 KB per image.
    """

    headline: ClassVar[tuple[str, ...]] = (
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
        ranks = torch.zeros(len(KINDS), 2, histogram.KEYS, dtype=torch.int64)
        whole = lambda *shape: torch.zeros(shape, dtype=torch.int32)
        real = lambda *shape: torch.zeros(shape, dtype=torch.float64)
        bins = calibration.BINS
        like = ClassStatistics(
            whole(3, classes), whole(2, bins), real(bins), real(2), whole(len(KINDS), 2, histogram.COARSE)
        )
        super().__init__(like, ranks)
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
        for image in zip(prediction.probs.float(), prediction.aleatoric.float(), target.long(), valid):
            self.add(*count(*image))
