"""NYUv2: 1,449 indoor images of a Kinect with 40 classes, instances and depth."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch.utils.data import Dataset

from sfumato.contracts import Sample
from sfumato.data.center_offsets import center_entries
from sfumato.data.colors import distinct
from sfumato.data.images import MAX_PIXELS, check_pixels
from sfumato.data.transforms import resize, tensor
from sfumato.errors import ConfigError, DataError, MissingDependencyError, MissingFileError
from sfumato.tasks import BaseTask, CenterOffsets, Depth, InverseDepth, Semantic

if TYPE_CHECKING:
    import h5py

FILE, SPLITS, MAPPING = "nyu_depth_v2_labeled.mat", "splits.mat", "classMapping40.mat"
FROM = {
    FILE: "http://horatio.cs.nyu.edu/mit/silberman/nyu_depth_v2/",
    SPLITS: "http://horatio.cs.nyu.edu/mit/silberman/indoor_seg_sup/",
    MAPPING: "https://github.com/ankurhanda/nyuv2-meta-data",
}
NATIVE = (480, 640)
STUFF = ("wall", "floor", "ceiling")
RANGE = Depth(0.5, 10.0)
# The color camera of the toolbox. Its pixels count from 1.
INTRINSICS = ((518.857901, 0, 324.582449), (0, 519.469611, 252.736166), (0, 0, 1))
MAPS = ("images", "depths", "labels", "instances")
INSTANCES = 256  # the file counts instances of each label in 8 bits, from 1


class NYUv2(Dataset[Sample]):
    """The labeled images of NYUv2, from the files of its authors: the 795 and 654 of the official split.

    A sample holds ``name``, the number of the image; ``image`` (3, H, W) uint8; ``depth`` (1, H, W) meters and
    ``inverse_depth`` (1, H, W) 1/m; their ``…_valid`` (H, W) bool; ``intrinsics`` (3, 3) px. With the mapping it also
    holds ``classes`` (H, W) int64 and ``classes_valid``; ``instances`` (H, W) int64, 0 where there is none;
    ``centers`` (2, H, W) px, from a pixel to the centroid of the visible part of its instance, where
    ``centers_valid``. Wall, floor and ceiling have no instances.

    Args:
        root: Folder that holds ``nyu_depth_v2_labeled.mat`` and ``splits.mat``; for classes also
            ``classMapping40.mat``, which maps each of the 894 labels to one of the 40 classes of Gupta et al.
        split: ``train`` or ``test``. ``val`` is another name of ``test``, because there are no other held-out images.
            Default ``train``.
        size: (height, width) to resize to, pixels. None for the 480 × 640 of the files. Default None.

    Raises:
        ConfigError: If the split is unknown.
        MissingFileError: If a file is missing.
        DataError: If a file is cut off or holds something else.
        MissingDependencyError: Without h5py and scipy.

    Source: Silberman et al. (2012), "Indoor segmentation and support inference"; Gupta et al. (2013), 40 classes.
    Pitfall: ``depths`` are filled in where the Kinect measured nothing, so every pixel counts as measured. The white
    frame around the pictures is part of them.
    """

    inputs: tuple[str, ...] = ("image",)

    splits: ClassVar[tuple[str, ...]] = ("train", "val", "test")
    needs_root: ClassVar[bool] = True

    def __init__(self, root: str | Path, split: str = "train", size: tuple[int, int] | None = None) -> None:
        if split not in self.splits:
            raise ConfigError(f"split is {split!r}, expected one of {list(self.splits)}")
        self.size, self._file = size, Path(root) / FILE
        self._numbers = _split(Path(root) / SPLITS, "train" if split == "train" else "test", _count(self._file))
        self.names = [f"{number:04d}" for number in self._numbers.tolist()]
        self.tasks: dict[str, BaseTask] = {"depth": RANGE, "inverse_depth": InverseDepth(1 / RANGE.minimum, "1/m")}
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

    def __getitem__(self, index: int) -> Sample:
        number = int(self._numbers[index])
        image, depth, labels, instances = _read(self._file, number - 1)
        valid = (depth >= RANGE.minimum) & (depth <= RANGE.maximum)
        sample: Sample = {
            "name": self.names[index],
            "image": torch.from_numpy(image),
            "depth": torch.from_numpy(np.where(valid, depth, np.float32(0)))[None],
            "depth_valid": torch.from_numpy(valid),
            "inverse_depth": torch.from_numpy(np.divide(1, depth, out=np.zeros_like(depth), where=valid))[None],
            "inverse_depth_valid": torch.from_numpy(valid),
            "intrinsics": torch.tensor(INTRINSICS),
        }
        if self._classes is None:
            return resize(sample, self.size)
        if labels.max() >= len(self._classes):
            raise DataError(f"{self._file} holds label {labels.max()}, but {MAPPING} ends at {len(self._classes) - 1}")
        classes = self._classes[labels]
        sample |= {"classes": torch.from_numpy(classes.clip(0)), "classes_valid": torch.from_numpy(classes >= 0)}
        things = (instances > 0) & np.isin(classes, self.things)
        ids = np.where(things, labels.astype(np.int64) * INSTANCES + instances, 0)
        sample["instances"] = torch.from_numpy(np.unique(np.append(0, ids), return_inverse=True)[1][1:]).view(ids.shape)
        sample = resize(sample, self.size)
        return sample | center_entries(tensor(sample, "instances"))

    def files(self, index: int) -> tuple[Path, ...]:
        """The one file of all images."""
        del index
        return (self._file,)


def _library(name: str) -> ModuleType:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        raise MissingDependencyError(
            f"NYUv2 is stored in MATLAB files, and {error}: pip install 'sfumato[data]' to read them"
        ) from error


def _download(path: Path) -> str:
    return f"download it again from {FROM[path.name]}"


def _count(path: Path) -> int:
    """The number of images. A file of another content is refused before any image is read."""
    with _opened(path) as file:
        shapes = {name: _map(file, name, path).shape for name in MAPS}
    size = shapes["depths"]
    if len(size) != 3 or shapes["images"] != (size[0], 3, *size[1:]) or len(set(map(shapes.get, MAPS[1:]))) > 1:
        expected = "images (N, 3, W, H) and the others (N, W, H)"
        raise DataError(f"{path} holds {shapes}, expected {expected}: {_download(path)}")
    check_pixels(path, size[2], size[1], MAX_PIXELS)
    return size[0]


def _opened(path: Path) -> h5py.File:
    _library("h5py")
    import h5py

    if not path.is_file():
        raise MissingFileError(
            f"{path} does not exist: download it from {FROM[FILE]} (2.8 GB), and name its folder with --root"
        )
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"{path} is not a whole MATLAB 7.3 file ({error}): {_download(path)}") from error


def _map(file: h5py.File, name: str, path: Path) -> h5py.Dataset:
    from h5py import Dataset as Array

    found = file.get(name)
    if not isinstance(found, Array):
        raise DataError(f"{path} lacks {name}: {_download(path)}")
    return found


def _read(path: Path, index: int) -> list[np.ndarray]:
    """Image (3, H, W), depth, labels and instances (H, W). MATLAB writes columns first."""
    with _opened(path) as file:  # opened for each image, because an open file cannot be shared with worker processes
        try:
            return [np.ascontiguousarray(np.asarray(_map(file, name, path)[index]).swapaxes(-1, -2)) for name in MAPS]
        except OSError as error:
            raise DataError(f"{path} cannot be read to its end ({error}): {_download(path)}") from error


def _variables(path: Path, *names: str) -> list[np.ndarray]:
    """Variables of an old MATLAB file."""
    loadmat = _library("scipy.io").loadmat
    if not path.is_file():
        raise MissingFileError(f"{path} does not exist: download it from {FROM[path.name]} and put it there")
    try:
        found = loadmat(path)
        return [found[name] for name in names]
    # The reader raises whatever went wrong inside it: ValueError, TypeError, zlib.error, NotImplementedError, …
    except Exception as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} does not hold {' and '.join(names)} ({reason}): {_download(path)}") from error


def _split(path: Path, split: str, count: int) -> np.ndarray:
    """The numbers of a split's images, from 1."""
    (numbers,) = _variables(path, f"{split}Ndxs")
    numbers = np.asarray(numbers).ravel()
    if numbers.dtype.kind not in "iuf" or not numbers.size or numbers.min() < 1 or numbers.max() > count:
        raise DataError(f"{path} names images other than 1 to {count}, which {FILE} holds: {_download(path)}")
    return numbers.astype(np.int64)


def _mapping(path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """The class of each label, counted from 0, −1 for none; and the names of the classes."""
    classes, names = _variables(path, "mapClass", "className")
    names = tuple(str(np.asarray(name).item()) for name in names.ravel())
    classes = np.asarray(classes).ravel().astype(np.int64)
    if not classes.size or classes.min() < 0 or classes.max() > len(names):
        most = classes.max(initial=0)
        raise DataError(f"{path} maps labels to classes up to {most} of {len(names)}: {_download(path)}")
    return np.append(0, classes) - 1, names
