"""Connected regions of maps. They need SciPy."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sfumato.errors import MissingDependencyError


def label_regions(classes: Tensor) -> Tensor:
    """Numbers of the connected regions of equal values in a map (H, W) of integers.

    Pixels are neighbors where they share a side.

    Returns:
        The number of each pixel's region (H, W), int64, from 0 on, on the CPU.

    Raises:
        MissingDependencyError: If SciPy is not installed.

    >>> label_regions(torch.tensor([[3, 3, 0], [0, 3, 0], [0, 0, 5]])).tolist()
    [[2, 2, 0], [1, 2, 0], [1, 1, 3]]
    """
    ndimage = _ndimage()
    maps = classes.cpu().numpy()
    found, count = torch.zeros(maps.shape, dtype=torch.int64), 0
    for value in classes.unique().tolist():
        numbers, regions = ndimage.label(maps == value)
        own = torch.from_numpy(numbers).long()
        found += (own - 1 + count) * (own > 0)
        count += regions
    return found


def number_regions(mask: Tensor, corners: bool = False) -> Tensor:
    """Numbers of the connected regions of a mask (H, W), from 1 on, and 0 outside of it.

    Args:
        mask: The mask, bool.
        corners: Whether pixels that share only a corner are neighbors too. Default False.

    Returns:
        The number of each pixel's region (H, W), int64, on the CPU.

    Raises:
        MissingDependencyError: If SciPy is not installed.

    >>> mask = torch.tensor([[True, False], [False, True]])
    >>> number_regions(mask).tolist(), number_regions(mask, corners=True).tolist()
    ([[1, 0], [0, 2]], [[1, 0], [0, 1]])
    """
    around = [[1, 1, 1]] * 3 if corners else None
    numbers, _ = _ndimage().label(mask.cpu().numpy(), around)
    return torch.from_numpy(numbers).long()


def boxes(mask: Tensor) -> list[tuple[int, int, int, int, int]]:
    """The connected regions of a mask (H, W), the largest first.

    Returns:
        Top, left, bottom and right (exclusive) of each region, and its number of pixels.

    Raises:
        MissingDependencyError: If SciPy is not installed.
    """
    numbers = number_regions(mask)
    counts = torch.bincount(numbers.flatten()).tolist()
    slices = _ndimage().find_objects(numbers.numpy())
    found = [(r.start, c.start, r.stop, c.stop, count) for (r, c), count in zip(slices, counts[1:])]
    return sorted(found, key=lambda box: -box[-1])


def _ndimage() -> Any:
    try:
        from scipy import ndimage
    except ImportError as error:
        raise MissingDependencyError("regions need SciPy: pip install 'sfumato[geometry]'") from error
    return ndimage
