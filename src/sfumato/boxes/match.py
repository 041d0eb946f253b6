"""Which predicted box is which true box."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.boxes.boxes import Boxes
from sfumato.errors import DataError

HIT, NEAR = 0.5, 0.1  # least IoU of a true positive, and of a localization error
TRUE, DUPLICATE, LOCALIZATION, FALSE, IGNORED = range(5)
"""Kinds of predicted boxes."""


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union (N, M) of boxes (N, 4) and (M, 4); 0 for boxes without area.

    >>> iou(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2]]))  # 2 / 6
    tensor([[0.3333]])
    """
    shared, union = _overlap(first, second)
    return (shared / union.where(union > 0, 1.0)).where(union > 0, 0.0)


def _overlap(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    low = torch.maximum(first[:, None, :2], second[None, :, :2])
    high = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = (high - low).clamp_min(0).prod(2)
    areas = [(each[:, 2:] - each[:, :2]).clamp_min(0).prod(1) for each in (first, second)]
    return shared, areas[0][:, None] + areas[1] - shared


@dataclass(frozen=True)
class Matches:
    """What each predicted box of one image is.

    Args:
        kind: Kind of each predicted box (N,), int64: 0 a true positive, 1 a duplicate of one, 2 a localization error, 3
            a false positive, 4 ignored, because it lies on a crowd.
        partner: The true box (N,), int64, that each predicted box is compared with; −1 for false positives.
        iou: IoU of the two (N,); 0 for false positives.
    """

    kind: Tensor
    partner: Tensor
    iou: Tensor


def match_boxes(found: Boxes, true: Tensor, hit: float = HIT, near: float = NEAR, by_class: bool = False) -> Matches:
    """Compare the predicted boxes of an image with the true ones.

    In the order of their scores, each predicted box takes the true box with the largest IoU of at least ``hit`` that is
    not taken yet: a *true positive*. A box whose true boxes with this IoU are all taken is a *duplicate*. A box whose
    largest IoU is at least ``near`` is a *localization error*, and all others are *false positives*. A box that is no
    true positive is ignored if at least half of it lies on a box that is to be ignored.

    Args:
        found: The predicted boxes.
        true: True boxes (M, 6): edges, px; class; 1 for a box that is to be ignored.
        hit: Least IoU of a true positive, in (0, 1]. Default 0.5.
        near: Least IoU of a localization error. Default 0.1.
        by_class: Whether only boxes of the same class are compared. Default False.

    Raises:
        DataError: If ``true`` has another shape.

    Source: Harakeh and Waslander (2021), "Estimating and evaluating regression predictive uncertainty in deep object
    detectors", for the four kinds.
    """
    if true.ndim != 2 or true.shape[1] != 6:
        raise DataError(f"true boxes have the shape {tuple(true.shape)}, expected (M, 6): edges, class, ignored")
    true = true.to(found.edges)
    crowd = true[true[:, 5] > 0, :4]
    places = (true[:, 5] == 0).nonzero()[:, 0]
    objects = true[places]
    overlap = iou(found.edges, objects[:, :4])
    if by_class:
        overlap = overlap * (found.classes[:, None] == objects[:, 4])
    kind = torch.full((len(found),), FALSE, dtype=torch.int64)
    partner = torch.full((len(found),), -1, dtype=torch.int64)
    best = torch.zeros(len(found))
    free = torch.ones(len(objects), dtype=torch.bool)
    rows = overlap.cpu()
    for n in found.scores.cpu().argsort(descending=True, stable=True).tolist():
        own = rows[n] if len(objects) else rows.new_zeros(1)
        open_ = (own * free if len(objects) else own).max(0)
        largest = own.max(0)
        if len(objects) and float(open_.values) >= hit:
            kind[n], partner[n], best[n] = TRUE, open_.indices, open_.values
            free[open_.indices] = False
        elif len(objects) and float(largest.values) >= near:
            kind[n] = DUPLICATE if float(largest.values) >= hit else LOCALIZATION
            partner[n], best[n] = largest.indices, largest.values
    if len(crowd):
        shared, _ = _overlap(found.edges, crowd)
        area = (found.edges[:, 2:] - found.edges[:, :2]).clamp_min(0).prod(1, keepdim=True).clamp_min(1e-9)
        covered = ((shared / area).amax(1) >= 0.5).cpu()
        kind[covered & (kind != TRUE)] = IGNORED
    known = partner >= 0
    partner[known] = places.cpu()[partner[known]]
    return Matches(kind, partner, best)
