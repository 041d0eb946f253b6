"""COLMAP models: a user's own images with the poses that structure from motion has found."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from sfumato.data.frames import check_folder, check_split
from sfumato.data.posed import PosedImage, PosedImages, check_blocks
from sfumato.errors import DataError, MissingFileError
from sfumato.geometry.pose import rigid, rotations

# Name and number of parameters of each camera model, by its number in binary files.
MODELS = (
    ("SIMPLE_PINHOLE", 3), ("PINHOLE", 4), ("SIMPLE_RADIAL", 4), ("RADIAL", 5), ("OPENCV", 8), ("OPENCV_FISHEYE", 8),
    ("FULL_OPENCV", 12), ("FOV", 5), ("SIMPLE_RADIAL_FISHEYE", 4), ("RADIAL_FISHEYE", 5), ("THIN_PRISM_FISHEYE", 12),
)  # fmt: skip
PLACES = ("sparse/0", "sparse", "")
TRAIN, GAP = 0.75, 0.05  # shares of the images, in the order of their names; the rest is val
LONGEST = 4096  # characters of a name


@dataclass(frozen=True)
class ColmapImage:
    """What a model says about one image.

    Args:
        name: Its path below the folder of images.
        world_from_camera: Its pose (4, 4), in the unit of the model.
        camera: Number of its camera.
    """

    name: str
    world_from_camera: Tensor
    camera: int


class Colmap(PosedImages):
    """Images and their poses from a COLMAP model. See :class:`~sfumato.data.posed.PosedImages`.

    Samples hold ``intrinsics`` if all cameras are pinhole cameras without distortion.

    Args:
        root: Folder that holds ``images`` and the model: ``cameras.txt`` and ``images.txt``, or ``cameras.bin`` and
            ``images.bin``, in ``sparse/0``, in ``sparse`` or in the folder itself.
        split: ``train``, ``val`` or ``all``. If the folder holds ``train.txt`` and ``val.txt`` with the name of an
            image in each line, these. Else blocks in the order of the names: the first three quarters and the last
            fifth. Default ``train``.
        size: (height, width) to resize to, pixels. None for the size of the files. Default None.

    Raises:
        ConfigError: If the split is unknown.
        MissingFileError: If there is no model, or an image that it names is missing.
        DataError: If a file cannot be understood, the model holds no image, or a list puts test images between training
            images of one video.

    Source: Schönberger and Frahm (2016), "Structure-from-motion revisited", and COLMAP's description of its files.
    Pitfall: A model that was not aligned to the world has a unit of its own. What is called meters is that unit.
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "val", "all")

    def __init__(self, root: str | Path, split: str = "train", size: tuple[int, int] | None = None) -> None:
        check_split(split, self.splits)
        folder = check_folder(root, "images and a COLMAP model")
        model = _model(folder)
        found = sorted(read_images(model), key=lambda image: image.name)
        if not found:
            raise DataError(f"{model} is a COLMAP model without images: register images with `colmap mapper` first")
        intrinsics = read_cameras(model)
        names = _split(folder, [image.name for image in found])
        check_blocks(names["train"], names["val"], str(folder))
        chosen = set(names.get(split, [image.name for image in found]))
        images = [
            PosedImage(image.name, _file(folder, image.name), image.world_from_camera, intrinsics.get(image.camera))
            for image in found
            if image.name in chosen
        ]
        super().__init__(images, str(model), size)


def read_images(model: Path) -> list[ColmapImage]:
    """The images of a model, from ``images.bin`` or ``images.txt`` in its folder.

    Raises:
        DataError: If the file cannot be understood.
    """
    path = model / "images.bin"
    return list(_binary_images(path) if path.is_file() else _text_images(model / "images.txt"))


def read_cameras(model: Path) -> dict[int, Tensor]:
    """The camera matrix (3, 3) px of each camera without distortion, with pixel centers at whole numbers.

    Raises:
        DataError: If the file cannot be understood.
    """
    path = model / "cameras.bin"
    found = {}
    for number, name, numbers in _binary_cameras(path) if path.is_file() else _text_cameras(model / "cameras.txt"):
        if name in ("SIMPLE_PINHOLE", "PINHOLE"):
            fx, fy, cx, cy = numbers if name == "PINHOLE" else (numbers[0], *numbers)
            found[number] = torch.tensor([[fx, 0.0, cx - 0.5], [0.0, fy, cy - 0.5], [0.0, 0.0, 1.0]])
    return found


def _model(folder: Path) -> Path:
    for place in PLACES:
        for ending in ("bin", "txt"):
            if all((folder / place / f"{name}.{ending}").is_file() for name in ("cameras", "images")):
                return folder / place
    raise MissingFileError(
        f"{folder} holds no COLMAP model: expected cameras.bin and images.bin, or cameras.txt and images.txt, in "
        "sparse/0, in sparse or in the folder itself"
    )


