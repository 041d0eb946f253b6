"""The loaders of a training: their order depends on the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import lightning as L
import torch
from torch.utils.data import DistributedSampler

from sfumato.data.loading import SampleLoader, loader
from sfumato.data.sizes import CroppedDataset, Region
from sfumato.data.views import DatasetView
from sfumato.targets import EntryKind


@dataclass(frozen=True)
class Reading:
    """How samples are read.

    Args:
        batch: Images per batch and device.
        region: What is cut from each training image before it is augmented.
        entries: The kind of each sample entry.
        seed: Seed of the order of training images.
        workers: Number of processes that read images; 0 reads them in this one.
    """

    batch: int
    region: Region
    entries: Mapping[str, EntryKind]
    seed: int = 0
    workers: int = 0


class EpochSampler(DistributedSampler[tuple[int, int]]):
    """Gives the number of an image with the epoch, on which the place of its crop depends."""

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((int(number), self.epoch) for number in super().__iter__())  # pyright: ignore[reportArgumentType] torch gives the numbers of samples


class TrainingData(L.LightningDataModule):
    """Training and validation images, shared among processes. No image is repeated to fill a batch.

    Args:
        train: Training images.
        val: Validation images; None for none.
        reading: How they are read.
    """

    def __init__(self, train: DatasetView, val: DatasetView | None, reading: Reading) -> None:
        super().__init__()
        self.train, self.val, self.reading = train, val, reading

    def _ranks(self) -> tuple[int, int]:
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)

    def _device(self) -> torch.device:
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")

    def train_dataloader(self) -> SampleLoader:
        """Batches in random order. The last one is left out if it is not full, unless it is the only one."""
        (world, rank), reading = self._ranks(), self.reading
        sampler = EpochSampler(self.train, world, rank, shuffle=True, seed=reading.seed)
        return loader(
            CroppedDataset(self.train, reading.region, reading.entries), reading.batch, sampler=sampler,
            drop_last=len(sampler) >= reading.batch, workers=reading.workers, seed=reading.seed, device=self._device(),
        )  # fmt: skip

    def val_dataloader(self) -> SampleLoader:
        """Every whole image once, each in one process, one after another because sizes may differ.

        On a CPU they are read in the main process: a pass takes much longer than reading, and a process more memory.
        """
        assert self.val is not None
        (world, rank), device = self._ranks(), self._device()
        share = DatasetView(self.val, range(rank, len(self.val), world))
        return loader(share, 1, workers=0 if device.type == "cpu" else self.reading.workers, device=device)
