"""Read ``sfumato.yaml``, the description of a user's own folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sfumato.data.colors import distinct
from sfumato.data.images import MAX_PIXELS
from sfumato.data.pairs import Rows, find_rows, listed_rows
from sfumato.data.target_files import Color, Void
from sfumato.errors import DataError, MissingFileError
from sfumato.sections import read_yaml
from sfumato.tasks import Depth, Semantic

KEYS = ("splits", "classes", "colors", "void", "depth", "folds", "max_megapixels")
Places = str | dict[str, tuple[str, ...]]
"""A text file that lists files, or for each kind of file its folders or patterns."""


@dataclass(frozen=True)
class Labels:
    """What label files mean.

    Args:
        task: The names and the colors of the classes.
        ids: The class of each id in label files with one channel.
        colors: The class of each color in label files with three channels. None if no colors are described.
        void: The id or the color of pixels without a class. None for none.
    """

    task: Semantic
    ids: dict[int, int]
    colors: dict[Color, int] | None
    void: Void


@dataclass(frozen=True)
class Depths:
    """What depth files mean: the task, and the meters that a stored 1 stands for."""

    task: Depth
    unit: float


@dataclass(frozen=True)
class Description:
    """The content of ``sfumato.yaml``.

    Args:
        file: Where it was read.
        splits: The places of the files of each split.
        labels: What label files mean. None without classes.
        depth: What depth files mean. None without depth.
        folds: Number of folds that ``train`` is divided into; 0 for none.
        max_pixels: The largest number of pixels of a file.
    """

    file: Path
    splits: dict[str, Places]
    labels: Labels | None
    depth: Depths | None
    folds: int
    max_pixels: int

    @property
    def tasks(self) -> dict[str, Semantic | Depth]:
        """What can be predicted, by the key of the target."""
        return {each.task.key: each.task for each in (self.labels, self.depth) if each is not None}

    def rows(self, split: str) -> Rows:
        """The files of a split.

        Raises:
            MissingFileError: If a folder or a list does not exist.
            DataError: If a place holds no usable file.
        """
        places, base = self.splits[split], self.file.parent
        if isinstance(places, str):
            return listed_rows(base, places, _kinds(self.labels, self.depth))
        return find_rows(base, places["images"][0], {kind: found for kind, found in places.items() if kind != "images"})


def read_description(file: Path) -> Description:
    """The description in a file.

    Raises:
        MissingFileError: If there is no such file.
        DataError: If it cannot be understood. The message is one line that begins with the path of the file.
    """
    if not file.exists():
        raise MissingFileError(f"{file} does not exist: describe your folder in it, as help(sfumato.data.Folder) shows")
    try:
        return _described(file, read_yaml(file))
    except (TypeError, ValueError) as error:
        raise DataError(f"{file}: {' '.join(str(error).split())}") from error


def _described(file: Path, entries: object) -> Description:
    if not isinstance(entries, dict) or not entries.keys() <= set(KEYS):
        got = sorted(map(str, entries)) if isinstance(entries, dict) else type(entries).__name__
        raise DataError(
            f"has {got}, expected the entries splits, classes (with colors and void), depth, folds, max_megapixels"
        )
    labels, depth = _labels(entries), _depth(entries["depth"]) if "depth" in entries else None
    if not labels and entries.get("void") is not None:
        raise DataError("has void without classes: name them, as in `classes: [road, car]`")
    if not (labels or depth):
        raise DataError("names neither classes nor depth: add `classes: [road, car]` or `depth: {unit: 0.001, ...}`")
    splits = _splits(entries.get("splits"), _kinds(labels, depth))
    most = entries.get("max_megapixels", MAX_PIXELS / 1e6)
    if isinstance(most, bool) or not isinstance(most, int | float) or not 0 < most < 1e6:
        raise DataError(f"max_megapixels is {most!r}, expected a number of million pixels, such as 64")
    return Description(file, splits, labels, depth, _folds(entries.get("folds", 0), splits), int(most * 1e6))


def _kinds(labels: Labels | None, depth: Depths | None) -> list[str]:
    return [*(["labels"] if labels else []), *(["depth"] if depth else [])]


def _splits(splits: object, kinds: list[str]) -> dict[str, Places]:
    expected = "{images: FOLDER, " + ", ".join(f"{kind}: FOLDER" for kind in kinds) + "}"
    if not isinstance(splits, dict) or not splits:
        raise DataError(f"splits is {splits!r}, expected `splits: {{train: {expected}}}`")
    return {str(name): _places(str(name), split, kinds, expected) for name, split in splits.items()}


def _places(name: str, split: object, kinds: list[str], expected: str) -> Places:
    if isinstance(split, str) and split.endswith(".txt"):
        return split
    entries = split if isinstance(split, dict) else {}
    found = {str(kind): _texts(places, several=kind == "labels") for kind, places in entries.items()}
    given = ["labels" if kind == "probabilities" else kind for kind in found if kind != "mask"]
    if sorted(given) != sorted(["images", *kinds]) or not all(found.values()):
        raise DataError(f"split {name} is {split!r}, expected {expected}, with a mask if there is one, or a .txt")
    return found


def _texts(places: object, several: bool) -> tuple[str, ...]:
    """One or several texts. None at all where something else is found."""
    listed = places if several and isinstance(places, list) else [places]
    texts = tuple(place for place in listed if isinstance(place, str) and place)
    return texts if len(texts) == len(listed) else ()


def _folds(folds: object, splits: Mapping[str, Places]) -> int:
    if folds == 0:
        return 0
    if type(folds) is not int or folds < 2:
        raise DataError(f"folds is {folds!r}, expected a number of parts, at least 2")
    if "train" not in splits or "val" in splits:
        raise DataError("folds divides the split train, one fold of which is val: describe train, and leave val out")
    return folds


def _labels(entries: Mapping[str, object]) -> Labels | None:
    if "classes" not in entries:
        return None
    listed, void = entries["classes"], entries.get("void")
    names = list(listed.values()) if isinstance(listed, dict) else listed
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(
            f"classes is {listed!r}, expected a list of names in the order of their ids, or ids with names, as in "
            "{0: background, 255: vessel} ('no', 'on': quoted)"
        )
    if len(names) < 2 or len(set(names)) < len(names):
        raise DataError(f"classes is {names}, expected at least two, each named once")
    numbers = list(listed) if isinstance(listed, dict) else range(void == 0, len(names) + (void == 0))
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise DataError(
            f"classes has the ids {list(numbers)}, expected whole numbers, as in {{0: background, 255: vessel}}"
        )
    ids = {number: index for index, number in enumerate(numbers)}
    given = "colors" in entries
    colors = entries.get("colors", [list(color) for color in distinct(len(names))])
    if not isinstance(colors, list) or len(colors) != len(names) or not all(map(_is_color, colors)):
        raise DataError(f"colors is {colors}, expected {len(names)} of [red, green, blue] from 0 to 255, one a class")
    palette = tuple((c[0], c[1], c[2]) for c in colors)
    by_color = {color: index for index, color in enumerate(palette)} if given else None
    if by_color is not None and len(by_color) < len(names):
        raise DataError(f"colors is {colors}, expected each color once, because label files may hold them")
    return Labels(Semantic(tuple(names), palette), ids, by_color, _void(void, ids, by_color))


def _void(void: object, ids: Mapping[int, int], colors: Mapping[Color, int] | None) -> Void:
    if void is None or (type(void) is int and void not in ids):
        return void
    if isinstance(void, list) and _is_color(void) and (color := (void[0], void[1], void[2])) not in (colors or [color]):
        return color
    raise DataError(f"void is {void!r}, expected the number of a label id, or a color, that is none of the classes")


def _is_color(color: object) -> bool:
    return isinstance(color, list | tuple) and len(color) == 3 and all(type(v) is int and 0 <= v < 256 for v in color)


def _depth(entry: object) -> Depths:
    expected = "{unit: 0.001, minimum: 0.3, maximum: 10}, all in meters"
    if not isinstance(entry, dict) or set(entry) != {"unit", "minimum", "maximum"}:
        raise DataError(f"depth is {entry!r}, expected {expected}")
    unit, minimum, maximum = (float(entry[key]) for key in ("unit", "minimum", "maximum"))  # YAML reads 1e-3 as text
    if not unit > 0:
        raise DataError(f"depth has unit {unit}, expected the meters that a stored 1 stands for, as in 0.001")
    return Depths(Depth(minimum, maximum), unit)
