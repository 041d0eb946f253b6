"""What `sfumato predict` writes of camera poses: a path with covariances, and the same filtered over frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from sfumato.data.frames import frame_number
from sfumato.errors import ConfigError, DataError
from sfumato.geometry import filter_poses, write_covariances, write_tum
from sfumato.geometry.pose import quaternions
from sfumato.predictions import PosePrediction
from sfumato.sections import Json


@dataclass(frozen=True)
class PoseMotion:
    """How far a camera moves from one frame to the next, see :func:`sfumato.geometry.filter_poses`.

    Args:
        meters: Standard deviation of the change of the position along each axis, meters, > 0.
        degrees: Standard deviation of the rotation around each axis, degrees, > 0.

    Raises:
        ConfigError: If a number is not above 0.
    """

    meters: float
    degrees: float

    def __post_init__(self) -> None:
        if not (0 < self.meters < math.inf and 0 < self.degrees < math.inf):
            raise ConfigError(
                f"filter is {self.meters} {self.degrees}, expected how far the camera moves from frame to frame, in "
                "meters and degrees, both above 0"
            )


def pose_entry(found: PosePrediction) -> dict[str, Json]:
    """The pose of one image, for its JSON file."""
    pose = found.poses[0]
    return {
        "position": _numbers(pose[:3, 3]),
        "quaternion_xyzw": _numbers(quaternions(pose[:3, :3])),
        "covariance": [_numbers(row) for row in found.covariance[0]],
        "position_std": float(found.position_std[0]),
        "rotation_std": float(found.rotation_std[0]),
        "epistemic_share": float(found.epistemic[0] / found.total[0].clamp_min(1e-30)),
        "meaning": "world from camera; covariance of (position, rotation vector) in the world's axes: meters, radians",
    }


def write_poses(found: Sequence[PosePrediction], names: Sequence[str], out: Path, motion: PoseMotion | None) -> None:
    """Write the poses of all images as a path in the format of TUM RGB-D, with a second file of covariances.

    The time of a pose is the number in the name of its image if these increase, else 0, 1, 2, …

    Args:
        found: The prediction of each image, a batch of 1.
        names: Name of each image.
        out: The folder. It gets ``trajectory.txt`` and ``trajectory_covariance.txt``; with ``motion`` also
            ``trajectory_filtered.txt`` and ``trajectory_filtered_covariance.txt``.
        motion: How far the camera moves from frame to frame. None to write no filtered path.
    """
    path = _joined(found).path(_times(names))
    paths = {"trajectory": path}
    if motion is not None:
        paths["trajectory_filtered"] = filter_poses(path, motion.meters, motion.degrees)
    for name, each in paths.items():
        write_tum(out / f"{name}.txt", each)
        write_covariances(out / f"{name}_covariance.txt", each)


def _joined(found: Sequence[PosePrediction]) -> PosePrediction:
    parts = {each.name: [getattr(one, each.name) for one in found] for each in fields(found[0])}
    whole = {name: torch.cat(values) for name, values in parts.items() if isinstance(values[0], Tensor)}
    return replace(found[0], **{**whole, "image": None})


def _times(names: Sequence[str]) -> list[int]:
    try:
        numbers = [frame_number(Path(name)) for name in names]
    except DataError:
        numbers = []
    increasing = len(numbers) == len(names) and all(a < b for a, b in pairwise(numbers))
    return numbers if increasing else list(range(len(names)))


def _numbers(values: Tensor) -> list[Json]:
    return [float(value) for value in values.tolist()]
