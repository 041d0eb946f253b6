"""A procedural world with exact geometry and known uncertainty: the embedded default data set."""

from sfumato.data.scenes.dataset import Scenes
from sfumato.data.scenes.shifts import SHIFTS, shift

__all__ = ["SHIFTS", "Scenes", "shift"]
