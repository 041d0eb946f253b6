"""Tasks: what is predicted for each pixel or image."""

from sfumato.tasks.base import BaseTask
from sfumato.tasks.boxes import BoxObjects, EdgeDistances
from sfumato.tasks.center_offsets import CenterOffsets
from sfumato.tasks.depth import Depth, InverseDepth
from sfumato.tasks.disparity import Disparity
from sfumato.tasks.flow import Flow
from sfumato.tasks.multi_task import MultiTask
from sfumato.tasks.pose import CameraPose
from sfumato.tasks.semantic import Semantic
from sfumato.tasks.value import ValueTask

__all__ = [
    "BaseTask",
<<<<<<< HEAD
    "CameraPose",
=======
    "BoxObjects",
>>>>>>> 4077d34 (Boxes as dense prediction: fit --task boxes, readers, fusion instead of suppression, scores, calibration, bounds, report, energy score)
    "CenterOffsets",
    "Depth",
    "Disparity",
    "EdgeDistances",
    "Flow",
    "InverseDepth",
    "MultiTask",
    "Semantic",
    "ValueTask",
]
