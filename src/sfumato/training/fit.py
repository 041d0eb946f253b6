"""Train the networks of a plan, and leave a run."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from sfumato.data.cache import CachedDataset
from sfumato.data.views import Samples
from sfumato.runs import Plan, Run, weights_path
from sfumato.training.cuda_graph import check_cuda_graph
from sfumato.training.devices import check_deterministic, lightning_devices
from sfumato.training.folder import PLAN, check_output_dir, is_first, locked, warn_rank_zero
from sfumato.training.job import CACHE, cached, check_job, make_job
from sfumato.training.loggers import logger_names
from sfumato.training.member import Hardware, Job, fit_member
from sfumato.training.module import BatchTransform
from sfumato.training.parallel import fit_members
from sfumato.training.post_hoc import add_method_state


def fit(
    plan: Plan,
    train: Samples,
    val: Samples | None,
    folder: str | Path,
    *,
    resume: bool = False,
    device: str = "auto",
    devices: int = 1,
    num_nodes: int = 1,
    parallel_members: int = 1,
    progress: bool = True,
    batch_transform: BatchTransform | None = None,
    workers: int = -1,
    cache: str = "auto",
    cache_gb: float = 2.0,
    deterministic: bool = False,
    cuda_graph: bool = False,
    logger: str = "tensorboard",
) -> Run:
    """Train every network of a plan and leave a run.

    Args:
        plan: A complete plan, as :func:`make_plan` returns it.
        train: Training images at the size of the plan.
        val: Validation images, which are scored now and then and at the end; None for none.
        folder: The folder of the run. It is made if it does not exist.
        resume: Whether an interrupted run is continued from the last checkpoint. Finished networks are not trained
            again. Default False.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``. Default ``auto``. The returned run is there, too.
        devices: Number of processes or GPUs on this node. Not more are used than there are training or validation
            images. Default 1.
        num_nodes: Number of nodes. Default 1.
        parallel_members: Number of members of an ensemble that are trained at the same time, each in a process of its
            own with its share of the cores or a GPU in turn. They show no bar. Default 1.
        progress: Whether a bar is shown. Default True.
        batch_transform: Changes every augmented batch before it is used. None for no change.
        workers: Number of processes that read images; 0 reads them in this process. −1 for a choice that suits data
            and machine. Default −1.
        cache: Where read images are kept: ``auto``, ``memory``, ``disk`` or ``none``. Default ``auto``.
        cache_gb: Size limit of the cache, in 10⁹ bytes. Default 2.
        deterministic: Whether only deterministic algorithms are used, which may be slower. Default False.
        cuda_graph: Whether the passes of the network are recorded at the first batch and replayed, which is faster
            where a GPU waits for Python. One GPU only. Default False.
        logger: What is written beside ``log/member-N/metrics.csv``: ``tensorboard``, ``wandb``, ``mlflow``, some of
            them with commas, or ``csv`` for nothing. Default ``tensorboard``.

    Raises:
        RunExistsError: If the folder holds a run and ``resume`` is False.
        RunError: If the plan is not that of the run to resume, or another training is running in the folder.
        ConfigError: If the choices cannot be met, such as a network whose output does not fit the likelihood.
        MissingDependencyError: If the package of a logger is not installed.
        NotFiniteError: If a loss is NaN or infinite.
        ResourceError: If a process that trains a member was killed.
        KeyboardInterrupt: After Ctrl-C. The checkpoint stays, and a note says how to go on.
        SystemExit: With code 143, after SIGTERM. The checkpoint stays, and a note says how to go on.
    """
    folder = Path(folder)
    devices = _useful(devices, num_nodes, min(plan.images_used, plan.images_used if val is None else len(val)))
    hardware = Hardware(*lightning_devices(device, devices), num_nodes, deterministic, cuda_graph)
    if deterministic:
        check_deterministic(hardware.accelerator)
    if cuda_graph:
        check_cuda_graph(hardware.accelerator, hardware.processes, plan.config.method, plan.training.loss is not None)
    logger_names(logger)  # a wrong one is refused here
    check_output_dir(plan, folder, resume)
    job = make_job(plan, train, val, folder, hardware, workers, progress, batch_transform)
    rounds = -(-plan.networks // parallel_members)  # of networks that are trained one after another
    job = replace(job, loggers=logger, seconds=plan.config.max_seconds / rounds)
    check_job(job, parallel_members)
    with locked(folder):
        check_output_dir(plan, folder, resume)  # again, because another training may have ended in the meantime
        if is_first():
            plan.save(folder / PLAN)
        try:
            kept = cached(job, cache, cache_gb, parallel_members)
            _fit_missing(kept, parallel_members)
            if is_first():
                _delete_caches(kept)  # what comes later reads other entries
        except (KeyboardInterrupt, SystemExit) as stop:
            stop.add_note(f"training in {folder} was stopped: the same command with --resume goes on with it")
            raise
        if plan.training.post_hoc and is_first():
            add_method_state(Run.open(folder, device=device, trust=plan.trust), train, progress=progress)
    return Run.open(folder, device=device, trust=plan.trust)


def _useful(devices: int, num_nodes: int, images: int) -> int:
    """The number of processes that is used: not more than images, because each of them needs one."""
    if num_nodes > 1 or devices <= images:
        return devices
    warn_rank_zero(f"{devices} processes are too many for {images} images: {images} are used")
    return max(1, images)


def _delete_caches(job: Job) -> None:
    """Delete the folders that hold read images, and nothing else."""
    for each in (job.train, job.val):
        if isinstance(each, CachedDataset) and each.folder is not None:
            shutil.rmtree(each.folder, ignore_errors=True)
    with suppress(OSError):  # it is not there, or holds something else
        (job.folder / CACHE).rmdir()


def _fit_missing(job: Job, parallel_members: int) -> None:
    """Train the networks whose weights are not stored yet."""
    missing = [member for member in range(job.plan.networks) if not weights_path(job.folder, member).exists()]
    if parallel_members > 1 and len(missing) > 1:
        fit_members(job, missing, parallel_members)
        return
    for member in missing:
        if not weights_path(job.folder, member).exists():  # one training may store several networks
            fit_member(job, member)
