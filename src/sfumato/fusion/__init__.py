"""Several sensors or frames as one: predictions of the same pixels, and volumes of frames with poses."""

from sfumato.fusion.checks import Fused
from sfumato.fusion.classes import PoolMoments, fuse_classes
from sfumato.fusion.frames import FusedFrames, fuse_frames, view_of_camera, views_of_run
from sfumato.fusion.mesh import Mesh, mesh_of, write_ply
from sfumato.fusion.render import Rendered, render
from sfumato.fusion.sensors import depth_camera
from sfumato.fusion.values import between_variance, fuse_values, intersection_weights
from sfumato.fusion.view import View
from sfumato.fusion.volume import Volume

__all__ = [
    "Fused",
    "FusedFrames",
    "Mesh",
    "PoolMoments",
    "Rendered",
    "View",
    "Volume",
    "between_variance",
    "depth_camera",
    "fuse_classes",
    "fuse_frames",
    "fuse_values",
    "intersection_weights",
    "mesh_of",
    "render",
    "view_of_camera",
    "views_of_run",
    "write_ply",
]
