"""Depth: how far is the surface in each pixel?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from sfumato.calibration import ConformalIntervals, QuantileMap, VarianceScaling
from sfumato.contracts import Likelihood
from sfumato.likelihoods import DistilledValues, Gaussian, Laplace, NormalInverseGamma

if TYPE_CHECKING:
    from sfumato.metrics import ValueScores

# Near is warm, far is cold: nine anchors of matplotlib's turbo, reversed.
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


@dataclass(frozen=True)
class Depth:
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
    students: ClassVar[tuple[str, ...]] = ("distilled-gaussian", "distilled-laplace")
    calibrators: ClassVar[tuple[str, ...]] = ("scale", "quantile")

    def __post_init__(self) -> None:
        if not 0 < self.minimum < self.maximum < math.inf:
            raise ValueError(f"depths from {self.minimum} to {self.maximum} {self.unit}: expected 0 < min < max < inf")

    def likelihood(self, name: str) -> Likelihood:
        """``gaussian`` or ``laplace`` on the logarithm of depth, or ``normal-inverse-gamma`` on depth itself.

        ``distilled-`` and one of the first two is that of a student.
        """
        if name.startswith("distilled-"):
            return DistilledValues(self._law(name.removeprefix("distilled-")))
        if name == "normal-inverse-gamma":
            return NormalInverseGamma(dims=1, unit=self.unit)
        return self._law(name)

    def _law(self, name: str) -> Gaussian | Laplace:
        law = {"gaussian": Gaussian, "laplace": Laplace}[name]
        return law(dims=1, link="log", lower=self.minimum, upper=self.maximum, unit=self.unit)

    def calibrator(self, name: str) -> Any:
        """One of :attr:`calibrators`."""
        return dict(zip(self.calibrators, (VarianceScaling, QuantileMap)))[name]

    @property
    def guarantee(self) -> type[ConformalIntervals]:
        """Intervals of depth."""
        return ConformalIntervals

    def scores(self) -> ValueScores:
        """Fresh scores of value predictions."""
        from sfumato.metrics import ValueScores  # here, because torchmetrics brings matplotlib along

        return ValueScores(self.unit)

    @property
    def span(self) -> tuple[float, float]:
        """The range of depth."""
        return self.minimum, self.maximum

    @property
    def scales(self) -> dict[str, tuple[float, str]]:
        """Standard deviations up to a tenth of the range."""
        return dict.fromkeys(("total", "aleatoric", "epistemic"), (self.maximum / 10, f"σ, {self.unit}"))

    def colour(self, values: Tensor) -> Tensor:
        """Depths (1, H, W) or (H, W) on a logarithmic scale, near warm and far cold, uint8 (H, W, 3)."""
        depth = values.reshape(values.shape[-2:]).detach().float().cpu().clamp(self.minimum, self.maximum)
        position = (depth / self.minimum).log() / math.log(self.maximum / self.minimum) * 8
        position = position.nan_to_num(8.0)
        below = position.floor().clamp(0, 7)
        weight = (position - below)[..., None]
        return (_NEAR_TO_FAR[below.long()] * (1 - weight) + _NEAR_TO_FAR[below.long() + 1] * weight).byte()
