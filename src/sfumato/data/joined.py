"""Several data sets as one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from torch.utils.data import Dataset

from sfumato.contracts import Sample
from sfumato.data.views import Samples, files_of, names_of


class JoinedDataset(Dataset[Sample]):
    """The images of several data sets, one after another. Nothing else that they declare is kept.

    Args:
        parts: At least one data set.
    """

    def __init__(self, parts: Sequence[Samples]) -> None:
        self.parts, self._ends = tuple(parts), list(accumulate(map(len, parts)))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Sample:
        part, place = self._place(index)
        return part[place]

    @property
    def names(self) -> Sequence[str]:
        """Those of all parts."""
        return [name for part in self.parts for name in names_of(part)]

    def files(self, index: int) -> tuple[Path, ...]:
        """Those of one of the images."""
        return files_of(*self._place(index))

    def _place(self, index: int) -> tuple[Samples, int]:
        """The data set that holds an image, and its number there."""
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}: expected 0 to {len(self) - 1}")
        number = bisect_right(self._ends, index)
        part = self.parts[number]
        return part, index - self._ends[number] + len(part)
