"""NYUv2: 1,449 rooms seen by a Kinect, 40 classes, instances, depth."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import Dataset

from sfumato.data.center_offsets import centers
from sfumato.data.colors import distinct
from sfumato.data.images import resized
from sfumato.tasks import CenterOffsets, Depth, InverseDepth, Semantic

FILE, SPLITS, MAPPING = "nyu_depth_v2_labeled.mat", "splits.mat", "classMapping40.mat"
FROM = {
    FILE: "http://horatio.cs.nyu.edu/mit/silberman/nyu_depth_v2/",
    SPLITS: "http://horatio.cs.nyu.edu/mit/silberman/indoor_seg_sup/",
    MAPPING: "https://github.com/ankurhanda/nyuv2-meta-data",
}
NATIVE = (480, 640)
STUFF = ("wall", "floor", "ceiling")
RANGE = Depth(0.5, 10.0)
# The color camera of the toolbox, whose pixels count from 1.
INTRINSICS = ((518.857901, 0, 324.582449), (0, 519.469611, 252.736166), (0, 0, 1))
MAPS = ("images", "depths", "labels", "instances")
INSTANCES = 256  # the file counts them in 8 bits, from 1 for every label anew


class NYUv2(Dataset[dict[str, Any]]):
    """The labeled images of NYUv2, from the files that its authors give: the 795 and 654 of the official split.

    Args:
        root: holds ``nyu_depth_v2_labeled.mat`` and ``splits.mat``; for classes also ``classMapping40.mat``, which
            says to which of the 40 classes of Gupta et al. each of the 894 labels belongs.
        split: ``train``, or ``test``, which is called ``val`` too: there are no other held-out images.
        size: (height, width) to resize to, pixels; None for the files' own 480 × 640.

    A sample holds ``name``, the number of the image; ``image`` (3, H, W) in [0, 1]; ``depth`` (1, H, W) meters and
    ``inverse_depth`` (1, H, W) 1/m; their ``…_valid`` (H, W) bool; ``intrinsics`` (3, 3) px. With the mapping also
    ``classes`` (H, W) int64 and ``classes_valid``; ``instances`` (H, W) int64, 0 where none; ``centers`` (2, H, W) px
    from a pixel to the centroid of what is seen of its instance, where ``centers_valid``. Wall, floor and ceiling are
    no things.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: for an unknown split, a file cut off or of another kind, or without h5py and scipy.

    Source: Silberman et al. (2012), "Indoor segmentation and support inference"; Gupta et al. (2013), 40 classes.
    Pitfall: ``depths`` are filled in where the Kinect saw nothing, so every pixel counts as measured; the white frame
    around the pictures is part of them.
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "val", "test")

    def __init__(self, root: str | Path, split: str = "train", size: tuple[int, int] | None = None) -> None:
        if split not in self.splits:
            raise ValueError(f"split is {split!r}, expected one of {list(self.splits)}")
        self.size, self._file = size, Path(root) / FILE
        self._numbers = _split(Path(root) / SPLITS, "train" if split == "train" else "test", _count(self._file))
        self.tasks: dict[str, Any] = {"depth": RANGE, "inverse_depth": InverseDepth(1 / RANGE.minimum, "1/m")}
        self.things: tuple[int, ...] = ()
        self._classes: np.ndarray | None = None
        if (Path(root) / MAPPING).exists():
            self._classes, names = _mapping(Path(root) / MAPPING)
            colors = tuple((r, g, b) for r, g, b in distinct(len(names)))
            self.tasks = {
                "classes": Semantic(names, colors),
                **self.tasks,
                "centers": CenterOffsets((size or NATIVE)[1] / 6),
            }
            self.things = tuple(i for i, name in enumerate(names) if name not in STUFF)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number = int(self._numbers[index])
        image, depth, labels, instances = _read(self._file, number - 1)
        valid = (depth >= RANGE.minimum) & (depth <= RANGE.maximum)
        sample: dict[str, Any] = {
            "name": f"{number:04d}",
            "image": torch.from_numpy(image).float().div_(255),
            "depth": torch.from_numpy(np.where(valid, depth, np.float32(0)))[None],
            "depth_valid": torch.from_numpy(valid),
            "inverse_depth": torch.from_numpy(np.divide(1, depth, out=np.zeros_like(depth), where=valid))[None],
            "inverse_depth_valid": torch.from_numpy(valid),
            "intrinsics": torch.tensor(INTRINSICS),
        }
        if self._classes is None:
            return resized(sample, self.size)
        if labels.max() >= len(self._classes):
            raise ValueError(f"{self._file} holds label {labels.max()}, but {MAPPING} ends at {len(self._classes) - 1}")
        classes = self._classes[labels]
        sample |= {"classes": torch.from_numpy(classes.clip(0)), "classes_valid": torch.from_numpy(classes >= 0)}
        things = (instances > 0) & np.isin(classes, self.things)
        ids = np.where(things, labels.astype(np.int64) * INSTANCES + instances, 0)
        sample["instances"] = torch.from_numpy(np.unique(np.append(0, ids), return_inverse=True)[1][1:]).view(ids.shape)
        sample = resized(sample, self.size)
        sample["centers"] = torch.from_numpy(centers(sample["instances"].numpy()))
        return sample | {"centers_valid": sample["instances"] > 0}


