"""Scores of boxes, which a task of classes and a task of distances give together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from sfumato.boxes import BoxBounds, Boxes
from sfumato.boxes.calibrate import needed_factors
from sfumato.metrics import BoxScores
from sfumato.predictions import TaskPrediction
from sfumato.runs import BoxFinder, Run

BOXES = "boxes"


class BoundScores(Metric):
    """The share of found true boxes that lie between the inner and the outer bound, mean over images.

    Args:
        bounds: What gives the bounds.
    """

    full_state_update: bool | None = False
    headline: tuple[str, ...] = ("bounds_coverage", "bounds_factor")
    covered: Tensor
    images: Tensor

    def __init__(self, bounds: BoxBounds) -> None:
        super().__init__()
        self.bounds = bounds
        self.add_state("covered", torch.zeros((), dtype=torch.float64), "sum")
        self.add_state("images", torch.zeros((), dtype=torch.int64), "sum")

    def update(self, found: Boxes, true: Tensor) -> None:
        """Add an image. One without a found true box counts as covered."""
        factors = needed_factors(found, true)
        self.covered += float((factors <= self.bounds.factor).double().mean()) if len(factors) else 1.0
        self.images += 1

    def compute(self) -> dict[str, Tensor]:
        """The mean share, and the number of standard deviations of the bounds."""
        return {
            "bounds_coverage": self.covered / self.images,
            "bounds_factor": torch.tensor(self.bounds.factor, dtype=torch.float64),
        }


class BoxTally(nn.Module):
    """Scores of the boxes found in the predictions of a run.

    Args:
        finder: Finds the boxes.
    """

    def __init__(self, finder: BoxFinder) -> None:
        super().__init__()
        self.finder, count = finder, len(finder.classes)
        self.scores = BoxScores(count)
        self.uncalibrated = None if finder.calibrator is None else BoxScores(count)
        self.bounds = None if finder.bounds is None else BoundScores(finder.bounds)

    @classmethod
    def for_run(cls, run: Run) -> BoxTally | None:
        """The scores for a run. None if it does not predict boxes."""
        finder = run.box_finder
        return None if finder is None else cls(finder)

    def update(self, predictions: Mapping[str, TaskPrediction], batch: Mapping[str, Any]) -> None:
        """Add the calibrated maps of one image, by task. ``boxes`` of the batch are (1, N, 6)."""
        found, true = self.finder.uncalibrated(predictions), batch[BOXES].cpu()
        after = [self.finder.calibrated(each) for each in found]
        size = predictions["objects"].total.shape[-2:]
        number = [int(batch["index"])]
        self.scores.update(after, list(true), (int(size[0]), int(size[1])), number)
        if self.uncalibrated is not None:
            self.uncalibrated.update(found, list(true), (int(size[0]), int(size[1])), number)
        if self.bounds is not None:
            self.bounds.update(after[0], true[0])
