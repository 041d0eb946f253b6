"""Depth, predicted as its logarithm, and inverse depth, which is 0 in the sky."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sfumato import targets
from sfumato.errors import ConfigError
from sfumato.tasks.value import ValueTask, near_to_far


@dataclass(frozen=True)
class Depth(ValueTask):
    """The distance along the optical axis, predicted as its logarithm.

    Args:
        minimum: Smallest depth in the data, > 0, in ``unit``. Default 0.1.
        maximum: Largest depth in the data, in ``unit``. Default 100.
        unit: Unit of depths. Default ``"m"``.

    Raises:
        ConfigError: Unless 0 < minimum < maximum < ∞.
    """

    minimum: float = 0.1
    maximum: float = 100.0
    unit: str = "m"
    key: ClassVar[str] = "depth"
    target: ClassVar[targets.EntryKind] = targets.Depth()
    default_likelihood: ClassVar[str] = "gaussian"
    link: ClassVar[str] = "log"
    headline: ClassVar[tuple[str, ...]] = (
        "rmse", "abs_rel", "log10", "delta1", "delta2", "delta3", "nll", "coverage90", "ause", "aurg",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if not 0 < self.minimum < self.maximum < math.inf:
            raise ConfigError(f"depths from {self.minimum} to {self.maximum} {self.unit}: expected 0 < min < max < inf")

    @property
    def lower(self) -> float:
        """The smallest depth."""
        return self.minimum

    @property
    def upper(self) -> float:
        """The largest depth."""
        return self.maximum

    @property
    def display_range(self) -> tuple[float, float]:
        """The range of depth."""
        return self.minimum, self.maximum

    def color(self, values: Tensor) -> Tensor:
        """Depths (1, H, W) or (H, W) on a logarithmic scale, near red and far blue, uint8 (H, W, 3)."""
        depth = values.reshape(values.shape[-2:]).detach().float().clamp(self.minimum, self.maximum)
        return near_to_far((depth / self.minimum).log() / math.log(self.maximum / self.minimum))


@dataclass(frozen=True)
class InverseDepth(ValueTask):
    """One over the distance along the optical axis. It is 0 where there is no surface, as in the sky.

    Args:
        maximum: Inverse depth of the nearest surface, > 0, in ``unit``. Default 1.
        unit: Unit of inverse depths. Default ``"1/m"``.

    Raises:
        ConfigError: Unless 0 < maximum < ∞.

    Source: Kendall, Gal and Cipolla (2018), "Multi-task learning using uncertainty to weigh losses", §4.3.
    """

    maximum: float = 1.0
    unit: str = "1/m"
    key: ClassVar[str] = "inverse_depth"
    target: ClassVar[targets.EntryKind] = targets.InverseDepth()

    def __post_init__(self) -> None:
        if not 0 < self.maximum < math.inf:
            raise ConfigError(f"maximum is {self.maximum} {self.unit}, expected above 0: one over the nearest depth")

    @property
    def display_range(self) -> tuple[float, float]:
        """From the sky to the nearest surface."""
        return 0.0, self.maximum

    def color(self, values: Tensor) -> Tensor:
        """Inverse depths (1, H, W) or (H, W), near red and far blue, uint8 (H, W, 3)."""
        values = values.reshape(values.shape[-2:]).detach().float()
        # The square root spreads the small values, where most of a street scene is.
        return near_to_far(1 - (values / self.maximum).clamp(0, 1).sqrt())
