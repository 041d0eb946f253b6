"""Read ``sfumato.yaml``, the description of a user's own folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sfumato.data.cameras import Camera
from sfumato.data.colors import distinct
from sfumato.data.images import MAX_PIXELS
from sfumato.data.pairs import Rows, find_rows, listed_rows
from sfumato.data.target_files import Color, Void
from sfumato.errors import DataError, MissingFileError
from sfumato.sections import read_yaml
from sfumato.tasks import BaseTask, Depth, Disparity, Flow, Semantic

KEYS = ("splits", "classes", "colors", "void", "depth", "disparity", "flow", "camera", "folds", "max_megapixels")
VIEWS = {"right": "disparity", "next": "flow"}
"""The other pictures of a sample, and the target that relates each of them to the image."""
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
    """What depth files mean: the task, and the meters that a stored 1 stands for; 0 for depth from disparity."""

    task: Depth
    unit: float


@dataclass(frozen=True)
class Disparities:
    """What disparity files mean: the task, and the pixels that a stored 1 stands for; 0 for what is usual."""

    task: Disparity
    unit: float


@dataclass(frozen=True)
class Description:
    """The content of ``sfumato.yaml``.

    Args:
        file: Where it was read.
        splits: The places of the files of each split.
        labels: What label files mean. None without classes.
        depth: What depth files mean. None without depth.
        disparity: What disparity files mean. None without stereo pairs.
        flow: The task of optical flow. None without it.
        camera: The camera. None if it is not known.
        folds: Number of folds that ``train`` is divided into; 0 for none.
        max_pixels: The largest number of pixels of a file.
    """

    file: Path
    splits: dict[str, Places]
    labels: Labels | None
    depth: Depths | None
    disparity: Disparities | None
    flow: Flow | None
    camera: Camera | None
    folds: int
    max_pixels: int

    @property
    def tasks(self) -> dict[str, BaseTask]:
        """What can be predicted, by the key of the target."""
        found = [each.task for each in (self.labels, self.depth, self.disparity) if each is not None]
        return {task.key: task for task in (*found, self.flow) if task is not None}

    @property
    def kinds(self) -> list[str]:
        """The kinds of files beside the images, in the order of lists."""
        depth = self.depth is not None and self.depth.unit > 0
        found = [*(["labels"] if self.labels else []), *(["depth"] if depth else [])]
        described = {"disparity": self.disparity, "flow": self.flow}
        return found + [kind for view, key in VIEWS.items() if described[key] is not None for kind in (view, key)]

    def rows(self, split: str) -> Rows:
        """The files of a split.

        Raises:
            MissingFileError: If a folder or a list does not exist.
            DataError: If a place holds no usable file.
        """
        places, base = self.splits[split], self.file.parent
        if isinstance(places, str):
            return listed_rows(base, places, self.kinds)
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
            f"has {got}, expected the entries splits, classes (with colors and void), depth, disparity, flow, camera, "
            "folds, max_megapixels"
        )
    labels = _labels(entries)
    disparity = _disparity(entries["disparity"]) if "disparity" in entries else None
    flow = Flow(_number("flow", entries["flow"], "reach", "{reach: 20}")) if "flow" in entries else None
    camera = _camera(entries["camera"]) if "camera" in entries else None
    depth = _depth(entries["depth"], disparity is not None, camera) if "depth" in entries else None
    if not labels and entries.get("void") is not None:
        raise DataError("has void without classes: name them, as in `classes: [road, car]`")
    if not (labels or depth or disparity or flow):
        raise DataError(
            "names neither classes nor depth, disparity or flow: add `classes: [road, car]`, `depth: {unit: 0.001, "
            "...}`, `disparity: {maximum: 64}` or `flow: {reach: 20}`"
        )
    most = entries.get("max_megapixels", MAX_PIXELS / 1e6)
    if isinstance(most, bool) or not isinstance(most, int | float) or not 0 < most < 1e6:
        raise DataError(f"max_megapixels is {most!r}, expected a number of million pixels, such as 64")
    found = Description(file, {}, labels, depth, disparity, flow, camera, 0, int(most * 1e6))
    splits = _splits(entries.get("splits"), found.kinds)
    return replace(found, splits=splits, folds=_folds(entries.get("folds", 0), splits))


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
    missing = {"images", *kinds} - {*given, *VIEWS.values()}  # pairs without a target may be trained on too
    twice = len(set(given)) < len(given)
    known = {"images", *kinds, "next"}  # later frames beside classes or depth, for agreement between frames
    if missing or twice or not known.issuperset(given) or not all(found.values()):
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


def _number(name: str, entry: object, key: str, expected: str) -> float:
    if not isinstance(entry, dict) or set(entry) != {key}:
        raise DataError(f"{name} is {entry!r}, expected {expected}")
    return float(entry[key])


def _disparity(entry: object) -> Disparities:
    expected = "{maximum: 64} in pixels, and a unit if a stored 1 stands for another number of pixels"
    if not isinstance(entry, dict) or not {"maximum"} <= set(entry) <= {"maximum", "unit"}:
        raise DataError(f"disparity is {entry!r}, expected {expected}")
    unit = float(entry.get("unit", 0))
    if not 0 <= unit < float("inf") or ("unit" in entry and unit == 0):
        raise DataError(f"disparity has unit {unit}, expected the pixels that a stored 1 stands for, as in 0.25")
    return Disparities(Disparity(float(entry["maximum"])), unit)


def _camera(entry: object) -> Camera:
    expected = "{focal: 721.5, center: [609.6, 172.9], baseline: 0.54}, in pixels and meters, baseline only of pairs"
    if not isinstance(entry, dict) or not {"focal", "center"} <= set(entry) <= {"focal", "center", "baseline"}:
        raise DataError(f"camera is {entry!r}, expected {expected}")
    center = entry["center"]
    if not isinstance(center, list) or len(center) != 2:
        raise DataError(f"camera has center {center!r}, expected {expected}")
    focal, x, y, baseline = (float(number) for number in (entry["focal"], *center, entry.get("baseline", 0)))
    if not (0 < focal < float("inf") and 0 <= baseline < float("inf")):
        raise DataError(f"camera has focal {focal:g} and baseline {baseline:g}, expected numbers above 0")
    return Camera(np.array([[focal, 0, x], [0, focal, y], [0, 0, 1]]), baseline)


def _depth(entry: object, pairs: bool, camera: Camera | None) -> Depths:
    expected = "{unit: 0.001, minimum: 0.3, maximum: 10}, all in meters"
    if not isinstance(entry, dict) or not {"minimum", "maximum"} <= set(entry) <= {"unit", "minimum", "maximum"}:
        raise DataError(f"depth is {entry!r}, expected {expected}")
    minimum, maximum = (float(entry[key]) for key in ("minimum", "maximum"))  # YAML reads 1e-3 as text
    if "unit" not in entry:
        if not pairs or camera is None or not camera.baseline > 0:
            raise DataError(
                f"depth is {entry!r} without unit, so it follows from disparity: that needs `disparity` and `camera: "
                "{focal: 721.5, center: [609.6, 172.9], baseline: 0.54}`. Of depth files, give the unit"
            )
        return Depths(Depth(minimum, maximum), 0.0)
    unit = float(entry["unit"])
    if not unit > 0:
        raise DataError(f"depth has unit {unit}, expected the meters that a stored 1 stands for, as in 0.001")
    return Depths(Depth(minimum, maximum), unit)
