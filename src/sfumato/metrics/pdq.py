"""Probability-based detection quality: how well predicted distributions of boxes cover the pixels of true ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sfumato.boxes import Boxes
from sfumato.errors import MissingDependencyError

LEAST = 0.0027  # probabilities of a pixel below this count as 0
TINY = 1e-14
LEAST_STD = 1e-3  # px


@dataclass(frozen=True)
class PDQ:
    """What one image contributes.

    Args:
        quality: Sum of the quality of the pairs.
        pairs: Number of pairs with a quality above 0.
        found: Number of predicted boxes.
        true: Number of true boxes.
    """

    quality: float
    pairs: int
    found: int
    true: int


def pdq_of_image(found: Boxes, true: Tensor, size: tuple[int, int]) -> PDQ:
    """The probability-based detection quality of one image.

    A pixel at x belongs to a predicted box with the probability ``P = P(left < x < right) P(top < y < bottom)`` under
    normal distributions of the edges; below 0.0027 it counts as 0. With the ``|G|`` pixels of a true box, its quality
    is ``√(exp(mean log P inside + Σ outside log(1 − P) / |G|) · p(true class))``. Predicted and true boxes are paired
    so that the sum of qualities is largest. The score of a data set is that sum divided by pairs, unpaired predicted
    boxes and unpaired true boxes together.

    Args:
        found: The predicted boxes that count.
        true: True boxes (M, 6): edges, px; class; 1 for a box that is to be ignored, which is left out.
        size: Height and width of the image, px.

    Raises:
        MissingDependencyError: If scipy is not installed.

    Source: Hall et al. (2020), "Probabilistic object detection: definition and evaluation".
    Pitfall: Correlations between edges are not used. The score can be raised by smaller boxes with larger standard
    deviations, and by leaving out boxes with low scores. Never report it alone.

    >>> edges, none = torch.tensor([[2.0, 2, 6, 6]]), torch.zeros(1, 4, 4)
    >>> exact = Boxes(edges, torch.ones(1, 1), none, none, torch.ones(1, dtype=torch.int64))
    >>> pdq_of_image(exact, torch.tensor([[2.0, 2, 6, 6, 0, 0]]), (10, 10)).quality
    1.0
    """
    objects = true[true[:, 5] == 0]
    if not len(found) or not len(objects):
        return PDQ(0.0, 0, len(found), len(objects))
    rows, columns = _inside(found, size)
    quality = np.zeros((len(found), len(objects)))
    for m, (left, top, right, bottom, kind, _) in enumerate(objects.tolist()):
        y, x = _pixels(top, bottom, size[0]), _pixels(left, right, size[1])
        label = found.probs[:, int(kind)].double().numpy()
        for n in range(len(found)):
            quality[n, m] = _spatial(rows[n], columns[n], y, x) * label[n]
    chosen = _paired(np.sqrt(quality))
    return PDQ(float(chosen.sum()), int((chosen > 0).sum()), len(found), len(objects))


def _paired(quality: np.ndarray) -> np.ndarray:
    """The qualities of the pairs with the largest sum."""
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise MissingDependencyError(
            f"boxes are paired with scipy, and {error}: pip install 'sfumato[detection]'"
        ) from error
    return quality[linear_sum_assignment(-quality)]


def _inside(found: Boxes, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Probability of each row (N, H) and of each column (N, W) to lie in each box."""
    edges, std = found.edges.double(), found.std.double().clamp_min(LEAST_STD)
    parts = []
    for low, length in ((1, size[0]), (0, size[1])):
        place = torch.arange(length) + 0.5
        after = torch.special.ndtr((place - edges[:, low, None]) / std[:, low, None])
        before = torch.special.ndtr((edges[:, low + 2, None] - place) / std[:, low + 2, None])
        parts.append((after * before).numpy())
    return parts[0], parts[1]


def _pixels(low: float, high: float, length: int) -> slice:
    """The pixels whose centers lie in an interval, at least one."""
    first = min(max(0, int(np.ceil(low - 0.5))), length - 1)
    return slice(first, min(max(first + 1, int(np.ceil(high - 0.5))), length))


def _spatial(rows: np.ndarray, columns: np.ndarray, y: slice, x: slice) -> float:
    """The spatial quality of a predicted and a true box."""
    kept_y, kept_x = rows >= LEAST, columns >= LEAST
    if not (kept_y[y].any() and kept_x[x].any()):
        return 0.0
    window = slice(*_reach(kept_y, y)), slice(*_reach(kept_x, x))
    probs = rows[window[0], None] * columns[None, window[1]]
    probs[probs < LEAST] = 0.0
    mask = np.zeros(probs.shape, dtype=bool)
    mask[y.start - window[0].start : y.stop - window[0].start, x.start - window[1].start : x.stop - window[1].start] = 1
    inside = np.log(probs[mask].clip(TINY)).sum()
    outside = np.log1p(-probs[~mask].clip(None, 1 - TINY)).sum()
    return float(np.exp((inside + outside) / mask.sum()))


def _reach(kept: np.ndarray, true: slice) -> tuple[int, int]:
    """The part of an axis that holds all places that are kept, and the true box."""
    places = np.flatnonzero(kept)
    return min(int(places[0]), true.start), max(int(places[-1]) + 1, true.stop)
