"""Data sets: procedural scenes, public data sets, a user's own folder; and how they are read, resized and augmented."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sfumato.data.anomalies import AnomalyTrack, ObstacleTrack
    from sfumato.data.box_files import BCCD, YOLO, PascalVOC
    from sfumato.data.box_maps import box_entries
    from sfumato.data.box_sets import COCO
    from sfumato.data.cache import CachedDataset
    from sfumato.data.cambridge import CambridgeLandmarks
    from sfumato.data.camvid import CamVid
    from sfumato.data.catalog import load
    from sfumato.data.cityscapes import Cityscapes
    from sfumato.data.colmap import Colmap
    from sfumato.data.flow_sets import FlyingChairs, Sintel
    from sfumato.data.folder import Folder
    from sfumato.data.frames import Frames
    from sfumato.data.joined import JoinedDataset
    from sfumato.data.kitti import KITTI2012, KITTI2015, KITTIRaw
    from sfumato.data.loading import SelectedDataset
    from sfumato.data.middlebury import Middlebury, MiddleburyFlow
    from sfumato.data.nyuv2 import NYUv2
    from sfumato.data.pictures import Pictures
    from sfumato.data.scene_flow import SceneFlow
    from sfumato.data.scenes import Scenes, SceneTour
    from sfumato.data.sevenscenes import SevenScenes
    from sfumato.data.textures import Textures
    from sfumato.data.transforms import Augmentation
    from sfumato.data.video import Video
    from sfumato.data.views import DatasetSlice, DatasetView, subset

__all__ = [
    "BCCD",
    "COCO",
    "KITTI2012",
    "KITTI2015",
    "YOLO",
    "AnomalyTrack",
    "Augmentation",
    "CachedDataset",
    "CamVid",
    "CambridgeLandmarks",
    "Cityscapes",
    "Colmap",
    "DatasetSlice",
    "DatasetView",
    "FlyingChairs",
    "Folder",
    "Frames",
    "JoinedDataset",
    "KITTIRaw",
    "Middlebury",
    "MiddleburyFlow",
    "NYUv2",
    "ObstacleTrack",
    "PascalVOC",
    "Pictures",
    "SceneFlow",
    "SceneTour",
    "Scenes",
    "SelectedDataset",
    "SevenScenes",
    "Sintel",
    "Textures",
    "Video",
    "box_entries",
    "load",
    "subset",
]

_MODULES = {
    "AnomalyTrack": "anomalies",
    "ObstacleTrack": "anomalies",
    "BCCD": "box_files",
    "COCO": "box_sets",
    "PascalVOC": "box_files",
    "YOLO": "box_files",
    "box_entries": "box_maps",
    "Augmentation": "transforms",
    "CachedDataset": "cache",
    "CamVid": "camvid",
    "CambridgeLandmarks": "cambridge",
    "Colmap": "colmap",
    "Cityscapes": "cityscapes",
    "DatasetSlice": "views",
    "DatasetView": "views",
    "FlyingChairs": "flow_sets",
    "Folder": "folder",
    "Frames": "frames",
    "JoinedDataset": "joined",
    "KITTI2012": "kitti",
    "KITTI2015": "kitti",
    "KITTIRaw": "kitti",
    "Middlebury": "middlebury",
    "MiddleburyFlow": "middlebury",
    "NYUv2": "nyuv2",
    "Pictures": "pictures",
    "SceneFlow": "scene_flow",
    "SceneTour": "scenes",
    "Scenes": "scenes",
    "SelectedDataset": "loading",
    "SevenScenes": "sevenscenes",
    "Sintel": "flow_sets",
    "Textures": "textures",
    "Video": "video",
    "load": "catalog",
    "subset": "views",
}


def __getattr__(name: str) -> object:
    # Imported when it is used, because folders need YAML and scenes do not.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
