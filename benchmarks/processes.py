"""Jobs in several processes that stay, with one thread each, until a time is over.

Starting a process and its GPU takes as long as a short run. For commands, and jobs that need others, see jobs.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

import torch

from sfumato.training.parallel import clean_context

J = TypeVar("J")
R = TypeVar("R")


def pool(processes: int) -> ProcessPoolExecutor:
    """Processes with one thread each, without the locks and devices of this one."""
    return ProcessPoolExecutor(processes, clean_context(), _start)


def _start() -> None:
    torch.set_num_threads(1)
    torch.backends.cudnn.benchmark = True  # all images of a run have one size


def finished(function: Callable[[J], R], jobs: Sequence[J], processes: int, end: float) -> Iterator[tuple[J, R]]:
    """Each job with its result, as soon as it is there. Jobs are begun in their order, and none after the end.

    Args:
        function: What a job is given to. It can be sent to another process, as the jobs and results can.
        jobs: The jobs, the most important first.
        processes: How many run at the same time.
        end: The time after which no job is begun, seconds since the epoch.
    """
    with pool(min(processes, max(1, len(jobs)))) as workers:
        futures = {workers.submit(_begun_before, end, function, job): job for job in jobs}
        for future in as_completed(futures):
            if (found := future.result()) is not None:
                yield futures[future], found


def _begun_before(end: float, function: Callable[[J], R], job: J) -> R | None:
    return function(job) if time.time() < end else None
