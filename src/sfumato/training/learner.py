"""One LightningModule for all tasks, and what training needs around it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Subset

from sfumato.contracts import Likelihood, Task
from sfumato.data.augmentation import Augmentation
from sfumato.methods import Deterministic
from sfumato.predictions import predict
from sfumato.storage import atomic_write
from sfumato.training.plan import Plan
from sfumato.training.questions import objective
from sfumato.training.recipes import METHODS


class Learner(L.LightningModule):
    """Maximum a-posteriori training of one network under one likelihood.

    Args:
        network: takes images (B, 3, H, W) in [0, 1].
        likelihood: its ``nll`` is the loss, averaged over valid pixels; of several tasks as the plan weighs them.
        task: names the target and scores the validation images.
        plan: schedule, augmentation, seed.
        seed: of this member; the plan's seed plus the member's number.
        batch_transform: what is done to every augmented batch; None for nothing.
    """

    def __init__(
        self, network: nn.Module, likelihood: Likelihood, task: Task, plan: Plan, seed: int, batch_transform: Any = None
    ) -> None:
        super().__init__()
        self.batch_transform = batch_transform
        self.network = network
        self.likelihood, self.task, self.plan, self.seed = likelihood, task, plan, seed
        self.recipe = METHODS[plan.method]
        # What only remembers is the same in every process: it need not be sent around before every step.
        self._ddp_params_and_buffers_to_ignore = [name for name, _ in self.named_buffers() if ".swag_state." in name]
        self.objective = objective(plan, likelihood)
        self.augment = Augmentation(crop=plan.crop, scale=plan.scale, flip=True, color=plan.color)
        self.scores: Any = None  # made for each validation, so that the averaged copy of this module carries none

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # A step's randomness depends on its number alone: a resumed run then equals an uninterrupted one.
        torch.manual_seed(self.seed + 1_000_003 * (self.global_step + 1) + 7919 * self.global_rank)

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        batch = self.augment(batch)
        batch = batch if self.batch_transform is None else self.batch_transform(batch)
        loss, weights = self.objective(self.network(batch["image"]).float(), *self.task.target_and_mask(batch))
        self.log("train_nll", loss.detach(), prog_bar=True, on_step=False, on_epoch=True)
        self.log_dict({f"weight_{name}": weight for name, weight in weights.items()}, on_step=False, on_epoch=True)
        if self.recipe.penalty is None:
            return loss
        return loss + self.recipe.penalty(self.network) / self.plan.pixels

    @torch.no_grad()
    def inputs(self, batches: Iterable[dict[str, Any]]) -> Iterator[tuple[Tensor]]:
        """What the network is given for these batches, augmented, as in a step of training before the first."""
        torch.manual_seed(self.seed)
        for batch in batches:
            tensors = {key: value.to(self.device) for key, value in batch.items() if isinstance(value, Tensor)}
            yield (self.augment(tensors)["image"],)

    def on_train_epoch_end(self) -> None:
        self.objective.end_epoch()

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        # A task without a target in this batch: momentum would move its noise all the same.
        for noise in self._noises():
            if noise.grad is not None and not noise.grad.any():
                noise.grad = None

    def _noises(self) -> list[nn.Parameter]:
        """The log-variances of tasks, wherever they are learned."""
        return [p for name, p in self.named_parameters() if "log_variances." in name]

    def on_validation_epoch_start(self) -> None:
        self.scores = {name: task.scores().to(self.device) for name, task in self.task.parts.items()}

    def validation_step(self, batch: dict[str, Tensor]) -> None:
        method = self.recipe((self.network,), 1) if self.recipe.shared else Deterministic(self.network)
        prediction: Any = predict(method, batch["image"], likelihood=self.likelihood)
        for name, task in self.task.parts.items():
            found = prediction if task is self.task else prediction[name]
            self.scores[name].update(found, *task.target_and_mask(batch))

    def on_validation_epoch_end(self) -> None:
        for name, task in self.task.parts.items():
            label, most = ("val", 3) if task is self.task else (f"val_{name}", 1)
            found = self.scores[name].compute()
            headline = {f"{label}_{score}": float(found[score]) for score in self.scores[name].headline[:most]}
            self.log_dict(headline, prog_bar=True, rank_zero_only=True)
        self.scores = None

    def configure_optimizers(self) -> Any:
        homoscedastic_tasks = self._noises()
        groups: list[dict[str, Any]] = [
            # A penalty is the prior's own; decay on top would count it twice.
            {"params": [], "weight_decay": self.plan.weight_decay if self.recipe.penalty is None else 0.0},
            {"params": [], "weight_decay": 0.0},  # biases, normalizations, and factors of members, which lie about 1
        ]
        for name, p in self.named_parameters():
            if p.requires_grad and not any(p is noise for noise in homoscedastic_tasks):
                groups[p.ndim <= 1 or ".rank_one." in name]["params"].append(p)
        if homoscedastic_tasks:
            # A step of Adam is as long as its rate, and a log-variance may have several units to go.
            groups.append({"params": homoscedastic_tasks, "weight_decay": 0.0, "lr": 10 * self.plan.learning_rate})
        optimizer = torch.optim.AdamW(groups, lr=self.plan.learning_rate)
        rates = [group["lr"] for group in optimizer.param_groups]
        steps = int(self.trainer.estimated_stepping_batches)
        if (rate := self.recipe.rate) is None:
            cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=max(steps, 2), pct_start=0.15)
        else:  # asked once more after the last step
            cycle = torch.optim.lr_scheduler.LambdaLR(
                optimizer, lambda step: rate(min(step, steps - 1), steps, self.plan.members)
            )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}


class AfterSteps(Callback):
    """Does after each step what a method's recipe says."""

    def __init__(self, after: Callable[..., None], members: int, keep: Callable[[int], None]) -> None:
        self.after, self.members, self.keep = after, members, keep

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        steps = int(trainer.estimated_stepping_batches)
        self.after(pl_module.network, trainer.global_step, steps, self.members, self.keep)


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
        with atomic_write(path) as part:
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
