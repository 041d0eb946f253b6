"""Cameras: pixels with depth to points and back, images sampled at other pixels, the motion of a camera, its path."""

from sfumato.geometry.classical_flow import dis_flow, forward_backward_error
from sfumato.geometry.depth import DepthInterval, disparity_to_depth, stereo_baseline
from sfumato.geometry.egomotion import camera_motion
from sfumato.geometry.follow import FlowFunction, follow
from sfumato.geometry.matching import (
    census_costs,
    cheapest,
    check_views,
    concatenation,
    group_correlation,
    mass_outside,
    narrow_margin,
    peak_ratio,
    right_costs,
    view_difference,
)
from sfumato.geometry.pnp import Motion, solve_pnp
from sfumato.geometry.pose import check_poses, exp
from sfumato.geometry.pose_filter import filter_poses
from sfumato.geometry.project import camera_from_camera, check_intrinsics, pixel_grid, project, transform, unproject
from sfumato.geometry.saliency import gradient_saliency, occlusion_saliency
from sfumato.geometry.trajectory import (
    PoseErrors,
    Trajectory,
    absolute_pose_errors,
    read_kitti,
    read_tum,
    relative_pose_errors,
    write_covariances,
    write_kitti,
    write_tum,
)
from sfumato.geometry.warp import hidden, sample_at, sample_nearest

__all__ = [
    "DepthInterval", "FlowFunction", "Motion", "PoseErrors", "Trajectory", "absolute_pose_errors", "camera_from_camera",
    "camera_motion", "census_costs", "cheapest", "check_intrinsics", "check_poses", "check_views", "concatenation",
    "dis_flow", "disparity_to_depth", "exp", "filter_poses", "follow", "forward_backward_error", "gradient_saliency",
    "group_correlation", "hidden", "mass_outside", "narrow_margin", "occlusion_saliency", "peak_ratio", "pixel_grid",
    "project", "read_kitti", "read_tum", "relative_pose_errors", "right_costs", "sample_at", "sample_nearest",
    "solve_pnp", "stereo_baseline", "transform", "unproject", "view_difference", "write_covariances", "write_kitti",
    "write_tum",
]  # fmt: skip
