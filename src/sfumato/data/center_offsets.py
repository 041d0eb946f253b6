"""Vectors from pixels to the center of their instance."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def centers(instances: np.ndarray) -> np.ndarray:
    """Vectors (dx, dy) from each pixel to the centroid of its instance.

    Args:
        instances: (H, W) whole numbers ≥ 0; 0 where there is no instance.

    Returns:
        (2, H, W) float32, pixels; 0 where there is no instance.

    Source: Kendall, Gal and Cipolla (2018), §3.
    Pitfall: It is the centroid of the visible part. It moves if something covers the instance, and it may lie outside a
    shape that is not convex.

    >>> centers(np.array([[7, 7, 0]])).tolist()
    [[[0.5, -0.5, 0.0]], [[0.0, 0.0, 0.0]]]
    """
    flat = instances.ravel()
    y, x = np.divmod(np.arange(flat.size), instances.shape[1])
    area = np.maximum(np.bincount(flat), 1)
    vectors = np.stack([(np.bincount(flat, along) / area)[flat] - along for along in (x, y)]) * (flat > 0)
    return vectors.astype(np.float32).reshape(2, *instances.shape)


def center_entries(instances: Tensor) -> dict[str, Tensor]:
    """The entries ``centers`` (2, H, W) and ``centers_valid`` (H, W) of an instance map (H, W)."""
    return {"centers": torch.from_numpy(centers(instances.numpy())), "centers_valid": instances > 0}
