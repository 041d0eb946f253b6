"""Cameras: from pixels with depth to points, between poses, and back to pixels; images sampled at other pixels."""

from sfumato.geometry.classical_flow import dis_flow, forward_backward_error
from sfumato.geometry.project import (
    camera_from_camera,
    check_intrinsics,
    pixel_grid,
    project,
    rigid_motion,
    transform,
    unproject,
)
from sfumato.geometry.warp import sample_at

__all__ = [
    "camera_from_camera", "check_intrinsics", "dis_flow", "forward_backward_error", "pixel_grid", "project",
    "rigid_motion", "sample_at", "transform", "unproject",
]  # fmt: skip
