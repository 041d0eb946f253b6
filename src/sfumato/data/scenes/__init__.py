"""Procedural scenes with exact geometry and known uncertainty. They need no files."""

from sfumato.data.scenes.dataset import Scenes, open_scenes
from sfumato.data.scenes.shifts import SHIFTS, shift

__all__ = ["SHIFTS", "Scenes", "open_scenes", "shift"]
