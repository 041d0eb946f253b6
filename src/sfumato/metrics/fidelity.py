"""Does a student say what its teacher says? Scores of one prediction's uncertainty against another's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sfumato.metrics.ood_scores import KINDS, pixels, uncertainties
from sfumato.metrics.scores import Scores

STEPS, LOW, HIGH = 16, -20, 6  # keys per octave, and the octaves that uncertainties are told apart in
KEYS = STEPS * (HIGH - LOW)
COARSE = 8  # neighboring keys that are one for a single image


@dataclass(frozen=True)
class FidelityStatistics:
    """What the scores of a set of pixels are computed from. Adding the fields of two sets gives those of their union.

    Args:
        pairs: (…, 3, keys, keys) pixels by the teacher's and the student's uncertainty, one for each of :data:`KINDS`.
        gaps: (…, 3, 2) sums of absolute differences and of the teacher's uncertainties.
        classes: (…, 2, K, 4) of pixels that teacher and student take for a class: how many, and the sums of their
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
        return {f"{name}_{kind}": column[..., k] for name, column in columns.items() for k, kind in enumerate(KINDS)}

    def curves(self) -> dict[str, dict[str, Tensor]]:
        """None."""
        return {}


def spearman(pairs: Tensor) -> Tensor:
    """Rank correlation (…) of pairs counted in a joint histogram (…, keys, keys); ties take the mean of their ranks.

    NaN where one of the two is constant.

    >>> spearman(torch.tensor([[1, 0, 0], [0, 0, 1], [0, 1, 0]]))
    tensor(0.5000, dtype=torch.float64)
    """
    pairs = pairs.double()
    rows, columns = pairs.sum(-1), pairs.sum(-2)
    half = pairs.sum((-2, -1), keepdim=True)[..., 0] / 2
    x, y = (m.cumsum(-1) - m / 2 - half for m in (rows, columns))  # centered ranks
    both = (pairs * x[..., :, None] * y[..., None, :]).sum((-2, -1))
    return both / ((rows * x * x).sum(-1) * (columns * y * y).sum(-1)).sqrt()


def key(values: Tensor) -> Tensor:
    """A whole number in [0, 416) that never falls as the value grows: 16 to an octave, from 2⁻²⁰ to 2⁶."""
    # The head of the float's own bits: exponent, then the first four bits of the mantissa.
    bits = values.float().clamp(2.0**LOW, 2.0**HIGH * 0.999).view(torch.int32).bitwise_right_shift(19)
    return bits - STEPS * (127 + LOW)


class FidelityScores(Scores[FidelityStatistics]):
    """How near a student's uncertainty is to its teacher's, over all valid pixels of a data set.

    For each of total, aleatoric and epistemic: Spearman's rank correlation, mean absolute error (and the teacher's mean
    to compare it with), and the class error, the mean over classes of how far the mean uncertainties of the pixels that
    teacher and student take for the class are apart. In nats of classes, in the unit's square of values.

    Args:
        classes: K; 1 for values.

    Source: Landgraf et al. (2023), DUDES, for the class error; there of one uncertainty and as a mean over batches.
    Pitfall: a student that is near its teacher need not be as useful; compare error detection too.
    """

    headline: tuple[str, ...] = tuple(f"{name}_{kind}" for name in ("spearman", "mae") for kind in KINDS)

    def __init__(self, classes: int = 1) -> None:
        self.classes = classes
        nothing = torch.zeros(0, dtype=torch.int64)
        super().__init__(*count(torch.zeros(2, len(KINDS), 0), nothing, nothing, classes))

    def update(self, student: Any, teacher: Any, valid: Tensor) -> None:
        """Add the pixels of a batch.

        Args:
            student: its prediction of B images.
            teacher: its prediction of the same images.
            valid: (B, H, W) bool, False for pixels to leave out.

        Raises:
            ValueError: if shapes differ, or an uncertainty is NaN at a valid pixel.
        """
        maps = torch.stack([uncertainties(student), uncertainties(teacher)])
        labels = [getattr(p, "label", torch.zeros_like(valid, dtype=torch.int64)) for p in (student, teacher)]
        if not maps[0, :, 0].shape == valid.shape:
            raise ValueError(
                f"uncertainties {tuple(maps[0, :, 0].shape)}, valid {tuple(valid.shape)}: expected one shape"
            )
        for image in range(len(valid)):
            mask = valid[image]
            ours, theirs = (label[image][mask] for label in labels)
            self.add(*count(pixels(maps[:, image], mask), ours, theirs, self.classes))


def count(maps: Tensor, student: Tensor, teacher: Tensor, classes: int) -> tuple[FidelityStatistics, dict[str, Tensor]]:
    """Statistics of the pixels of one image: ``maps`` (2, 3, N) of student and teacher, and their labels (N,)."""
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
