"""Run commands that depend on each other, several at a time, until all are done or the time is over.

Each slot is one process that stays: to start Python, torch and a GPU takes as long as a short training. For functions
in the place of commands, see processes.py.
"""

from __future__ import annotations

import json
import os
import runpy
import select
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

HERE = Path(__file__).parent


def absolute(path: str) -> Path:
    """The path as an option of a script, which holds in any folder."""
    return Path(path).absolute()


@dataclass(frozen=True)
class Job:
    """One command.

    Args:
        name: Its name, also that of its log file.
        command: Arguments of ``python``: ``-m sfumato …``, or a script of this folder and its arguments.
        done: A file that exists when the command has succeeded, so that it is not run again.
        needs: Names of jobs that must be done before.
        instead: The command that is run if the first one fails; empty for none.
    """

    name: str
    command: tuple[str, ...]
    done: Path
    needs: tuple[str, ...] = ()
    instead: tuple[str, ...] = ()


class _Slot:
    """A process that runs one command after another."""

    def __init__(self) -> None:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "jobs.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=HERE, env=os.environ | threads | {"PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        self.job: Job | None = None
        self.since = 0.0

    def begin(self, job: Job, logs: Path) -> None:
        assert self.process.stdin is not None
        self.job, self.since = job, time.monotonic()
        self.process.stdin.write(json.dumps([str(logs / f"{job.name}.log"), *job.command]) + "\n")
        self.process.stdin.flush()

    def ended(self) -> bool:
        """Whether its command has ended, or its process has."""
        assert self.process.stdout is not None
        return bool(select.select([self.process.stdout], [], [], 0)[0])  # an answer, or the end of the process

    def answer(self) -> str:
        """What it answered; empty if its process has ended."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()


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
    by_name = {job.name: job for job in jobs}
    waiting = [job for job in jobs if not job.done.exists()]
    workers = [_Slot() for _ in range(min(slots, len(waiting)))]
    failed: set[str] = set()
    while (waiting or any(slot.job for slot in workers)) and time.monotonic() - start < seconds:
        for place, slot in enumerate(workers):
            if slot.job is not None and slot.ended():
                job, took[slot.job.name] = slot.job, time.monotonic() - slot.since
                slot.job, answered = None, slot.answer()
                good = job.done.exists()
                print(f"{time.monotonic() - start:6.1f} s  {'done' if good else 'FAILED'} {job.name} "
                      f"({took[job.name]:.1f} s)", flush=True)  # fmt: skip
                if good:
                    after()
                else:
                    if job.instead:
                        waiting.insert(0, replace(job, command=job.instead, instead=()))
                    else:
                        failed.add(job.name)
                    print((logs / f"{job.name}.log").read_text(errors="replace")[-1500:], flush=True)
                if not answered:
                    workers[place] = _Slot()
        waiting = [job for job in waiting if not failed & _ancestors(job, by_name)]
        for slot in workers:
            ready = next((job for job in waiting if all(by_name[need].done.exists() for need in job.needs)), None)
            if slot.job is None and ready is not None:
                waiting.remove(ready)
                slot.begin(ready, logs)
        time.sleep(0.1)
    for slot in workers:
        if slot.job is not None:
            print(f"stopped {slot.job.name}: the time is over", flush=True)
        slot.process.kill()
    return took


def _ancestors(job: Job, by_name: dict[str, Job]) -> set[str]:
    found = set(job.needs)
    for need in job.needs:
        found |= _ancestors(by_name[need], by_name)
    return found


def _work() -> None:
    """Run the commands that come in, and answer each with a line. What they print goes to their log."""
    answers = os.fdopen(os.dup(1), "w")
    sys.path.insert(0, str(HERE))
    for line in sys.stdin:
        log, *command = json.loads(line)
        with Path(log).open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            _run(command)
        answers.write("done\n")
        answers.flush()


def _run(command: Sequence[str]) -> None:
    module = command[0] == "-m"
    sys.argv = list(command[1:] if module else command)
    try:
        if module:
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(command[0], run_name="__main__")
    except SystemExit as end:
        print(f"ended with {end.code}", flush=True)
    except Exception:  # the next command must run in any case
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    if "torch" in sys.modules:
        import torch

        torch.cuda.empty_cache()


if __name__ == "__main__":
    _work()
