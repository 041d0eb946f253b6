"""Semantic segmentation: which class is each pixel?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from sfumato.calibration import (
    ClassTemperature,
    ConformalSets,
    Isotonic,
    LocalTemperature,
    Temperature,
    VectorScaling,
)
from sfumato.contracts import Likelihood
from sfumato.likelihoods import Categorical, Dirichlet, DistilledClasses, LogitNormal, Tempered
from sfumato.tasks.base import BaseTask

if TYPE_CHECKING:
    from sfumato.metrics import ClassScores


@dataclass(frozen=True)
class Semantic(BaseTask):
    """Classes of pixels.

    Args:
        names: of the K ≥ 2 classes, in the order of their ids 0 … K − 1.
        palette: K colors (red, green, blue) in 0 … 255.

    Raises:
        ValueError: if names and palette differ in length.
    """

    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    key: ClassVar[str] = "classes"
    dims: ClassVar[int] = 0
    likelihoods: ClassVar[tuple[str, ...]] = ("categorical", "logit-normal", "dirichlet", "tempered")
    students: ClassVar[tuple[str, ...]] = ("distilled", "distilled-probs", "dudes")
    calibrators: ClassVar[tuple[str, ...]] = ("temperature", "class-temperature", "vector", "local", "isotonic")

    def __post_init__(self) -> None:
        if len(self.names) != len(self.palette):
            raise ValueError(f"{len(self.names)} class names but {len(self.palette)} colors: give each class one")

    def likelihood(self, name: str) -> Likelihood:
        """One of :attr:`likelihoods` over the K classes, or of :attr:`students`, of which ``dudes`` is as published."""
        if name in self.students:
            return DistilledClasses(len(self.names), published=name == "dudes", probs=name == "distilled-probs")
        return dict(zip(self.likelihoods, (Categorical, LogitNormal, Dirichlet, Tempered)))[name](len(self.names))

    def calibrator(self, name: str) -> Any:
        """One of :attr:`calibrators`."""
        return dict(zip(self.calibrators, (Temperature, ClassTemperature, VectorScaling, LocalTemperature, Isotonic)))[
            name
        ]

    @property
    def conformal(self) -> type[ConformalSets]:
        """Sets of classes."""
        return ConformalSets

    def scores(self) -> ClassScores:
        """Fresh scores of class predictions."""
        from sfumato.metrics import ClassScores  # here, because torchmetrics brings matplotlib along

        return ClassScores(len(self.names))

    @property
    def display_range(self) -> tuple[float, float]:
        """The first and the last class."""
        return 0.0, len(self.names) - 1.0

    @property
    def scales(self) -> dict[str, tuple[float, str]]:
        """The largest entropy, log K; a quarter of it for the epistemic part, which is rarely near."""
        most = math.log(len(self.names))
        return {"total": (most, "nats"), "aleatoric": (most, "nats"), "epistemic": (most / 4, "nats")}

    def color(self, values: Tensor) -> Tensor:
        """Labels (H, W) in the palette, uint8 (H, W, 3); ids outside it are black."""
        palette = torch.tensor([*self.palette, (0, 0, 0)], dtype=torch.uint8)
        known = (values >= 0) & (values < len(self.names))
        return palette[values.cpu().where(known.cpu(), len(self.names))]
