"""The boxes of a run: found in its predictions, and corrected by what was fitted on held-out images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from sfumato import storage
from sfumato.boxes import BoxBounds, BoxCalibrator, Boxes, find_boxes
from sfumato.contracts import Task
from sfumato.errors import RunError
from sfumato.predictions import ClassPrediction, TaskPrediction, ValuePrediction
from sfumato.tasks import BoxObjects, EdgeDistances

BOX_CALIBRATOR, BOX_BOUNDS = "boxes-calibrator.safetensors", "boxes-conformal.safetensors"
_PARTS = (f"{BoxObjects.key}-calibrator.safetensors", f"{EdgeDistances.key}-calibrator.safetensors")


@dataclass(frozen=True)
class BoxFinder:
    """Finds the boxes in the predictions of a run.

    Args:
        classes: Names of the classes of objects.
        calibrator: The correction of boxes. None for none.
        bounds: What gives inner and outer boxes. None if nothing was fitted.
    """

    classes: tuple[str, ...]
    calibrator: BoxCalibrator | None = None
    bounds: BoxBounds | None = None

    @classmethod
    def of(cls, tasks: Mapping[str, Task], folder: Path | None = None) -> BoxFinder | None:
        """The finder for some tasks, with what is stored in the folder of a run. None if they do not predict boxes.

        What was fitted to the boxes of an earlier calibrator of the maps is left out.

        Raises:
            RunError: If a stored file is cut off.
        """
        objects = tasks.get(BoxObjects.key)
        if not isinstance(objects, BoxObjects) or EdgeDistances.key not in tasks:
            return None
        classes = objects.names[1:]
        if folder is None:
            return cls(classes)
        calibrator, bounds = (
            storage.load((kind,), path, error=RunError) if (path := folder / name).exists() else None
            for kind, name in ((BoxCalibrator, BOX_CALIBRATOR), (BoxBounds, BOX_BOUNDS))
        )
        calibrator = cast("BoxCalibrator | None", calibrator)
        bounds = cast("BoxBounds | None", bounds)
        if calibrator is not None and calibrator.rests_on != maps_digest(folder):
            calibrator = None
        if bounds is not None and bounds.rests_on != boxes_digest(folder):
            bounds = None
        return cls(classes, calibrator, bounds)

    def uncalibrated(self, prediction: Mapping[str, TaskPrediction]) -> list[Boxes]:
        """The boxes of each image, as they are found."""
        objects, distances = prediction[BoxObjects.key], prediction[EdgeDistances.key]
        assert isinstance(objects, ClassPrediction)
        assert isinstance(distances, ValuePrediction)
        return find_boxes(objects, distances)

    def __call__(self, prediction: Mapping[str, TaskPrediction]) -> list[Boxes]:
        """The boxes of each image, calibrated if the run is."""
        return [self.calibrated(each) for each in self.uncalibrated(prediction)]

    def calibrated(self, boxes: Boxes) -> Boxes:
        """Boxes after the calibrator, if there is one."""
        return boxes if self.calibrator is None else self.calibrator(boxes)


def maps_digest(folder: Path) -> str:
    """Digest of the calibrators of the maps that boxes are found in."""
    return "".join(storage.digest(folder / name) for name in _PARTS)


def boxes_digest(folder: Path) -> str:
    """Digest of all calibrators that the boxes of a run depend on."""
    return maps_digest(folder) + storage.digest(folder / BOX_CALIBRATOR)
