"""Train members of an ensemble at the same time, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing.context import BaseContext

import torch

from sfumato.errors import ConfigError, ResourceError
from sfumato.runs import Plan
from sfumato.training.folder import print_rank_zero
from sfumato.training.member import Job, fit_member


def check_independent(plan: Plan, processes: int, parallel_members: int) -> None:
    """Check that the members of a plan can be trained at the same time.

    Raises:
        ConfigError: If they are one training, or batches are shared among processes.
    """
    if plan.config.method != "ensemble":
        raise ConfigError(
            f"parallel_members is {parallel_members}, but {plan.config.method} is one training: leave it out, or train "
            "an ensemble"
        )
    if processes > 1:
        raise ConfigError(
            f"parallel_members is {parallel_members} and devices × num_nodes is {processes}: distribute either members "
            "or batches over them"
        )


def fit_members(job: Job, members: list[int], parallel_members: int) -> None:
    """Train members, so many at a time. If one fails, finished members and checkpoints of the others stay.

    Raises:
        ResourceError: If a process was killed.
    """
    threads = max(1, (os.cpu_count() or 1) // parallel_members)
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(min(parallel_members, len(members)), clean_context(), _start, (threads,))
    jobs = {member: pool.submit(fit_member, _placed(job, member), member) for member in members}
    try:
        for member, each in jobs.items():
            each.result()
            print_rank_zero(f"member {member} of {job.plan.config.members} is trained")
    except BrokenProcessPool as error:
        raise ResourceError(
            f"a process that trained a member in {job.folder} was killed, perhaps because memory ran out: go on with "
            f"--resume, and fewer than {parallel_members} at the same time"
        ) from error
    except (KeyboardInterrupt, SystemExit):
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def clean_context() -> BaseContext:
    """How processes are started: without the locks, threads and devices of this one, which a plain fork would break.

    Where there is a fork server, torch and Lightning are imported once in it and not once in each process.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sfumato.training"])
    return context


def _start(threads: int) -> None:
    """Set up a process of a member: its share of the cores, and its end when the parent has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends its children
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(143)  # the main thread may be anywhere, and its checkpoint is whole


def _placed(job: Job, member: int) -> Job:
    """The job on a device of its own: one processor, or the GPUs in turn."""
    hardware = job.hardware
    if hardware.accelerator == "cuda":
        hardware = replace(hardware, devices=[member % torch.cuda.device_count()])
    return replace(job, hardware=hardware, progress=False, workers=0)
