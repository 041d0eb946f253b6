"""From the arguments of ``fit`` to a job, and the checks that are made before training starts."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from sfumato.contracts import Task
from sfumato.data.cache import CachedDataset
from sfumato.data.loading import SelectedDataset
from sfumato.data.transforms import to_float
from sfumato.data.views import DatasetView, Samples, any_size, augmentation_of, entries_of, files_of, subset
from sfumato.errors import ConfigError
from sfumato.methods import Deterministic
from sfumato.objectives import build_objective
from sfumato.predictions import predict
from sfumato.runs import Normalized, Plan, build_network, task_and_likelihood, weights_path
from sfumato.targets import EntryKind
from sfumato.tasks import MultiTask
from sfumato.training.callbacks import checkpoint_path
from sfumato.training.folder import print_rank_zero, warn_rank_zero
from sfumato.training.member import Hardware, Job
from sfumato.training.module import BatchTransform
from sfumato.training.parallel import check_independent

CACHE = "cache"


def movable(task: Task | MultiTask) -> bool:
    """Whether targets are known in images that augmentation has zoomed, cut or mirrored."""
    return all(getattr(part.target, "movable", True) for part in task.parts.values())


def make_job(
    plan: Plan,
    train: Samples,
    val: Samples | None,
    folder: Path,
    hardware: Hardware,
    workers: int = -1,
    progress: bool = False,
    batch_transform: BatchTransform | None = None,
) -> Job:
    """The job of a training, with only the entries of the samples that the objective reads.

    Raises:
        ConfigError: If the plan names an objective or a likelihood that does not fit.
    """
    task, likelihood = task_and_likelihood(plan)
    objective = build_objective(plan, task, likelihood, plan.trust)
    tasks = list(task.parts.values())

    def selected(dataset: Samples, limit: int = 0) -> SelectedDataset:
        return SelectedDataset(subset(dataset, limit), plan.facts.inputs, tasks, objective.further)

    return Job(
        plan=plan,
        train=selected(train, plan.config.limit),
        val=None if val is None else _val_part(selected(val), plan, progress),
        folder=folder,
        entries=entries_of(train, tasks),
        hardware=hardware,
        flip=objective.moves and movable(task) and bool(augmentation_of(train).get("flip", True)),
        workers=choose_workers(train, workers),
        progress=progress,
        batch_transform=batch_transform,
    )


def _val_part(val: SelectedDataset, plan: Plan, progress: bool) -> DatasetView:
    """As many validation images as hold the pixels of the crops of an epoch, evenly spread, but at least 32."""
    (crop_height, crop_width), (height, width) = plan.config.crop, plan.config.size
    count = max(32, plan.images_used * crop_height * crop_width // (height * width))
    if progress and count < len(val):
        print_rank_zero(f"validation during training reads {count} of {len(val)} images, evenly spread")
    return subset(val, count)


def choose_workers(dataset: Samples, workers: int = -1) -> int:
    """Number of processes that read images.

    Args:
        dataset: What is read.
        workers: What the user chose. −1 for half of the cores: at most 4 for files, and at most 8 for images that
            are generated, but none on fewer than 4 cores, where they would take time from training. None for other
            data.
    """
    if workers >= 0:
        return workers
    cores = os.cpu_count() or 1
    if len(dataset) and files_of(dataset, 0):
        return min(4, cores // 2)
    return min(8, cores // 2) if any_size(dataset) and cores >= 4 else 0


def cached(job: Job, mode: str, budget_gb: float, parallel_members: int = 1) -> Job:
    """The job with images that are kept after they are read.

    Args:
        job: A job whose images are read anew in each epoch.
        mode: ``auto``, ``memory``, ``disk`` or ``none``.
        budget_gb: Size limit, in 10⁹ bytes.
        parallel_members: Number of processes that each train a member.
    """
    devices = job.hardware.devices
    processes = (devices if isinstance(devices, int) else len(devices)) * parallel_members * max(1, job.workers)
    place = budget_gb * 1e9, job.folder / CACHE, processes
    train = CachedDataset(job.train, mode, *place)
    if job.progress:
        print_rank_zero(train.describe())
    return replace(job, train=train, val=None if job.val is None else CachedDataset(job.val, mode, *place))


def check_job(job: Job, parallel_members: int = 1) -> None:
    """Check what can be checked before training: a network is built and predicts a first image.

    Raises:
        ConfigError: If the members cannot be trained at the same time or cannot share a batch, the network's output
            does not fit the likelihood, the method finds nothing to sample in the network, or there are too few steps.
    """
    plan = job.plan
    config, training = plan.config, plan.training
    if parallel_members > 1:
        check_independent(plan, job.hardware.processes, parallel_members)
        if job.batch_transform is not None:
            raise ConfigError("a batch_transform cannot be sent to other processes: leave parallel_members out")
    if training.shared and config.batch % config.members:
        more = config.members * -(-config.batch // config.members)
        raise ConfigError(
            f"a batch of {config.batch} images cannot be divided among {config.members} members: make batch a multiple "
            f"of members, such as {more}"
        )
    _, likelihood = task_and_likelihood(plan)
    network = first_network(plan, job.folder, warn_rank_zero)
    method = Deterministic(network) if training.post_hoc else training.build((network,), 1)
    predict(method, *probe(job.train, job.entries, plan), likelihood=likelihood)
    if training.rate is not None:
        training.rate(0, plan.steps(job.hardware.processes), config.members)


def first_network(plan: Plan, folder: Path, note: Callable[[str], object] | None = None) -> Normalized:
    """A fresh network of a plan, as its training in a folder starts from it.

    The weights that the plan starts from are not read if every network that is not finished has a checkpoint.

    Args:
        plan: The plan.
        folder: The folder of the run, which may hold finished networks and checkpoints.
        note: As of :func:`sfumato.runs.build_network`.

    Raises:
        MissingFileError: If what the plan starts from does not exist, see :func:`sfumato.runs.build_network` for more.
    """
    missing = [member for member in range(plan.networks) if not weights_path(folder, member).exists()]
    if plan.training.after is not None:
        missing = missing[:1]  # one training stores several networks
    begins = any(not checkpoint_path(folder, member).exists() for member in missing)
    return build_network(plan if begins else plan.without_start(), task_and_likelihood(plan)[1], note=note)


def probe(dataset: Samples, entries: Mapping[str, EntryKind], plan: Plan) -> tuple[Tensor, ...]:
    """The inputs (1, …) of the first sample, with maps cut to the size of the crops in training."""
    sample, (height, width) = dataset[0], plan.config.crop
    batch = {key: value[None] for key in plan.facts.inputs if isinstance(value := sample[key], Tensor)}
    ready = to_float(batch, entries)
    maps = {key: bool(entries[key].is_map and any(plan.config.crop)) for key in ready}
    return tuple(value[..., :height, :width] if maps[key] else value for key, value in ready.items())
