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
    "BoxObjects",
    "CameraPose",
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
