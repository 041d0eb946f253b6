"""One LightningModule for all objectives, likelihoods and methods."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torchmetrics import Metric

from sfumato.contracts import Inputs, Sample, Score
from sfumato.data.loading import collate
from sfumato.data.transforms import Augmentation, to_float
from sfumato.errors import NotFiniteError
from sfumato.methods import Deterministic
from sfumato.methods.base import evaluating
from sfumato.objectives import BaseObjective, NothingToLearnError
from sfumato.predictions import AnyPrediction, JointPrediction, TaskPrediction
from sfumato.predictions.tiles import automatic_tile, predict_with_tile
from sfumato.runs import Plan, task_and_likelihood
from sfumato.targets import EntryKind
from sfumato.training.cuda_graph import CudaGraph
from sfumato.training.devices import any_algorithm
from sfumato.training.loggers import log_picture
from sfumato.training.optimizer import configure, log_variances
from sfumato.training.panel import panel

Tensors = dict[str, Tensor]
BatchTransform = Callable[[Tensors], Tensors]
CAUSES = (
    "the learning rate may be too high, a target may hold an extreme value, or bf16-mixed may be too coarse for this "
    "likelihood. Lower --learning-rate, check the targets, or use --precision 32-true"
)


class TrainingModule(L.LightningModule):
    """Trains one network: maximum a-posteriori for the likelihoods, or whatever the objective minimizes.

    Args:
        network: The network. It takes images as float32 in [0, 1].
        objective: What is minimized.
        plan: Schedule, augmentation and method.
        seed: Seed of this member: that of the plan plus the number of the member.
        entries: The kind of each sample entry, for augmentation.
        batch_transform: Changes every augmented batch before it is used. None for no change.
        flip: Whether augmentation mirrors images. Default True.

    Raises:
        NotFiniteError: In training, if a loss is NaN or infinite, or a weight at the end of an epoch.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: BaseObjective,
        plan: Plan,
        seed: int,
        entries: Mapping[str, EntryKind],
        batch_transform: BatchTransform | None = None,
        flip: bool = True,
    ) -> None:
        super().__init__()
        config = plan.config
        self.network, self.objective, self.plan, self.seed, self.entries = network, objective, plan, seed, dict(entries)
        self.task, self.likelihood = task_and_likelihood(plan)
        self.method = plan.training
        self.augment = Augmentation(crop=config.crop if any(config.crop) else None, scale=config.scale, flip=flip,
                                    color=config.color)  # fmt: skip
        # Averaging copies this module. It does not copy a function, but it would copy what a bound method belongs to.
        self.transform = None if batch_transform is None else lambda batch: batch_transform(batch)
        # SWAG's snapshots are equal in all processes, so they need not be sent before every step.
        self._ddp_params_and_buffers_to_ignore = [name for name, _ in self.named_buffers() if ".swag_state." in name]
        self._scores: dict[str, Score] = {}  # made for each validation, so that no copy of this module holds any
        self._scored: dict[str, int] = {}
        self.time_share = 0.0  # the share of the allowed time that has passed, which TimeLimit sets
        self._last: tuple[int, Tensor] | None = None
        self._rate = 0.0
        self.graph: CudaGraph | None = None
        self._noise = log_variances(self)  # looked up once, because that takes longer than a small step

    @property
    def schedule_step(self) -> int:
        """The step of the schedule: the number of steps made, or more where a limit of time ends the training first."""
        return max(self.global_step, math.ceil(self.time_share * int(self.trainer.estimated_stepping_batches)))

    def lr_scheduler_step(self, scheduler: torch.optim.lr_scheduler.LRScheduler, metric: object) -> None:
        if self.time_share:
            scheduler.last_epoch = self.schedule_step - 1  # its rates are functions of this number
        scheduler.step()

    def on_train_batch_start(self, batch: object, batch_idx: int) -> None:
        # The random numbers of a step depend on its number alone. So a resumed run equals an uninterrupted one.
        torch.manual_seed(self.seed + 1_000_003 * (self.global_step + 1) + 7919 * self.global_rank)
        self._rate = float(self.trainer.optimizers[0].param_groups[0]["lr"])  # of the last step, it is logged

    def training_step(self, batch: Mapping[str, object]) -> Tensor:
        augmented = _tensors(self.augment(batch, self.entries))
        augmented = augmented if self.transform is None else self.transform(augmented)
        if self.graph is not None:
            self.graph.record(self.objective.inputs_of(augmented))
        losses, logs = self.objective(self.network, augmented)
        self._check_last()  # only now, so that a GPU that has not finished the last step keeps on working
        if self.method.penalty is not None:
            losses = losses | {"penalty": self.method.penalty(self.network) / self.plan.pixels}
        total = torch.stack(list(losses.values())).sum()
        self._last = self.global_step, total.detach()
        train = {f"train_{name}": loss.detach() for name, loss in losses.items()}
        self.log_dict({"train_loss": total.detach()} | train, on_step=False, on_epoch=True, sync_dist=True)
        self.log_dict({name: value.detach() for name, value in logs.items()}, on_step=False, on_epoch=True)
        return total

    def _check_last(self) -> None:
        """Check the loss of the last step. A GPU need not wait for the step that is under way."""
        if self._last is not None and not bool(self._last[1].isfinite()):
            raise NotFiniteError(
                f"the loss is {float(self._last[1])} at step {self._last[0]}: {CAUSES}. No weights of this step are "
                "stored"
            )
        self._last = None

    def _check_weights(self) -> None:
        """Check the weights after the last step of an epoch: a finite loss can have a gradient that is not."""
        for name, value in self.network.state_dict().items():
            if value.is_floating_point() and not bool(value.isfinite().all()):
                raise NotFiniteError(
                    f"{name} is not finite after step {self.global_step}: {CAUSES}. No weights of this epoch are stored"
                )

    @torch.no_grad()
    def augmented_inputs(self, batches: Iterable[Mapping[str, object]]) -> Iterator[Inputs]:
        """The inputs of the network for some batches, augmented as before the first step of training."""
        torch.manual_seed(self.seed)
        for batch in batches:
            tensors = {key: value.to(self.device) for key, value in _tensors(batch).items()}
            yield self.objective.inputs_of(_tensors(self.augment(tensors, self.entries)))

    def on_train_epoch_start(self) -> None:
        if self.current_epoch == self.plan.config.epochs - 1:  # the last one is always validated
            self.trainer.check_val_every_n_epoch = 1

    def on_train_epoch_end(self) -> None:
        self._check_last()  # before the checkpoint of this epoch is written
        self._check_weights()
        self.objective.end_epoch()
        self.log_dict({"learning_rate": self._rate}, rank_zero_only=True)

    def on_train_end(self) -> None:
        if self.graph is not None:
            self.graph.release()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        # A task without a target in this batch: the optimizer's momentum would change its noise nevertheless.
        for parameter in self._noise:
            if parameter.grad is not None and not parameter.grad.any():
                parameter.grad = None

    def on_validation_epoch_start(self) -> None:
        self._check_last()
        self._check_weights()
        self._scores = {name: _on(task.scores(), self.device) for name, task in self.task.parts.items()}
        self._scored = dict.fromkeys(self._scores, 0)

    def validation_step(self, batch: Mapping[str, object], batch_idx: int) -> None:
        ready = to_float(batch, self.entries)
        if not self.objective.needs_targets:
            with suppress(NothingToLearnError):
                losses, _ = self.objective(self.network, ready)
                self.log_dict({f"val_{name}": loss for name, loss in losses.items()}, sync_dist=True)
        prediction = self._predict(self.objective.inputs_of(ready))
        for name, task in self.task.parts.items():
            part = prediction[name] if isinstance(prediction, JointPrediction) else prediction
            if not bool(part.total.isfinite().all()):
                raise NotFiniteError(
                    f"the prediction of a validation image is NaN or infinite after step {self.global_step}: the "
                    "learning rate may be too high, or bf16-mixed too coarse for this likelihood. Lower "
                    "--learning-rate, or use --precision 32-true. No weights of this epoch are stored"
                )
            target, valid = task.target_and_mask(ready)
            self._scored[name] += int(valid.sum())
            with any_algorithm():
                self._scores[name].update(part, target, valid)
            if batch_idx == 0 and self.global_rank == 0:
                self._log_panel(name, ready, part)

    def _predict(self, inputs: Inputs) -> AnyPrediction:
        """The prediction of a batch, which must be finite: finite weights may be too large for that."""
        method = self.method.build((self.network,), 1) if self.method.shared else Deterministic(self.network)
        tile = automatic_tile(inputs, self.task.parts.values())
        found = predict_with_tile(method, *inputs, likelihood=self.likelihood, tile=tile)
        for part in found.parts.values() if isinstance(found, JointPrediction) else (found,):
            if not bool(part.channels.isfinite().all() and part.total.isfinite().all()):
                raise NotFiniteError(
                    f"the predictions are not finite after step {self.global_step}: {CAUSES}. They are not stored"
                )
        return found

    @torch.no_grad()
    def check_prediction(self, sample: Sample) -> None:
        """Check that the trained network gives finite numbers for a sample, cut as in training."""
        batch = collate([sample])
        assert isinstance(batch, dict)
        with evaluating(self):
            self._predict(next(self.augmented_inputs([batch])))

    def _log_panel(self, name: str, batch: Tensors, prediction: TaskPrediction) -> None:
        """Log a picture of the first image of a batch."""
        task, first = self.task.parts[name], self.objective.inputs_of(batch)[0][0]
        target, valid = task.target_and_mask({key: value[0] for key, value in batch.items()})
        picture = panel(first, target, valid, prediction, task)
        if picture is not None:
            log_picture(self.loggers, f"val_{name}", picture, self.global_step)

    def on_validation_epoch_end(self) -> None:
        for name, task in self.task.parts.items():
            label = "val" if task is self.task else f"val_{name}"
            own = torch.tensor(float(self._scored[name]), device=self.device)
            counted = self.trainer.strategy.reduce(own, reduce_op="sum")
            if float(counted):  # in every process or in none: they add up what they counted
                score = self._scores[name]
                with any_algorithm():
                    found = score.compute()
                wanted = dict.fromkeys([*score.headline[:3], "nll"])
                headline = {f"{label}_{key}": float(found[key]) for key in wanted if key in found}
                self.log_dict(headline, prog_bar=True, rank_zero_only=True)
        self._scores, self._scored = {}, {}

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        return configure(self, self.plan, int(self.trainer.estimated_stepping_batches))


def _tensors(batch: Mapping[str, object]) -> Tensors:
    return {key: value for key, value in batch.items() if isinstance(value, Tensor)}


def _on(score: Score, device: torch.device) -> Score:
    return score.to(device) if isinstance(score, Metric) else score
