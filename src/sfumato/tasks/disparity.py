"""Disparity: how far a point moves between the two views of a stereo pair."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sfumato import targets
from sfumato.errors import ConfigError
from sfumato.tasks.value import ValueTask, near_to_far


@dataclass(frozen=True)
class Disparity(ValueTask):
    """The shift between a stereo pair: ``x_right = x − disparity``, in pixels of the left image.

    The network takes the entries ``image``, the left view, and ``right``.

    Args:
        maximum: Largest disparity in the data, > 0, in ``unit``. Pictures show 0 to this value. Default 64.
        unit: Unit of disparities. Default ``"px"``.

    Raises:
        ConfigError: Unless 0 < maximum < ∞.

    Source: Kendall et al. (2017), "End-to-end learning of geometry and context for deep stereo regression".
    """

    maximum: float = 64.0
    unit: str = "px"
    key: ClassVar[str] = "disparity"
    target: ClassVar[targets.EntryKind] = targets.Disparity(partner="disparity_right")
    inputs: ClassVar[tuple[str, ...]] = ("image", "right")
    default_network: ClassVar[str] = "light-stereo"

    def __post_init__(self) -> None:
        if not 0 < self.maximum < math.inf:
            raise ConfigError(f"maximum is {self.maximum} {self.unit}, expected the largest disparity, above 0")

    @property
    def planes(self) -> int:
        """Number of planes of a cost volume that reach the largest disparity: 0, 1, 2, … px."""
        return math.ceil(self.maximum) + 1

    @property
    def network_args(self) -> dict[str, int]:
        """What ``fit`` tells a network that has such an argument."""
        return {"planes": self.planes}

    @property
    def display_range(self) -> tuple[float, float]:
        """From infinitely far to the nearest surface."""
        return 0.0, self.maximum

    def color(self, values: Tensor) -> Tensor:
        """Disparities (1, H, W) or (H, W), near red and far blue, uint8 (H, W, 3)."""
        return near_to_far(1 - values.reshape(values.shape[-2:]).detach().float() / self.maximum)
