"""Images with their truth: the procedural scenes, public data sets, a user's own folder, augmentation."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sfumato.data.augmentation import Augmentation
    from sfumato.data.camvid import CamVid
    from sfumato.data.catalog import load
    from sfumato.data.cityscapes import Cityscapes
    from sfumato.data.folder import Folder
    from sfumato.data.nyuv2 import NYUv2
    from sfumato.data.scenes import Scenes
    from sfumato.data.sevenscenes import SevenScenes

__all__ = ["Augmentation", "CamVid", "Cityscapes", "Folder", "NYUv2", "Scenes", "SevenScenes", "load"]

_HOME = {
    "Augmentation": "augmentation",
    "CamVid": "camvid",
    "Cityscapes": "cityscapes",
    "Folder": "folder",
    "NYUv2": "nyuv2",
    "Scenes": "scenes",
    "SevenScenes": "sevenscenes",
    "load": "catalog",
}


def __getattr__(name: str) -> Any:
    # Looked up when asked for: scenes need neither kornia, as augmentation does, nor YAML, as folders do.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
