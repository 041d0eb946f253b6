"""Run commands that depend on each other, several at a time, until all are done or the time is over."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Job:
    """One command.

    Args:
        name: Its name, also that of its log file.
        command: Arguments of ``python``.
        done: A file that exists when the command has succeeded, so that it is not run again.
        needs: Names of jobs that must be done before.
        threads: Threads of one process. Default 1.
    """

    name: str
    command: tuple[str, ...]
    done: Path
    needs: tuple[str, ...] = ()
    threads: int = 1


def run_jobs(
    jobs: Sequence[Job],
    logs: Path,
    slots: int = 1,
    seconds: float = float("inf"),
    after: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Run jobs in their order, each as soon as a slot is free and what it needs is done.

    Args:
        jobs: The jobs. A job whose ``done`` exists is left out.
        logs: Folder for what the commands print.
        slots: Number of commands at a time.
        seconds: The time after which running commands are stopped.
        after: Called after each job that succeeded.

    Returns:
        Seconds that each finished job took.
    """
    logs.mkdir(parents=True, exist_ok=True)
    start, took = time.monotonic(), {}
    running: dict[str, tuple[Job, subprocess.Popen[bytes], float]] = {}
    waiting = [job for job in jobs if not job.done.exists()]
    failed: set[str] = set()
    by_name = {job.name: job for job in jobs}
    while (waiting or running) and time.monotonic() - start < seconds:
        for name, (job, process, since) in list(running.items()):
            if process.poll() is not None:
                del running[name]
                took[name] = time.monotonic() - since
                good = process.returncode == 0 and job.done.exists()
                failed |= set() if good else {name}
                print(f"{time.monotonic() - start:6.1f} s  {'done' if good else 'FAILED'} {name} "
                      f"({took[name]:.1f} s)", flush=True)  # fmt: skip
                if good:
                    after()
                else:
                    print((logs / f"{name}.log").read_text(errors="replace")[-2000:], flush=True)
        waiting = [job for job in waiting if not failed & _ancestors(job, by_name)]
        ready = [job for job in waiting if all(by_name[need].done.exists() for need in job.needs)]
        for job in ready[: max(0, slots - len(running))]:
            waiting.remove(job)
            running[job.name] = job, _start(job, logs), time.monotonic()
        time.sleep(0.1)
    for job, process, _ in running.values():
        print(f"stopped {job.name}: the time is over", flush=True)
        process.terminate()
    for _, process, _ in running.values():
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
    return took


def _ancestors(job: Job, by_name: dict[str, Job]) -> set[str]:
    found = set(job.needs)
    for need in job.needs:
        found |= _ancestors(by_name[need], by_name)
    return found


def _start(job: Job, logs: Path) -> subprocess.Popen[bytes]:
    threads = str(job.threads)
    environment = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"}
    with (logs / f"{job.name}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, *job.command], stdout=log, stderr=subprocess.STDOUT, cwd=HERE, env=environment
        )
