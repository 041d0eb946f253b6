"""``sfumato egomotion``."""

from __future__ import annotations

from pathlib import Path

from sfumato.cli.console import echo


def egomotion(
    flow: str,
    frames: str,
    depth: str = "",
    intrinsics: Path | None = None,
    out: Path = Path("trajectory.txt"),
    format: str = "tum",
    gap: int = 1,
    depth_scale: float = 0.001,
    truth: Path | None = None,
    seed: int = 0,
    device: str = "auto",
    trust: str = "",
) -> None:
    """Find the path of a camera from a video, by optical flow and depth with their uncertainties.

    Args:
        flow: Folder of a run of optical flow, or `dis` for OpenCV's flow, which needs no training.
        frames: A video, a folder of frames or a glob. The last number in the name of a frame counts it.
        depth: Folder of a run of depth; or a folder or glob of 16-bit depth images, one for each frame, where 0 and
            65535 are unknown.
        intrinsics: Text file with the camera matrix: 9 numbers, in pixels of the frames.
        out: File of the trajectory. OUT_covariance.txt gets the covariance of each pose. Default trajectory.txt.
        format: tum (time, position, quaternion) or kitti (3 x 4 matrices). Default tum. Times are numbers of frames.
        gap: Frames from one that is used to the next one. Default 1.
        depth_scale: Meters that a 1 in a depth image stands for. Default 0.001.
        truth: File of the true path in the same format, one pose for each pose of the result. Then errors are printed.
        seed: Seed of the samples of points. Default 0.
        device: auto, cpu, cuda or mps. Default auto.
        trust: Class paths outside sfumato that may be imported, with commas; without a value all of them.
    """
    from sfumato.data.cameras import read_matrix
    from sfumato.errors import ConfigError
    from sfumato.geometry import (
        read_kitti,
        read_tum,
        relative_pose_errors,
        write_covariances,
        write_kitti,
        write_tum,
    )
    from sfumato.serving import open_predictor
    from sfumato.serving.camera_path import camera_path, depth_of_files, depth_of_run, dis_flow_of, flow_of_run

    formats = {"tum": (read_tum, write_tum), "kitti": (read_kitti, write_kitti)}
    if format not in formats:
        raise ConfigError(f"format is {format!r}, expected tum or kitti")
    if not depth or intrinsics is None:
        missing = "--intrinsics" if depth else "--depth"
        raise ConfigError(f"a path in meters needs --depth and --intrinsics, and {missing} is missing")
    read, write = formats[format]
    right = None if truth is None else read(truth)
    flows = dis_flow_of if flow == "dis" else flow_of_run(open_predictor(Path(flow), device=device, trust=trust))
    if (Path(depth) / "plan.yaml").is_file() or depth.endswith(".onnx"):
        depths = depth_of_run(open_predictor(Path(depth), device=device, trust=trust))
    else:
        depths = depth_of_files(depth, depth_scale)
    found = camera_path(frames, read_matrix(intrinsics, 3), flows, depths, gap=gap, seed=seed)
    write(out, found)
    write_covariances(out.with_name(f"{out.stem}_covariance.txt"), found)
    length = found.world_from_camera[:, :3, 3].diff(dim=0).norm(dim=1).sum().item()
    sigma = found.position_covariance[-1].trace().sqrt().item()
    echo(f"{len(found)} poses are in {out}: a path of {length:.3g} m, its end known to {sigma:.2g} m (1 sigma)")
    if right is not None:
        if len(right) == len(found):
            right = type(right)(found.times, right.world_from_camera)
        for steps in (1, 10):
            if steps < len(found):
                errors = relative_pose_errors(found, right, steps)
                echo(
                    f"error of the motion over {steps} poses, median: {errors.meters.median().item():.4f} m, "
                    f"{errors.degrees.median().item():.3f} degrees"
                )
