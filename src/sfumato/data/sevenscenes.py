"""7-Scenes: indoor videos of a hand-held Kinect, with depth and camera poses."""

from __future__ import annotations

import re
from collections.abc import Iterable
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.utils.data import Dataset

from sfumato.contracts import Sample
from sfumato.data.cameras import read_matrix
from sfumato.data.images import read_image, read_turned_image
from sfumato.data.target_files import read_depth
from sfumato.data.transforms import resize
from sfumato.errors import ConfigError, DataError, MissingFileError
from sfumato.geometry.pose import pose_vectors
from sfumato.tasks import BaseTask, CameraPose, Depth

MILLIMETER = 0.001
# A first Kinect measures 0.8 to 4 m. The range is half as wide again for images that are zoomed in training.
RANGE = Depth(0.5, 6.0)
ROOM = 100.0  # meters; a room is smaller
# Blocks of a video. The frames of almost a second between them are left out, because neighbors look alike.
SPLITS = {"train": range(400), "val": range(420, 500), "all": range(10**6)}


class SevenScenes(Dataset[Sample]):
    """Frames of one 7-Scenes sequence: color, depth, pose.

    A sample holds ``name``, ``image`` (3, H, W) uint8, ``depth`` (1, H, W) meters and ``depth_valid`` (H, W) bool,
    which is False where the file says 0 or 65535; ``intrinsics`` (3, 3) in pixels of ``size``, ``world_from_camera``
    (4, 4) in meters, and ``pose`` (6,), the same as position and rotation vector.

    On request (:meth:`providing`) it also holds the frames ``previous`` and ``next``, which are ``gap`` frames away,
    with their poses ``world_from_previous`` and ``world_from_next``. They may lie in the frames between the splits. At
    an end of the sequence, the frame on the other side takes the place of the one that does not exist.

    Args:
        root: Folder of one sequence, which holds ``frame-NNNNNN.color.jpg`` (or .png), ``.depth.png`` and
            ``.pose.txt``; and ``camera-intrinsics.txt`` if the camera is not that with f = 585 and c = (320, 240). Or
            the folder of a scene, which holds ``TrainSplit.txt``, ``TestSplit.txt`` and the sequences ``seq-01``, ….
        split: Of a sequence ``train`` (frames 0 to 399), ``val`` (420 to 499) or ``all``. Of a scene the sequences that
            its two lists name, or ``all`` of them. Default ``train``.
        size: (height, width) to resize to, pixels. None for the 480 × 640 of the files. Default None.
        gap: Number of frames from ``image`` to ``next``, ≥ 1. Default 10, in which the camera moves by 0.075 m
            (median).

    Raises:
        ConfigError: If the split is unknown, or the gap is below 1.
        MissingFileError: If a file is missing.
        DataError: If the split has no frames, or a file cannot be read.

    Source: Shotton et al. (2013), "Scene coordinate regression forests".
    Pitfall: Depth and color are not registered. They differ by a few pixels, most of all at near edges.
    """

    inputs: tuple[str, ...] = ("image",)
    splits: ClassVar[tuple[str, ...]] = tuple(SPLITS)
    needs_root: ClassVar[bool] = True

    def __init__(
        self, root: str | Path, split: str = "train", size: tuple[int, int] | None = None, gap: int = 10
    ) -> None:
        if split not in SPLITS:
            raise ConfigError(f"split is {split!r}, expected one of {list(SPLITS)}")
        if gap < 1:
            raise ConfigError(f"gap is {gap}, expected at least 1 frame")
        self.root, self.size, self.gap = Path(root), size, gap
        self._others: dict[str, int] = {}  # the other frames of a sample, and how far away they are
        if not self.root.is_dir():
            raise MissingFileError(f"{root} is not a folder: check the path")
        sequences = _sequences(self.root, split)
        scene = sequences != [self.root]
        self._all = {place: _frames_of(place) for place in sequences}
        self._frames = [
            path for place in sequences for number, path in self._all[place].items() if scene or number in SPLITS[split]
        ]
        if not self._frames:
            raise DataError(f"{root} has no frame-NNNNNN.color.jpg in split {split!r}: is it a 7-Scenes sequence?")
        names = [path.relative_to(self.root).as_posix() for path in self._frames]
        self.names = [name.removesuffix(path.suffix).removesuffix(".color") for name, path in zip(names, self._frames)]
        self._intrinsics = self._read_intrinsics()

    @cached_property
    def tasks(self) -> dict[str, BaseTask]:
        """Depth in meters, and the pose of the camera."""
        poses = [read_matrix(self._beside(path, "pose.txt"), 4) for path in self._frames]
        return {"depth": RANGE, "pose": CameraPose.of(torch.stack(poses), f"the poses in {self.root}", ROOM)}

    def __len__(self) -> int:
        return len(self._frames)

    def providing(self, names: Iterable[str]) -> Self:
        """The same frames with ``previous`` and ``next``, of those that are named, or whose poses are."""
        wanted, found = set(names), copy(self)
        gaps = {"previous": -self.gap, "next": self.gap}
        found._others = {k: gap for k, gap in gaps.items() if k in self._others or wanted & {k, f"world_from_{k}"}}
        return found

    def __getitem__(self, index: int) -> Sample:
        path, depth_path, pose_path = self.files(index)[:3]
        image, orientation = read_turned_image(path)
        depth, valid = read_depth(depth_path, MILLIMETER, RANGE.minimum, RANGE.maximum, image.shape[1:], orientation)
        pose = read_matrix(pose_path, 4)
        sample: Sample = {
            "name": self.names[index],
            "image": image,
            "depth": depth,
            "depth_valid": valid,
            "intrinsics": self._intrinsics,
            "world_from_camera": pose,
            "pose": pose_vectors(pose),
            "pose_valid": torch.tensor(True),
        }
        for name in self._others:
            other = self._neighbor(index, name)
            sample[name] = read_image(other)
            sample[f"world_from_{name}"] = read_matrix(self._beside(other, "pose.txt"), 4)
        return resize(sample, self.size)

    def files(self, index: int) -> tuple[Path, ...]:
        """The image, its depth and its pose; then the other frames that are read."""
        path = self._frames[index]
        others = (self._neighbor(index, name) for name in self._others)
        return path, self._beside(path, "depth.png"), self._beside(path, "pose.txt"), *others

    def _beside(self, path: Path, ending: str) -> Path:
        return path.with_name(f"{path.name.partition('.')[0]}.{ending}")

    def _neighbor(self, index: int, name: str) -> Path:
        """The picture of another frame of a sample."""
        place, number = self._frames[index].parent, int(self._frames[index].name[6:12])
        gap, sequence = self._others[name], self._all[place]
        if not min(sequence) <= number + gap <= max(sequence):
            gap = -gap
        if found := sequence.get(number + gap):
            return found
        raise MissingFileError(
            f"{place} lacks the frame {number + gap}, which is {name} of frame {number}: copy the sequence again"
        )

    def _read_intrinsics(self) -> Tensor:
        path = self.root / "camera-intrinsics.txt"
        if path.exists():
            return read_matrix(path, 3)
        return torch.tensor([[585.0, 0, 320], [0, 585, 240], [0, 0, 1]])


