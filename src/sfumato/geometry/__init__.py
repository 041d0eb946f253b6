"""Cameras: pixels with depth to points and back, images sampled at other pixels, the motion of a camera, its path."""

from sfumato.geometry.classical_flow import dis_flow, forward_backward_error
from sfumato.geometry.egomotion import camera_motion
from sfumato.geometry.pnp import Motion, solve_pnp
from sfumato.geometry.pose import check_poses, exp
from sfumato.geometry.project import (
    camera_from_camera,
    check_intrinsics,
    pixel_grid,
    project,
    transform,
    unproject,
)
from sfumato.geometry.trajectory import (
    PoseErrors,
    Trajectory,
    absolute_pose_errors,
    read_kitti,
    read_tum,
    relative_pose_errors,
    write_kitti,
    write_tum,
)
from sfumato.geometry.warp import sample_at

__all__ = [
    "Motion", "PoseErrors", "Trajectory", "absolute_pose_errors", "camera_from_camera", "camera_motion",
    "check_intrinsics", "check_poses", "dis_flow", "exp", "forward_backward_error", "pixel_grid", "project",
    "read_kitti", "read_tum", "relative_pose_errors", "sample_at", "solve_pnp", "transform", "unproject",
    "write_kitti", "write_tum",
]  # fmt: skip
