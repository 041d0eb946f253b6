"""Find boxes in predicted maps of classes and of distances to edges."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from sfumato.boxes.boxes import Boxes
from sfumato.boxes.fuse import clusters, fuse
from sfumato.errors import ConfigError, DataError, NotFiniteError
from sfumato.predictions import ClassPrediction, ValuePrediction

CELL = 4  # side of the squares of which one pixel each is used, px
LIMIT = 300  # boxes of an image


def find_boxes(
    objects: ClassPrediction,
    distances: ValuePrediction,
    *,
    fusion: str = "intersection",
    threshold: float = 0.05,
    overlap: float = 0.5,
    limit: int = LIMIT,
) -> list[Boxes]:
    """Boxes from predicted classes and distances.

    Of each square of 4 × 4 pixels the one with the highest probability of an object is a peak. A peak at (x, y) with
    the distances (l, t, r, b) proposes the box (x − l, y − t, x + r, y + b), whose covariance is that of the distances.
    Boxes of one object are a cluster, see :func:`~sfumato.boxes.fuse.clusters`. A cluster is fused into one box instead
    of being suppressed, see :func:`~sfumato.boxes.fuse.fuse`.

    Args:
        objects: Probabilities (B, 1 + K, H, W), of which the first is that of no object.
        distances: Mean (B, 4, H, W) and variances of the distances to left, top, right and bottom edge, px.
        fusion: ``intersection``, ``bayes`` or ``suppress``. Default ``intersection``.
        threshold: Least probability of a class at a peak, in (0, 1). Default 0.05.
        overlap: Least IoU of boxes of one object, in (0, 1]. Default 0.5.
        limit: Largest number of boxes of an image. Default 300.

    Returns:
        The boxes of each image on the CPU, the surest first.

    Raises:
        DataError: If the shapes differ.
        ConfigError: If an argument is out of range.
        NotFiniteError: If a number at a peak is not finite.

    Source: Harakeh, Smart and Waslander (2020), "BayesOD"; Tian et al. (2019), FCOS, for the distances.
    """
    shape = distances.mean.shape
    if not distances.is_map or shape[1] != 4 or (shape[0], *shape[2:]) != objects.aleatoric.shape:
        raise DataError(
            f"distances {tuple(shape)} and objects {tuple(objects.probs.shape)}: expected (B, 4, H, W) and "
            "(B, 1 + K, H, W)"
        )
    if not (0 < threshold < 1 and 0 < overlap <= 1 and limit >= 1):
        raise ConfigError(
            f"threshold {threshold}, overlap {overlap}, limit {limit}: expected (0, 1), (0, 1] and at least 1"
        )
    return [
        _of_image(objects.probs[i], _image(distances, i), fusion, threshold, overlap, limit) for i in range(shape[0])
    ]


def _image(distances: ValuePrediction, number: int) -> ValuePrediction:
    names = ("mean", "aleatoric_variance", "epistemic_variance", "aleatoric_correlation", "epistemic_correlation")
    parts = {name: each[number] for name in names if (each := getattr(distances, name)) is not None}
    return replace(distances, image=None, novelty=None, **parts)


def _of_image(
    probs: Tensor, distances: ValuePrediction, fusion: str, threshold: float, overlap: float, limit: int
) -> Boxes:
    y, x = _peaks(probs[1:].amax(0), threshold)
    at = probs[1:, y, x].T.cpu()
    mean = distances.mean[:, y, x].T.cpu()
    corner = torch.stack([x, y, x, y], 1).cpu() + 0.5
    sign = torch.tensor([-1.0, -1, 1, 1])
    parts = [
        _covariance(getattr(distances, f"{part}_variance"), getattr(distances, f"{part}_correlation"), y, x) * sign
        for part in ("aleatoric", "epistemic")
    ]
    aleatoric, epistemic = (part * sign[:, None] for part in parts)
    edges = corner + mean * sign
    if not all(bool(each.isfinite().all()) for each in (at, edges, aleatoric, epistemic)):
        raise NotFiniteError("a distance at a peak is not finite: check the network's output")
    proposed = Boxes(edges, at, aleatoric, epistemic, torch.ones(len(x), dtype=torch.int64))
    proposed = proposed.select((edges[:, 2:] > edges[:, :2]).all(1))
    owner = clusters(proposed.edges, proposed.scores, overlap, limit)
    found = fuse(proposed, owner, fusion)
    return found.select(found.scores.argsort(descending=True, stable=True))


def _peaks(score: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Rows and columns of the pixel with the highest score of each cell, where it is at least ``threshold``."""
    highest, place = max_pool2d(score[None, None], CELL, ceil_mode=True, return_indices=True)
    chosen = place[highest >= threshold]
    return chosen // score.shape[1], chosen % score.shape[1]


def _covariance(variance: Tensor, correlation: Tensor | None, y: Tensor, x: Tensor) -> Tensor:
    """Covariance (N, 4, 4) of distances at some pixels."""
    at = variance[:, y, x].T
    rest = torch.zeros_like(at)
    shared = None if correlation is None else correlation[:, y, x].T
    return ValuePrediction(rest, at, rest, aleatoric_correlation=shared).covariance.cpu()