def _frames_of(sequence: Path) -> dict[int, Path]:
    """The pictures of a sequence by the numbers of the frames."""
    return {int(path.name[6:12]): path for path in sorted(sequence.glob(f"frame-{6 * '[0-9]'}.color.*"))}


def _sequences(root: Path, split: str) -> list[Path]:
    """The folders of the sequences of a split: those that the lists of a scene name, or the folder itself.

    Raises:
        DataError: If a line of a list has no number.
        MissingFileError: If a sequence is missing.
    """
    lists = {"train": root / "TrainSplit.txt", "val": root / "TestSplit.txt"}
    if not any(path.is_file() for path in lists.values()):
        return [root]
    found = []
    for path in [lists[split]] if split in lists else lists.values():
        if not path.is_file():
            raise MissingFileError(f"{path} does not exist, which names the sequences of the split: copy it again")
        for line in filter(None, map(str.strip, path.read_text(encoding="utf-8").splitlines())):
            numbers = re.findall(r"\d+", line)
            if not numbers:
                raise DataError(f"{path} holds the line {line!r}, expected lines such as sequence1")
            found.append(root / f"seq-{int(numbers[-1]):02d}")
            if not found[-1].is_dir():
                raise MissingFileError(f"{found[-1]} does not exist, which {path.name} names: unpack the sequence")
    return found
