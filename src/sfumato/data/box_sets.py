"""Data sets of boxes: what they share, and COCO."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from sfumato.contracts import Sample
from sfumato.data.box_maps import box_entries
from sfumato.data.images import read_image
from sfumato.data.transforms import resize
from sfumato.errors import ConfigError, DataError, MissingFileError
from sfumato.tasks import BaseTask, BoxObjects, EdgeDistances

LARGEST_JSON = 1 << 30  # bytes; the annotations of COCO have 4.5e8
REACH = 50.0  # px, for pictures


class BoxSet(Dataset[Sample]):
    """Images with boxes. A subclass finds the files and reads the boxes of one image.

    A sample holds ``name``, ``image`` (3, H, W) uint8, and the entries of :func:`~sfumato.data.box_maps.box_entries`:
    ``boxes`` (N, 6), ``objects`` (H, W) and ``distances`` (4, H, W) with their masks. An image without boxes is a
    sample like any other.

    Args:
        root: Folder of the data.
        split: One of ``splits``. Default ``train``.
        size: (height, width) to resize to, pixels. None for the size of the files. Default None.

    Raises:
        ConfigError: If the split is unknown.
    """

    inputs: tuple[str, ...] = ("image",)
    splits: ClassVar[tuple[str, ...]] = ("train", "val", "test")
    needs_root: ClassVar[bool] = True

    def __init__(self, root: str | Path, split: str = "train", size: tuple[int, int] | None = None) -> None:
        if split not in self.splits:
            raise ConfigError(f"split is {split!r}, expected one of {', '.join(self.splits)}")
        self.root, self.split, self.size = Path(root), split, size
        self.classes: tuple[str, ...] = ()
        self._images: list[Path] = []

    @property
    def tasks(self) -> dict[str, BaseTask]:
        """``objects`` and ``distances``, which together are the task ``boxes``."""
        return {"objects": BoxObjects.of(self.classes), "distances": EdgeDistances(REACH)}

    @property
    def names(self) -> list[str]:
        """The stems of the files, with their folders where stems are not unique."""
        stems = [path.stem for path in self._images]
        return stems if len(set(stems)) == len(stems) else [str(path.with_suffix("")) for path in self._images]

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        path = self._images[index]
        image = read_image(path)
        size = int(image.shape[1]), int(image.shape[2])
        boxes, where = self._boxes(index, size)
        found = box_entries(boxes, size, f"{where}: ")
        return resize({"name": self.names[index], "image": image, **found}, self.size)

    def files(self, index: int) -> tuple[Path, ...]:
        """The image."""
        return (self._images[index],)

    def _boxes(self, index: int, size: tuple[int, int]) -> tuple[Tensor, str]:
        """The boxes (N, 6) of an image of this height and width, and the file that they are from."""
        raise NotImplementedError


class COCO(BoxSet):
    """Boxes in the JSON format of COCO.

    The annotations of a split are ``annotations/instances_SPLIT*.json`` (as ``instances_train2017.json``),
    ``annotations/SPLIT.json`` or ``SPLIT/_annotations.coco.json``. Images lie beside the annotations, or in the root,
    ``images``, or a folder named after the split in one of the two. Classes are the categories in the order of their
    ids. A crowd (``iscrowd``) is ignored in training and in scores.

    Args:
        root: Folder of the data.
        split: ``train``, ``val`` or ``test``. Default ``train``.
        size: As of :class:`BoxSet`.

    Raises:
        ConfigError: If the split is unknown.
        MissingFileError: If there are no annotations, or an image is missing.
        DataError: If the annotations cannot be read, an id occurs twice, or a category or an image is unknown. The
            message names the file and the annotation.

    Source: Lin et al. (2014), "Microsoft COCO: common objects in context".
    """

    def __init__(self, root: str | Path, split: str = "train", size: tuple[int, int] | None = None) -> None:
        super().__init__(root, split, size)
        self.file = _annotations(self.root, split)
        known = _read(self.file)
        categories = _by_id(known["categories"], "category", self.file)
        images = _by_id(known["images"], "image", self.file)
        order = sorted(categories)
        self.classes = tuple(str(categories[each].get("name", each)) for each in order)
        places = _folders(self.root, split, self.file)
        self._images = [_image(str(each.get("file_name", "")), places, self.file) for each in images.values()]
        self._found = _grouped(known["annotations"], images, {each: i for i, each in enumerate(order)}, self.file)

    def _boxes(self, index: int, size: tuple[int, int]) -> tuple[Tensor, str]:
        return torch.tensor(self._found[index], dtype=torch.float64), f"{self.file}, image {self._images[index].name}"


def _annotations(root: Path, split: str) -> Path:
    """The file with the annotations of a split."""
    patterns = (f"annotations/instances_{split}*.json", f"annotations/{split}.json", f"{split}/_annotations.coco.json")
    found = [path for pattern in patterns for path in sorted(root.glob(pattern))]
    if not found:
        raise MissingFileError(f"{root} has none of {', '.join(patterns)}: expected annotations in the format of COCO")
    if len(found) > 1:
        raise DataError(f"{root} has {found[0].name} and {found[1].name} for the split {split}: take one away")
    return found[0]


def _read(file: Path) -> dict[str, list[dict[str, Any]]]:
    if file.stat().st_size > LARGEST_JSON:
        raise DataError(f"{file} has more than {LARGEST_JSON} bytes: divide it")
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} cannot be read as JSON: {error}") from error
    wanted = ("images", "annotations", "categories")
    if not isinstance(known, dict) or not all(isinstance(known.get(key), list) for key in wanted):
        raise DataError(f"{file} holds no lists {', '.join(wanted)}: expected the format of COCO")
    if not all(isinstance(each, dict) for key in wanted for each in known[key]):
        raise DataError(f"{file} holds an entry that is no object: expected the format of COCO")
    return known


def _by_id(entries: Iterable[dict[str, Any]], kind: str, file: Path) -> dict[int, dict[str, Any]]:
    """Entries by their ids, each of which occurs once."""
    found: dict[int, dict[str, Any]] = {}
    for each in entries:
        number = each.get("id")
        if not isinstance(number, int):
            raise DataError(f"{file}: the {kind} {str(each)[:60]} has no whole number as its id")
        if number in found:
            raise DataError(f"{file}: the {kind} id {number} occurs twice: give each its own")
        found[number] = each
    return found


def _folders(root: Path, split: str, file: Path) -> list[Path]:
    """The folders in which images may lie."""
    named = [path for base in (root, root / "images") for path in sorted(base.glob(f"{split}*")) if path.is_dir()]
    return [file.parent, root, root / "images", *named]


def _image(name: str, folders: Sequence[Path], file: Path) -> Path:
    for folder in folders:
        if name and (folder / name).is_file() and ".." not in Path(name).parts:
            return folder / name
    raise MissingFileError(f"{file} names the image {name!r}, which is in none of {', '.join(map(str, folders))}")


def _grouped(
    annotations: Iterable[dict[str, Any]], images: Mapping[int, object], classes: Mapping[int, int], file: Path
) -> list[list[list[float]]]:
    """The boxes of each image, in the order of the images."""
    found: dict[int, list[list[float]]] = {number: [] for number in images}
    for number, each in _by_id(annotations, "annotation", file).items():
        where = f"{file}: annotation {number}"
        if each.get("image_id") not in found:
            raise DataError(f"{where} is of the image {each.get('image_id')!r}, which is not among the images")
        if each.get("category_id") not in classes:
            raise DataError(
                f"{where} has the category {each.get('category_id')!r}, expected one of {sorted(classes)[:20]}"
            )
        box = each.get("bbox")
        if not (isinstance(box, list) and len(box) == 4 and all(isinstance(n, int | float) for n in box)):
            raise DataError(f"{where} has the bbox {box!r}, expected [x, y, width, height] in pixels")
        left, top, width, height = map(float, box)
        crowd = float(bool(each.get("iscrowd", 0)))
        found[each["image_id"]].append(
            [left, top, left + width, top + height, float(classes[each["category_id"]]), crowd]
        )
    return list(found.values())
