"""How close is a student to its teacher? Scores of one prediction's uncertainty against another's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from sfumato.contracts import Task
from sfumato.errors import DataError
from sfumato.metrics.pixels import select_uncertainties, uncertainty_maps
from sfumato.metrics.ranking import spearman
from sfumato.metrics.scores import Scores, class_names
from sfumato.predictions import UNCERTAINTIES, ClassPrediction, ValuePrediction, check_mask, select

STEPS, LOW, HIGH = 16, -20, 6  # keys per octave, and the range in octaves
KEYS = STEPS * (HIGH - LOW)
COARSE = 8  # number of neighboring keys that are joined for a single image


@dataclass(frozen=True)
class FidelityStatistics:
    """Statistics of a set of pixels. Adding the fields of two sets gives those of their union.

    Args:
        pairs: Pixels by the teacher's and the student's uncertainty (…, 3, keys, keys), one joint histogram for each
            uncertainty.
        gaps: Sums of the absolute differences and of the teacher's uncertainties (…, 3, 2).
        classes: Of the pixels that teacher and student assign to a class (…, 2, K, 4): their number, and the sums of
            total, aleatoric and epistemic uncertainty. Values have one class.
    """

    pairs: Tensor
    gaps: Tensor
    classes: Tensor

    def scores(self) -> dict[str, Tensor]:
        """All scores (…), the headline first."""
        pixels = self.pairs.sum((-2, -1)).double()
        rank = spearman(self.pairs)
        mae = self.gaps[..., 0] / pixels
        count, sums = self.classes[..., :1], self.classes[..., 1:]
        error = (sums / count).diff(dim=-3)[..., 0, :, :].abs().nanmean(-2)
        columns = {"spearman": rank, "mae": mae, "mean": self.gaps[..., 1] / pixels, "class_error": error}
        kinds = list(enumerate(UNCERTAINTIES))
        return {f"{name}_{kind}": column[..., k] for name, column in columns.items() for k, kind in kinds}

    def curves(self) -> dict[str, dict[str, Tensor]]:
        """No curves."""
        return {}


def key(values: Tensor) -> Tensor:
    """An integer in [0, 416) that never falls as the value grows: 16 per octave, from 2⁻²⁰ to 2⁶."""
    # The first bits of the float: its exponent, then four bits of its mantissa.
    bits = values.float().clamp(2.0**LOW, 2.0**HIGH * 0.999).view(torch.int32).bitwise_right_shift(19)
    return bits - STEPS * (127 + LOW)


class FidelityScores(Scores[FidelityStatistics]):
    """How close a student's uncertainty is to its teacher's, over all valid pixels of a data set.

    For each of total, aleatoric and epistemic uncertainty: Spearman's rank correlation, the mean absolute error (and
    the teacher's mean, to compare it with), and the class error. The class error is the mean over classes of the
    difference between the mean uncertainty of the pixels that the teacher assigns to the class and of those that the
    student does. The unit is nats for classes and the square of the unit for values.

    Args:
        classes: K; 1 for values. Default 1.

    Source: Landgraf et al. (2023), DUDES, for the class error; there for one uncertainty and as a mean over batches.
    Pitfall: A student that is close to its teacher need not be as useful. Compare the detection of errors too.
    """

    target: ClassVar[str] = "any"
    headline: tuple[str, ...] = tuple(f"{name}_{kind}" for name in ("spearman", "mae") for kind in UNCERTAINTIES)

    def __init__(self, classes: int = 1) -> None:
        self.classes = classes
        nothing = torch.zeros(0, dtype=torch.int64)
        super().__init__(*count(torch.zeros(2, len(UNCERTAINTIES), 0), nothing, nothing, classes))

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Fresh scores, with as many classes as the task has."""
        return cls(len(class_names(task)) if task.kind == "class" else 1)

    def update(
        self, prediction: ClassPrediction | ValuePrediction, target: ClassPrediction | ValuePrediction, valid: Tensor
    ) -> None:
        """Add the pixels of a batch.

        Args:
            prediction: The student's predictions of B images.
            target: The teacher's predictions of the same images.
            valid: (B, *event) bool, False for pixels to leave out.

        Raises:
            DataError: If the shapes differ.
            NotFiniteError: If an uncertainty is NaN at a valid pixel.
        """
        student, teacher = uncertainty_maps(prediction), uncertainty_maps(target)
        if student.shape != teacher.shape:
            raise DataError(f"student {tuple(student.shape)}, teacher {tuple(teacher.shape)}: expected one shape")
        check_mask(valid, student[:, 0].shape, "prediction")
        maps, labels = torch.stack([student, teacher], 1), torch.stack([_labels(prediction), _labels(target)], 1)
        for pair, label, mask in zip(maps, labels, valid):
            ours, theirs = select(label, mask)
            self.add(*count(select_uncertainties(pair, mask), ours, theirs, self.classes))


def _labels(prediction: ClassPrediction | ValuePrediction) -> Tensor:
    """Labels (B, *event); 0 for values."""
    if isinstance(prediction, ClassPrediction):
        return prediction.label
    return torch.zeros_like(prediction.aleatoric, dtype=torch.int64)


def count(maps: Tensor, student: Tensor, teacher: Tensor, classes: int) -> tuple[FidelityStatistics, dict[str, Tensor]]:
    """Statistics of the pixels of one image.

    Args:
        maps: Uncertainties (2, 3, N) of student and teacher.
        student: Labels (N,) of the student.
        teacher: Labels (N,) of the teacher.
        classes: K.

    Returns:
        The statistics with coarse histograms, and the fine joint histograms ``pairs`` (3, 416, 416).
    """
    ours, theirs = maps
    joint = key(theirs).long() * KEYS + key(ours)
    fine = torch.stack([torch.bincount(row, minlength=KEYS * KEYS).view(KEYS, KEYS) for row in joint])
    coarse = fine.unflatten(-1, (-1, COARSE)).unflatten(-3, (-1, COARSE)).sum((-1, -3))
    gaps = torch.stack([(ours - theirs).abs(), theirs], -1).double().sum(1)
    rows = []
    for label, parts in ((teacher, theirs), (student, ours)):
        columns = [torch.bincount(label, minlength=classes).double()]
        columns += [torch.bincount(label, part.double(), minlength=classes) for part in parts]
        rows.append(torch.stack(columns, -1))
    return FidelityStatistics(coarse, gaps, torch.stack(rows)), {"pairs": fine}
