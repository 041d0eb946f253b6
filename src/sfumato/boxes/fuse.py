"""Clusters of boxes of one object, and the one box that each cluster amounts to."""

from __future__ import annotations

import torch
from torch import Tensor

from sfumato.boxes.boxes import Boxes
from sfumato.boxes.match import iou
from sfumato.errors import ConfigError

FUSIONS = ("intersection", "bayes", "suppress")
FLOOR = 1e-4  # px², added to variances before matrices are inverted


def clusters(edges: Tensor, scores: Tensor, overlap: float, limit: int) -> Tensor:
    """The cluster of each box (N,), int64, from 0; −1 for none.

    The box with the highest score takes all boxes whose IoU with it is at least ``overlap``; then the next one of those
    that are left does, as in non-maximum suppression.

    Args:
        edges: Boxes (N, 4), px.
        scores: Scores (N,).
        overlap: Smallest IoU within a cluster, in (0, 1].
        limit: Largest number of clusters.
    """
    owner = torch.full((len(edges),), -1, dtype=torch.int64, device=edges.device)
    left = scores.argsort(descending=True, stable=True)
    for number in range(limit):
        if not len(left):
            break
        own = iou(edges[left[:1]], edges[left])[0] >= overlap
        own[0] = True  # a box without area has an IoU of 0 with itself
        owner[left[own]] = number
        left = left[~own]
    return owner


def fuse(boxes: Boxes, owner: Tensor, fusion: str) -> Boxes:
    """One box for each cluster.

    With the precision ``P = Σ⁻¹`` of each member, the fused covariance is ``(Σ w P)⁻¹`` and the fused edges are
    ``(Σ w P)⁻¹ Σ w P edges``. The probability of an object is the largest one of the members, because pixels away from
    the center are less sure of their place, not of the object. It is divided among the classes as the members do on
    average, weighted by their scores.

    - ``intersection``: the weights w are the scores, divided by their sum in the cluster. The covariance is right or
      too large whatever the correlation of the members (covariance intersection).
    - ``bayes``: w = 1. Members are taken for independent measurements, so n equal members divide the covariance by n.
    - ``suppress``: the member with the highest score alone, as non-maximum suppression keeps.

    Args:
        boxes: The members of all clusters.
        owner: The cluster of each (N,), −1 for none.
        fusion: ``intersection``, ``bayes`` or ``suppress``.

    Raises:
        ConfigError: If there is no such fusion.

    Source: Harakeh, Smart and Waslander (2020), "BayesOD"; Julier and Uhlmann (1997) for covariance intersection.
    Pitfall: The boxes of neighboring pixels come from almost the same features. Under ``bayes`` they count as
    independent, and the covariance is far too small.
    """
    if fusion not in FUSIONS:
        raise ConfigError(f"fusion is {fusion!r}, expected one of {', '.join(FUSIONS)}")
    boxes, owner = boxes.select(owner >= 0), owner[owner >= 0]
    count = int(owner.max()) + 1 if len(owner) else 0
    votes = _sums(boxes.votes, owner, count)
    if fusion == "suppress":
        best = torch.zeros(count, dtype=torch.int64, device=owner.device)
        ascending = boxes.scores.argsort(stable=True)
        best[owner[ascending]] = ascending  # the last one stays
        return Boxes(**{**boxes.select(best).tensors(), "votes": votes})
    weight = boxes.scores.double()
    share = weight / _sums(weight, owner, count)[owner]
    factor = (share if fusion == "intersection" else torch.ones_like(share))[:, None, None]
    own, doubt = boxes.aleatoric.double(), boxes.epistemic.double()
    precision = torch.linalg.inv(own + doubt + FLOOR * torch.eye(4, dtype=own.dtype, device=own.device))
    covariance = torch.linalg.inv(_sums(factor * precision, owner, count))
    edges = covariance @ _sums(factor * precision @ boxes.edges.double()[..., None], owner, count)
    inner = [_sums(factor * precision @ part @ precision, owner, count) for part in (own, doubt)]
    parts = [covariance @ each @ covariance for each in inner]
    present = boxes.probs.double().sum(1)
    largest = torch.zeros(count, dtype=present.dtype, device=owner.device).scatter_reduce_(0, owner, present, "amax")
    mean = _sums(share[:, None] * boxes.probs.double(), owner, count)
    probs = mean * (largest / mean.sum(1).clamp_min(1e-12))[:, None]
    kind = boxes.edges.dtype
    return Boxes(edges[..., 0].to(kind), probs.to(kind), parts[0].to(kind), parts[1].to(kind), votes)


def _sums(values: Tensor, owner: Tensor, count: int) -> Tensor:
    """Sums of the rows of each cluster."""
    return values.new_zeros(count, *values.shape[1:]).index_add_(0, owner, values)
