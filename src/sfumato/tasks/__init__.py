"""The question asked of each pixel."""

from sfumato.tasks.depth import Depth
from sfumato.tasks.semantic import Semantic

__all__ = ["Depth", "Semantic"]
