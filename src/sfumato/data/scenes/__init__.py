"""Procedural scenes with exact geometry and known uncertainty. They need no files."""

from sfumato.data.scenes.dataset import Scenes, open_noisy_scenes, open_scenes, open_varied_scenes
from sfumato.data.scenes.materials import TEXTURES
from sfumato.data.scenes.shifts import SHIFTS, shift
from sfumato.data.scenes.tour import SceneTour, open_scene_tour

__all__ = [
    "SHIFTS",
    "TEXTURES",
    "SceneTour",
    "Scenes",
    "open_noisy_scenes",
    "open_scene_tour",
    "open_scenes",
    "open_varied_scenes",
    "shift",
]
