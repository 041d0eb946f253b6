"""One LightningModule for all tasks, and what training needs around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Subset

from sfumato.contracts import Likelihood, Task
from sfumato.data.augmentation import Augmentation
from sfumato.methods import Deterministic
from sfumato.predictions import predict
from sfumato.predictions.store import whole
from sfumato.training.plan import Plan


class Learner(L.LightningModule):
    """Maximum a-posteriori training of one network under one likelihood.

    Args:
        network: takes images (B, 3, H, W) in [0, 1].
        likelihood: its ``nll`` is the loss, averaged over valid pixels.
        task: names the target and scores the validation images.
        plan: schedule, augmentation, seed.
        seed: of this member; the plan's seed plus the member's number.
    """

    def __init__(self, network: nn.Module, likelihood: Likelihood, task: Task, plan: Plan, seed: int) -> None:
        super().__init__()
        self.network = network
        self.likelihood, self.task, self.plan, self.seed = likelihood, task, plan, seed
        self.augment = Augmentation(crop=plan.crop, scale=plan.scale, flip=True, colour=plan.colour)
        self.scores: Any = None  # made for each validation, so that the averaged copy of this module carries none

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # A step's randomness depends on its number alone: a resumed run then equals an uninterrupted one.
        torch.manual_seed(self.seed + 1_000_003 * (self.global_step + 1) + 7919 * self.global_rank)

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        batch = self.augment(batch)
        loss = self._nll(batch)
        self.log("train_nll", loss.detach(), prog_bar=True, on_step=False, on_epoch=True)
        return loss

    def _nll(self, batch: dict[str, Tensor]) -> Tensor:
        valid = batch[self.task.key + "_valid"]
        nll = self.likelihood.nll(self.network(batch["image"]).float(), batch[self.task.key], valid)
        return nll.sum() / valid.sum().clamp_min(1)

    def on_validation_epoch_start(self) -> None:
        self.scores = self.task.scores().to(self.device)

    def validation_step(self, batch: dict[str, Tensor]) -> None:
        prediction = predict(Deterministic(self.network), batch["image"], likelihood=self.likelihood)
        self.scores.update(prediction, batch[self.task.key], batch[self.task.key + "_valid"])

    def on_validation_epoch_end(self) -> None:
        headline = list(self.scores.compute().items())[:3]
        self.log_dict({f"val_{name}": float(value) for name, value in headline}, prog_bar=True, rank_zero_only=True)
        self.scores = None

    def configure_optimizers(self) -> Any:
        weights = [p for p in self.parameters() if p.requires_grad]
        decayed = [p for p in weights if p.ndim > 1]  # biases and normalisations are not regularised
        groups = [
            {"params": decayed, "weight_decay": self.plan.weight_decay},
            {"params": [p for p in weights if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimiser = torch.optim.AdamW(groups, lr=self.plan.learning_rate)
        steps = int(self.trainer.estimated_stepping_batches)
        cycle = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, self.plan.learning_rate, total_steps=max(steps, 2), pct_start=0.15
        )
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}


class Images(L.LightningDataModule):
    """Loaders whose order depends on the seed and the epoch alone, and which never repeat an image to fill a batch."""

    def __init__(self, train: Dataset | None, val: Dataset | None, batch: int, seed: int) -> None:
        super().__init__()
        self.train, self.val, self.batch, self.seed = train, val, batch, seed

    def _ranks(self) -> tuple[int, int]:
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)

    def train_dataloader(self) -> DataLoader:
        assert self.train is not None
        world, rank = self._ranks()
        sampler = DistributedSampler(self.train, world, rank, shuffle=True, seed=self.seed)
        whole = len(sampler) >= self.batch
        return DataLoader(self.train, self.batch, sampler=sampler, drop_last=whole)

    def _scored(self) -> DataLoader:
        assert self.val is not None
        world, rank = self._ranks()
        share = Subset(self.val, range(rank, len(self.val), world))  # pyright: ignore[reportArgumentType]
        return DataLoader(share, self.batch)

    def val_dataloader(self) -> DataLoader:
        return self._scored()

    def test_dataloader(self) -> DataLoader:
        return self._scored()


class WholeFiles(TorchCheckpointIO):
    """Checkpoints that are written beside and renamed, so a kill leaves the last whole one; read as tensors only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with whole(path) as part:
            super().save_checkpoint(checkpoint, part, storage_options)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        try:
            return super().load_checkpoint(path, map_location, weights_only=True)
        except (RuntimeError, EOFError) as error:
            raise ValueError(f"{path} is cut off ({error}): delete it and fit again") from error

    @staticmethod
    def path(folder: Path, member: int) -> Path:
        """Where the checkpoint of a member lies."""
        return folder / f"member-{member}.ckpt"
