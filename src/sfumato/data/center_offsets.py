"""Vectors from pixels to the center of their instance."""

from __future__ import annotations

import numpy as np


def centers(instances: np.ndarray) -> np.ndarray:
    """Vectors (2, H, W) float32 (dx, dy), px, from pixels to the centroid of their instance; 0 where that is 0.

    Args:
        instances: (H, W) whole numbers ≥ 0; 0 where no instance is.

    Source: Kendall, Gal and Cipolla (2018), §3.
    Pitfall: the centroid of what is seen, which moves where something stands in front, and may lie outside a shape
    that is not convex.

    >>> centers(np.array([[7, 7, 0]])).tolist()
    [[[0.5, -0.5, 0.0]], [[0.0, 0.0, 0.0]]]
    """
    flat = instances.ravel()
    y, x = np.divmod(np.arange(flat.size), instances.shape[1])
    area = np.maximum(np.bincount(flat), 1)
    vectors = np.stack([(np.bincount(flat, along) / area)[flat] - along for along in (x, y)]) * (flat > 0)
    return vectors.astype(np.float32).reshape(2, *instances.shape)
