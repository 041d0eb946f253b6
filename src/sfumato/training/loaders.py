"""The loaders of a training: their order depends on the seed and the epoch alone."""

from __future__ import annotations

from dataclasses import dataclass

import lightning as L
import torch
from torch.utils.data import DistributedSampler

from sfumato.data.loading import SampleLoader, loader
from sfumato.data.views import DatasetView


@dataclass(frozen=True)
class Reading:
    """How samples are read.

    Args:
        batch: Images per batch and device.
        seed: Seed of the order of training images.
        workers: Number of processes that read images; 0 reads them in this one.
    """

    batch: int
    seed: int = 0
    workers: int = 0


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
        world, rank = self._ranks()
        sampler = DistributedSampler(self.train, world, rank, shuffle=True, seed=self.reading.seed)
        batch, whole = self.reading.batch, len(sampler) >= self.reading.batch
        return loader(
            self.train, batch, sampler=sampler, drop_last=whole, workers=self.reading.workers, seed=self.reading.seed,
            device=self._device(),
        )  # fmt: skip

    def val_dataloader(self) -> SampleLoader:
        """Batches of every image once, each in one process."""
        assert self.val is not None
        world, rank = self._ranks()
        share = DatasetView(self.val, range(rank, len(self.val), world))
        return loader(share, self.reading.batch, workers=self.reading.workers, device=self._device())
