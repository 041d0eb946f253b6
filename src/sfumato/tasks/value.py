"""What tasks of values share: their unit, their range and their scores."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from sfumato.errors import ConfigError
from sfumato.targets import EntryKind, VectorMap
from sfumato.tasks.base import BaseTask

if TYPE_CHECKING:
    from sfumato.metrics import ValueScores

# Near is red, far is dark blue: nine colors of matplotlib's turbo in reverse order.
_NEAR_TO_FAR = torch.tensor(
    [
        [122, 4, 3],
        [209, 50, 5],
        [251, 128, 34],
        [237, 208, 58],
        [163, 253, 61],
        [49, 242, 153],
        [40, 188, 235],
        [68, 104, 224],
        [48, 18, 59],
    ],
    dtype=torch.float32,
)


class ValueTask(BaseTask):
    """Values in a unit. Any real number can be predicted, unless a task gives a link and a range."""

    unit: str
    kind: ClassVar[str] = "value"
    default_likelihood: ClassVar[str] = "laplace"
    headline: ClassVar[tuple[str, ...]] = ("epe", "rmse", "nll", "coverage90", "ause", "aurg")
    link: ClassVar[str] = "identity"

    @property
    def lower(self) -> float | None:
        """The smallest value, for links that need a range; None without one."""
        return None

    @property
    def upper(self) -> float | None:
        """The largest value, for links that need a range; None without one."""
        return None

    def scores(self) -> ValueScores:
        """Fresh scores of value predictions."""
        from sfumato.metrics import ValueScores  # here, because torchmetrics imports matplotlib

        return ValueScores(self.unit, self.headline)


@dataclass(frozen=True)
class VectorTask(ValueTask):
    """Vectors (x, y) at each pixel, whose directions are shown as hues.

    Args:
        reach: Length of the longest vector that pictures show, > 0, in ``unit``. Default 20.
        unit: Unit of the vectors. Default ``"px"``.

    Raises:
        ConfigError: Unless 0 < reach < ∞.
    """

    reach: float = 20.0
    unit: str = "px"
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


def near_to_far(position: Tensor) -> Tensor:
    """Colors uint8 (H, W, 3) of positions (H, W) from 0 (near, red) to 1 (far, blue). NaN counts as far."""
    steps = (position.nan_to_num(1.0).clamp(0, 1) * 8).cpu()
    below = steps.floor().clamp(0, 7)
    weight = (steps - below)[..., None]
    return (_NEAR_TO_FAR[below.long()] * (1 - weight) + _NEAR_TO_FAR[below.long() + 1] * weight).byte()


def direction_colors(vectors: Tensor, reach: float) -> Tensor:
    """Vectors (2, H, W) as colors uint8 (H, W, 3): the hue is the direction, white is 0, and ``reach`` is saturated."""
    x, y = vectors.detach().float().cpu().nan_to_num(0.0)
    angle = torch.atan2(y, x)[..., None] - torch.tensor([0.0, 2.0, 4.0]) * math.pi / 3
    length = (torch.hypot(x, y) / reach).clamp(0, 1)[..., None]
    return (255 * (1 - length * (0.5 - 0.5 * angle.cos()))).byte()
