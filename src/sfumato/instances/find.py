"""Find instances from predicted vectors that point at their centers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sfumato.errors import ConfigError, DataError, MissingDependencyError, NotFiniteError
from sfumato.instances.instances import Instances
from sfumato.instances.segments import check_things
from sfumato.predictions import ClassPrediction, ValuePrediction


def find_instances(
    vectors: ValuePrediction, classes: ClassPrediction, things: Sequence[int], radius: float | None = None
) -> list[Instances]:
    """Instances from predicted vectors to their centers.

    Every pixel whose label is a thing votes for the place that its vector points at. Dense groups of votes are
    clusters: votes with at least a quarter as many votes within ``radius`` as that disc has pixels, and all votes
    within ``radius`` of them. Then each pixel belongs to the cluster whose mean is nearest to its vote. The class of an
    instance is the thing with the largest mean probability. Its score is the mean of that probability over its pixels,
    counted as 0 where the vote is in no cluster or in another one.

    Args:
        vectors: Mean (B, 2, H, W) of (dx, dy), px, and its variances.
        classes: Class probabilities of the same images.
        things: Ids of the classes that have instances.
        radius: Radius of a cluster, px, > 0. Default: 1 % of the image's diagonal, at least 1 px.

    Returns:
        The instances of each image, on the CPU.

    Raises:
        DataError: If the shapes differ.
        ConfigError: If ``things`` are no classes or ``radius`` is not above 0.
        NotFiniteError: If a vector at a thing's pixel is not finite.
        MissingDependencyError: If scikit-learn is not installed.

    Source: Kendall, Gal and Cipolla (2018), §3, with OPTICS. Its clusters at one radius are those of DBSCAN (Ankerst
    et al. 1999), which runs here on counts of votes in small cells instead of on the votes.
    Pitfall: A thing with fewer pixels than a quarter of the disc (30 at 360 × 480, 7 at 128 × 256) is never an instance
    of its own. Its pixels go to the nearest other instance.
    """
    shape, count = vectors.mean.shape, classes.probs.shape[1]
    if not vectors.is_map or shape[1] != 2 or (shape[0], *shape[2:]) != classes.aleatoric.shape:
        raise DataError(
            f"vectors {tuple(shape)} and classes {tuple(classes.probs.shape)}: expected (B, 2, H, W) and (B, K, H, W)"
        )
    things = check_things(things, count)
    radius = max(1.0, 0.01 * math.hypot(*vectors.event)) if radius is None else radius
    if not radius > 0:
        raise ConfigError(f"radius is {radius}, expected more than 0 px")
    maps = (m.detach().cpu() for m in (vectors.mean, vectors.aleatoric, vectors.epistemic, classes.probs))
    return [_of_image(mean, a, e, probs, things, radius) for mean, a, e, probs in zip(*maps)]


def _of_image(
    vectors: Tensor, aleatoric: Tensor, epistemic: Tensor, probs: Tensor, things: tuple[int, ...], radius: float
) -> Instances:
    here = torch.isin(probs.argmax(0), torch.tensor(things))
    y, x = here.nonzero(as_tuple=True)
    votes = torch.stack([x, y], 1) + vectors[:, y, x].T.double()
    if not votes.isfinite().all():
        raise NotFiniteError("a vector at a pixel of a thing is not finite: check the network's output")
    cluster = _clusters(votes.numpy(), radius)
    means = _means(votes, cluster, int(cluster.max(initial=-1)) + 1)
    if not len(means):
        nothing = torch.zeros(0)
        ids = torch.zeros(here.shape, dtype=torch.int64)
        return Instances(ids, nothing.long(), nothing, torch.zeros(0, 2), nothing, nothing)
    nearest = torch.cdist(votes, means).argmin(1)
    agree = torch.from_numpy(cluster) == nearest
    present, owner = nearest.unique(return_inverse=True)  # a ring of votes may be nearer to a mean that is not its own
    mean_probs = _means(probs[list(things)][:, y, x].T, owner.numpy(), len(present))
    kind = mean_probs.argmax(1)
    score = _means(probs[list(things)][:, y, x].T * agree[:, None], owner.numpy(), len(present))
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
        raise MissingDependencyError(
            f"instances are found with scikit-learn, and {error}: pip install 'sfumato[instances]'"
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
    """Means (groups, D) of the rows (P, D) of each group. Rows of group −1 are left out."""
    index = torch.from_numpy(group)
    values, index = values[index >= 0].double(), index[index >= 0]
    sums = torch.zeros(groups, values.shape[1], dtype=torch.float64).index_add_(0, index, values)
    return sums / torch.bincount(index, minlength=groups)[:, None]
