"""The path of a camera from a video: optical flow and depth with their uncertainties, and PnP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice, pairwise

import torch
from torch import Tensor

from sfumato.data.target_files import read_depth
from sfumato.errors import ConfigError, DataError
from sfumato.geometry import FlowFunction, Motion, Trajectory, camera_motion, dis_flow, forward_backward_error
from sfumato.runs.predictor import Predictor
from sfumato.serving.frame_source import files_in_time, frame_source
from sfumato.serving.predictor import open_predictor
from sfumato.targets import Image
from sfumato.tasks import Depth, Flow

FLOOR = 0.3  # px; a forward–backward error of 0 is no proof of a perfect flow

FlowOf = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Two images (1, 3, H, W) to the flow (2, H, W) from the first to the second, px, and its covariance (2, 2, H, W)."""

DepthOf = Callable[[int, Tensor], tuple[Tensor, Tensor | None]]
"""Number and image (1, 3, H, W) of a frame to its depth (1, H, W), meters, 0 where unknown, and its variance, m²."""


def dis_flow_of(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """OpenCV's DIS. The standard deviation of both axes is the forward–backward error, at least 0.3 px."""
    there, back = dis_flow(first, second), dis_flow(second, first)
    variance = forward_backward_error(there, back)[0].square() + FLOOR**2
    return there[0], variance * torch.eye(2)[:, :, None, None]


def flow_of_run(predictor: Predictor) -> FlowOf:
    """The flow of a run and the covariance that it predicts.

    Raises:
        ConfigError: If the run is not of optical flow between two images.
    """
    tasks = list(predictor.backend.tasks.values())
    if len(tasks) != 1 or not isinstance(tasks[0], Flow) or predictor.backend.inputs != Flow.inputs:
        raise ConfigError(f"the run is of {', '.join(predictor.backend.tasks)}, expected a run of flow, or dis")

    def flow(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        found = predictor(first, second).prediction
        return found.mean[0].cpu(), found.covariance[0].cpu()

    return flow


def flow_function(name: str, device: str = "cpu", trust: str = "") -> FlowFunction:
    """Optical flow between two images without its covariance.

    Args:
        name: ``dis`` for OpenCV's, or the folder of a run of flow.
        device: As of :func:`sfumato.serving.open_predictor`. Default ``cpu``.
        trust: As of :func:`sfumato.serving.open_predictor`. Default: none.

    Raises:
        ConfigError: If the run is not of optical flow between two images.
    """
    if name == "dis":
        return dis_flow
    found = flow_of_run(open_predictor(name, device=device, trust=trust))
    return lambda first, second: found(first, second)[0][None]


def depth_of_run(predictor: Predictor) -> DepthOf:
    """The depth of a run and the variance that it predicts.

    Raises:
        ConfigError: If the run is not of depth in meters from one image.
    """
    tasks = list(predictor.backend.tasks.values())
    if len(tasks) != 1 or not isinstance(tasks[0], Depth) or predictor.backend.inputs != ("image",):
        raise ConfigError(f"the run is of {', '.join(predictor.backend.tasks)}, expected a run of depth of one image")
    if tasks[0].unit != "m":
        raise ConfigError(f"the run predicts depth in {tasks[0].unit!r}, expected meters: a camera path has meters")

    def depth(number: int, image: Tensor) -> tuple[Tensor, Tensor]:
        found = predictor(image, index=number).prediction
        return found.mean[0].cpu(), found.variance[0].cpu()

    return depth


def depth_of_files(given: str, meters_per_count: float) -> DepthOf:
    """Depth from files, in the order of the numbers in their names, one for each frame.

    Args:
        given: A folder or a glob of 16-bit gray PNG. 0 and 65535 are unknown.
        meters_per_count: Meters that a stored 1 stands for.

    Raises:
        MissingFileError: If there is no file, or numbers are missing.
        DataError: If there are more frames than files, or a file does not fit its frame.
    """
    files = files_in_time(given)

    def depth(number: int, image: Tensor) -> tuple[Tensor, None]:
        if number >= len(files):
            raise DataError(f"{given} holds the depth of {len(files)} frames, and there are more frames")
        largest = 65534 * meters_per_count
        found, _ = read_depth(files[number], meters_per_count, 0.0, largest, tuple(image.shape[-2:]))
        return found, None

    return depth


def camera_path(
    frames: str, intrinsics: Tensor, flow: FlowOf, depth: DepthOf, *, gap: int = 1, seed: int = 0
) -> Trajectory:
    """The path of the camera of a video. It begins at the identity. Two frames are in memory at a time.

    Args:
        frames: A video, a folder of frames or a glob.
        intrinsics: Camera matrix (3, 3), px.
        flow: Gives flow between two frames.
        depth: Gives the depth of a frame.
        gap: Frames from one that is used to the next one, ≥ 1. Default 1.
        seed: Seed of the samples of points. Default 0.

    Returns:
        Poses whose times are the numbers of the frames, counted from 0.

    Raises:
        ConfigError: If ``gap`` is below 1.
        DataError: If there are not two frames, or a motion cannot be found. The message names the frames.
    """
    if gap < 1:
        raise ConfigError(f"gap is {gap}, expected at least 1 frame")
    motions: list[Motion] = []
    used = islice(frame_source(frames).frames(), 0, None, gap)
    for (number, first), (later, second) in pairwise(_floats(used)):
        try:
            vectors, covariance = flow(first, second)
            found, variance = depth(number, first)
            motions.append(
                camera_motion(
                    vectors, found, intrinsics, flow_covariance=covariance, depth_variance=variance, seed=seed
                )
            )
        except DataError as error:
            raise DataError(f"frames {number} and {later} of {frames}: {error}") from error
    if not motions:
        raise DataError(f"{frames} holds no two frames at a distance of {gap}: expected a video")
    return Trajectory.of_motions(motions, [gap * number for number in range(len(motions) + 1)])


def _floats(frames: Iterator[tuple[int, Tensor]]) -> Iterator[tuple[int, Tensor]]:
    for number, frame in frames:
        yield number, Image().to_float(frame[None])
