"""What is counted of one task while a run predicts one image after another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from sfumato.contracts import Score, Task
from sfumato.errors import NotFiniteError, SfumatoError
from sfumato.evaluation.data import TRUTH
from sfumato.evaluation.ood import OODTally
from sfumato.metrics import FidelityScores, SetScores, TruthScores
from sfumato.predictions import ClassPrediction, TaskPrediction
from sfumato.runs import Run
from sfumato.runs.run import FITTED
from sfumato.runs.sizes import Scaling
from sfumato.tasks import Semantic

Batched = Mapping[str, Any]
"""A batch: tensors, and a list of texts for the entry ``name``."""


class ImageRows(Metric):
    """A row for each image: its number and its mean total uncertainty."""

    full_state_update: bool | None = False
    rows: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("rows", [], "cat")

    def update(self, index: int, uncertainty: Tensor) -> None:
        """Add an image."""
        number = torch.tensor([index], dtype=torch.float64, device=uncertainty.device)
        self.rows.append(torch.cat([number, uncertainty.double().reshape(1)])[None])

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather from all processes, those without an image included."""
        self.rows = [self._joined()]
        super().sync(*args, **kwargs)

    def _joined(self) -> Tensor:
        empty = torch.zeros(0, 2, dtype=torch.float64, device=self.device)
        return dim_zero_cat([empty, *(self.rows if isinstance(self.rows, list) else [self.rows])])

    def compute(self) -> Tensor:
        """Number and uncertainty of all images (n, 2)."""
        return self._joined().cpu()


class TaskTally(nn.Module):
    """Everything that is counted of one task.

    Args:
        run: The run as one of this task.
        place: The device where predictions are scored.
        taught: Whether a teacher is scored beside it.
        ood: Whether another data set is compared.
        further: Scores of plug-ins by name.
    """

    def __init__(self, run: Run, place: torch.device, *, taught: bool, ood: bool, further: Mapping[str, Score]) -> None:
        super().__init__()
        fitted = {name: None if (each := getattr(run, name)) is None else each.to(place) for name in FITTED}
        self.run, self.place, self.further = replace(run, **fitted), place, dict(further)
        self.task: Task = run.single_task
        self.scores = self.task.scores()
        self.uncalibrated = None if run.calibrator is None else self.task.scores()
        self.sets = None if run.conformal is None else SetScores()
        self.teacher = self.task.scores() if taught else None
        self.fidelity = FidelityScores.for_task(self.task) if taught else None
        self.truth = TruthScores() if self.task.key == Semantic.key else None
        self.ood = OODTally() if ood else None
        self.images = ImageRows()
        self.plugins = nn.ModuleList(each for each in further.values() if isinstance(each, nn.Module))

    def update(
        self, drawn: TaskPrediction, taught: TaskPrediction | None, scaling: Scaling, batch: Batched
    ) -> TaskPrediction:
        """Add one image.

        Args:
            drawn: The prediction of the run, before calibration, at the size that the network sees.
            taught: The prediction of its teacher, at the original size. None without one.
            scaling: The two sizes. Scores are of the original one.
            batch: The sample at its original size, with a batch dimension of 1.

        Returns:
            The calibrated prediction at the original size.

        Raises:
            NotFiniteError: If the prediction holds NaN or infinity. The message names the image.
        """
        drawn, batch = drawn.to(self.place), _moved(batch, self.place)
        prediction = self._original(self.run.calibrated(drawn), scaling)
        drawn = prediction if self.run.calibrator is None else self._original(drawn, scaling)
        self.images.update(int(batch["index"]), self._finite_mean(prediction, batch))
        target, valid = self.task.target_and_mask(batch)
        try:
            self._score(drawn, prediction, target, valid, batch)
            if self.teacher is not None and self.fidelity is not None:
                assert taught is not None
                taught = taught.to(self.place)
                self.teacher.update(taught, target, valid)
                self.fidelity.update(drawn, taught, valid)
        except SfumatoError as error:
            raise type(error)(f"image {batch['name'][0]}, {self.task.key}: {error}") from error
        if self.ood is not None:
            self.ood.update(prediction, outside=False)
        return prediction

    def _original(self, prediction: TaskPrediction, scaling: Scaling) -> TaskPrediction:
        return scaling.prediction(prediction, {self.task.key: self.task})

    def update_outside(self, drawn: TaskPrediction, scaling: Scaling, batch: Batched) -> None:
        """Add one image that is out of distribution. Its targets are not read. Arguments as of :meth:`update`."""
        assert self.ood is not None
        batch = _moved(batch, self.place)
        prediction = self._original(self.run.calibrated(drawn.to(self.place)), scaling)
        self._finite_mean(prediction, batch)
        self.ood.update(prediction, outside=True, novel=batch.get("novel"), valid=batch.get("novel_valid"))

    def _score(
        self, drawn: TaskPrediction, prediction: TaskPrediction, target: Tensor, valid: Tensor, batch: Batched
    ) -> None:
        self.scores.update(prediction, target, valid)
        if self.uncalibrated is not None:
            self.uncalibrated.update(drawn, target, valid)
        if self.sets is not None:
            self.sets.update(self.run.conformal(prediction), target, self.run.conformal.counted(target, valid))
        for score in self.further.values():
            score.update(prediction, target, valid)
        if self.truth is not None and TRUTH in batch and isinstance(prediction, ClassPrediction):
            self.truth.update(prediction, batch[TRUTH], valid)

    def _finite_mean(self, prediction: TaskPrediction, batch: Batched) -> Tensor:
        mean = prediction.total.mean()
        if not bool(mean.isfinite()):
            raise NotFiniteError(
                f"image {batch['name'][0]}: the predicted uncertainty of {self.task.key} is NaN or infinite. The run "
                f"{self.run.folder} cannot be used: fit it again with a smaller learning rate or --precision 32-true"
            )
        return mean


def _moved(batch: Batched, place: torch.device) -> Batched:
    return {key: value.to(place) if isinstance(value, Tensor) else value for key, value in batch.items()}
