"""Samples at the size that a network sees, and random crops of samples of any size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.contracts import Sample
from sfumato.data.transforms import known_entries, map_size, resize
from sfumato.data.views import DatasetView, Samples, entries_of
from sfumato.targets import EntryKind, Mask, Size, Warp, scaled_size

Place = int | tuple[int, int]
"""The number of an image; with the epoch, on which the place of a crop depends."""


class ScaledDataset(DatasetView):
    """A data set whose samples are resized by two factors, whatever their sizes.

    Args:
        whole: The data set.
        factors: The new size divided by the old one: for heights and for widths, each > 0.
    """

    def __init__(self, whole: Samples, factors: tuple[float, float]) -> None:
        super().__init__(whole)
        self.factors, self._kinds = factors, entries_of(whole)

    def __getitem__(self, index: int) -> Sample:
        return scaled(self.whole[index], self.factors, self._kinds)


def scaled(sample: Sample, factors: tuple[float, float], entries: Mapping[str, EntryKind]) -> Sample:
    """A sample that is resized by factors for height and width. Entries without a kind are left out if it changes."""
    tensors, kinds = known_entries(sample, entries)
    if factors == (1.0, 1.0) or not any(kind.is_map for kind in kinds.values()):
        return sample
    height, width = map_size(tensors, kinds)
    return resize(sample, scaled_size((height, width), factors), entries)


def at_factors(dataset: Samples, factors: tuple[float, float]) -> Samples:
    """The data set with resized samples; the data set itself where both factors are 1."""
    return dataset if factors == (1.0, 1.0) else ScaledDataset(dataset, factors)


@dataclass(frozen=True)
class Region:
    """What is cut from an image before it is augmented.

    Args:
        size: Height and width, pixels.
        seed: Seed of its places.
    """

    size: Size
    seed: int = 0

    @classmethod
    def of(cls, crop: Size, smallest_zoom: float, first: Size, seed: int = 0) -> Region:
        """The smallest region that holds a crop at every zoom, and is nowhere larger than the first image.

        >>> Region.of((192, 256), 0.75, (360, 480)).size
        (256, 342)
        """
        height, width = (min(math.ceil(c / min(smallest_zoom, 1.0)), f) for c, f in zip(crop, first))
        return cls((height, width), seed)


class CroppedDataset(DatasetView):
    """A data set whose samples all have the size of a region, which lies at a random place of a larger image.

    A smaller image is continued by its mirror image, where its targets are not valid. The place depends on the seed,
    the epoch and the number of the image only, so it is the same in every process.

    Args:
        whole: The data set.
        region: What is cut.
        entries: The kind of each entry. An entry without a kind is kept as it is.
    """

    def __init__(self, whole: Samples, region: Region, entries: Mapping[str, EntryKind]) -> None:
        super().__init__(whole)
        self.region, self._kinds = region, dict(entries)

    def __getitem__(self, index: Place) -> Sample:
        number, epoch = index if isinstance(index, tuple) else (index, 0)
        sample = self.whole[number]
        tensors, kinds = known_entries(sample, self._kinds)
        old = map_size(tensors, kinds)
        if old == self.region.size:
            return sample
        # Multiplied by large primes, so that neighboring numbers and epochs give unlike generators.
        seed = self.region.seed * 1_000_003 + epoch * 15_485_863 + number * 32_452_843
        generator = torch.Generator().manual_seed(seed)
        starts = [
            int(torch.randint(max(0, have - wanted) + 1, (), generator=generator))
            for have, wanted in zip(old, self.region.size, strict=True)
        ]
        return {**sample, **{key: self._cut(value, kinds[key], starts, old) for key, value in tensors.items()}}

    def _cut(self, value: Tensor, kind: EntryKind, starts: list[int], old: Size) -> Tensor:
        if not kind.is_map:
            matrix = torch.tensor([[[1.0, 0.0, -starts[1]], [0.0, 1.0, -starts[0]]]])
            return kind.warp(value[None], Warp(matrix, torch.ones(1), torch.ones(1), old, self.region.size))[0]
        ends = [start + wanted for start, wanted in zip(starts, self.region.size, strict=True)]
        if ends[0] <= old[0] and ends[1] <= old[1]:  # a slice is many times as fast
            return value[..., starts[0] : ends[0], starts[1] : ends[1]].contiguous()
        rows, columns = (torch.arange(start, end) for start, end in zip(starts, ends, strict=True))
        found = value[..., _mirrored(rows, old[0])[:, None], _mirrored(columns, old[1])]
        if isinstance(kind, Mask):
            found = found & (rows < old[0])[:, None] & (columns < old[1])
        return found


def _mirrored(places: Tensor, size: int) -> Tensor:
    """Places beyond the end of an axis, continued by its mirror image."""
    within = places % (2 * size)
    return torch.minimum(within, 2 * size - 1 - within)
