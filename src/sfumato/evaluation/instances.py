"""Scores of instances, which a task of classes and a task of center offsets give together."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from sfumato.instances import PanopticMaps, find_instances
from sfumato.metrics import InstanceScores, PanopticScores
from sfumato.predictions import ClassPrediction, TaskPrediction, ValuePrediction
from sfumato.runs import Run
from sfumato.tasks import CenterOffsets, Semantic

IDS = "instances"


class InstanceTally(nn.Module):
    """Scores of the instances found in predicted classes and center offsets.

    Args:
        classes: Number of classes.
        things: Ids of the classes that have instances.
    """

    def __init__(self, classes: int, things: tuple[int, ...]) -> None:
        super().__init__()
        self.things = things
        self.panoptic, self.each = PanopticScores(classes, things), InstanceScores(classes, things)

    @classmethod
    def for_run(cls, run: Run, things: tuple[int, ...]) -> InstanceTally | None:
        """The scores for a run. None if it does not predict both, or the data have no instances."""
        if not things or not {Semantic.key, CenterOffsets.key} <= run.per_task.keys():
            return None
        semantic = run.per_task[Semantic.key].task
        return cls(semantic.classes, things) if isinstance(semantic, Semantic) else None

    def update(self, predictions: Mapping[str, TaskPrediction], batch: Mapping[str, Tensor]) -> None:
        """Add the calibrated predictions of a batch, by task."""
        vectors, classes = predictions[CenterOffsets.key], predictions[Semantic.key]
        assert isinstance(vectors, ValuePrediction)
        assert isinstance(classes, ClassPrediction)
        valid = batch[Semantic.key + "_valid"].cpu()
        found = find_instances(vectors, classes, self.things)
        target = PanopticMaps(batch[Semantic.key].cpu(), batch[IDS].cpu())
        self.panoptic.update(PanopticMaps.of(found, classes.label.cpu()), target, valid)
        self.each.update(found, target, valid)
