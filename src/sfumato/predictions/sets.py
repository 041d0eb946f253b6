"""What a guarantee is about: sets of classes and intervals of values."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sfumato.predictions.notebook import strip
from sfumato.storage import Stored


@dataclass(frozen=True)
class PredictionSet(Stored):
    """The classes that each pixel may have.

    Args:
        members: (B, K, H, W) bool; the most probable class always is one.
        level: 1 − the risk that was allowed, in (0, 1).
        image: (B, 3, H, W) in [0, 1], only to be looked at.

    Pitfall: the guarantee is about the mean over images, not about each pixel or each image.
    """

    members: Tensor
    level: float
    image: Tensor | None = None

    @property
    def size(self) -> Tensor:
        """How many classes each pixel may have (B, H, W), int64, from 1 to K."""
        return self.members.sum(1)

    def missed(self, target: Tensor) -> Tensor:
        """Where the set lacks the class (B, H, W) that is the target's; bool (B, H, W)."""
        return ~self.members.gather(1, target[:, None])[:, 0]

    def _repr_html_(self) -> str:
        return strip(self, {"set size": self.size.float()}, unit="classes", categorical=())


@dataclass(frozen=True)
class PredictionInterval(Stored):
    """Where the value of each pixel lies.

    Args:
        lower: (B, D, H, W) in ``unit``.
        upper: (B, D, H, W) in ``unit``, at least ``lower``.
        level: 1 − the risk that was allowed, in (0, 1).
        unit: as in ``"m"``.
        image: (B, 3, H, W) in [0, 1], only to be looked at.

    Pitfall: with D > 1 a pixel counts as missed if any of its D values lies outside.
    """

    lower: Tensor
    upper: Tensor
    level: float
    unit: str = ""
    image: Tensor | None = None

    @property
    def size(self) -> Tensor:
        """Width of the interval, the mean over D (B, H, W), in ``unit``."""
        return (self.upper - self.lower).mean(1)

    def missed(self, target: Tensor) -> Tensor:
        """Where a value (B, D, H, W) lies outside; bool (B, H, W)."""
        return ((target < self.lower) | (target > self.upper)).any(1)

    def _repr_html_(self) -> str:
        return strip(self, {"width": self.size}, unit=self.unit, categorical=())
