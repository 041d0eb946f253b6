"""A user's own folder of images and targets, described by a few lines of YAML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch.utils.data import Dataset

from sfumato.contracts import Sample
from sfumato.data.colors import distinct
from sfumato.data.images import read_turned_image
from sfumato.data.pairs import pairs
from sfumato.data.target_files import read_depth, read_labels
from sfumato.data.transforms import resize
from sfumato.errors import ConfigError, DataError, MissingFileError
from sfumato.sections import read_yaml
from sfumato.tasks import Depth, Semantic

FILE = "sfumato.yaml"
KEYS = ("splits", "classes", "colors", "void", "depth")


class Folder(Dataset[Sample]):
    """Images with label PNGs, or with 16-bit depth PNGs, described by ``sfumato.yaml`` beside them.

    For classes::

        splits:
          train: {images: train/images, labels: train/labels}
          val: {images: val/images, labels: val/labels}
        classes: [road, car, other]      # of ids 0, 1, 2; of 1, 2, 3 where void is 0
        colors: [[128, 64, 128], [0, 0, 142], [90, 90, 90]]     # optional
        void: 255                        # optional: the id of pixels without a class

    For depth::

        splits:
          train: {images: train/images, depth: train/depth}
          val: {images: val/images, depth: val/depth}
        depth: {unit: 0.001, minimum: 0.3, maximum: 10}

    ``unit`` is the meters that a stored 1 stands for (0.001: millimeters). A stored 0 is missing, and so are depths
    outside ``minimum`` and ``maximum`` (meters). Both may be given at once. An image belongs to the label and the
    depth of the same file stem: ``train/images/a.jpg`` to ``train/labels/a.png``.

    A sample holds ``name``, ``image`` (3, H, W) uint8 (float32 in [0, 1] from 16-bit and float files), and as described
    ``classes`` (H, W) int64 with ``classes_valid`` (H, W) bool, ``depth`` (1, H, W) meters with ``depth_valid`` (H, W)
    bool.

    Args:
        root: The folder that holds ``sfumato.yaml``, or the path of such a file under another name.
        split: One of the splits described. Default ``train``.
        size: (height, width) to resize to, pixels. None for the size of the files. Default None.

    Raises:
        ConfigError: If the split is unknown.
        MissingFileError: If the description, a folder, a label or a depth is missing.
        DataError: If the description cannot be read, or a folder is empty.
    """

    inputs: tuple[str, ...] = ("image",)

    def __init__(self, root: str | Path, split: str = "train", size: tuple[int, int] | None = None) -> None:
        root = Path(root)
        file = root if root.suffix in (".yaml", ".yml") else root / FILE
        self._described, self.size = _read(file), size
        self.splits = tuple(self._described.splits)
        self.tasks: dict[str, Semantic | Depth] = self._described.tasks
        if split not in self._described.splits:
            raise ConfigError(f"split is {split!r}, but {file} has {list(self._described.splits)}")
        folders = self._described.splits[split]
        images = file.parent / folders["images"]
        found = {kind: pairs(images, file.parent / folders[kind]) for kind in folders if kind != "images"}
        self._images = [image for image, _ in next(iter(found.values()))]
        self.names = [path.stem for path in self._images]
        self._targets = {kind: [target for _, target in paired] for kind, paired in found.items()}

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        path = self._images[index]
        image, orientation = read_turned_image(path)
        sample: Sample = {"name": path.stem, "image": image}
        known, shape = self._described, image.shape[1:]
        if known.semantic:
            label = self._targets["labels"][index]
            classes = read_labels(label, len(known.semantic.names), known.void, shape, orientation)
            sample["classes"], sample["classes_valid"] = classes
        if known.depth:
            target = self._targets["depth"][index]
            depth = read_depth(target, known.unit, known.depth.minimum, known.depth.maximum, shape, orientation)
            sample["depth"], sample["depth_valid"] = depth
        return resize(sample, self.size)

    def files(self, index: int) -> tuple[Path, ...]:
        """The image and its targets."""
        return self._images[index], *(paths[index] for paths in self._targets.values())


@dataclass(frozen=True)
class _Description:
    """The content of ``sfumato.yaml``."""

    splits: dict[str, dict[str, str]]
    semantic: Semantic | None
    void: int | None
    depth: Depth | None
    unit: float

    @property
    def tasks(self) -> dict[str, Semantic | Depth]:
        return {task.key: task for task in (self.semantic, self.depth) if task is not None}


def _read(file: Path) -> _Description:
    """The description. Every error is one line that begins with the path of the file."""
    if not file.is_file():
        raise MissingFileError(f"{file} does not exist: describe your folder in it, as help(sfumato.data.Folder) shows")
    try:
        return _described(read_yaml(file))
    except (TypeError, ValueError) as error:
        raise DataError(f"{file}: {' '.join(str(error).split())}") from error


def _described(entries: object) -> _Description:
    if not isinstance(entries, dict) or not entries.keys() <= set(KEYS):
        got = sorted(map(str, entries)) if isinstance(entries, dict) else type(entries).__name__
        raise DataError(f"has {got}, expected the entries splits, classes (with colors and void) or depth")
    semantic, void = _semantic(entries), entries.get("void")
    if void is not None and (type(void) is not int or semantic is None or 0 < void < len(semantic.names)):
        raise DataError(f"void is {void!r}, expected the number of a label id that is none of the classes")
    depth, unit = _depth(entries["depth"]) if "depth" in entries else (None, 0.0)
    kinds = ["images", *(["labels"] if semantic else []), *(["depth"] if depth else [])]
    if len(kinds) == 1:
        raise DataError("names neither classes nor depth: add `classes: [road, car]` or `depth: {unit: 0.001, ...}`")
    return _Description(_splits(entries.get("splits"), kinds), semantic, void, depth, unit)


def _splits(splits: object, kinds: list[str]) -> dict[str, dict[str, str]]:
    folders = "{" + ", ".join(f"{kind}: FOLDER" for kind in kinds) + "}"
    if not isinstance(splits, dict) or not splits:
        raise DataError(f"splits is {splits!r}, expected `splits: {{train: {folders}}}`")
    for name, split in splits.items():
        if (
            not isinstance(split, dict)
            or set(split) != set(kinds)
            or not all(isinstance(v, str) for v in split.values())
        ):
            raise DataError(f"split {name} is {split!r}, expected {folders}")
    return {str(name): split for name, split in splits.items()}


def _semantic(entries: Mapping[str, object]) -> Semantic | None:
    if "classes" not in entries:
        return None
    names = entries["classes"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(
            f"classes is {names!r}, expected a list of names in the order of their ids ('no', 'on': quoted)"
        )
    if len(names) < 2 or len(set(names)) < len(names):
        raise DataError(f"classes is {names}, expected at least two, each named once")
    colors = entries.get("colors", [list(color) for color in distinct(len(names))])
    if not isinstance(colors, list) or len(colors) != len(names) or not all(map(_is_color, colors)):
        raise DataError(f"colors is {colors}, expected {len(names)} of [red, green, blue] from 0 to 255, one a class")
    return Semantic(tuple(names), tuple((c[0], c[1], c[2]) for c in colors))


def _is_color(color: object) -> bool:
    return isinstance(color, list | tuple) and len(color) == 3 and all(v in range(256) for v in color)


def _depth(entry: object) -> tuple[Depth, float]:
    expected = "{unit: 0.001, minimum: 0.3, maximum: 10}, all in meters"
    if not isinstance(entry, dict) or set(entry) != {"unit", "minimum", "maximum"}:
        raise DataError(f"depth is {entry!r}, expected {expected}")
    unit, minimum, maximum = (float(entry[key]) for key in ("unit", "minimum", "maximum"))  # YAML reads 1e-3 as text
    if not unit > 0:
        raise DataError(f"depth has unit {unit}, expected the meters that a stored 1 stands for, as in 0.001")
    return Depth(minimum, maximum), unit
