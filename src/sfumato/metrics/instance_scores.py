"""Average precision of instances, and whether what is uncertain about them is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from sfumato.metrics import segments, sparsification
from sfumato.metrics.segments import Segments
from sfumato.predictions import Instances

THRESHOLDS = torch.arange(50, 100, 5, dtype=torch.float64) / 100
RECALLS = torch.linspace(0, 1, 101, dtype=torch.float64)
ROW = ("kind", "score", "spread", "iou", "ignored", "center_error")  # what is kept of a predicted instance


def average_precision(score: Tensor, hit: Tensor, truths: int) -> Tensor:
    """Precision at 101 equally spaced recalls, each the largest at that recall or more; their mean.

    Args:
        score: (N,).
        hit: (N,) bool, whether it is a true instance; no two of one.
        truths: how many true instances there are, ≥ 1.

    Source: Lin et al. (2014), COCO. Equal scores are taken together, so that order changes nothing.

    >>> average_precision(torch.tensor([0.9, 0.8]), torch.tensor([True, False]), 2)  # 51 recalls are reached
    tensor(0.5050, dtype=torch.float64)
    """
    levels, group = score.unique(return_inverse=True)
    hits, all_ = (torch.bincount(group, w, len(levels)).flip(0).cumsum(0) for w in (hit.double(), None))
    precision = (hits / all_).flip(0).cummax(0).values.flip(0) if len(levels) else hits.double()
    reached = torch.searchsorted((hits / truths).double(), RECALLS.to(score.device))
    return torch.cat([precision, precision.new_zeros(1)])[reached].mean()


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Rank correlation of (N,) with (N,) in [−1, 1]; equal values share their mean rank; NaN where all are equal.

    >>> spearman(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([10.0, 30.0, 20.0]))
    tensor(0.5000, dtype=torch.float64)
    """
    x, y = (r - r.mean() for r in (_ranks(a), _ranks(b)))
    return (x * y).sum() / (x.square().sum() * y.square().sum()).sqrt()


def _ranks(values: Tensor) -> Tensor:
    _, group, size = values.unique(return_inverse=True, return_counts=True)
    return (size.cumsum(0) - (size + 1) / 2)[group].double()


def ause(uncertainty: Tensor, error: Tensor) -> Tensor:
    """Area between the mean error (N,) of what is kept by uncertainty (N,) and by the error itself, ≥ 0."""
    areas = []
    for key in (uncertainty, error):
        _, group, size = key.unique(return_inverse=True, return_counts=True)
        areas.append(sparsification.aurc(size, torch.bincount(group, error, len(size))))
    return areas[0] - areas[1]


