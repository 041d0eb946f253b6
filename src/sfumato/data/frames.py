"""Data sets of several pictures of one place: stereo pairs and videos, with disparity, flow, depth and poses."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.utils.data import Dataset

from sfumato.contracts import Sample
from sfumato.data.cameras import Camera
from sfumato.data.images import read_image
from sfumato.data.motion_files import read_disparity, read_flow
from sfumato.data.stored import read_channel
from sfumato.data.transforms import resize
from sfumato.errors import ConfigError, DataError, MissingFileError
from sfumato.targets import MASK
from sfumato.tasks import BaseTask

OCCLUDED = "_occluded"


@dataclass(frozen=True)
class DisparityMap:
    """The files of a disparity map.

    Args:
        path: The disparities.
        unit: As of :func:`~sfumato.data.motion_files.read_disparity`. Default 0.
        visible: A file that holds the disparities of visible points only. None if there is none. Default None.
        occluded: A file whose pixels are 128 where the other picture does not show the point, as of Middlebury's third
            evaluation. None if there is none. Default None.
    """

    path: Path
    unit: float = 0.0
    visible: Path | None = None
    occluded: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that exist."""
        return tuple(path for path in (self.path, self.visible, self.occluded) if path is not None)

    def read(self, key: str, shape: tuple[int, ...]) -> dict[str, Tensor]:
        """Disparity, mask and, if known, occlusion, under the names that begin with ``key``."""
        disparity, valid = read_disparity(self.path, self.unit, shape)
        found = {key: disparity, key + MASK: valid}
        if self.visible is not None:
            found[key + OCCLUDED] = valid & ~read_disparity(self.visible, self.unit, shape)[1]
        if self.occluded is not None:
            found[key + OCCLUDED] = valid & torch.from_numpy(read_channel(self.occluded, shape) == 128)
        return found


