"""Folders of frames of videos, for training without labels."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch

from sfumato.data.cameras import Camera, read_matrix
from sfumato.data.frames import Frame, Frames, check_folder, check_found, check_split, existing, frame_number, neighbors
from sfumato.data.images import PICTURES
from sfumato.tasks import Depth, Flow

INTRINSICS = "camera-intrinsics.txt"


class Video(Frames):
    """Frames of one video, or of several, each in a folder of its own.

    The last number in the name of a file counts the frames, in equal steps. A folder may also hold
    ``camera-intrinsics.txt``, the camera matrix (3, 3) px of its frames, and for each frame ``NAME.pose.txt``, the pose
    (4, 4) world from camera in meters, where NAME ends at the first dot of the name of the frame.

    A sample holds ``image``, ``previous`` and ``next``, and of those that are known ``intrinsics``,
    ``world_from_camera``, ``world_from_previous`` and ``world_from_next``. There is no target. The first and last
    ``gap`` frames of a video are left out. ``train`` holds all frames; slices such as ``train[:80%]`` divide them.

    Args:
        root: The folder.
        split: ``train``. Default ``train``.
        size: (height, width) to resize to, pixels. None for the size of the files. Default None.
        gap: Number of frames from ``image`` to ``next``, and from ``previous`` to ``image``, ≥ 1. Default 1.

    Raises:
        ConfigError: If the split is unknown, or the gap below 1.
        MissingFileError: If the folder does not exist, or frames between others are missing.
        DataError: If there are too few frames, or a text file cannot be understood.
    """

    splits: ClassVar[tuple[str, ...]] = ("train",)

    def __init__(
        self, root: str | Path, split: str = "train", size: tuple[int, int] | None = None, gap: int = 1
    ) -> None:
        check_split(split, self.splits)
        folder = check_folder(root, "the frames of a video")
        places = [folder, *sorted(path for path in folder.rglob("*") if path.is_dir())]
        frames = [frame for place in places for frame in _frames(place, folder, gap)]
        check_found(frames, folder, f"at least {2 * gap + 1} frames of a video, numbered")
        super().__init__(frames, {"depth": Depth(0.1, 100.0), "flow": Flow()}, size)


def _frames(place: Path, root: Path, gap: int) -> list[Frame]:
    files = [path for path in place.iterdir() if path.suffix.lower() in PICTURES and ".depth." not in path.name]
    files.sort(key=frame_number)
    source = place / INTRINSICS
    camera = Camera(read_matrix(source, 3).double().numpy()) if source.is_file() else None
    found = []
    for previous, path, following in neighbors(files, gap):
        pictures = {"image": path, "previous": previous, "next": following}
        poses: dict[str, torch.Tensor] = {}
        if existing(_pose(path)):
            poses = {
                f"world_from_{'camera' if key == 'image' else key}": read_matrix(_pose(file), 4)
                for key, file in pictures.items()
            }
        name = path.relative_to(root).with_suffix("").as_posix()
        found.append(Frame(name, pictures, {}, camera, source, poses))
    return found


def _pose(path: Path) -> Path:
    return path.with_name(f"{path.name.partition('.')[0]}.pose.txt")
