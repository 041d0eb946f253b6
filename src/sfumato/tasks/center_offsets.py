"""Instances: where is the center of the thing that each pixel belongs to?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sfumato.tasks.value import Values


@dataclass(frozen=True)
class CenterOffsets(Values):
    """Vectors (dx, dy) from a pixel to the centroid of its instance; known on the pixels of instances only.

    Args:
        reach: length of the longest vector that pictures tell apart, > 0, in ``unit``.
        unit: of the vectors.

    Raises:
        ValueError: unless 0 < reach < ∞.

    Source: Kendall, Gal and Cipolla (2018), "Multi-task learning using uncertainty to weigh losses", §4.2.
    """

    reach: float = 20.0
    unit: str = "px"
    key: ClassVar[str] = "centers"
    dims: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if not 0 < self.reach < math.inf:
            raise ValueError(f"reach is {self.reach} {self.unit}, expected the length of the longest vectors, above 0")

    @property
    def display_range(self) -> tuple[float, float]:
        """Lengths of vectors."""
        return 0.0, self.reach

    @property
    def scales(self) -> dict[str, tuple[float, str]]:
        """Standard deviations up to half of the reach."""
        return dict.fromkeys(("total", "aleatoric", "epistemic"), (self.reach / 2, f"σ, {self.unit}"))

    def color(self, values: Tensor) -> Tensor:
        """Vectors (2, H, W): the hue says where to, and white is no way to go; uint8 (H, W, 3)."""
        x, y = values.detach().float().cpu().nan_to_num(0.0)
        angle = torch.atan2(y, x)[..., None] - torch.tensor([0.0, 2.0, 4.0]) * math.pi / 3
        length = (torch.hypot(x, y) / self.reach).clamp(0, 1)[..., None]
        return (255 * (1 - length * (0.5 - 0.5 * angle.cos()))).byte()
