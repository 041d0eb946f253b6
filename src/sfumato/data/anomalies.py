"""Images of streets with objects of unknown kinds, marked pixel by pixel."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from torch.utils.data import Dataset

from sfumato.contracts import Sample, Task
from sfumato.data.frames import check_split
from sfumato.data.images import PICTURES, read_turned_image
from sfumato.data.target_files import read_labels
from sfumato.data.transforms import resize
from sfumato.errors import DataError, MissingFileError
from sfumato.targets import EntryKind, Mask

VOID, IDS = 255, 3  # 0 is known, 1 novel, and in RoadAnomaly 2 is novel
ENDINGS = ("_labels_semantic", "_labels", "")


class AnomalyTrack(Dataset[Sample]):
    """The layout of SegmentMeIfYouCan, which Fishyscapes is often copied to, and that of RoadAnomaly.

    Images are in ``images`` and their masks in ``labels_masks``, as NAME_labels_semantic.png, NAME_labels.png or
    NAME.png. Or images are in ``frames``, with the mask in ``frames/NAME.labels/labels_semantic.png``. A mask has 0 for
    what is known, 1 (or 2) for what is novel, and 255 for what is not scored. An image without a mask, such as those of
    the test sets, is left out.

    A sample holds ``name``, ``image`` (3, H, W) uint8, ``novel`` (H, W) bool and ``novel_valid`` (H, W) bool. There is
    no task: it is for ``sfumato evaluate --ood`` and ``sfumato decide flag --ood``.

    Args:
        root: The folder.
        split: ``val``. Default ``val``.
        size: (height, width) to resize to, pixels. None for the size of the files. Default None.

    Raises:
        ConfigError: If the split is unknown.
        MissingFileError: If the folders are missing.
        DataError: If no image has a mask, or a mask holds another number.

    Source: Chan et al. (2021), "SegmentMeIfYouCan"; Lis et al. (2019) for RoadAnomaly; Blum et al. (2021) for
    Fishyscapes.
    Pitfall: Scores of regions leave out those with few pixels, as the benchmark does for images of about 2 megapixels.
    """

    inputs: tuple[str, ...] = ("image",)
    tasks: ClassVar[Mapping[str, Task]] = {}
    splits: ClassVar[tuple[str, ...]] = ("val",)
    needs_root: ClassVar[bool] = True
    entries: ClassVar[Mapping[str, EntryKind]] = {"novel": Mask(), "novel_valid": Mask()}
    smallest_regions: ClassVar[tuple[int, int]] = (500, 100)  # found and true regions, pixels

    def __init__(self, root: str | Path, split: str = "val", size: tuple[int, int] | None = None) -> None:
        check_split(split, self.splits)
        root, self.size = Path(root), size
        folder = next((root / name for name in ("images", "frames") if (root / name).is_dir()), None)
        if folder is None:
            raise MissingFileError(f"{root} has neither a folder images nor a folder frames: check the path")
        files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix.lower() in PICTURES)
        self._pairs = [(path, mask) for path in files if (mask := _mask(path)) is not None]
        if not self._pairs:
            raise DataError(
                f"none of the {len(files)} images in {folder} has a mask, expected "
                "labels_masks/NAME_labels_semantic.png: check the path"
            )
        self.names = [image.stem for image, _ in self._pairs]

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Sample:
        path, mask = self._pairs[index]
        image, orientation = read_turned_image(path)
        ids, valid = read_labels(mask, IDS, VOID, image.shape[1:], orientation)
        sample: Sample = {"name": path.stem, "image": image, "novel": (ids > 0) & valid, "novel_valid": valid}
        return resize(sample, self.size, self.entries)

    def files(self, index: int) -> tuple[Path, ...]:
        """The image and its mask."""
        return self._pairs[index]


class ObstacleTrack(AnomalyTrack):
    """:class:`AnomalyTrack` with the smaller regions of the obstacle track of SegmentMeIfYouCan."""

    smallest_regions: ClassVar[tuple[int, int]] = (50, 10)


def _mask(image: Path) -> Path | None:
    places = [image.parent / f"{image.stem}.labels" / "labels_semantic.png"]
    places += [image.parent.parent / "labels_masks" / f"{image.stem}{ending}.png" for ending in ENDINGS]
    return next((place for place in places if place.is_file()), None)
