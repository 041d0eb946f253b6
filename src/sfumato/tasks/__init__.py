"""The question asked of each pixel."""

from sfumato.tasks.center_offsets import CenterOffsets
from sfumato.tasks.depth import Depth, InverseDepth
from sfumato.tasks.multi_task import MultiTask
from sfumato.tasks.semantic import Semantic

__all__ = ["CenterOffsets", "Depth", "InverseDepth", "MultiTask", "Semantic"]
