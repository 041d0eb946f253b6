"""What training does around its steps: averaged weights, the steps of a method, whole checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, compress
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, WeightAveraging
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from sfumato.errors import RunError
from sfumato.storage import atomic_write
from sfumato.training.module import TrainingModule


class EMA(WeightAveraging):
    """Exponentially averaged weights, which are validated and stored in place of the last ones.

    The decay at step n is ``min(decay, (1 + n) / (10 + n))``: an average with a fixed decay would still hold the random
    first weights at the end of a short training.

    Args:
        decay: The largest decay per step, in [0, 1).
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay, self._count = decay, 0
        self._pairs: tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]] | None = None

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Called by Lightning. Tensors are looked up once an epoch: on a GPU that takes longer than averaging them."""
        assert self._average_model is not None
        self._count = int(self._average_model.n_averaged)
        averaged, current = (
            [tensor.detach() for tensor in chain(module.parameters(), module.buffers())]
            for module in (self._average_model.module, pl_module)
        )
        floating = [tensor.is_floating_point() for tensor in averaged]
        whole = [not each for each in floating]
        self._pairs = (
            list(compress(averaged, floating)), list(compress(current, floating)),
            list(compress(averaged, whole)), list(compress(current, whole)),
        )  # fmt: skip

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Called by Lightning after each step. Whole numbers, such as counters of steps, are copied."""
        if trainer.global_step <= self._latest_update_step:
            return
        assert self._average_model is not None
        assert self._pairs is not None
        averaged, current, counters, latest = self._pairs
        decay = warmed_decay(self.decay, self._count) if self._count else 0.0
        if averaged:
            torch._foreach_lerp_(averaged, current, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
        if counters:
            torch._foreach_copy_(counters, latest)  # pyright: ignore[reportPrivateImportUsage]
        self._count += 1
        self._average_model.n_averaged += 1
        self._latest_update_step = trainer.global_step


def warmed_decay(decay: float, step: int) -> float:
    """``min(decay, (1 + n) / (10 + n))`` for step n.

    >>> warmed_decay(0.99, 0), warmed_decay(0.99, 10_000)
    (0.1, 0.99)
    """
    return min(decay, (1 + step) / (10 + step))


class AfterSteps(Callback):
    """Does after each step what the training of a method says.

    Args:
        after: The method's function, called with (network, step, steps, members, keep).
        members: Number of members.
        keep: Stores the present weights as those of a member.
    """

    def __init__(self, after: Callable[..., None], members: int, keep: Callable[[int], None]) -> None:
        self.after, self.members, self.keep, self._done = after, members, keep, 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Called by Lightning before the first step, also of a resumed training."""
        assert isinstance(pl_module, TrainingModule)
        self._done = pl_module.schedule_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Called by Lightning after each step."""
        assert isinstance(pl_module, TrainingModule)
        steps = int(trainer.estimated_stepping_batches)
        for step in range(self._done + 1, pl_module.schedule_step + 1):  # a limit of time leaves steps out
            self.after(pl_module.network, step, steps, self.members, self.keep)
        self._done = pl_module.schedule_step


class WholeFiles(TorchCheckpointIO):
    """Checkpoints that are written beside their place and renamed, so that a kill leaves the last whole one."""

    def save_checkpoint(self, checkpoint: dict[str, object], path: str | Path, storage_options: object = None) -> None:
        """Called by Lightning to write a checkpoint."""
        with atomic_write(path) as part:
            super().save_checkpoint(checkpoint, part, storage_options)

    def load_checkpoint(
        self, path: str | Path, map_location: object = None, weights_only: bool | None = True
    ) -> dict[str, object]:
        """Called by Lightning to read a checkpoint. It is read as tensors and numbers only, so that it runs no code."""
        try:
            found = super().load_checkpoint(path, map_location, weights_only=True)  # pyright: ignore[reportArgumentType] # None is allowed, Lightning's annotation lacks it
        except OSError:
            raise
        except Exception as error:  # bytes that are no checkpoint make torch fail in any way
            raise RunError(
                f"{path} is cut off or no checkpoint ({type(error).__name__}): delete it and fit again with --resume"
            ) from error
        if not isinstance(found, dict) or not {"state_dict", "epoch", "global_step"} <= found.keys():
            raise RunError(f"{path} is no checkpoint of a training: delete it and fit again with --resume")
        return found


def checkpoint_path(folder: Path, member: int) -> Path:
    """The file with the state of an unfinished training of a member."""
    return folder / f"member-{member}.ckpt"
