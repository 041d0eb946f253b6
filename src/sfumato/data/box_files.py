"""Data sets with a text or XML file of boxes for each image: Pascal VOC, BCCD and YOLO."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar
from xml.etree import ElementTree

import torch
from torch import Tensor

from sfumato.data.box_sets import BoxSet
from sfumato.data.images import PICTURES
from sfumato.errors import DataError, MissingFileError
from sfumato.sections import read_yaml

LARGEST_FILE = 1 << 24  # bytes of the boxes of one image
EDGES = ("xmin", "ymin", "xmax", "ymax")


class PascalVOC(BoxSet):
    """Boxes in the XML format of Pascal VOC.

    ``ImageSets/Main/SPLIT.txt`` lists the names of a split, ``Annotations/NAME.xml`` has the boxes of an image, and
    ``JPEGImages/NAME.jpg`` (or another picture) is the image. Classes are the lines of ``classes.txt``, or without this
    file all names in ``Annotations``, sorted. ``xmin`` 1 is the first pixel, and ``xmax`` is the last pixel of the box.
    Objects that are marked as difficult are ignored in training and in scores.

    Args:
        root: Folder with ``Annotations``, ``ImageSets`` and ``JPEGImages``.
        split: ``train``, ``val``, ``trainval`` or ``test``. Default ``train``.
        size: As of :class:`~sfumato.data.COCO`.

    Raises:
        ConfigError: If the split is unknown.
        MissingFileError: If a file is missing.
        DataError: If a file cannot be read, a name occurs twice, or a class is unknown. The message names the file.

    Source: Everingham et al. (2010), "The Pascal visual object classes (VOC) challenge".
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "val", "trainval", "test")
    known_classes: ClassVar[tuple[str, ...]] = ()

    def __init__(self, root: str | Path, split: str = "train", size: tuple[int, int] | None = None) -> None:
        super().__init__(root, split, size)
        listing = self.root / "ImageSets" / "Main" / f"{split}.txt"
        names = [words[0] for line in _text(listing).splitlines() if (words := line.split())]
        if repeated := [name for i, name in enumerate(names) if name in names[:i]]:
            raise DataError(f"{listing} names {repeated[0]} twice: list each image once")
        self._files = [_present(self.root / "Annotations" / f"{name}.xml", self.root) for name in names]
        self._images = [_picture(self.root / "JPEGImages", name) for name in names]
        self.classes = self.known_classes or self._classes()

    def _classes(self) -> tuple[str, ...]:
        if (listing := self.root / "classes.txt").is_file():
            return _lines(listing)
        files = sorted((self.root / "Annotations").glob("*.xml"))
        return tuple(sorted({each.findtext("name", "") for file in files for each in _xml(file).iter("object")}))

    def files(self, index: int) -> tuple[Path, ...]:
        """The image and its annotations."""
        return self._images[index], self._files[index]

    def _boxes(self, index: int, size: tuple[int, int]) -> tuple[Tensor, str]:
        file = self._files[index]
        root = _xml(file)
        stated = [root.findtext(f"size/{name}") for name in ("height", "width")]
        if all(stated) and [_number(each, file) for each in stated] not in ([*size], [0, 0]):
            raise DataError(
                f"{file} is of an image of {' × '.join(map(str, stated))} pixels (height × width), but "
                f"{self._images[index]} has {size[0]} × {size[1]}"
            )
        rows = []
        for each in root.iter("object"):
            name = each.findtext("name", "")
            if name not in self.classes:
                raise DataError(f"{file} has the class {name!r}, expected one of {', '.join(self.classes)}")
            left, top, right, bottom = (_number(each.findtext(f"bndbox/{edge}"), file) for edge in EDGES)
            ignored = float(each.findtext("difficult", "0").strip() == "1")
            rows.append([left - 1, top - 1, right, bottom, float(self.classes.index(name)), ignored])
        return torch.tensor(rows, dtype=torch.float64), str(file)


class BCCD(PascalVOC):
    """Blood cells: 364 images of 480 × 640 pixels with red and white cells and platelets, in its own split.

    Files are those of :class:`PascalVOC`. Two platelets of the annotations have one pixel.

    Args:
        root: Folder of the data set, or its folder ``BCCD``.
        split: ``train`` (205 images), ``val`` (87), ``trainval`` or ``test`` (72). Default ``train``.
        size: As of :class:`~sfumato.data.COCO`.

    Raises:
        ConfigError: If the split is unknown.
        MissingFileError: If a file is missing.

    Source: Shenggan (2018), https://github.com/Shenggan/BCCD_Dataset, MIT license.
    Pitfall: Red cells at the border and below others are not always labeled.
    """

    known_classes: ClassVar[tuple[str, ...]] = ("RBC", "WBC", "Platelets")

    def __init__(self, root: str | Path, split: str = "train", size: tuple[int, int] | None = None) -> None:
        inner = Path(root) / "BCCD"
        super().__init__(inner if inner.is_dir() else root, split, size)


