"""A run that predicts the frames of a video one after another, and merges their draws."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor

from sfumato.predictions import AnyPrediction, TemporalAggregation
from sfumato.runs.predictor import RunBackend


@dataclass(frozen=True)
class TemporalBackend(RunBackend):
    """A run whose predictions of a frame also hold the draws of the frames before it.

    The moments are merged before calibration, at the size that the network sees. Give it the frames of one video in
    their order, and call ``aggregation.restart()`` before another one.

    Args:
        run: The run.
        aggregation: How the frames are merged. Default: a :class:`TemporalAggregation` with OpenCV's flow.

    Pitfall: A calibrator was fitted on predictions of single images. Calibrate again if its numbers matter.
    """

    aggregation: TemporalAggregation[AnyPrediction] = field(default_factory=TemporalAggregation)

    def predict(self, *inputs: Tensor, samples: int | None, seed: int, index: int, tile: int | None) -> AnyPrediction:
        """The calibrated prediction of the next frame (1, 3, H, W), the first of the inputs."""
        found = self.run.predict_uncalibrated(self.run.method(samples), *inputs, seed=seed, index=index, tile=tile)
        (image, *_) = self.run.prepare(*inputs)
        return self.run.calibrated(self.aggregation(image, found))

    def predict_bands(
        self, *inputs: Tensor, samples: int | None, seed: int, index: int, tile: int | None
    ) -> Iterator[tuple[slice, AnyPrediction]]:
        """The whole prediction at once: frames are merged as a whole."""
        yield slice(0, inputs[0].shape[-2]), self.predict(*inputs, samples=samples, seed=seed, index=index, tile=tile)