def _library(name: str) -> ModuleType:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        raise ValueError(
            f"NYUv2 lies in MATLAB files, and {error}: pip install 'sfumato[data]' to read them"
        ) from error


def _anew(path: Path) -> str:
    return f"download it anew from {FROM[path.name]}"


def _count(path: Path) -> int:
    """How many images there are; refuses a file that is not what it should be before any is read."""
    with _opened(path) as file:
        missing = [name for name in MAPS if name not in file]
        if missing:
            raise ValueError(f"{path} lacks {', '.join(missing)}: {_anew(path)}")
        shapes = {name: file[name].shape for name in MAPS}
    size = shapes["depths"]
    if len(size) != 3 or shapes["images"] != (size[0], 3, *size[1:]) or len(set(map(shapes.get, MAPS[1:]))) > 1:
        raise ValueError(f"{path} holds {shapes}, expected images (N, 3, W, H) and the others (N, W, H): {_anew(path)}")
    return size[0]


def _opened(path: Path) -> Any:
    h5py = _library("h5py")
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: download it from {FROM[FILE]} (2.8 GB), and say where with --root"
        )
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path} is not a whole MATLAB 7.3 file ({error}): {_anew(path)}") from error


def _read(path: Path, index: int) -> list[np.ndarray]:
    """Image (3, H, W), depth, labels and instances (H, W); MATLAB writes columns first."""
    with _opened(path) as file:  # for each image anew: what is open cannot be shared with worker processes
        try:
            return [np.ascontiguousarray(np.asarray(file[name][index]).swapaxes(-1, -2)) for name in MAPS]
        except OSError as error:
            raise ValueError(f"{path} cannot be read to its end ({error}): {_anew(path)}") from error


def _entries(path: Path, *names: str) -> list[Any]:
    """Variables of an old MATLAB file."""
    loadmat = _library("scipy.io").loadmat
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: download it from {FROM[path.name]} and put it there")
    try:
        found = loadmat(path)
        return [found[name] for name in names]
    # The reader raises whatever went wrong deep inside it: ValueError, TypeError, zlib.error, NotImplementedError, …
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} does not hold {' and '.join(names)} ({reason}): {_anew(path)}") from error


def _split(path: Path, split: str, count: int) -> np.ndarray:
    """The numbers of a split's images, from 1."""
    (numbers,) = _entries(path, f"{split}Ndxs")
    numbers = np.asarray(numbers).ravel()
    if numbers.dtype.kind not in "iuf" or not numbers.size or numbers.min() < 1 or numbers.max() > count:
        raise ValueError(f"{path} names images other than 1 to {count}, which {FILE} holds: {_anew(path)}")
    return numbers.astype(np.int64)


def _mapping(path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """Of each label, from 0, the class, −1 for none; and the names of the classes."""
    classes, names = _entries(path, "mapClass", "className")
    names = tuple(str(np.asarray(name).item()) for name in names.ravel())
    classes = np.asarray(classes).ravel().astype(np.int64)
    if not classes.size or classes.min() < 0 or classes.max() > len(names):
        raise ValueError(f"{path} maps labels to classes up to {classes.max(initial=0)} of {len(names)}: {_anew(path)}")
    return np.append(0, classes) - 1, names
