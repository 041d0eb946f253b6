"""A folder of images without labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch.utils.data import Dataset

from sfumato.contracts import Sample, Task
from sfumato.data.images import MAX_PIXELS, PICTURES, read_image
from sfumato.errors import MissingFileError


class Pictures(Dataset[Sample]):
    """All images in a folder and the folders below it, without labels. It has no splits.

    A sample holds ``name``, the path below the folder without its ending, and ``image`` (3, H, W) uint8 (float32 in
    [0, 1] from 16-bit and float files).

    Args:
        root: The folder.
        max_pixels: The largest number of pixels of an image. Default 64 million.

    Raises:
        MissingFileError: If there is no such folder, or no image in it.
    """

    inputs: tuple[str, ...] = ("image",)

    def __init__(self, root: str | Path, max_pixels: int = MAX_PIXELS) -> None:
        root = Path(root)
        self._files = [p for p in sorted(root.rglob("*")) if p.suffix.lower() in PICTURES and p.is_file()]
        if not self._files:
            raise MissingFileError(f"{root} holds no image: expected a folder of {' '.join(PICTURES)}")
        self.names = [str(path.relative_to(root).with_suffix("")) for path in self._files]
        self.tasks: Mapping[str, Task] = {}
        self.max_pixels = max_pixels

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Sample:
        return {"name": self.names[index], "image": read_image(self._files[index], self.max_pixels)}

    def files(self, index: int) -> tuple[Path, ...]:
        """The image."""
        return (self._files[index],)
