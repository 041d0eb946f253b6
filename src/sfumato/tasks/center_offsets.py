"""Instances: the vector from each pixel to the center of its object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sfumato.tasks.value import VectorTask


@dataclass(frozen=True)
class CenterOffsets(VectorTask):
    """Vectors (dx, dy) from a pixel to the centroid of its instance. They are known on the pixels of instances only.

    Args:
        reach: Length of the longest vector that pictures show, > 0, in ``unit``. Default 20.
        unit: Unit of the vectors. Default ``"px"``.

    Raises:
        ConfigError: Unless 0 < reach < ∞.

    Source: Kendall, Gal and Cipolla (2018), "Multi-task learning using uncertainty to weigh losses", §4.2.
    """

    key: ClassVar[str] = "centers"
