"""What tasks of values share: their calibrators, guarantees and scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from sfumato.calibration import ConformalIntervals, QuantileMap, VarianceScaling
from sfumato.contracts import Likelihood
from sfumato.likelihoods import L1, DistilledValues, Gaussian, Laplace
from sfumato.tasks.base import BaseTask

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


class Values(BaseTask):
    """Values in a unit, of which any real number can be predicted; tasks with another range say so themselves."""

    unit: str
    likelihoods: ClassVar[tuple[str, ...]] = ("laplace", "gaussian", "l1")
    students: ClassVar[tuple[str, ...]] = ("distilled-gaussian", "distilled-laplace")
    calibrators: ClassVar[tuple[str, ...]] = ("scale", "quantile")
    headline: ClassVar[tuple[str, ...]] = ("epe", "rmse", "nll", "coverage90", "ause", "aurg")

    def likelihood(self, name: str) -> Likelihood:
        """``laplace`` or ``gaussian`` with a noise for each pixel; ``l1`` with one for all; the students."""
        if name in self.students:
            return DistilledValues(self._law(name.removeprefix("distilled-")))
        return self._law(name) if name != "l1" else L1(self.dims, self.unit)

    def _law(self, name: str) -> Gaussian | Laplace:
        return {"laplace": Laplace, "gaussian": Gaussian}[name](dims=self.dims, unit=self.unit)

    def calibrator(self, name: str) -> Any:
        """One of :attr:`calibrators`."""
        return dict(zip(self.calibrators, (VarianceScaling, QuantileMap)))[name]

    @property
    def conformal(self) -> type[ConformalIntervals]:
        """Intervals of the value."""
        return ConformalIntervals

    def scores(self) -> ValueScores:
        """Fresh scores of value predictions."""
        from sfumato.metrics import ValueScores  # here, because torchmetrics brings matplotlib along

        return ValueScores(self.unit, self.headline)


def near_to_far(position: Tensor) -> Tensor:
    """Colors uint8 (H, W, 3) of positions (H, W) from 0, near and warm, to 1, far and cold; NaN is far."""
    steps = (position.nan_to_num(1.0).clamp(0, 1) * 8).cpu()
    below = steps.floor().clamp(0, 7)
    weight = (steps - below)[..., None]
    return (_NEAR_TO_FAR[below.long()] * (1 - weight) + _NEAR_TO_FAR[below.long() + 1] * weight).byte()