class InstanceScores(Metric):
    """Average precision of predicted instances, and how far their uncertainty follows their error.

    ``ap`` is the mean over classes with a true instance and over IoU above 0.5, 0.55, … 0.95; ``ap50`` that above 0.5.
    An instance that matches none is left out where more of it than the threshold lies on void or on a crowd of its
    class. ``center_error`` is the mean distance, px, of an instance's center from the centroid of the true instance it
    shares most pixels with. Two pairs tell whether errors were known: ``center_spearman`` and ``center_ause`` rank
    that distance by the standard deviation of the vectors; ``iou_spearman`` and ``iou_ause`` rank 1 − IoU by 1 − score.

    Args:
        classes: K.
        things: ids of the classes that have instances.

    Source: Lin et al. (2014), COCO, for 101 recalls; Cordts et al. (2016) for what is left out.
    Pitfall: COCO counts an IoU of exactly the threshold as a match, Cityscapes and this do not.
    """

    full_state_update: bool | None = False
    headline: ClassVar[tuple[str, ...]] = ("ap", "ap50", "center_error", "center_spearman", "iou_spearman")
    rows: list[Tensor]
    truths: Tensor

    def __init__(self, classes: int, things: Sequence[int]) -> None:
        super().__init__()
        if not all(0 <= thing < classes for thing in things):
            raise ValueError(f"things are {list(things)}, expected ids of {classes} classes, 0 to {classes - 1}")
        self.classes, self.things = classes, tuple(things)
        self.add_state("rows", [], "cat")
        self.add_state("truths", torch.zeros(classes, dtype=torch.int64), "sum")

    def update(self, instances: Sequence[Instances], classes: Tensor, truth: Tensor, valid: Tensor) -> None:
        """Add the instances of a batch.

        Args:
            instances: of each of B images.
            classes: (B, H, W) true ones, anything where not ``valid``.
            truth: (B, H, W) ids of true instances, 0 for none; with a thing's class, a crowd.
            valid: (B, H, W), False for void.

        Raises:
            ValueError: if shapes differ, or a class or an id is none.
        """
        if len(instances) != len(classes):
            raise ValueError(f"instances of {len(instances)} images but truth of {len(classes)}: give one for each")
        for found, kind, ids, mask in zip(instances, classes, truth, valid.bool()):
            here = found.to(kind.device)
            segments.check(torch.zeros_like(kind), here.ids, kind, ids, mask, self.classes)
            true = Segments.of(kind.flatten(), ids.flatten(), mask.flatten(), self.classes, self.things)
            self.rows.append(_rows(here, true, kind.shape[-1]))
            self.truths = self.truths + torch.bincount(true.classes[true.single], minlength=self.classes)

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather from all processes, those without an image included."""
        self.rows = [self._all()]
        super().sync(*args, **kwargs)

    def _all(self) -> Tensor:
        nothing = torch.zeros(0, len(ROW), dtype=torch.float64, device=self.device)
        return dim_zero_cat([nothing, *(self.rows if isinstance(self.rows, list) else [self.rows])])

    def per_class(self) -> dict[str, Tensor]:
        """AP, AP above 0.5 and the number of true instances of each class (K,); NaN for classes without one."""
        with self.sync_context():
            return self._per_class()

    def _per_class(self) -> dict[str, Tensor]:
        kind, score, _, iou, ignored, _ = self._all().unbind(1)
        found = torch.full((self.classes, len(THRESHOLDS)), torch.nan, dtype=torch.float64, device=self.device)
        for c in self.things:
            for i, threshold in enumerate(THRESHOLDS.tolist()):
                hit = iou > threshold
                kept = (kind == c) & (hit | (ignored <= threshold))
                if self.truths[c]:
                    found[c, i] = average_precision(score[kept], hit[kept], int(self.truths[c]))
        return {"ap": found.mean(1), "ap50": found[:, 0], "instances": self.truths}

    def compute(self) -> dict[str, Tensor]:
        """The scores over all images, the headline first; NaN where nothing leaves one defined."""
        precision = self._per_class()
        _, score, spread, iou, ignored, center_error = self._all().unbind(1)
        placed, counted = ~center_error.isnan(), (iou > 0.5) | (ignored <= 0.5)
        return {
            "ap": precision["ap"].nanmean(),
            "ap50": precision["ap50"].nanmean(),
            "center_error": center_error[placed].mean(),
            "center_spearman": spearman(spread[placed], center_error[placed]),
            "iou_spearman": spearman(1 - score[counted], 1 - iou[counted]),
            "center_ause": ause(spread[placed], center_error[placed]),
            "iou_ause": ause(1 - score[counted], 1 - iou[counted]),
            "predicted_instances": counted.sum(),
            "instances": self.truths.sum(),
        }


def _rows(found: Instances, true: Segments, width: int) -> Tensor:
    """What is kept of each predicted instance (N, 6), in the order of :data:`ROW`."""
    nobody = found.classes.new_full((1,), -1)
    kinds = torch.cat([nobody, found.classes])
    mine = Segments(found.ids.flatten(), kinds, kinds >= 0, torch.zeros_like(kinds, dtype=torch.bool))
    shared = segments.overlaps(mine, true).double()
    area, size = shared.sum(1, keepdim=True), shared.sum(0)
    same = kinds[:, None] == true.classes
    ignored = (shared[:, :1] + (shared * (same & true.crowd)).sum(1, keepdim=True)) / area
    iou = (shared / (area + size - shared)).where(same & true.single, 0.0).amax(1)
    most, partner = shared.where(true.single, 0.0).max(1)
    pixel = torch.arange(len(true.at), device=true.at.device, dtype=torch.float64)
    x, y = (torch.bincount(true.at, along, len(size)) / size for along in (pixel % width, pixel // width))
    off = found.centers.double() - torch.stack([x, y], 1)[partner[1:]]
    center_error = off.norm(dim=1).where(most[1:] > 0, torch.nan)
    own = (found.classes.double(), found.scores.double(), found.uncertainty.double())
    return torch.stack([*own, iou[1:], ignored[1:, 0], center_error], 1)[area[1:, 0] > 0]
