"""Depth: how far is the surface in each pixel? As its logarithm, or as its inverse, which is 0 in the sky."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sfumato.contracts import Likelihood
from sfumato.likelihoods import Gaussian, Laplace, NormalInverseGamma
from sfumato.tasks.value import Values, near_to_far


@dataclass(frozen=True)
class Depth(Values):
    """Distance along the optical axis, predicted as its logarithm.

    Args:
        minimum: smallest depth the data holds, > 0, in ``unit``.
        maximum: largest depth the data holds, in ``unit``.
        unit: of depths, as in ``"m"``.

    Raises:
        ValueError: unless 0 < minimum < maximum < ∞.
    """

    minimum: float = 0.1
    maximum: float = 100.0
    unit: str = "m"
    key: ClassVar[str] = "depth"
    likelihoods: ClassVar[tuple[str, ...]] = ("gaussian", "laplace", "normal-inverse-gamma")
    headline: ClassVar[tuple[str, ...]] = (
        "rmse", "abs_rel", "log10", "delta1", "delta2", "delta3", "nll", "coverage90", "ause", "aurg",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if not 0 < self.minimum < self.maximum < math.inf:
            raise ValueError(f"depths from {self.minimum} to {self.maximum} {self.unit}: expected 0 < min < max < inf")

    def likelihood(self, name: str) -> Likelihood:
        """``gaussian`` or ``laplace`` on the logarithm of depth, or ``normal-inverse-gamma`` on depth itself.

        ``distilled-`` and one of the first two is that of a student.
        """
        if name == "normal-inverse-gamma":
            return NormalInverseGamma(dims=1, unit=self.unit)
        return super().likelihood(name)

    def _law(self, name: str) -> Gaussian | Laplace:
        law = {"gaussian": Gaussian, "laplace": Laplace}[name]
        return law(dims=1, link="log", lower=self.minimum, upper=self.maximum, unit=self.unit)

    @property
    def display_range(self) -> tuple[float, float]:
        """The range of depth."""
        return self.minimum, self.maximum

    @property
    def scales(self) -> dict[str, tuple[float, str]]:
        """Standard deviations up to a tenth of the range."""
        return dict.fromkeys(("total", "aleatoric", "epistemic"), (self.maximum / 10, f"σ, {self.unit}"))

    def color(self, values: Tensor) -> Tensor:
        """Depths (1, H, W) or (H, W) on a logarithmic scale, near warm and far cold, uint8 (H, W, 3)."""
        depth = values.reshape(values.shape[-2:]).detach().float().clamp(self.minimum, self.maximum)
        return near_to_far((depth / self.minimum).log() / math.log(self.maximum / self.minimum))


@dataclass(frozen=True)
class InverseDepth(Values):
    """One over the distance along the optical axis; 0 where there is no surface, as in the sky.

    Args:
        maximum: of the nearest surface, > 0, in ``unit``.
        unit: as in ``"1/m"``.

    Raises:
        ValueError: unless 0 < maximum < ∞.

    Source: Kendall, Gal and Cipolla (2018), "Multi-task learning using uncertainty to weigh losses", §4.3.
    """

    maximum: float = 1.0
    unit: str = "1/m"
    key: ClassVar[str] = "inverse_depth"

    def __post_init__(self) -> None:
        if not 0 < self.maximum < math.inf:
            raise ValueError(f"maximum is {self.maximum} {self.unit}, expected above 0: one over the nearest depth")

    @property
    def display_range(self) -> tuple[float, float]:
        """From the sky to the nearest surface."""
        return 0.0, self.maximum

    @property
    def scales(self) -> dict[str, tuple[float, str]]:
        """Standard deviations up to a tenth of the range."""
        return dict.fromkeys(("total", "aleatoric", "epistemic"), (self.maximum / 10, f"σ, {self.unit}"))

    def color(self, values: Tensor) -> Tensor:
        """Inverse depths (1, H, W) or (H, W), near warm and far cold, uint8 (H, W, 3)."""
        values = values.reshape(values.shape[-2:]).detach().float()
        # By the root, since the inverse of most of a street lies near 0.
        return near_to_far(1 - (values / self.maximum).clamp(0, 1).sqrt())
