"""Panoptic quality: are all things and all stuff found, each once?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.metrics import segments
from sfumato.metrics.scores import Scores
from sfumato.metrics.segments import Segments


@dataclass(frozen=True)
class PanopticStatistics:
    """What the scores of a set of images are computed from. Adding the fields of two sets gives those of their union.

    Args:
        matches: (…, 3, K) true positives, false positives and false negatives of each class.
        thing: (…, K) images for classes of things, 0 for the others.
        overlap: (…, K) IoU summed over the true positives.
    """

    matches: Tensor
    thing: Tensor
    overlap: Tensor

    def per_class(self) -> dict[str, Tensor]:
        """PQ, SQ and RQ of each class (…, K), NaN for classes that are neither there nor predicted."""
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
        """None."""
        return {}


def count(found: Segments, true: Segments, classes: int) -> tuple[Tensor, Tensor]:
    """True positives, false positives, false negatives (3, K) and the sum of IoU (K,) of one image.

    A predicted and a true segment match if they are of one class and IoU > ½, which no two predicted segments of one
    truth can be. The union leaves out what the prediction holds of void. A predicted segment without a match is left
    out if more than half of it lies on void or on a crowd of its class; so is a crowd that was not found.
    """
    shared = segments.overlaps(found, true)
    area, truth = shared.sum(1), shared.sum(0)
    same = (found.classes[:, None] == true.classes) & ~found.crowd[:, None] & ~true.crowd
    same[0], same[:, 0] = False, False
    union = area[:, None] + truth - shared - shared[:, :1]
    iou = (shared.double() / union.clamp_min(1)).where(same, 0.0)
    match = iou > 0.5
    own_crowd = (found.classes[:, None] == true.classes) & true.crowd
    ignored = 2 * (shared[:, 0] + (shared * own_crowd).sum(1)) > area
    # A crowd of the prediction is what it calls a thing without saying which: no segment.
    extra = (area > 0) & ~match.any(1) & ~ignored & ~found.crowd & (found.classes >= 0)
    missed = (truth > 0) & ~match.any(0) & ~true.crowd & (true.classes >= 0)
    hit = match.any(0)
    tally = [torch.bincount(s.classes[m], minlength=classes) for s, m in ((true, hit), (found, extra), (true, missed))]
    quality = torch.zeros(classes, dtype=torch.float64, device=iou.device)
    return torch.stack(tally), quality.index_add_(0, true.classes[hit], (iou * match).sum(0)[hit])


class PanopticScores(Scores[PanopticStatistics]):
    """Panoptic quality ``PQ = Σ IoU / (TP + ½ FP + ½ FN) = SQ · RQ``, pooled over images, then the mean over classes.

    Args:
        classes: K.
        things: ids of the classes that have instances; the others are stuff, one segment an image each.

    Source: Kirillov et al. (2019), "Panoptic segmentation"; void and crowds as their ``panopticapi`` treats them.
    Pitfall: the mean of SQ counts a class without a match as 0, as ``panopticapi`` does, so the means do not multiply.
    """

    headline: tuple[str, ...] = ("pq", "sq", "rq", "pq_things", "pq_stuff")

    def __init__(self, classes: int, things: Sequence[int]) -> None:
        if not all(0 <= thing < classes for thing in things):
            raise ValueError(f"things are {list(things)}, expected ids of {classes} classes, 0 to {classes - 1}")
        nothing = torch.zeros(classes, dtype=torch.int64)
        super().__init__(PanopticStatistics(nothing.expand(3, -1), nothing, nothing.double()), {})
        self.classes, self.things = classes, tuple(things)

    def update(self, label: Tensor, ids: Tensor, classes: Tensor, truth: Tensor, valid: Tensor) -> None:
        """Add the pixels of a batch, all (B, H, W).

        Args:
            label: predicted classes, in instances those of the instance (:meth:`sfumato.Instances.painted`).
            ids: of predicted instances, 0 for none.
            classes: true ones, anything where not ``valid``.
            truth: ids of true instances, 0 for none; with a thing's class, a crowd.
            valid: False for void.

        Raises:
            ValueError: if shapes differ, or a class or an id is none.

        Pitfall: the class of a true instance is its most frequent one; an id used for two things joins them.
        """
        segments.check(label, ids, classes, truth, valid, self.classes)
        for image in zip(*(t.flatten(1) for t in (label, ids, classes, truth, valid.bool()))):
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
