"""Predictions of held-out images, which several fits read one after another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from typing import cast

import torch
from torch import Tensor

from sfumato.data.loading import SelectedDataset
from sfumato.data.transforms import resize
from sfumato.data.views import entries_of
from sfumato.predictions import TaskPrediction
from sfumato.runs import Run, image_key, predict_seen

BUDGET = 1 << 30  # bytes of predictions that are kept; further images are predicted again when they are needed again

HeldOut = tuple[TaskPrediction, Tensor, Tensor]
"""Prediction, target and mask of an image, each with a batch dimension of 1."""


class HeldPredictions:
    """Predictions of all images of a data set. Each image is predicted once, as long as the predictions fit in memory.

    Args:
        run: The run that predicts, of one task.
        dataset: The images.
        samples: Number of draws. None for the number in the plan.
        seed: Seed of the draws.
        progress: Whether to show a progress bar while images are predicted.
        original: Whether predictions and targets have the original size, which conformal sets are of. If not, they have
            the size that the network sees, at which a calibrator is applied.
        budget: Bytes of predictions that are kept. Default 1 GiB.
    """

    def __init__(
        self,
        run: Run,
        dataset: SelectedDataset,
        samples: int | None,
        seed: int,
        progress: bool,
        original: bool,
        budget: int = BUDGET,
    ) -> None:
        self.run, self.dataset, self.seed, self.progress, self.budget = run, dataset, seed, progress, budget
        self.original, self._kinds = original, entries_of(dataset, dataset.parts)
        self.method, self.keys = run.method(samples), [""] * len(dataset)
        self._kept: dict[int, HeldOut] = {}

    def __len__(self) -> int:
        return len(self.dataset)

    def of(self, numbers: Sequence[int]) -> Iterator[HeldOut]:
        """The images with these numbers, one after another."""
        from rich.progress import track

        missing = any(number not in self._kept for number in numbers)
        for number in track(numbers, "predict", disable=not (self.progress and missing), transient=True):
            yield self._kept[number] if number in self._kept else self._predict(number)

    def _predict(self, number: int) -> HeldOut:
        sample, task = self.dataset[number], self.run.single_task
        self.keys[number] = image_key(sample, self.run.facts.inputs)
        with torch.no_grad():
            drawn, scaling = predict_seen(
                self.run, self.method, self.run.inputs_of(sample), seed=self.seed, index=number
            )
            found = cast(TaskPrediction, self.run.calibrated(drawn))
            if self.original:
                found = scaling.prediction(found, {task.key: task})
            elif scaling.seen != scaling.original:
                sample = resize(sample, scaling.seen, self._kinds)
            prediction = (replace(found, image=None) if self.original else found).to("cpu")  # calibrators may read it
        target, valid = task.target_and_mask(task.entries(sample))
        held = prediction, target[None], valid[None]
        size = sum(_bytes(getattr(prediction, field.name)) for field in fields(prediction))
        if size <= self.budget:
            self.budget -= size
            self._kept[number] = held
        return held


def _bytes(value: object) -> int:
    return value.numel() * value.element_size() if isinstance(value, Tensor) else 0