def _file(folder: Path, name: str) -> Path:
    path = Path(name)
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"the COLMAP model in {folder} names the image {name}, which lies outside of its folder")
    if not (found := folder / "images" / path).is_file():
        raise MissingFileError(
            f"{found} does not exist, which the COLMAP model names: put the images into {folder}/images"
        )
    return found


def _split(folder: Path, names: list[str]) -> dict[str, list[str]]:
    """The names of both splits."""
    lists = [folder / "train.txt", folder / "val.txt"]
    if not all(path.is_file() for path in lists):
        end = round(TRAIN * len(names))
        start = min(round((TRAIN + GAP) * len(names)), len(names) - 1)
        return {"train": names[: max(1, end)], "val": names[start:]}
    found = {}
    for path in lists:
        words = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        if unknown := sorted(set(words) - set(names)):
            raise DataError(f"{path} names {unknown[0]}, which the COLMAP model does not hold")
        found[path.stem] = words
    return found


def _pose(place: str, quaternion: tuple[float, ...], translation: tuple[float, ...]) -> Tensor:
    """World from camera, of the quaternion w, x, y, z and the translation from the world to the camera."""
    numbers = torch.tensor([*quaternion, *translation], dtype=torch.float64)
    if not bool(numbers.isfinite().all()) or not abs(numbers[:4].norm().item() - 1) < 0.01:
        raise DataError(f"{place}: the pose is {numbers.tolist()}, expected a quaternion of the length 1 and 3 numbers")
    back = rotations(numbers[[1, 2, 3, 0]]).mT
    return rigid(back, -(back @ numbers[4:]))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not line.startswith("#"):
            yield number, line


def _text_images(path: Path) -> Iterator[ColmapImage]:
    lines = _lines(path)
    for number, line in lines:
        if not line.strip():
            continue
        words = line.split(maxsplit=9)
        try:
            numbers = tuple(float(word) for word in words[1:8])
            camera, name = int(words[8]), words[9].strip()
        except (ValueError, IndexError):
            raise DataError(
                f"{path}, line {number}: expected IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, then a line of points"
            ) from None
        yield ColmapImage(name, _pose(f"{path}, line {number}", numbers[:4], numbers[4:]), camera)
        next(lines, None)  # the points of the image, which may be none


def _text_cameras(path: Path) -> Iterator[tuple[int, str, tuple[float, ...]]]:
    counts = dict(MODELS)
    for number, line in _lines(path):
        if not line.strip():
            continue
        words = line.split()
        try:
            yield int(words[0]), words[1], tuple(float(word) for word in words[4 : 4 + counts[words[1]]])
        except (ValueError, IndexError, KeyError):
            raise DataError(f"{path}, line {number}: expected CAMERA_ID MODEL WIDTH HEIGHT and its numbers") from None


class _Bytes:
    """The numbers of a binary file, little-endian, one after another."""

    def __init__(self, path: Path) -> None:
        self.path, self.content, self.place = path, path.read_bytes(), 0

    def take(self, form: str) -> tuple[float, ...]:
        """The next numbers, by their letters in :mod:`struct`."""
        size = struct.calcsize("<" + form)
        self._check(size)
        found = struct.unpack_from("<" + form, self.content, self.place)
        self.place += size
        return found

    def skip(self, size: int) -> None:
        """Go on by a number of bytes."""
        self._check(size)
        self.place += size

    def text(self) -> str:
        """The next text, which ends with a byte 0."""
        end = self.content.find(b"\0", self.place, self.place + LONGEST)
        if end < 0:
            raise DataError(f"{self.path} is cut off or no COLMAP file: copy it again")
        found = self.content[self.place : end].decode("utf-8", errors="replace")
        self.place = end + 1
        return found

    def _check(self, size: int) -> None:
        if self.place + size > len(self.content):
            raise DataError(f"{self.path} is cut off or no COLMAP file: copy it again")


def _binary_images(path: Path) -> Iterator[ColmapImage]:
    file = _Bytes(path)
    for _ in range(int(file.take("Q")[0])):
        (number,) = file.take("I")
        numbers = file.take("7d")
        (camera,) = file.take("I")
        name = file.text()
        file.skip(24 * int(file.take("Q")[0]))  # x, y and the number of a point
        yield ColmapImage(name, _pose(f"{path}, image {number}", numbers[:4], numbers[4:]), int(camera))


def _binary_cameras(path: Path) -> Iterator[tuple[int, str, tuple[float, ...]]]:
    file = _Bytes(path)
    for _ in range(int(file.take("Q")[0])):
        number, model = file.take("Ii")
        file.skip(16)  # width and height
        if not 0 <= model < len(MODELS):
            raise DataError(f"{path} has a camera of the unknown model {model}: expected 0 to {len(MODELS) - 1}")
        name, count = MODELS[int(model)]
        yield int(number), name, file.take(f"{count}d")
