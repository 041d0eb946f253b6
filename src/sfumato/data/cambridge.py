"""Cambridge Landmarks: videos of buildings from a phone, with camera poses from structure from motion."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch

from sfumato.data.frames import check_folder, check_split
from sfumato.data.posed import PosedImage, PosedImages, check_blocks
from sfumato.errors import DataError, MissingFileError
from sfumato.geometry.pose import rigid, rotations

LISTS = {"train": "dataset_train.txt", "val": "dataset_test.txt"}
NUMBERS = 7
HEAD = 3  # lines of text before the first image


class CambridgeLandmarks(PosedImages):
    """One place of Cambridge Landmarks, such as King's College. See :class:`~sfumato.data.posed.PosedImages`.

    A line of its lists names an image, the position of the camera in meters, and the quaternion w, x, y, z of the
    rotation from the world to the camera.

    Args:
        root: Folder that holds ``dataset_train.txt``, ``dataset_test.txt`` and the folders ``seq1``, ``seq2``, ….
        split: ``train`` or ``val``, the published test images. Default ``train``.
        size: (height, width) to resize to, pixels. None for the 1080 × 1920 of the files. Default None.

    Raises:
        ConfigError: If the split is unknown.
        MissingFileError: If a list or an image is missing.
        DataError: If a line cannot be understood, or test images lie between training images of one video.

    Source: Kendall, Grimes and Cipolla (2015), "PoseNet".
    Pitfall: Some published tables of this data set hold half of the angle between rotations.
    """

    splits: ClassVar[tuple[str, ...]] = tuple(LISTS)

    def __init__(self, root: str | Path, split: str = "train", size: tuple[int, int] | None = None) -> None:
        check_split(split, LISTS)
        folder = check_folder(root, "dataset_train.txt, dataset_test.txt and the folders of images")
        lists = {name: _read(folder / file) for name, file in LISTS.items()}
        names = {name: [image.name for image in images] for name, images in lists.items()}
        check_blocks(names["train"], names["val"], str(folder))
        super().__init__(lists[split], str(folder / LISTS[split]), size)


def _read(path: Path) -> list[PosedImage]:
    if not path.is_file():
        raise MissingFileError(f"{path} does not exist: is {path.parent} a folder of Cambridge Landmarks?")
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        words = line.split()
        if len(words) != 1 + NUMBERS or "/" not in words[0]:
            if words and (found or number > HEAD):
                raise DataError(f"{path}, line {number}: expected the name of an image and {NUMBERS} numbers")
            continue
        try:
            values = torch.tensor([float(word) for word in words[1:]], dtype=torch.float64)
        except ValueError:
            values = torch.full((NUMBERS,), torch.nan)
        length = values[3:].norm().item()
        if not abs(length - 1) < 0.01:
            raise DataError(f"{path}, line {number}: the quaternion has the length {length:.3g}, expected 1")
        camera_from_world = rotations(values[[4, 5, 6, 3]])
        pose = rigid(camera_from_world.mT, values[:3])
        if not (file := path.parent / words[0]).is_file():
            raise MissingFileError(f"{file} does not exist, which {path.name} names: copy the data again")
        found.append(PosedImage(words[0], file, pose))
    if not found:
        raise DataError(f"{path} names no image: expected lines of a name and {NUMBERS} numbers")
    return found
