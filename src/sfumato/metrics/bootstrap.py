"""Bootstrap over images: how much would a pooled score change with other images of the same kind?"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from sfumato.metrics.rows import Statistics, fields

S = TypeVar("S", bound=Statistics)

RESAMPLES = 1000


def resampled(rows: S, seed: int) -> S:
    """Pooled statistics of 1000 resamples: n images out of n, with replacement.

    Images are sorted by their statistics first, so the same images in another order give the same resamples.

    Args:
        rows: Statistics with leading dimension n.
        seed: Seed of the resamples.
    """
    n = len(next(iter(fields(rows).values())))
    flat = [t.reshape(n, -1) for t in fields(rows).values()]
    keys = [t for t in flat if t.is_floating_point()] or flat  # sums differ more often than counts
    order = torch.from_numpy(np.lexsort(torch.cat(keys, 1).cpu().numpy().T))
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), RESAMPLES)
    weights = torch.empty(RESAMPLES, n, dtype=torch.int32)
    weights[:, order] = torch.from_numpy(draws).int()

    def pooled(tensor: Tensor) -> Tensor:
        flat = tensor.reshape(n, -1)
        total = torch.zeros(RESAMPLES, flat.shape[1], dtype=torch.float64, device=flat.device)
        for w, part in zip(weights.to(flat.device).split(512, 1), flat.split(512)):  # few at a time as float64
            total.addmm_(w.double(), part.double())
        return total.view(RESAMPLES, *tensor.shape[1:])

    return type(rows)(**{name: pooled(tensor) for name, tensor in fields(rows).items()})


def intervals(rows: Statistics, exact: dict[str, Tensor], level: float, seed: int) -> dict[str, tuple[float, float]]:
    """Percentile interval of each pooled score.

    The rows hold coarse histograms, while the exact scores come from fine ones. The interval of the coarse scores is
    shifted by the difference of the two, so that coarse histograms change its width only.

    Args:
        rows: Statistics with leading dimension n.
        exact: Exact pooled scores by name.
        level: Nominal coverage in (0, 1).
        seed: Seed of the resamples.
    """
    pooled = type(rows)(**{name: tensor.sum(0) for name, tensor in fields(rows).items()}).scores()
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    found = {}
    for name, scores in resampled(rows, seed).scores().items():
        if exact[name].is_floating_point():
            low, high = torch.nanquantile(scores.cpu(), ends) + (exact[name] - pooled[name]).cpu()
            found[name] = (float(low), float(high))
    return found