@dataclass(frozen=True)
class FlowMap:
    """The files of an optical flow.

    Args:
        path: The vectors.
        visible: A file that holds the vectors of visible points only. None if there is none. Default None.
        occluded: A file that is not 0 where the other picture does not show the point. Default None.
        unknown: A file that is not 0 where the vector does not count. Default None.
    """

    path: Path
    visible: Path | None = None
    occluded: Path | None = None
    unknown: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that exist."""
        return tuple(path for path in (self.path, self.visible, self.occluded, self.unknown) if path is not None)

    def read(self, key: str, shape: tuple[int, ...]) -> dict[str, Tensor]:
        """Flow, mask and, if known, occlusion, under the names that begin with ``key``."""
        flow, valid = read_flow(self.path, shape)
        if self.unknown is not None:
            valid = valid & torch.from_numpy(read_channel(self.unknown, shape) == 0)
        found = {key: flow.where(valid, 0), key + MASK: valid}
        if self.visible is not None:
            found[key + OCCLUDED] = valid & ~read_flow(self.visible, shape)[1]
        if self.occluded is not None:
            found[key + OCCLUDED] = valid & torch.from_numpy(read_channel(self.occluded, shape) != 0)
        return found


@dataclass(frozen=True)
class Frame:
    """The files of one sample.

    Args:
        name: Its name.
        pictures: The file of each picture: ``image``, and some of ``right``, ``next`` and ``previous``.
        maps: The files of ``disparity``, ``disparity_right``, ``flow`` and ``flow_back``, of those that exist.
        camera: The camera, if it is known.
        source: The file that says so.
        poses: ``world_from_camera`` and others (4, 4) meters, if they are known.
    """

    name: str
    pictures: Mapping[str, Path]
    maps: Mapping[str, DisparityMap | FlowMap] = field(default_factory=dict)
    camera: Camera | None = None
    source: Path = Path()
    poses: Mapping[str, Tensor] = field(default_factory=dict)


class Frames(Dataset[Sample]):
    """Samples of several pictures that are read from files.

    A sample holds ``name``; ``image`` (3, H, W) uint8 and, of those that exist, ``right``, ``next`` and ``previous``;
    the maps of its frame with their masks ``…_valid`` (H, W) bool, which say where the file knows the value, and, where
    the data tell, ``…_occluded`` (H, W) bool, known points that the other picture does not show. With a known camera it
    holds ``intrinsics`` (3, 3) px, and with a known baseline ``depth`` (1, H, W) meters with ``depth_valid``, and the
    poses ``world_from_camera`` and ``world_from_right`` (4, 4).

    Args:
        frames: The files of each sample.
        tasks: What can be predicted, by the key of the target.
        size: (height, width) to resize to, pixels. None for the size of the files. Default None.

    Raises:
        DataError: If there is no frame.
    """

    inputs: tuple[str, ...] = ("image",)
    needs_root: ClassVar[bool] = True

    def __init__(
        self, frames: Sequence[Frame], tasks: Mapping[str, BaseTask], size: tuple[int, int] | None = None
    ) -> None:
        self.frames, self.tasks, self.size = list(frames), dict(tasks), size
        self.names = [frame.name for frame in frames]
        self._wanted: frozenset[str] | None = None  # the entries that are read; None for all

    def __len__(self) -> int:
        return len(self.frames)

    def providing(self, names: Iterable[str]) -> Self:
        """The same data set, which reads only these entries, and those that were requested before."""
        found = copy(self)
        found._wanted = frozenset(names) | (self._wanted or frozenset())
        return found

    def __getitem__(self, index: int) -> Sample:
        frame = self.frames[index]
        first = read_image(frame.pictures["image"])
        shape = (int(first.shape[-2]), int(first.shape[-1]))
        sample: Sample = {"name": frame.name, "image": first}
        for key in frame.pictures:
            if key != "image" and self._reads(key):
                sample[key] = _like(read_image(frame.pictures[key]), shape, frame, key)
        for key, files in frame.maps.items():
            if self._reads(key, key + OCCLUDED) or (key == "disparity" and self._reads("depth")):
                sample |= files.read(key, shape)
        return resize(sample | self._geometry(frame, sample, shape), self.size)

    def files(self, index: int) -> tuple[Path, ...]:
        """The pictures and their targets."""
        frame = self.frames[index]
        return *frame.pictures.values(), *(path for each in frame.maps.values() for path in each.files)

    def _reads(self, *keys: str) -> bool:
        return self._wanted is None or not self._wanted.isdisjoint(keys)

    def _geometry(self, frame: Frame, sample: Sample, shape: tuple[int, int]) -> dict[str, Tensor]:
        """Intrinsics, poses and depth, of those that are known."""
        found = dict(frame.poses)
        if frame.camera is None:
            return found
        found["intrinsics"] = torch.from_numpy(frame.camera.matrix).float()
        frame.camera.check(shape, str(frame.source))
        if not frame.poses:
            found |= frame.camera.poses()
        disparity, valid = sample.get("disparity"), sample.get("disparity" + MASK)
        if isinstance(disparity, Tensor) and isinstance(valid, Tensor) and frame.camera.baseline > 0:
            found["depth"], found["depth" + MASK] = frame.camera.depth(disparity, valid)
        return found


def _like(picture: Tensor, shape: tuple[int, int], frame: Frame, key: str) -> Tensor:
    found = tuple(picture.shape[-2:])
    if found != shape:
        raise DataError(
            f"{frame.pictures[key]} has {found[0]} × {found[1]} pixels but {frame.pictures['image']} has {shape[0]} × "
            f"{shape[1]} (height × width): both views must have the same size"
        )
    return picture


def check_folder(root: str | Path, what: str) -> Path:
    """The folder of a data set.

    Args:
        root: Its path.
        what: What it should hold, for the message.

    Raises:
        MissingFileError: If there is no such folder.
    """
    found = Path(root)
    if not found.is_dir():
        raise MissingFileError(f"{root} is not a folder: expected {what}")
    return found


def check_split(split: str, splits: Iterable[str]) -> None:
    """Check the name of a split.

    Raises:
        ConfigError: If there is no such split.
    """
    if split not in splits:
        raise ConfigError(f"split is {split!r}, expected one of {list(splits)}")


def check_found(frames: Sequence[Frame], root: Path, expected: str) -> None:
    """Check that a folder holds frames.

    Raises:
        DataError: If it holds none.
    """
    if not frames:
        raise DataError(f"{root} holds no sample: expected {expected}")


def existing(*paths: Path) -> Path | None:
    """The first of these files that exists; None if none does."""
    return next((path for path in paths if path.is_file()), None)


def required(path: Path, owner: Path) -> Path:
    """A file that belongs to another.

    Raises:
        MissingFileError: If it does not exist.
    """
    if not path.is_file():
        raise MissingFileError(f"{path} does not exist, which belongs to {owner}: copy the data again")
    return path


def neighbors(files: Sequence[Path], gap: int) -> list[tuple[Path, Path, Path]]:
    """The frames of a video with the frames before and after them.

    Args:
        files: The frames in order. The last number in each name counts them, in equal steps.
        gap: How many frames before and after, ≥ 1.

    Returns:
        Previous, own and next file. The first and last ``gap`` frames are left out.

    Raises:
        ConfigError: If the gap is below 1.
        MissingFileError: If frames between others are missing.
        DataError: If a name has no number, or two have the same.
    """
    if gap < 1:
        raise ConfigError(f"gap is {gap}, expected at least 1 frame")
    numbers = [frame_number(path) for path in files]
    steps = [later - number for number, later in pairwise(numbers)]
    for step, path, later in zip(steps, files, files[1:]):
        if step < 1:
            raise DataError(f"{path.name} and {later.name} in {path.parent} have the same number, or not their order")
        if step != min(steps):
            raise MissingFileError(
                f"{path.parent} lacks frames of the video between {path.name} and {later.name}: add them, or put the "
                "parts into folders of their own"
            )
    return list(zip(files, files[gap:], files[2 * gap :]))


def sequence_name(name: str) -> str:
    """The video that a frame belongs to: its name less the last number, which counts the frames.

    >>> sequence_name("0016E5_07959"), sequence_name("night/000012")
    ('0016E5', 'night')
    """
    return re.sub(r"\d+(?=\D*$)", "", name).strip("_-./ ") or name


def frame_number(path: Path) -> int:
    """The last number in the name of a frame.

    Raises:
        DataError: If there is none.
    """
    found = re.findall(r"\d+", path.name.partition(".")[0])
    if not found:
        raise DataError(f"{path} has no number in its name, by which frames of a video are ordered")
    return int(found[-1])
