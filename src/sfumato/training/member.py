"""Train one network of a run, and store its weights."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import nn

from sfumato.data.sizes import Region
from sfumato.data.views import DatasetView
from sfumato.errors import ResourceError
from sfumato.objectives import build_objective
from sfumato.runs import Plan, build_network, save_weights, task_and_likelihood, weights_path
from sfumato.targets import EntryKind
from sfumato.training.callbacks import EMA, AfterSteps, WholeFiles, checkpoint_path
from sfumato.training.cuda_graph import CudaGraph
from sfumato.training.devices import quiet_lightning, same_algorithms
from sfumato.training.loaders import Reading, TrainingData
from sfumato.training.loggers import CSV, close, log_choices, make_loggers
from sfumato.training.module import BatchTransform, TrainingModule
from sfumato.training.time_limit import TimeLimit


@dataclass(frozen=True)
class Hardware:
    """Where a network is trained.

    Args:
        accelerator: Name of the accelerator, as Lightning calls it.
        devices: Number of devices, or the list of those to use.
        num_nodes: Number of nodes.
        deterministic: Whether only deterministic algorithms are used.
        cuda_graph: Whether the passes of a network are recorded once and replayed.
    """

    accelerator: str = "cpu"
    devices: int | list[int] = 1
    num_nodes: int = 1
    deterministic: bool = False
    cuda_graph: bool = False

    @property
    def processes(self) -> int:
        """Number of processes that share the batches."""
        return self.num_nodes * (self.devices if isinstance(self.devices, int) else len(self.devices))


@dataclass(frozen=True)
class Job:
    """All that the training of one network needs. It can be sent to another process, unless it has a batch transform.

    Args:
        plan: The plan of the run.
        train: Training images, with only the entries that are read.
        val: Validation images; None for none.
        folder: The folder of the run.
        entries: The kind of each sample entry.
        hardware: Where the network is trained.
        flip: Whether augmentation mirrors images.
        workers: Number of processes that read images.
        progress: Whether a bar is shown.
        batch_transform: Changes every augmented batch. None for no change.
        loggers: What the numbers are written to beside ``metrics.csv``: names with commas.
        seconds: The time that the network may be trained. Default: no limit.
    """

    plan: Plan
    train: DatasetView
    val: DatasetView | None
    folder: Path
    entries: Mapping[str, EntryKind]
    hardware: Hardware = field(default_factory=Hardware)
    flip: bool = True
    workers: int = 0
    progress: bool = False
    batch_transform: BatchTransform | None = None
    loggers: str = CSV
    seconds: float = math.inf

    def region(self, seed: int) -> Region:
        """What is cut from each training image before it is augmented."""
        config = self.plan.config
        return Region.of(config.crop, config.scale[0], config.size, seed)


def fit_member(job: Job, member: int) -> None:
    """Train the network with this number and store its weights. A training that was interrupted is continued."""
    with quiet_lightning(), same_algorithms():
        _fit_member(job, member)


def _fit_member(job: Job, member: int) -> None:
    plan, seed, checkpoint = job.plan, job.plan.config.seed + member, checkpoint_path(job.folder, member)
    L.seed_everything(seed, verbose=False)
    task, likelihood = task_and_likelihood(plan)
    objective = build_objective(plan, task, likelihood, plan.trust)
    network = channels_last(build_network(plan.without_start() if checkpoint.exists() else plan, likelihood))
    module = TrainingModule(network, objective, plan, seed, job.entries, job.batch_transform, job.flip)
    module.graph = CudaGraph(network) if job.hardware.cuda_graph else None
    averaging = EMA(plan.config.ema) if plan.training.rate is None else None

    def keep(other: int) -> None:
        rank_zero_only(save_weights)(module.network, weights_path(job.folder, other))

    trainer = _trainer(job, member, _callbacks(job, member, averaging, keep))
    data = TrainingData(
        job.train, job.val, Reading(plan.config.batch, job.region(seed), job.entries, seed, job.workers)
    )
    if trainer.is_global_zero:
        log_choices(trainer.loggers, plan)
    with stoppable(trainer):
        trainer.fit(module, data, ckpt_path=checkpoint if checkpoint.exists() else None)
    if averaging is not None:  # the trainer does so itself, unless nothing was left to train
        averaging.on_train_end(trainer, module)
    if trainer.is_global_zero:
        trained = module.to(trainer.strategy.root_device).network
        if plan.training.finish is not None:
            trained = plan.training.finish(trained, module.augmented_inputs(data.train_dataloader()))
        module.check_prediction(job.train[0])
        save_weights(trained, weights_path(job.folder, member))
        checkpoint.unlink(missing_ok=True)
        close(trainer.loggers)
    trainer.strategy.barrier()


def channels_last(network: nn.Module) -> nn.Module:
    """The same network with kernels (O, I, H, W) stored channels last, in place.

    Then convolutions compute in that order, in 0.55 to 0.85 of the time of a step on a CPU (benchmarks/camvid.md).
    """
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return network


def _callbacks(job: Job, member: int, averaging: EMA | None, keep: Callable[[int], None]) -> list[Callback]:
    found: list[Callback] = [TimeLimit(job.seconds)] if job.seconds < math.inf else []
    found += [] if averaging is None else [averaging]
    if (after := job.plan.training.after) is not None:
        found.append(AfterSteps(after, job.plan.config.members, keep))
    name = checkpoint_path(job.folder, member).stem
    found.append(
        ModelCheckpoint(job.folder, name, save_top_k=-1, save_on_train_epoch_end=True, enable_version_counter=False)
    )
    return [*found, *([RichProgressBar()] if job.progress else [])]


def _trainer(job: Job, member: int, callbacks: list[Callback]) -> L.Trainer:
    config, hardware = job.plan.config, job.hardware
    return L.Trainer(
        accelerator=hardware.accelerator,
        devices=hardware.devices,
        num_nodes=hardware.num_nodes,
        deterministic=hardware.deterministic or None,
        precision=config.precision,  # pyright: ignore[reportArgumentType] # Lightning checks the name
        max_epochs=config.epochs,
        check_val_every_n_epoch=max(1, config.epochs // 3),
        limit_val_batches=0 if job.val is None else 1.0,
        num_sanity_val_steps=0,
        logger=make_loggers(job.loggers, job.folder, member),
        callbacks=callbacks,
        enable_progress_bar=job.progress,
        enable_model_summary=False,
        use_distributed_sampler=False,
        plugins=[WholeFiles()],
    )


class CtrlC(Callback):
    """Ends a training after Ctrl-C when the batch that is under way is done. A second Ctrl-C ends it at once.

    An exception in the middle of a batch can be lost in a destructor, or leave a lock of a logger taken for ever.
    """

    def __init__(self) -> None:
        self.received = False

    def handle(self, number: int, frame: object) -> None:
        """The handler of the signal."""
        if self.received:
            raise KeyboardInterrupt
        self.received = True

    def on_train_batch_end(self, *args: object, **options: object) -> None:
        """Called by Lightning after each step, and after each batch of validation images."""
        if self.received:
            raise KeyboardInterrupt

    on_validation_batch_end = on_train_batch_end


@contextmanager
def stoppable(trainer: L.Trainer) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM leave a trainer as the exceptions that Python programs expect.

    Args:
        trainer: The trainer that works inside. It gets one more callback.

    Raises:
        KeyboardInterrupt: After Ctrl-C. Lightning makes ``SystemExit(1)`` of it and ignores further Ctrl-C.
        SystemExit: With code 143, after SIGTERM.
    """
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    if main and handler is signal.default_int_handler:  # else somebody else answers, or the signal is ignored
        trainer.callbacks.append(ctrl_c := CtrlC())  # pyright: ignore[reportAttributeAccessIssue] # Lightning's trainers have a list of them
        signal.signal(signal.SIGINT, ctrl_c.handle)
    try:
        yield
    except SIGTERMException as error:
        raise SystemExit(143) from error
    except ResourceError as error:
        if trainer.received_sigterm:  # the processes that read images have got the signal, too
            raise SystemExit(143) from error
        raise
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise
    finally:
        if main:
            signal.signal(signal.SIGINT, handler)
