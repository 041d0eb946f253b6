"""Panoptic quality: is every instance, and every class without instances, found once?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from sfumato.contracts import Task
from sfumato.errors import DataError
from sfumato.instances import PanopticMaps, Segments, check_things, overlaps
from sfumato.metrics.scores import Scores, class_names
from sfumato.predictions import check_mask


@dataclass(frozen=True)
class PanopticStatistics:
    """Statistics of a set of images. Adding the fields of two sets gives those of their union.

    Args:
        matches: True positives, false positives and false negatives of each class (…, 3, K).
        thing: For classes of things the number of images (…, K), 0 for the others.
        overlap: IoU summed over the true positives (…, K).
    """

    matches: Tensor
    thing: Tensor
    overlap: Tensor

    def per_class(self) -> dict[str, Tensor]:
        """PQ, SQ and RQ of each class (…, K). NaN for classes that occur neither in the target nor in a prediction."""
        true, extra, missed = self.matches.double().unbind(-2)
        segment = true + extra / 2 + missed / 2
        seen = segment > 0
        quality = {
            "pq": self.overlap / segment,
            "sq": (self.overlap / true.clamp_min(1)).where(seen, torch.nan),
            "rq": true / segment,
        }
        return quality | {"segments": (true + missed).long()}

    def scores(self) -> dict[str, Tensor]:
        """All scores (…), the headline first."""
        quality = self.per_class()
        groups = {"": self.thing >= 0, "_things": self.thing > 0, "_stuff": self.thing == 0}
        means = {
            f"{name}{group}": quality[name].where(chosen, torch.nan).nanmean(-1)
            for group, chosen in groups.items()
            for name in ("pq", "sq", "rq")
        }
        return means | {"segments": quality["segments"].sum(-1)}

    def curves(self) -> dict[str, dict[str, Tensor]]:
        """No curves."""
        return {}


def count(found: Segments, true: Segments, classes: int) -> tuple[Tensor, Tensor]:
    """True positives, false positives, false negatives (3, K) and the sum of IoU (K,) of one image.

    A predicted and a true segment match if they have the same class and IoU > ½. No two predicted segments can match
    one true segment. The union does not count void pixels of the prediction. A predicted segment without a match is
    ignored if more than half of it lies on void or on a crowd of its class. A crowd that is not found is ignored too.
    """
    shared = overlaps(found, true)
    area, size = shared.sum(1), shared.sum(0)
    same = (found.classes[:, None] == true.classes) & ~found.crowd[:, None] & ~true.crowd
    same[0], same[:, 0] = False, False
    union = area[:, None] + size - shared - shared[:, :1]
    iou = (shared.double() / union.clamp_min(1)).where(same, 0.0)
    match = iou > 0.5
    own_crowd = (found.classes[:, None] == true.classes) & true.crowd
    ignored = 2 * (shared[:, 0] + (shared * own_crowd).sum(1)) > area
    # A predicted crowd is pixels of a thing's class without an instance: it is no segment.
    extra = (area > 0) & ~match.any(1) & ~ignored & ~found.crowd & (found.classes >= 0)
    missed = (size > 0) & ~match.any(0) & ~true.crowd & (true.classes >= 0)
    hit = match.any(0)
    tally = [torch.bincount(s.classes[m], minlength=classes) for s, m in ((true, hit), (found, extra), (true, missed))]
    quality = torch.zeros(classes, dtype=torch.float64, device=iou.device)
    return torch.stack(tally), quality.index_add_(0, true.classes[hit], (iou * match).sum(0)[hit])


class PanopticScores(Scores[PanopticStatistics]):
    """Panoptic quality ``PQ = Σ IoU / (TP + ½ FP + ½ FN) = SQ · RQ``, pooled over images, then the mean over classes.

    Args:
        classes: K.
        things: Ids of the classes that have instances. Each other class is one segment in each image (stuff).

    Raises:
        ConfigError: If ``things`` are no classes.

    Source: Kirillov et al. (2019), "Panoptic segmentation"; void and crowds as in their ``panopticapi``.
    Pitfall: The mean of SQ counts a class without a match as 0, as ``panopticapi`` does, so PQ is not SQ · RQ of means.
    """

    target: ClassVar[str] = "instances"
    headline: tuple[str, ...] = ("pq", "sq", "rq", "pq_things", "pq_stuff")

    def __init__(self, classes: int, things: Sequence[int]) -> None:
        self.classes, self.things = classes, check_things(things, classes)
        nothing = torch.zeros(classes, dtype=torch.int64)
        super().__init__(PanopticStatistics(nothing.expand(3, -1), nothing, nothing.double()), {})

    @classmethod
    def for_task(cls, task: Task, things: Sequence[int] = ()) -> Self:
        """Fresh scores for the classes of a task, of which ``things`` have instances."""
        return cls(len(class_names(task)), things)

    def update(self, prediction: PanopticMaps, target: PanopticMaps, valid: Tensor) -> None:
        """Add the pixels of a batch.

        Args:
            prediction: Predicted classes and instances, see :meth:`sfumato.instances.PanopticMaps.of`.
            target: True classes and instances, anything where not ``valid``. Pixels of a thing's class without an
                instance are a crowd.
            valid: (B, H, W) bool, False for void.

        Raises:
            DataError: If the shapes differ, or a class or an id is out of range.

        Pitfall: The class of a true instance is its most frequent one. An id that is used for two things joins them.
        """
        check_maps(prediction, target, valid, self.classes)
        maps = (prediction.classes, prediction.ids, target.classes, target.ids, valid)
        for image in zip(*(t.flatten(1) for t in maps)):
            guess, owner, kind, true, mask = image
            found = Segments.of(guess, owner, torch.ones_like(mask), self.classes, self.things)
            matches, overlap = count(found, Segments.of(kind, true, mask, self.classes, self.things), self.classes)
            thing = torch.zeros_like(matches[0])
            thing[list(self.things)] = 1
            self.add(PanopticStatistics(matches, thing, overlap), {})

    def per_class(self) -> dict[str, Tensor]:
        """PQ, SQ, RQ and the number of true segments of each class (K,), pooled over all images."""
        with self.sync_context():
            return self._pooled().per_class()


def check_maps(prediction: PanopticMaps, target: PanopticMaps, valid: Tensor, classes: int) -> None:
    """Raise unless the maps have one shape, and hold classes in [0, ``classes``) and ids ≥ 0 where ``valid``.

    Raises:
        DataError: If they do not. The message says what was found.
    """
    if prediction.ids.shape != target.ids.shape:
        shapes = tuple(prediction.ids.shape), tuple(target.ids.shape)
        raise DataError(f"prediction {shapes[0]} and target {shapes[1]}: expected one shape (B, H, W)")
    check_mask(valid, target.ids.shape, "target")
    for name, values in (("predicted", prediction.classes), ("true", target.classes[valid])):
        if values.numel() and not 0 <= int(values.min()) <= int(values.max()) < classes:
            raise DataError(
                f"{name} class from {int(values.min())} to {int(values.max())}, expected 0 to {classes - 1}"
            )
    for name, values in (("predicted", prediction.ids), ("true", target.ids[valid])):
        if values.is_floating_point() or (values.numel() and int(values.min()) < 0):
            raise DataError(f"{name} ids of instances are {values.dtype} or negative, expected int64, 0 for none")
