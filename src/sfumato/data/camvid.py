"""CamVid: driving through Cambridge, 11 classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from torch.utils.data import Dataset

from sfumato.data.images import read_image, read_labels, resized
from sfumato.data.pairs import pairs
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


class CamVid(Dataset[dict[str, Any]]):
    """CamVid in the 11 classes, the colors and the folders of the SegNet tutorial.

    Args:
        root: holds ``train``, ``trainannot``, ``val``, ``valannot`` (and ``test``, ``testannot``).
        split: ``train``, ``val`` or ``test``.
        size: (height, width) to resize to, pixels; None for the files' own 360 × 480.

    A sample holds ``name``, ``image`` (3, H, W) in [0, 1], ``classes`` (H, W) int64 and ``classes_valid`` (H, W) bool,
    False where the file says void (11).

    Raises:
        FileNotFoundError: if a folder or a label is missing.
        ValueError: for an unknown split or an empty folder.

    Source: Brostow, Fauqueur and Cipolla (2009); Badrinarayanan, Kendall and Cipolla (2017) for the 11 classes.
    Pitfall: frames are consecutive in four videos, one second apart; neighbors are not independent.
    """

    tasks: ClassVar[dict[str, Semantic]] = {"classes": Semantic(tuple(CLASSES), tuple(CLASSES.values()))}
    splits: ClassVar[tuple[str, ...]] = ("train", "val", "test")

    def __init__(self, root: str | Path, split: str = "train", size: tuple[int, int] | None = None) -> None:
        if split not in self.splits:
            raise ValueError(f"split is {split!r}, expected one of {list(self.splits)}")
        self.size = size
        self._pairs = pairs(Path(root) / split, Path(root) / f"{split}annot")

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path, label = self._pairs[index]
        image = read_image(path)
        classes, valid = read_labels(label, len(CLASSES), VOID, image.shape[1:])
        sample = {"name": path.stem, "image": image, "classes": classes, "classes_valid": valid}
        return resized(sample, self.size)
