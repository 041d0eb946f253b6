"""Optical flow: how far each point moves between two pictures of a video."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sfumato.errors import ConfigError
from sfumato.targets import EntryKind, VectorMap
from sfumato.tasks.value import ValueTask, direction_colors


@dataclass(frozen=True)
class Flow(ValueTask):
    """Vectors (dx, dy) from a pixel of ``image`` to the place of the same point in ``next``, the later picture.

    The network takes the entries ``image`` and ``next``.

    Args:
        reach: Length of the longest vector that pictures show, > 0, in ``unit``. Default 20.
        unit: Unit of the vectors. Default ``"px"``.

    Raises:
        ConfigError: Unless 0 < reach < ∞.

    Source: Baker et al. (2011), "A database and evaluation methodology for optical flow".
    """

    reach: float = 20.0
    unit: str = "px"
    key: ClassVar[str] = "flow"
    target: ClassVar[EntryKind] = VectorMap()
    dims: ClassVar[int] = 2
    inputs: ClassVar[tuple[str, ...]] = ("image", "next")
    default_network: ClassVar[str] = "light-flow"

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
