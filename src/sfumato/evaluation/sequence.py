"""Images that are the frames of one video: how steady their predictions are."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sfumato.geometry import FlowFunction, dis_flow, follow
from sfumato.metrics import TemporalScores
from sfumato.predictions import TaskPrediction
from sfumato.runs import Run

TRUSTED = 0.5  # pixels that are trusted less are not followed


class SequenceTally(nn.Module):
    """Scores of the steadiness of each task, over frames that are given in their order.

    A frame of another size than the one before starts another video. After a cut no pixel can be followed.

    Args:
        run: The run that predicts.
        flow: The optical flow by which pixels are followed. Default: OpenCV's DIS.
    """

    def __init__(self, run: Run, flow: FlowFunction = dis_flow) -> None:
        super().__init__()
        self.flow = flow
        self.scores = nn.ModuleDict(
            {name: TemporalScores.for_task(view.single_task) for name, view in run.per_task.items()}
        )
        self._last: tuple[Tensor, Mapping[str, TaskPrediction]] | None = None

    def of(self, task: str) -> TemporalScores:
        """The scores of a task."""
        found = self.scores[task]
        assert isinstance(found, TemporalScores)
        return found

    @torch.no_grad()
    def update(self, image: Tensor, predictions: Mapping[str, TaskPrediction]) -> None:
        """Add the next frame.

        Args:
            image: The frame (1, 3, H, W), float in [0, 1].
            predictions: Its calibrated predictions by task, of the same size.
        """
        last, self._last = self._last, (image, predictions)
        if last is None or last[0].shape != image.shape:
            return
        pixels, trust = follow(image, last[0], self.flow)
        for name, prediction in predictions.items():
            self.of(name).update(prediction, last[1][name], pixels, trust > TRUSTED)
