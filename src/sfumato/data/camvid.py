"""CamVid: street scenes in 11 classes."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from torch.utils.data import Dataset

from sfumato.contracts import Sample
from sfumato.data.images import read_turned_image
from sfumato.data.pairs import pairs
from sfumato.data.target_files import read_labels
from sfumato.data.transforms import resize
from sfumato.errors import ConfigError
from sfumato.tasks import Semantic

CLASSES = {
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "pavement": (60, 40, 222),
    "tree": (128, 128, 0),
    "sign": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}
VOID = 11


class CamVid(Dataset[Sample]):
    """CamVid with the 11 classes, the colors and the folders of the SegNet tutorial.

    A sample holds ``name``, ``image`` (3, H, W) uint8, ``classes`` (H, W) int64 and ``classes_valid`` (H, W) bool,
    which is False where the file says void (11).

    Args:
        root: Folder that holds ``train``, ``trainannot``, ``val``, ``valannot`` (and ``test``, ``testannot``).
        split: ``train``, ``val`` or ``test``. Default ``train``.
        size: (height, width) to resize to, pixels. None for the 360 × 480 of the files. Default None.

    Raises:
        ConfigError: If the split is unknown.
        MissingFileError: If a folder or a label is missing.
        DataError: If a folder is empty.

    Source: Brostow, Fauqueur and Cipolla (2009); Badrinarayanan, Kendall and Cipolla (2017) for the 11 classes.
    Pitfall: The frames of four videos follow each other at intervals of a second, so neighbors are not independent.
    """

    inputs: tuple[str, ...] = ("image",)

    tasks: ClassVar[dict[str, Semantic]] = {"classes": Semantic(tuple(CLASSES), tuple(CLASSES.values()))}
    splits: ClassVar[tuple[str, ...]] = ("train", "val", "test")
    needs_root: ClassVar[bool] = True

    def __init__(self, root: str | Path, split: str = "train", size: tuple[int, int] | None = None) -> None:
        if split not in self.splits:
            raise ConfigError(f"split is {split!r}, expected one of {list(self.splits)}")
        self.size = size
        self._pairs = pairs(Path(root) / split, Path(root) / f"{split}annot")
        self.names = [image.stem for image, _ in self._pairs]

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Sample:
        path, label = self._pairs[index]
        image, orientation = read_turned_image(path)
        classes, valid = read_labels(label, len(CLASSES), VOID, image.shape[1:], orientation)
        sample: Sample = {"name": path.stem, "image": image, "classes": classes, "classes_valid": valid}
        return resize(sample, self.size)

    def files(self, index: int) -> tuple[Path, ...]:
        """The image and its label."""
        return self._pairs[index]
