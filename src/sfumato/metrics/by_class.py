"""Scores of each class by name: Dice, sensitivity, specificity, precision, areas under the ROC and the PR curve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self, TypeVar

import torch
from torch import Tensor

from sfumato.contracts import Task
from sfumato.errors import DataError
from sfumato.metrics import confusion, detection
from sfumato.metrics.rows import Statistics
from sfumato.metrics.scores import Scores, class_names
from sfumato.predictions import ClassPrediction, check_mask, select

S = TypeVar("S", bound=Statistics)


def by_class(name: str, column: Tensor) -> dict[str, Tensor]:
    """A score of each class (…, K): ``NAME``, the mean over classes that define it, then ``NAME_0``, ``NAME_1``, …"""
    return {name: column.nanmean(-1), **{f"{name}_{k}": column[..., k] for k in range(column.shape[-1])}}


class ScoresByClass(Scores[S]):
    """The base of scores of each class, pooled over all valid pixels of a data set.

    There is one score for the mean over the classes, such as ``dice``, and one for each class, such as ``dice_vessel``.

    Args:
        names: Names of the K ≥ 2 classes.
        like: Statistics of no pixel.
        fine: Fine histograms of no pixel.
    """

    target: ClassVar[str] = "class"
    measures: ClassVar[tuple[str, ...]]
    """The scores of the statistics that this object gives."""

    def __init__(self, names: tuple[str, ...], like: S, fine: dict[str, Tensor]) -> None:
        super().__init__(like, fine)
        self.names, self.headline = names, self.measures

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Fresh scores for the classes of a task."""
        return cls.of(class_names(task))

    @classmethod
    def of(cls, names: tuple[str, ...]) -> Self:
        """Fresh scores for classes with these names."""
        raise NotImplementedError(f"{cls.__name__} defines no of")

    def checked(self, prediction: ClassPrediction, target: Tensor, valid: Tensor) -> None:
        """Raise unless the shapes fit and every valid target is a class.

        Raises:
            DataError: If they do not.
        """
        expected = (len(target), len(self.names), *target.shape[1:])
        if tuple(prediction.probs.shape) != expected:
            raise DataError(
                f"probs {tuple(prediction.probs.shape)}, target {tuple(target.shape)}: expected (B, {len(self.names)}, "
                "H, W) and (B, H, W) of the same B, H and W"
            )
        check_mask(valid, target.shape, "target")
        known = target[valid]
        if known.numel() and not 0 <= int(known.min()) <= int(known.max()) < len(self.names):
            raise DataError(f"a valid target is no class from 0 to {len(self.names) - 1}: set valid to False there")

    def _named(self, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        kept: dict[str, Tensor] = {}
        for measure in self.measures:
            kept[measure] = found[measure]
            kept |= {f"{measure}_{name}": found[f"{measure}_{k}"] for k, name in enumerate(self.names)}
        return kept

    def compute(self) -> dict[str, Tensor]:
        """The mean over classes, and the score of each class. NaN where the data do not define it."""
        return self._named(super().compute())

    def per_image(self) -> dict[str, Tensor]:
        """The same scores of each image (n,), in the order of the updates. All processes must call this."""
        return self._named(super().per_image())

    def intervals(self, level: float = 0.95, seed: int = 0) -> dict[str, tuple[float, float]]:
        """As of :meth:`Scores.intervals`."""
        ends = {name: torch.tensor(pair) for name, pair in super().intervals(level, seed).items()}
        return {name: (float(pair[0]), float(pair[1])) for name, pair in self._named(ends).items()}


@dataclass(frozen=True)
class OverlapStatistics:
    """Counts of a set of pixels. Adding the fields of two sets gives those of their union.

    Args:
        overlap: Hits, predicted and true pixels of each class (…, 3, K).
    """

    overlap: Tensor

    def scores(self) -> dict[str, Tensor]:
        """Dice, sensitivity, specificity and precision (…)."""
        return {
            **by_class("dice", confusion.f1(self.overlap)),
            **by_class("sensitivity", confusion.recall(self.overlap)),
            **by_class("specificity", confusion.specificity(self.overlap)),
            **by_class("precision", confusion.precision(self.overlap)),
        }

    def curves(self) -> dict[str, dict[str, Tensor]]:
        """No curves."""
        return {}


class OverlapScores(ScoresByClass[OverlapStatistics]):
    """Scores of labels."""

    @classmethod
    def of(cls, names: tuple[str, ...]) -> Self:
        """Fresh scores for classes with these names."""
        return cls(names, OverlapStatistics(torch.zeros(3, len(names), dtype=torch.int64)), {})

    def update(self, prediction: ClassPrediction, target: Tensor, valid: Tensor) -> None:
        """Add the pixels of a batch.

        Args:
            prediction: Predictions of B images.
            target: Classes (B, *event), anything where not ``valid``.
            valid: (B, *event) bool.

        Raises:
            DataError: If the shapes differ, or a valid target is no class.
        """
        self.checked(prediction, target, valid)
        for label, classes, mask in zip(prediction.label, target, valid):
            counts = confusion.confusion(label[mask], classes[mask].long(), len(self.names))
            self.add(OverlapStatistics(confusion.overlap(counts)), {})


class DiceScore(OverlapScores):
    """Dice or F1 score ``2 hits / (predicted + true)`` of each class (``dice``)."""

    measures: ClassVar[tuple[str, ...]] = ("dice",)


class Sensitivity(OverlapScores):
    """Sensitivity or recall of each class (``sensitivity``): the share of its pixels that are found."""

    measures: ClassVar[tuple[str, ...]] = ("sensitivity",)


class Specificity(OverlapScores):
    """Specificity of each class (``specificity``): the share of the other pixels that are not taken for it."""

    measures: ClassVar[tuple[str, ...]] = ("specificity",)


class PrecisionScore(OverlapScores):
    """Precision of each class (``precision``): the share of its predicted pixels that are right."""

    measures: ClassVar[tuple[str, ...]] = ("precision",)


@dataclass(frozen=True)
class OddsStatistics:
    """Histograms of a set of pixels. Adding the fields of two sets gives those of their union.

    Args:
        odds: Pixels of other classes and of the class by the probability of the class (…, K, 2, keys).
    """

    odds: Tensor

    def scores(self) -> dict[str, Tensor]:
        """Area under the ROC and average precision (…)."""
        found = detection.scores(self.odds)
        return {name: value for each, column in found.items() for name, value in by_class(each, column).items()}

    def curves(self) -> dict[str, dict[str, Tensor]]:
        """The precision–recall curve of each class."""
        return {f"precision_recall_{k}": detection.precision_recall(each) for k, each in enumerate(self.odds)}


class OddsScores(ScoresByClass[OddsStatistics]):
    """Scores of the probability of a class as its detector. Per-image scores and intervals use coarse histograms."""

    @classmethod
    def of(cls, names: tuple[str, ...]) -> Self:
        """Fresh scores for classes with these names."""
        fine = torch.zeros(len(names), 2, detection.KEYS, dtype=torch.int64)
        return cls(names, OddsStatistics(detection.coarsen(fine)), {"odds": fine})

    def update(self, prediction: ClassPrediction, target: Tensor, valid: Tensor) -> None:
        """Add the pixels of a batch. Arguments and errors are those of :meth:`OverlapScores.update`."""
        self.checked(prediction, target, valid)
        for probs, classes, mask in zip(prediction.probs.float(), target, valid):
            rows, known = select(probs, mask), classes[mask].long()
            odds = detection.count(rows, known, rows.gather(0, known[None])[0])
            self.add(OddsStatistics(detection.coarsen(odds)), {"odds": odds})


class RocAuc(OddsScores):
    """Area under the ROC of each class against the rest (``roc-auc``).

    Pitfall: Where a class is rare, a large area may go with a low precision. Look at :class:`PrAuc` too.
    """

    measures: ClassVar[tuple[str, ...]] = ("roc_auc",)


class PrAuc(OddsScores):
    """Average precision of each class against the rest (``pr-auc``), the area under its precision–recall curve.

    Pitfall: The chance level is the share of the class, so it cannot be compared between data sets.
    """

    measures: ClassVar[tuple[str, ...]] = ("pr_auc",)
