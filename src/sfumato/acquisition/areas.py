"""Parts of an image, and how annotation programs write them: polygons, rectangles and lengths of runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sfumato.errors import DataError


@dataclass(frozen=True)
class Area:
    """Some pixels of an image.

    Args:
        top: The first row.
        left: The first column.
        mask: Which pixels (h, w) of the rectangle that begins there, bool.
    """

    top: int
    left: int
    mask: np.ndarray

    @classmethod
    def of(cls, mask: np.ndarray) -> Area:
        """The pixels of a mask (H, W) with at least one of them, cut to its bounding box."""
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        top, left = int(rows[0]), int(columns[0])
        return cls(top, left, mask[top : rows[-1] + 1, left : columns[-1] + 1])

    @property
    def size(self) -> int:
        """Number of pixels."""
        return int(self.mask.sum())

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, width and height, pixels."""
        height, width = self.mask.shape
        return self.left, self.top, width, height

    @property
    def is_rectangle(self) -> bool:
        """Whether it is its whole bounding box."""
        return bool(self.mask.all())

    def full(self, height: int, width: int) -> np.ndarray:
        """The mask (H, W) of the whole image."""
        found = np.zeros((height, width), bool)
        left, top, across, down = self.box
        found[top : top + down, left : left + across] = self.mask
        return found


def polygon(points: Sequence[tuple[float, float]], height: int, width: int) -> np.ndarray:
    """The pixels (H, W) whose centers lie inside a closed polygon, bool.

    Polygons that share an edge share no pixel: a center on an edge belongs to the polygon on its right.

    Args:
        points: Corners (x, y), pixels; (0, 0) is the upper left corner of the first pixel.
        height: H.
        width: W.

    >>> polygon([(0, 0), (2, 0), (2, 1), (0, 1)], 2, 3).astype(int).tolist()
    [[1, 1, 0], [0, 0, 0]]
    """
    corners = np.asarray(points, float).reshape(-1, 2)
    x, y = corners.T
    x2, y2 = np.roll(x, -1), np.roll(y, -1)
    found, centers = np.zeros((height, width), bool), np.arange(width) + 0.5
    for row in range(max(0, int(y.min())), min(height, int(np.ceil(y.max())) + 1)):
        middle = row + 0.5
        crossed = (y <= middle) != (y2 <= middle)
        where = np.sort(x[crossed] + (middle - y[crossed]) / (y2 - y)[crossed] * (x2 - x)[crossed])
        found[row] = np.searchsorted(where, centers, side="right") % 2 == 1  # an odd number of edges lies to the left
    return found


def runs_of(flat: np.ndarray) -> list[int]:
    """The lengths of runs of equal values of a mask (n,), beginning with that of False, which may be 0.

    >>> runs_of(np.array([True, True, False]))
    [0, 2, 1]
    """
    edges = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff([0, *edges.tolist(), len(flat)]).tolist()
    return [0, *lengths] if len(flat) and flat[0] else lengths


def from_runs(lengths: Sequence[int], count: int) -> np.ndarray:
    """The mask (count,) that :func:`runs_of` was given.

    Raises:
        DataError: If the lengths are negative or do not add up to the count.
    """
    if min(lengths, default=0) < 0 or sum(lengths) != count:
        raise DataError(f"a mask has runs of {sum(lengths)} pixels together, expected {count}, the size of its image")
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
