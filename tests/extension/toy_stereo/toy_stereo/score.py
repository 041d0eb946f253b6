"""The score: the share of pixels whose disparity is wrong by more than one pixel."""

from typing import ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from sfumato.predictions import ValuePrediction


class BadPixels(Metric):
    """Share of valid pixels with an absolute error above 1 px (bad-1)."""

    target: ClassVar[str] = "value"
    headline: tuple[str, ...] = ("bad1",)
    full_state_update = False
    bad: Tensor
    pixels: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("bad", torch.zeros((), dtype=torch.float64), "sum")
        self.add_state("pixels", torch.zeros((), dtype=torch.float64), "sum")

    @classmethod
    def for_task(cls, task: object) -> "BadPixels":
        """The score for any task of values."""
        return cls()

    def update(self, prediction: ValuePrediction, target: Tensor, valid: Tensor) -> None:
        """Add the pixels of a batch."""
        error = (prediction.mean - target).abs().amax(1)
        self.bad += ((error > 1) & valid).sum()
        self.pixels += valid.sum()

    def compute(self) -> dict[str, Tensor]:
        """The score ``bad1``."""
        return {"bad1": self.bad / self.pixels}
