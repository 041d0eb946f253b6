"""Images whose camera poses are known: what readers of such data share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from sfumato.contracts import Sample
from sfumato.data.images import read_image
from sfumato.data.transforms import resize
from sfumato.errors import DataError
from sfumato.geometry import check_poses
from sfumato.geometry.pose import pose_vectors
from sfumato.tasks import BaseTask, CameraPose

REACH = 10  # frames; within them two frames of a video show almost the same
SHARE = 0.1  # of the test frames that may lie between training frames, as at the ends of blocks


@dataclass(frozen=True)
class PosedImage:
    """One image.

    Args:
        name: Its name.
        path: Its file.
        world_from_camera: Its pose (4, 4), meters.
        intrinsics: Camera matrix (3, 3) px of the file. None if it is not known, or the lens distorts. Default None.
    """

    name: str
    path: Path
    world_from_camera: Tensor
    intrinsics: Tensor | None = None


class PosedImages(Dataset[Sample]):
    """Images with the pose of the camera that took each of them.

    A sample holds ``name``, ``image`` (3, H, W) uint8, ``world_from_camera`` (4, 4) in meters, ``pose`` (6,), the same
    as position and rotation vector, and ``intrinsics`` (3, 3) px if all of them are known.

    Args:
        images: The images.
        place: What messages call the poses, such as the path of their file.
        size: (height, width) to resize to, pixels. None for the size of the files. Default None.

    Raises:
        DataError: If there is no image, or a pose is no rotation and translation.
    """

    inputs: tuple[str, ...] = ("image",)
    needs_root: ClassVar[bool] = True

    def __init__(self, images: Sequence[PosedImage], place: str, size: tuple[int, int] | None = None) -> None:
        if not images:
            raise DataError(f"{place}: the split holds no image")
        self.images, self.size, self.place = list(images), size, place
        self.names = [image.name for image in images]
        self._poses = check_poses(torch.stack([image.world_from_camera for image in images]), place).float()

    @cached_property
    def tasks(self) -> dict[str, BaseTask]:
        """The pose of the camera."""
        return {"pose": CameraPose.of(self._poses, self.place)}

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        image, pose = self.images[index], self._poses[index]
        sample: Sample = {
            "name": image.name,
            "image": read_image(image.path),
            "world_from_camera": pose,
            "pose": pose_vectors(pose),
            "pose_valid": torch.tensor(True),
        }
        if all(each.intrinsics is not None for each in self.images):
            assert image.intrinsics is not None
            sample["intrinsics"] = image.intrinsics
        return resize(sample, self.size)

    def files(self, index: int) -> tuple[Path, ...]:
        """The image."""
        return (self.images[index].path,)


def frames_between(train: Sequence[str], test: Sequence[str], reach: int = REACH) -> list[str]:
    """Test frames that lie between training frames of the same video, at most ``reach`` frames from one on each side.

    A pose of such a frame can be had from its neighbors without any understanding of the image. A training frame
    itself counts, too.

    Args:
        train: Names of the training frames. The last number in a name counts the frames; the rest names the video.
        test: Names of the test frames.
        reach: Number of frames, ≥ 1. Default 10.

    >>> frames_between(["a/1", "a/3", "a/30", "b/2"], ["a/2", "a/40", "b/3"])
    ['a/2']
    """
    known: dict[str, list[int]] = {}
    for video, number in filter(None, map(_video_and_number, train)):
        known.setdefault(video, []).append(number)
    found = []
    for name in test:
        place = _video_and_number(name)
        away = [number - place[1] for number in known.get(place[0], ())] if place else []
        if any(-reach <= step <= 0 for step in away) and any(0 <= step <= reach for step in away):
            found.append(name)
    return found


def check_blocks(train: Sequence[str], test: Sequence[str], place: str) -> None:
    """Refuse a split whose test frames lie between training frames.

    Raises:
        DataError: If more than a tenth of them do.
    """
    if len(between := frames_between(train, test)) > SHARE * len(test):
        raise DataError(
            f"{place}: {len(between)} of {len(test)} test images, such as {between[0]}, lie between training images of "
            f"the same video, at most {REACH} frames away. Poses of neighbors are almost equal, so this split leaks: "
            "divide videos into blocks, or by whole videos"
        )


def _video_and_number(name: str) -> tuple[str, int] | None:
    stem = name.rpartition("/")[0] + "/" + name.rpartition("/")[2].partition(".")[0]
    numbers = list(re.finditer(r"\d+", stem))
    if not numbers or numbers[-1].start() <= stem.rfind("/"):
        return None
    last = numbers[-1]
    return stem[: last.start()] + stem[last.end() :], int(last[0])
