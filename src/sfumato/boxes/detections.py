"""Boxes of other people's detectors, from one network or from the members of an ensemble."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sfumato.boxes.boxes import Boxes
from sfumato.boxes.find import LIMIT
from sfumato.boxes.fuse import clusters
from sfumato.errors import DataError

Detections = Mapping[str, Tensor]


def fuse_detections(
    members: Sequence[Detections], classes: int, *, first_label: int = 1, overlap: float = 0.5, limit: int = LIMIT
) -> Boxes:
    """One set of boxes from what several detectors, or several passes of one with dropout, found in an image.

    Boxes of all members that overlap are one object. Its edges are the mean of its boxes, weighted by their scores; the
    epistemic covariance is theirs around this mean. The aleatoric covariance is the mean of the covariances that
    members give, 0 if they give none. A class has the mean score over all members, where a member that did not find the
    object counts as 0.

    Args:
        members: For each member a mapping as torchvision's detectors return it: ``boxes`` (N, 4) as left, top, right,
            bottom, px; ``scores`` (N,) in [0, 1]; ``labels`` (N,). ``covariance`` (N, 4, 4), px², is optional.
        classes: Number of classes K.
        first_label: The label of class 0. Default 1, as in torchvision, where 0 is the background.
        overlap: Least IoU of boxes of one object, in (0, 1]. Default 0.5.
        limit: Largest number of boxes. Default 300.

    Raises:
        DataError: If there is no member, shapes differ, or a number is not finite or out of range.

    >>> one = {"boxes": torch.tensor([[0.0, 0, 10, 10]]), "scores": torch.tensor([0.8]), "labels": torch.tensor([1])}
    >>> two = {**one, "boxes": torch.tensor([[2.0, 0, 10, 10]])}
    >>> found = fuse_detections([one, two], classes=3)
    >>> found.edges.tolist(), found.std[0].tolist(), found.votes.tolist()
    ([[1.0, 0.0, 10.0, 10.0]], [1.0, 0.0, 0.0, 0.0], [2])
    """
    if not members:
        raise DataError("detections of no member: give at least one")
    checked = [_checked(each, classes, first_label, number) for number, each in enumerate(members)]
    edges, scores, labels, covariance = (torch.cat([each[i] for each in checked]) for i in range(4))
    member = torch.cat([torch.full((len(each[0]),), number) for number, each in enumerate(checked)])
    owner = clusters(edges, scores, overlap, limit)
    if not len(owner):
        return Boxes.none(classes)
    rows: list[tuple[Tensor, ...]] = []
    for number in range(int(owner.max()) + 1):
        own = owner == number
        rows.append(_one(edges[own], scores[own], labels[own], covariance[own], member[own], classes, len(members)))
    found = Boxes(*(torch.stack(column) for column in zip(*rows)))
    return found.select(found.scores.argsort(descending=True, stable=True))


def _one(
    edges: Tensor, scores: Tensor, labels: Tensor, covariance: Tensor, member: Tensor, classes: int, members: int
) -> tuple[Tensor, ...]:
    """Edges, probabilities, both covariances and votes of one object."""
    weight = scores.clamp_min(1e-6)
    share = (weight / weight.sum())[:, None]
    mean = (share * edges).sum(0)
    away = edges - mean
    probs = torch.zeros(classes)
    for each in member.unique():
        best = scores.where(member == each, -1.0).argmax()
        probs[labels[best]] += scores[best] / members
    return mean, probs, (share[..., None] * covariance).sum(0), (share * away).T @ away, torch.tensor(len(scores))


def _checked(given: Detections, classes: int, first: int, number: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    where = f"detections of member {number}"
    if missing := [name for name in ("boxes", "scores", "labels") if not isinstance(given.get(name), Tensor)]:
        raise DataError(f"{where} have no tensor {missing[0]!r}: expected boxes, scores and labels, as of torchvision")
    edges, scores, labels = (given[name].detach().cpu() for name in ("boxes", "scores", "labels"))
    n, known = len(scores), given.get("covariance")
    covariance = torch.zeros(n, 4, 4) if known is None else known.detach().cpu().float()
    shapes = {"boxes": (edges, (n, 4)), "labels": (labels, (n,)), "covariance": (covariance, (n, 4, 4))}
    for name, (value, shape) in shapes.items():
        if value.shape != shape:
            raise DataError(f"{name} of {where} have the shape {tuple(value.shape)}, expected {shape}")
    if not bool(edges.isfinite().all() and covariance.isfinite().all()):
        raise DataError(f"{where} hold NaN or infinity")
    if not bool(((scores >= 0) & (scores <= 1)).all()):
        raise DataError(f"{where} have scores outside of [0, 1]")
    kinds = labels.long() - first
    if not bool(((kinds >= 0) & (kinds < classes)).all()):
        wrong = int(labels[(kinds < 0) | (kinds >= classes)][0])
        raise DataError(f"{where} have the label {wrong}, expected {first} to {first + classes - 1}")
    return edges.float(), scores.float(), kinds, covariance
