"""Instances, and how they are found from vectors that point at their centers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from sfumato.predictions.classes import ClassPrediction
from sfumato.predictions.values import ValuePrediction
from sfumato.storage import Stored


@dataclass(frozen=True)
class Instances(Stored):
    """The instances of one image; no two share a pixel.

    Args:
        ids: (H, W) int64; 0 where no instance is, n + 1 where instance n is.
        classes: (N,) int64.
        scores: (N,) in [0, 1], larger for what is more surely an instance of its class.
        centers: (N, 2) x and y, px.
        aleatoric: (N,) px², the variance of the vectors of its pixels, their mean.
        epistemic: (N,) px², likewise.
    """

    ids: Tensor
    classes: Tensor
    scores: Tensor
    centers: Tensor
    aleatoric: Tensor
    epistemic: Tensor

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def masks(self) -> Tensor:
        """Where each instance is (N, H, W), bool."""
        return self.ids == torch.arange(1, len(self) + 1, device=self.ids.device)[:, None, None]

    @property
    def outline(self) -> Tensor:
        """The outermost pixels of each instance (H, W), bool: those beside a pixel that is not of it."""
        padded = pad(self.ids[None, None].float(), (1, 1, 1, 1), mode="replicate")[0, 0].to(self.ids)
        beside = padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]
        return torch.stack([other != self.ids for other in beside]).any(0) & (self.ids > 0)

    @property
    def total(self) -> Tensor:
        """``aleatoric + epistemic`` (N,), px²."""
        return self.aleatoric + self.epistemic

    @property
    def uncertainty(self) -> Tensor:
        """Standard deviation of the vectors of each instance (N,), px."""
        return self.total.sqrt()

    def painted(self, label: Tensor) -> Tensor:
        """Labels (H, W) with the class of its instance wherever one is."""
        return torch.cat([self.classes.new_zeros(1), self.classes])[self.ids].where(self.ids > 0, label)


def find_instances(
    vectors: ValuePrediction, classes: ClassPrediction, things: Sequence[int], radius: float | None = None
) -> list[Instances]:
    """Instances from predicted vectors to their centers.

    Every pixel whose label is a thing votes for the place it points at. Votes that lie densely are clusters: those
    with a quarter as many votes within ``radius`` as that disc has pixels, and what lies within ``radius`` of such.
    Each pixel then belongs to the cluster whose mean is nearest to its vote. The class of an instance is the thing
    with the largest mean probability; its score the mean, over its pixels, of that probability, counted as 0 where
    the vote is in no cluster or in another one.

    Args:
        vectors: mean (B, 2, H, W) of (dx, dy), px, and its variances.
        classes: of the same images.
        things: ids of the classes that have instances.
        radius: px, > 0; None for 1 % of the image's diagonal, at least 1 px.

    Returns:
        Of each image its instances, on the CPU.

    Raises:
        ValueError: if shapes differ, ``things`` are no classes, a vector of a thing's pixel is not finite, or
            scikit-learn is missing.

    Source: Kendall, Gal and Cipolla (2018), §3, with OPTICS; its clusters at one radius are those of DBSCAN (Ankerst
    et al. 1999), which is run here on counts of votes in small cells instead of on the votes.
    Pitfall: what covers fewer pixels than a quarter of the disc (30 at 360 × 480, 7 at 128 × 256) is never an instance
    of its own; its pixels go to the nearest other.
    """
    shape, kinds = vectors.mean.shape, classes.probs.shape
    if shape[1] != 2 or (shape[0], *shape[2:]) != (kinds[0], *kinds[2:]):
        raise ValueError(f"vectors {tuple(shape)} and classes {tuple(kinds)}: expected (B, 2, H, W) and (B, K, H, W)")
    if not all(0 <= thing < kinds[1] for thing in things):
        raise ValueError(f"things are {list(things)}, expected ids of {kinds[1]} classes, 0 to {kinds[1] - 1}")
    radius = max(1.0, 0.01 * math.hypot(*shape[-2:])) if radius is None else radius
    if not radius > 0:
        raise ValueError(f"radius is {radius}, expected more than 0 px")
    maps = (m.detach().cpu() for m in (vectors.mean, vectors.aleatoric, vectors.epistemic, classes.probs))
    kinds = sorted(set(things))
    return [_of_image(mean, known, unknown, law, kinds, radius) for mean, known, unknown, law in zip(*maps)]


def _of_image(
    vectors: Tensor, aleatoric: Tensor, epistemic: Tensor, probs: Tensor, things: list[int], radius: float
) -> Instances:
    here = torch.isin(probs.argmax(0), torch.tensor(things))
    y, x = here.nonzero(as_tuple=True)
    votes = torch.stack([x, y], 1) + vectors[:, y, x].T.double()
    if not votes.isfinite().all():
        raise ValueError("a vector at a pixel of a thing is not finite: look at the network's output")
    cluster = _clusters(votes.numpy(), radius)
    means = _means(votes, cluster, int(cluster.max(initial=-1)) + 1)
    if not len(means):
        nothing = torch.zeros(0)
        ids = torch.zeros(here.shape, dtype=torch.int64)
        return Instances(ids, nothing.long(), nothing, torch.zeros(0, 2), nothing, nothing)
    nearest = torch.cdist(votes, means).argmin(1)
    agree = torch.from_numpy(cluster) == nearest
    present, owner = nearest.unique(return_inverse=True)  # a ring of votes may be nearer to a mean that is not its own
    law = _means(probs[things][:, y, x].T, owner.numpy(), len(present))
    kind = law.argmax(1)
    score = _means(probs[things][:, y, x].T * agree[:, None], owner.numpy(), len(present))
    spread = _means(torch.stack([aleatoric[y, x], epistemic[y, x]], 1), owner.numpy(), len(present)).float()
    ids = torch.zeros(here.shape, dtype=torch.int64)
    ids[y, x] = owner + 1
    score = score.gather(1, kind[:, None])[:, 0].float()
    return Instances(ids, torch.tensor(things)[kind], score, means[present].float(), spread[:, 0], spread[:, 1])


def _clusters(votes: np.ndarray, radius: float) -> np.ndarray:
    """The cluster of each vote (P,), −1 for none."""
    try:
        from sklearn.cluster import DBSCAN
    except ImportError as error:
        raise ValueError(
            f"votes are clustered by scikit-learn, and {error}: pip install 'sfumato[instances]'"
        ) from error
    if not len(votes):
        return np.zeros(0, np.int64)
    cells = np.floor(votes.clip(-1e6, 1e6) / (radius / 3)).astype(np.int64)
    cells -= cells.min(0)
    _, cell, count = np.unique(cells @ (1, cells[:, 0].max() + 1), return_inverse=True, return_counts=True)
    middle = np.stack([np.bincount(cell, votes[:, d]) / count for d in (0, 1)], 1)
    density = max(1.0, math.pi * radius**2 / 4)
    return DBSCAN(eps=radius, min_samples=math.ceil(density)).fit_predict(middle, sample_weight=count)[cell]


def _means(values: Tensor, group: np.ndarray, groups: int) -> Tensor:
    """Means (groups, D) of rows (P, D) by the group of each, without those of none (−1)."""
    index = torch.from_numpy(group)
    values, index = values[index >= 0].double(), index[index >= 0]
    sums = torch.zeros(groups, values.shape[1], dtype=torch.float64).index_add_(0, index, values)
    return sums / torch.bincount(index, minlength=groups)[:, None]
