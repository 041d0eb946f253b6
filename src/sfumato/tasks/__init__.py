"""The question asked of each pixel."""

from sfumato.tasks.centres import Centres
from sfumato.tasks.depth import Depth, InverseDepth
from sfumato.tasks.semantic import Semantic
from sfumato.tasks.several import Several

__all__ = ["Centres", "Depth", "InverseDepth", "Semantic", "Several"]
