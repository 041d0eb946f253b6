"""Average precision of instances, and whether their uncertainty follows their error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from sfumato.contracts import Task
from sfumato.errors import DataError
from sfumato.instances import Instances, PanopticMaps, Segments, check_things, overlaps
from sfumato.metrics import sparsification
from sfumato.metrics.panoptic_scores import check_maps
from sfumato.metrics.ranking import spearman_of_values
from sfumato.metrics.scores import class_names

THRESHOLDS = torch.arange(50, 100, 5, dtype=torch.float64) / 100
RECALLS = torch.linspace(0, 1, 101, dtype=torch.float64)
ROW = (
    "kind",
    "score",
    "spread",
    "iou",
    "ignored",
    "center_error",
)  # the numbers that are stored for each predicted instance


def average_precision(score: Tensor, hit: Tensor, truths: int) -> Tensor:
    """Mean over 101 equally spaced recalls of the precision, each the largest at that recall or a higher one.

    Args:
        score: Scores of the predicted instances (N,).
        hit: Whether each is a true instance (N,), bool. No two are the same one.
        truths: Number of true instances, ≥ 1.

    Source: Lin et al. (2014), COCO. Instances with equal scores are added together, so their order changes nothing.

    >>> average_precision(torch.tensor([0.9, 0.8]), torch.tensor([True, False]), 2)  # 51 recalls are reached
    tensor(0.5050, dtype=torch.float64)
    """
    levels, group = score.unique(return_inverse=True)
    hits, all_ = (torch.bincount(group, w, len(levels)).flip(0).cumsum(0) for w in (hit.double(), None))
    precision = (hits / all_).flip(0).cummax(0).values.flip(0) if len(levels) else hits.double()
    reached = torch.searchsorted((hits / truths).double(), RECALLS.to(score.device))
    return torch.cat([precision, precision.new_zeros(1)])[reached].mean()


def ause(uncertainty: Tensor, error: Tensor) -> Tensor:
    """Area between the risk–coverage curves by uncertainty (N,) and by the error (N,) itself, ≥ 0."""
    areas = []
    for key in (uncertainty, error):
        _, group, size = key.unique(return_inverse=True, return_counts=True)
        areas.append(sparsification.aurc(size, torch.bincount(group, error, len(size))))
    return areas[0] - areas[1]


class InstanceScores(Metric):
    """Average precision of predicted instances, and how far their uncertainty follows their error.

    ``ap`` is the mean over classes with a true instance and over IoU above 0.5, 0.55, … 0.95; ``ap50`` is that above
    0.5. An instance without a match is ignored where a larger share of it than the threshold lies on void or on a crowd
    of its class. ``center_error`` is the mean distance, px, of an instance's center from the centroid of the true
    instance with which it shares most pixels. ``center_spearman`` and ``center_ause`` rank that distance by the
    standard deviation of the vectors; ``iou_spearman`` and ``iou_ause`` rank 1 − IoU by 1 − score.

    Args:
        classes: K.
        things: Ids of the classes that have instances.

    Raises:
        ConfigError: If ``things`` are no classes.

    Source: Lin et al. (2014), COCO, for 101 recalls; Cordts et al. (2016) for what is ignored.
    Pitfall: COCO counts an IoU of exactly the threshold as a match. Cityscapes and this class do not.
    """

    target: ClassVar[str] = "instances"
    full_state_update: bool | None = False
    headline: tuple[str, ...] = ("ap", "ap50", "center_error", "center_spearman", "iou_spearman")
    rows: list[Tensor]
    truths: Tensor

    def __init__(self, classes: int, things: Sequence[int]) -> None:
        super().__init__()
        self.classes, self.things = classes, check_things(things, classes)
        self.add_state("rows", [], "cat")
        self.add_state("truths", torch.zeros(classes, dtype=torch.int64), "sum")

    @classmethod
    def for_task(cls, task: Task, things: Sequence[int] = ()) -> Self:
        """Fresh scores for the classes of a task, of which ``things`` have instances."""
        return cls(len(class_names(task)), things)

    def __repr__(self) -> str:
        return f"InstanceScores({len(self._all())} instances)"

    def update(self, prediction: Sequence[Instances], target: PanopticMaps, valid: Tensor) -> None:
        """Add the instances of a batch.

        Args:
            prediction: The instances of each of B images.
            target: True classes and instances (B, H, W), anything where not ``valid``. Pixels of a thing's class
                without an instance are a crowd.
            valid: (B, H, W) bool, False for void.

        Raises:
            DataError: If the shapes differ, or a class or an id is out of range.
        """
        if len(prediction) != len(target.classes):
            raise DataError(
                f"instances of {len(prediction)} images but targets of {len(target.classes)}: give one entry for each"
            )
        for found, kind, ids, mask in zip(prediction, target.classes, target.ids, valid):
            here = found.to(kind.device)
            maps = PanopticMaps(torch.zeros_like(here.ids)[None], here.ids[None])
            check_maps(maps, PanopticMaps(kind[None], ids[None]), mask[None], self.classes)
            true = Segments.of(kind.flatten(), ids.flatten(), mask.flatten(), self.classes, self.things)
            self.rows.append(_rows(here, true, kind.shape[-1]))
            self.truths = self.truths + torch.bincount(true.classes[true.single], minlength=self.classes)

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather from all processes, including those without an image."""
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
        """The scores over all images, the headline first. A score without the instances that define it is NaN."""
        precision = self._per_class()
        _, score, spread, iou, ignored, center_error = self._all().unbind(1)
        placed, counted = ~center_error.isnan(), (iou > 0.5) | (ignored <= 0.5)
        return {
            "ap": precision["ap"].nanmean(),
            "ap50": precision["ap50"].nanmean(),
            "center_error": center_error[placed].mean(),
            "center_spearman": spearman_of_values(spread[placed], center_error[placed]),
            "iou_spearman": spearman_of_values(1 - score[counted], 1 - iou[counted]),
            "center_ause": ause(spread[placed], center_error[placed]),
            "iou_ause": ause(1 - score[counted], 1 - iou[counted]),
            "predicted_instances": counted.sum(),
            "instances": self.truths.sum(),
        }


def _rows(found: Instances, true: Segments, width: int) -> Tensor:
    """The numbers (N, 6) that are stored for each predicted instance, in the order of :data:`ROW`."""
    no_class = found.classes.new_full((1,), -1)
    kinds = torch.cat([no_class, found.classes])
    mine = Segments(found.ids.flatten(), kinds, kinds >= 0, torch.zeros_like(kinds, dtype=torch.bool))
    shared = overlaps(mine, true).double()
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
