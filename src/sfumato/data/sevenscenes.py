"""7-Scenes: a Kinect carried through a room."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from sfumato.data.images import read_depth, read_image, resized
from sfumato.tasks import Depth

MILLIMETER = 0.001
# What a first Kinect measures, 0.8 to 4 m, and half as much again for pictures that are zoomed while training.
RANGE = Depth(0.5, 6.0)
# Blocks of a video, with a second of frames between them that nobody sees: neighbors look alike.
SPLITS = {"train": range(400), "val": range(420, 500), "all": range(10**6)}


class SevenScenes(Dataset[dict[str, Any]]):
    """Frames of one 7-Scenes sequence: color, depth, pose.

    Args:
        root: holds ``frame-NNNNNN.color.jpg`` (or .png), ``.depth.png`` and ``.pose.txt``; and, if other than
            f = 585 and c = (320, 240), ``camera-intrinsics.txt``.
        split: ``train`` (frames 0 to 399), ``val`` (420 to 499) or ``all``.
        size: (height, width) to resize to, pixels; None for the files' own 480 × 640.

    A sample holds ``name``, ``image`` (3, H, W) in [0, 1], ``depth`` (1, H, W) meters and ``depth_valid`` (H, W) bool,
    False where the file says 0 or 65535; ``intrinsics`` (3, 3) in pixels of ``size`` and ``world_from_camera`` (4, 4)
    in meters.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: for an unknown split, or one without frames.

    Source: Shotton et al. (2013), "Scene coordinate regression forests".
    Pitfall: depth and color are not registered: they differ by a few pixels, most at near edges.
    """

    tasks: ClassVar[dict[str, Depth]] = {"depth": RANGE}

    def __init__(self, root: str | Path, split: str = "train", size: tuple[int, int] | None = None) -> None:
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}, expected one of {list(SPLITS)}")
        self.root, self.size = Path(root), size
        if not self.root.is_dir():
            raise FileNotFoundError(f"{root} is not a folder: check the path")
        frames = sorted(self.root.glob(f"frame-{6 * '[0-9]'}.color.*"))
        self._frames = [path for path in frames if int(path.name[6:12]) in SPLITS[split]]
        if not self._frames:
            raise ValueError(f"{root} has no frame-NNNNNN.color.jpg in split {split!r}: is it a 7-Scenes sequence?")
        self._intrinsics = self._read_intrinsics()

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path = self._frames[index]
        name = path.name.split(".")[0]
        image = read_image(path)
        depth_path = self.root / f"{name}.depth.png"
        depth, valid = read_depth(depth_path, MILLIMETER, RANGE.minimum, RANGE.maximum, image.shape[1:])
        sample = {
            "name": name,
            "image": image,
            "depth": depth,
            "depth_valid": valid,
            "intrinsics": self._intrinsics,
            "world_from_camera": _matrix(self.root / f"{name}.pose.txt", 4),
        }
        return resized(sample, self.size)

    def _read_intrinsics(self) -> Tensor:
        path = self.root / "camera-intrinsics.txt"
        if path.exists():
            return _matrix(path, 3)
        return torch.tensor([[585.0, 0, 320], [0, 585, 240], [0, 0, 1]])


def _matrix(path: Path, rows: int) -> Tensor:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: copy the sequence anew")
    try:
        values = torch.tensor([float(value) for value in path.read_text().split()])
    except ValueError:
        values = torch.empty(0)
    if len(values) != rows**2 or not values.isfinite().all():
        raise ValueError(f"{path} does not hold {rows} × {rows} finite numbers: copy it anew")
    return values.reshape(rows, rows)