class YOLO(BoxSet):
    """Boxes in the text format of YOLO.

    ``images/SPLIT/NAME.jpg`` (or another picture) has the boxes ``labels/SPLIT/NAME.txt``, one in each line: class,
    center x, center y, width and height, as shares of the width and height of the image. An image without such a file
    has no boxes. Classes are the ``names`` of ``data.yaml``, or the lines of ``classes.txt``.

    Args:
        root: Folder with ``images``, ``labels`` and ``data.yaml``.
        split: ``train``, ``val`` or ``test``. Default ``train``.
        size: As of :class:`~sfumato.data.COCO`.

    Raises:
        ConfigError: If the split is unknown.
        MissingFileError: If a folder or the names are missing.
        DataError: If a file cannot be read, or a class is unknown. The message names the file and the line.

    Source: Redmon et al. (2016), "You only look once"; Jocher et al., Ultralytics, for the folders.
    """

    def __init__(self, root: str | Path, split: str = "train", size: tuple[int, int] | None = None) -> None:
        super().__init__(root, split, size)
        folder = self.root / "images" / split
        if not folder.is_dir():
            raise MissingFileError(f"{folder} does not exist: expected the images of the split")
        self._images = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
        if not self._images:
            raise DataError(f"{folder} holds no image")
        labels = self.root / "labels" / split
        if not labels.is_dir():
            raise MissingFileError(f"{labels} does not exist: expected the boxes of the split")
        self._files = [labels / f"{path.stem}.txt" for path in self._images]
        self.classes = _yolo_names(self.root)

    def files(self, index: int) -> tuple[Path, ...]:
        """The image and its boxes."""
        file = self._files[index]
        return (self._images[index], file) if file.is_file() else (self._images[index],)

    def _boxes(self, index: int, size: tuple[int, int]) -> tuple[Tensor, str]:
        file, rows = self._files[index], []
        lines = _text(file).splitlines() if file.is_file() else []
        for number, line in enumerate(lines, 1):
            if not (words := line.split()):
                continue
            where = f"{file}, line {number}"
            if len(words) != 5:
                raise DataError(f"{where}, holds {len(words)} numbers, expected class x y width height")
            kind, x, y, width, height = (_number(word, where) for word in words)
            if kind not in range(len(self.classes)):
                raise DataError(f"{where}, has the class {words[0]}, expected 0 to {len(self.classes) - 1}")
            left, top = (x - width / 2) * size[1], (y - height / 2) * size[0]
            rows.append([left, top, left + width * size[1], top + height * size[0], kind, 0.0])
        return torch.tensor(rows, dtype=torch.float64), str(file)


def _yolo_names(root: Path) -> tuple[str, ...]:
    if (listing := root / "classes.txt").is_file():
        return _lines(listing)
    file = root / "data.yaml"
    if not file.is_file():
        raise MissingFileError(f"{file} does not exist: expected the names of the classes, or classes.txt beside it")
    try:
        known = read_yaml(file)
    except ValueError as error:
        raise DataError(f"{file} cannot be read: {error}") from error
    names = known.get("names") if isinstance(known, dict) else None
    if isinstance(names, dict):
        names = [names[key] for key in sorted(names, key=int)]
    if not isinstance(names, list) or not names:
        raise DataError(f"{file} has no list `names`: expected the names of the classes")
    return tuple(str(name) for name in names)


def _present(file: Path, root: Path) -> Path:
    if not file.is_file():
        raise MissingFileError(f"{file} does not exist: every image of a split in {root} needs one")
    return file


def _picture(folder: Path, name: str) -> Path:
    for ending in (".jpg", *PICTURES):
        if (path := folder / f"{name}{ending}").is_file():
            return path
    raise MissingFileError(f"{folder} has no picture {name}.jpg (or {' '.join(PICTURES)})")


def _text(file: Path) -> str:
    if not file.is_file():
        raise MissingFileError(f"{file} does not exist")
    if file.stat().st_size > LARGEST_FILE:
        raise DataError(f"{file} has more than {LARGEST_FILE} bytes: it is no list of the boxes of an image")
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is no text in UTF-8: {error}") from error


def _lines(file: Path) -> tuple[str, ...]:
    return tuple(line.strip() for line in _text(file).splitlines() if line.strip())


def _xml(file: Path) -> ElementTree.Element:
    text = _text(file)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:  # entities can make a short file stand for gigabytes
        raise DataError(f"{file} declares a document type, which annotations do not need: take it away")
    try:
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f"{file} cannot be read as XML: {error}") from error


def _number(text: str | None, where: object) -> float:
    try:
        return float(text or "")
    except ValueError:
        raise DataError(f"{where} has {text!r} where a number is expected") from None
