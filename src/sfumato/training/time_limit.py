"""Training that ends after a time, with a schedule that ends with it."""

from __future__ import annotations

import time

import lightning as L
from lightning.pytorch.callbacks import Callback

from sfumato.training.module import TrainingModule


class TimeLimit(Callback):
    """Ends the training of a network after a time. The last validation comes afterwards.

    It tells the module which share of the time has passed, and the schedule of the learning rate goes on to that share
    of its steps. All processes use the clock of the first. A resumed training has the time that was left.

    Args:
        seconds: The time, above 0.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds, self._before, self._started = seconds, 0.0, 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._started = time.monotonic()
        self._tell(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Look at the clock after each step."""
        self._tell(trainer, pl_module)

    def _tell(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        assert isinstance(module, TrainingModule)
        passed = self._before + time.monotonic() - self._started
        module.time_share = float(trainer.strategy.broadcast(min(1.0, passed / self.seconds)))
        if module.time_share == 1:
            trainer.should_stop = True
            trainer.check_val_every_n_epoch = 1  # this epoch is the last one, and the last one is always validated

    def state_dict(self) -> dict[str, float]:
        """The seconds that have passed, for the checkpoint."""
        return {"passed": self._before + time.monotonic() - self._started}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """The seconds that had passed at the checkpoint."""
        self._before = float(state_dict["passed"])
