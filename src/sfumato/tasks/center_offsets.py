"""Instances: the vector from each pixel to the center of its object."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sfumato.errors import ConfigError
from sfumato.targets import EntryKind, VectorMap
from sfumato.tasks.value import ValueTask, direction_colors


@dataclass(frozen=True)
class CenterOffsets(ValueTask):
    """Vectors (dx, dy) from a pixel to the centroid of its instance. They are known on the pixels of instances only.

    Args:
        reach: Length of the longest vector that pictures show, > 0, in ``unit``. Default 20.
        unit: Unit of the vectors. Default ``"px"``.

    Raises:
        ConfigError: Unless 0 < reach < ∞.

    Source: Kendall, Gal and Cipolla (2018), "Multi-task learning using uncertainty to weigh losses", §4.2.
    """

    reach: float = 20.0
    unit: str = "px"
    key: ClassVar[str] = "centers"
    target: ClassVar[EntryKind] = VectorMap()
    dims: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if not 0 < self.reach < math.inf:
            raise ConfigError(f"reach is {self.reach} {self.unit}, expected the length of the longest vectors, above 0")

    @property
    def display_range(self) -> tuple[float, float]:
        """Lengths of vectors."""
        return 0.0, self.reach

    def color(self, values: Tensor) -> Tensor:
        """Vectors (2, H, W) as colors uint8 (H, W, 3): the hue is the direction, white is the zero vector."""
        return direction_colors(values, self.reach)
