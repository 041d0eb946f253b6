"""Conformal predictions: sets of classes and intervals of values."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sfumato.predictions.event import shape_text
from sfumato.predictions.notebook import strip
from sfumato.storage import Stored


@dataclass(frozen=True, repr=False)
class PredictionSet(Stored):
    """The classes that each pixel may have.

    Args:
        members: (B, K, *event) bool. The most probable class always is a member.
        level: 1 − the allowed risk, in (0, 1).
        image: Image (B, 3, H, W) in [0, 1] that pictures show. Default: none.

    Pitfall: The level holds for the mean over images, not for each pixel or each image.
    """

    members: Tensor
    level: float
    image: Tensor | None = None

    def __repr__(self) -> str:
        batch, classes, *event = self.members.shape
        return f"PredictionSet({batch} × {classes} classes{shape_text(tuple(event))}, level {self.level})"

    @property
    def size(self) -> Tensor:
        """Number of classes in each set (B, *event), int64, from 1 to K."""
        return self.members.sum(1)

    def derived(self) -> dict[str, Tensor]:
        """The size of each set or interval, for readers of a file."""
        return {"size": self.size}

    def missed(self, target: Tensor) -> Tensor:
        """Where the set does not hold the target's class (B, *event); bool (B, *event)."""
        return ~self.members.gather(1, target[:, None])[:, 0]

    def _repr_html_(self) -> str:
        return strip(self, {"set size": self.size.float()}, unit="classes", categorical=())


@dataclass(frozen=True, repr=False)
class PredictionInterval(Stored):
    """An interval for the value of each pixel.

    Args:
        lower: Lower end (B, D, *event) in ``unit``.
        upper: Upper end (B, D, *event) in ``unit``, at least ``lower``.
        level: 1 − the allowed risk, in (0, 1).
        unit: Unit of the ends, such as ``"m"``. Default: none.
        image: Image (B, 3, H, W) in [0, 1] that pictures show. Default: none.

    Pitfall: With D > 1 a pixel counts as missed if any of its D values lies outside.
    """

    lower: Tensor
    upper: Tensor
    level: float
    unit: str = ""
    image: Tensor | None = None

    def __repr__(self) -> str:
        batch, dims, *event = self.lower.shape
        unit = f", {self.unit}" if self.unit else ""
        return f"PredictionInterval({batch} × {dims}{shape_text(tuple(event))}{unit}, level {self.level})"

    @property
    def size(self) -> Tensor:
        """Width of the interval, mean over D (B, *event), in ``unit``."""
        return (self.upper - self.lower).mean(1)

    def derived(self) -> dict[str, Tensor]:
        """The size of each set or interval, for readers of a file."""
        return {"size": self.size}

    def missed(self, target: Tensor) -> Tensor:
        """Where a value of the target (B, D, *event) lies outside; bool (B, *event)."""
        return ((target < self.lower) | (target > self.upper)).any(1)

    def _repr_html_(self) -> str:
        return strip(self, {"width": self.size}, unit=self.unit, categorical=())
