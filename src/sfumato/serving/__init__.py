"""A run as one file that other programs run: the export, which needs torch, and its reader, which does not."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sfumato.serving.batch_predictor import BatchPredictor
    from sfumato.serving.bundle import Bundle
    from sfumato.serving.cluster import FilePredictor, predict_on_ray
    from sfumato.serving.exporter import export
    from sfumato.serving.files import predict_files
    from sfumato.serving.formats import Stereo
    from sfumato.serving.graph import Graph
    from sfumato.serving.pose_files import PoseMotion
    from sfumato.serving.precision import PRECISIONS, precision_cost, reduce_precision
    from sfumato.serving.predictor import OnnxBackend, open_predictor
    from sfumato.serving.triton import export_triton
    from sfumato.serving.video import predict_videos

_MODULES = {
    "BatchPredictor": "batch_predictor",
    "FilePredictor": "cluster",
    "predict_on_ray": "cluster",
    "export_triton": "triton",
    "Bundle": "bundle",
    "Graph": "graph",
    "export": "exporter",
    "predict_files": "files",
    "Stereo": "formats",
    "PoseMotion": "pose_files",
    "PRECISIONS": "precision",
    "precision_cost": "precision",
    "reduce_precision": "precision",
    "OnnxBackend": "predictor",
    "open_predictor": "predictor",
    "predict_videos": "video",
}

__all__ = [
    "PRECISIONS",
    "BatchPredictor",
    "Bundle",
    "FilePredictor",
    "Graph",
    "OnnxBackend",
    "PoseMotion",
    "Stereo",
    "export",
    "export_triton",
    "open_predictor",
    "precision_cost",
    "predict_files",
    "predict_on_ray",
    "predict_videos",
    "reduce_precision",
]


def __getattr__(name: str) -> object:
    # On first use, so that reading a bundle never loads torch.
    if name not in _MODULES:
        raise AttributeError(f"module 'sfumato.serving' has no attribute {name!r}")
    return getattr(import_module(f"sfumato.serving.{_MODULES[name]}"), name)
